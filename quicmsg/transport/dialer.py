"""The client's end: `dial` tries the addresses of a name, and the first that answers becomes the `Link`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket

from quicmsg.errors import CertificateError, ConfigurationError, ConnectError, ErrorCode, QuicmsgError
from quicmsg.limits import ADDRESS_STAGGER, HANDSHAKE_AGAIN
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.connection import Connection, configuration
from quicmsg.transport.endpoint import Endpoint
from quicmsg.transport.link import Activity, Link, bind_client
from quicmsg.transport.resuming import ClientTickets, Resumption
from quicmsg.transport.selftest import check_aioquic
from quicmsg.transport.socket import Address
from quicmsg.transport.trust import Trust


async def dial(
    host: str,
    port: int,
    *,
    server_name: str,
    trust: Trust,
    session: Pumped,
    on_activity: Activity,
    local_address: str | None = None,
    tickets: ClientTickets | None = None,
    timeout: float,  # noqa: ASYNC109 - several attempts race inside it, and its error names them
) -> Link:
    """Connect; return when the handshake is complete and the session was told so.

    With `tickets` the connection resumes an earlier one if it can, and the next ticket is put there.
    Raises ConnectError when nothing answers or the name does not resolve, CertificateError when the server
    is not one that `trust` vouches for, ConfigurationError when the local address cannot be used. Then the
    session was told nothing and may be used again.
    """
    check_aioquic()
    addresses = await _resolve(host, port, local_address)
    race = _Race(session, on_activity, server_name, trust, local_address, tickets)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await race.run(addresses)
    except BaseException:
        race.abandon(None)
        raise
    winner = race.winner
    race.abandon(winner)
    if winner is None:
        raise race.error(addresses)
    winner.on_send_error = None
    return winner


class _Race:
    """Attempts at several addresses, of which the first to finish its handshake wins (RFC 8305)."""

    def __init__(
        self,
        session: Pumped,
        on_activity: Activity,
        server_name: str,
        trust: Trust,
        local_address: str | None,
        tickets: ClientTickets | None,
    ) -> None:
        self.winner: Link | None = None
        self._session = session
        self._on_activity = on_activity
        self._server_name = server_name
        self._trust = trust
        self._local_address = local_address
        self._tickets = tickets
        self._ticket: tuple[Link, Resumption] | None = None
        self._running: dict[Link, Endpoint] = {}
        self._errors: list[QuicmsgError] = []
        self._changed = asyncio.Event()

    async def run(self, addresses: list[Address]) -> None:
        """Return when one attempt has won or all have failed."""
        for address in addresses:
            self._start(address)
            await self._wait(ADDRESS_STAGGER)
            if self.winner is not None:
                return
        loop = asyncio.get_running_loop()
        again_at = loop.time() + HANDSHAKE_AGAIN
        while self.winner is None and self._running and (left := again_at - loop.time()) > 0:
            await self._wait(left)
        if self.winner is None:
            # A server that was killed in the middle of a handshake, and is back, knows nothing of it, and
            # has no key with which it could say so: only a fresh one gets through.
            for link in list(self._running):
                unanswered = link.peer.connection.get_peer_address()
                assert unanswered is not None, "it has begun"
                self._start(unanswered)
        while self.winner is None and self._running:
            await self._wait(None)

    def abandon(self, winner: Link | None) -> None:
        """End every attempt but the winner."""
        if self._ticket is not None and self._tickets is not None:
            link, resumption = self._ticket
            if not link.peer.connection.packets_received:
                self._tickets.put_back(resumption)
        for link, endpoint in list(self._running.items()):
            if link is not winner:
                del self._running[link]
                link.close(ErrorCode.NO_ERROR, "")
                endpoint.close()

    def error(self, addresses: list[Address]) -> QuicmsgError:
        """Why nobody won: a refused certificate says more than silence elsewhere."""
        for error in self._errors:
            if isinstance(error, CertificateError):
                return error
        if self._errors:
            return self._errors[-1]
        return _nothing_answers(" and ".join(address_text(address) for address in addresses))

    # ---- private

    def _start(self, address: Address) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        opened = bind_client(self._local_address, family)
        endpoint = Endpoint(
            lambda *_: None if link.peer.connection.has_ended else link.peer, follows_path=False
        )
        endpoint.add_socket(opened)
        # One attempt gets the ticket: another that offers it too is refused it.
        tickets = self._tickets
        resumes = tickets.take(self._server_name, self._trust) if tickets is not None else None
        connection = Connection(
            configuration=configuration(is_client=True, server_name=self._server_name),
            trust=self._trust,
            resumes=resumes,
            on_ticket=tickets.put if tickets is not None else None,
        )
        if self._trust.ca_file is not None:
            connection.configuration.load_verify_locations(cafile=str(self._trust.ca_file))
        link = Link(
            connection, endpoint, opened, claim=self._claim, on_activity=self._on_activity, on_end=self._ended
        )
        if resumes is not None:
            self._ticket = link, resumes
        self._running[link] = endpoint
        link.on_send_error = lambda error: self._unreachable(link, address, error)
        endpoint.attach(link.peer)
        connection.connect(address, asyncio.get_running_loop().time())
        link.flush()

    async def _wait(self, timeout: float | None) -> None:  # noqa: ASYNC109
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        self._changed.clear()

    def _claim(self, link: Link) -> Pumped | None:
        if self.winner is not None:
            return None
        self.winner = link
        self._changed.set()
        return self._session

    def _ended(self, link: Link, error: QuicmsgError) -> None:
        endpoint = self._running.pop(link, None)
        if endpoint is None:
            return  # abandoned
        endpoint.close()
        if link is not self.winner:
            if not isinstance(error, CertificateError):
                error = ConnectError(
                    f"the server at {link.peer_address} refused: {error.message}", code=error.code
                )
            self._errors.append(error)
        self._changed.set()

    def _unreachable(self, link: Link, address: Address, error: OSError) -> None:
        """The network says at once what a timeout would say later."""
        if link is self.winner or link not in self._running:
            return
        self._running.pop(link).close()
        self._errors.append(_nothing_answers(address_text(address), error))
        self._changed.set()


def _nothing_answers(where: str, error: OSError | None = None) -> ConnectError:
    detail = f" ({error.strerror})" if error is not None and error.strerror else ""
    return ConnectError(
        f"nothing answers at {where} over UDP{detail} (is the server running, is UDP allowed?)"
    )


async def _resolve(host: str, port: int, local_address: str | None) -> list[Address]:
    """The addresses to try, families taking turns; only those that the local address can talk to."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectError(f"the name {host} does not resolve: {error.strerror or error}") from error
    except UnicodeError as error:  # an empty label, or one of more than 63 characters
        raise ConnectError(f"{host!r} cannot be a host name: {error}") from error
    first: list[Address] = []
    second: list[Address] = []
    for family, *_, address in found:
        if local_address is None or (":" in local_address) == (family == socket.AF_INET6):
            (first if family == found[0][0] else second).append(address)  # type: ignore[arg-type]
    if not first and not second:
        raise ConfigurationError(
            f"{host} cannot be reached from the local address {local_address}: one is IPv4 and the other IPv6"
        )
    turns = [pair for pairs in itertools.zip_longest(first, second) for pair in pairs if pair is not None]
    return list(dict.fromkeys(turns))
