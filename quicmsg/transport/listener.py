"""The server's end: `listen` binds addresses, and every connection that is admitted becomes a `Link`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from quicmsg.errors import ConfigurationError, ErrorCode, QuicmsgError
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import configuration
from quicmsg.transport.endpoint import Endpoint, Peer, addressed_id
from quicmsg.transport.link import Activity, Link
from quicmsg.transport.selftest import check_aioquic
from quicmsg.transport.socket import Address, UdpSocket


class Listener:
    """Open UDP addresses and the links that clients made to them."""

    def __init__(
        self, admission: Admission, make_session: Callable[[str], Pumped], on_activity: Activity
    ) -> None:
        """Made by `listen` only."""
        self.addresses: list[tuple[str, int]] = []
        """Where it listens, with the real port where 0 was asked for."""
        self._admission = admission
        self._make_session = make_session
        self._on_activity = on_activity
        self._endpoint = Endpoint(self._stranger, follows_path=True)
        self._hosts: dict[Link, str] = {}
        self._half_open: set[Link] = set()

    @property
    def links(self) -> list[Link]:
        """The links whose handshake is complete."""
        return [link for link in self._hosts if link not in self._half_open]

    def set_certificate(self, chain_pem: bytes, key_pem: bytes) -> None:
        """Use another certificate for connections that begin from now on."""
        self._admission.configuration = server_configuration(chain_pem, key_pem)
        self._admission.tickets.clear()

    async def close(self) -> None:
        """Tell every client that the server goes, and leave no socket, timer or task behind."""
        for link in list(self._hosts):
            link.close(ErrorCode.GOING_AWAY, "the server stops")
        self._endpoint.close()

    # ---- private

    def bind(self, address: tuple[str, int]) -> None:
        """Also listen at this address, or raise ConfigurationError."""
        try:
            opened = UdpSocket(address)
        except OSError as error:
            raise ConfigurationError(_why_not(address, error)) from error
        self._endpoint.add_socket(opened)
        self.addresses.append((opened.address[0], opened.address[1]))

    def _stranger(self, data: bytes, sender: Address, opened: UdpSocket, local: bytes) -> Peer | None:
        verdict = self._admission.decide(data, sender, asyncio.get_running_loop().time())
        if verdict is None:
            return None
        if isinstance(verdict, bytes):
            opened.send([verdict], sender, local)
            return None
        link = Link(
            verdict, self._endpoint, opened, claim=self._claim, on_activity=self._activity, on_end=self._ended
        )
        self._hosts[link] = sender[0]
        self._half_open.add(link)
        self._admission.opened(sender[0])
        self._endpoint.attach(link.peer, addressed_id(data))
        return link.peer

    def _claim(self, link: Link) -> Pumped | None:
        self._half_open.discard(link)
        self._admission.established()
        return self._make_session(link.peer_address)

    def _activity(self, link: Link) -> None:
        address, known = link.peer.connection.get_peer_address(), self._hosts.get(link)
        if known is not None and address is not None and address[0] != known:
            self._admission.moved(known, address[0])
            self._hosts[link] = address[0]
        self._on_activity(link)

    def _ended(self, link: Link, _error: QuicmsgError) -> None:
        host = self._hosts.pop(link)
        self._admission.closed(host, was_half_open=link in self._half_open)
        self._half_open.discard(link)


async def listen(
    addresses: Sequence[tuple[str, int]],
    *,
    certificate_file: Path,
    private_key_file: Path,
    make_session: Callable[[str], Pumped],
    on_activity: Activity,
    reset_key: bytes,
    retry_key: bytes,
) -> Listener:
    """Serve at these addresses (host names are resolved, port 0 takes a free one).

    `make_session(peer_address)` is asked for a session when a handshake is complete. `reset_key` and
    `retry_key` are kept over restarts: with them clients learn at once that their connection is gone.
    Raises ConfigurationError, which says what to do, when an address or the certificate cannot be used.
    """
    check_aioquic()
    admission = Admission(
        server_configuration(_read(certificate_file), _read(private_key_file)),
        reset_key=reset_key,
        retry_key=retry_key,
    )
    listener = Listener(admission, make_session, on_activity)
    try:
        for host, port in addresses:
            for resolved in await _resolve(host, port):
                listener.bind(resolved)
    except BaseException:
        await listener.close()
        raise
    return listener


def server_configuration(chain_pem: bytes, key_pem: bytes) -> QuicConfiguration:
    """A QUIC configuration with this certificate (leaf first, then its authority) and private key."""
    try:
        chain = x509.load_pem_x509_certificates(chain_pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(
            f"the server's certificate or private key is not usable PEM: {error}"
        ) from error
    if chain[0].public_key() != key.public_key():
        raise ConfigurationError("the server's private key does not belong to its certificate")
    if isinstance(key, ec.EllipticCurvePrivateKey) and not isinstance(key.curve, ec.SECP256R1 | ec.SECP384R1):
        raise ConfigurationError(
            f"a key on the curve {key.curve.name} is not supported: use Ed25519 or P-256"
        )
    settings = configuration(is_client=False)
    settings.certificate, settings.certificate_chain, settings.private_key = chain[0], chain[1:], key
    return settings


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror or error}") from error


async def _resolve(host: str, port: int) -> list[tuple[str, int]]:
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"cannot listen at {host}: the name does not resolve ({error})") from error
    return list(dict.fromkeys((str(address[0]), int(address[1])) for *_, address in found))


def _why_not(address: tuple[str, int], error: OSError) -> str:
    where = address_text(address)
    match error.errno:
        case errno.EADDRINUSE:
            return f"UDP port {where} is in use by another program: stop it, or listen on another port"
        case errno.EACCES | errno.EPERM:
            return f"this user may not listen at {where}: use a port above 1023"
        case errno.EADDRNOTAVAIL:
            return (
                f"{where} is not an address of this computer: use one of its own, or 0.0.0.0 or [::] for all"
            )
        case _:
            return f"cannot listen at {where} over UDP: {error.strerror or error}"
