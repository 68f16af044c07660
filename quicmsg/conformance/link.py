"""One QUIC connection on stock aioquic: channels as queues of frames, and the TLS exporter value.

Nothing of quicmsg's own transport is in it. `Exporting` derives the channel binding as section 4 of the
document says; everything else is what aioquic offers.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aioquic import tls
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from cryptography.hazmat.primitives import hashes

from quicmsg.conformance.wire import BadFrameError, Frame, Splitter
from quicmsg.errors import CertificateError, ConnectError

ANSWER_TIMEOUT: Final = 8.0
"""How long a server may take to answer: longer than its own timers (5 s), short for who waits."""
CONNECT_TIMEOUT: Final = 5.0
CERTIFICATE_ALERTS: Final = range(0x100 + 42, 0x100 + 50)
"""QUIC's CRYPTO_ERROR with the TLS alerts bad_certificate (42) to access_denied (49)."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The server sent FIN."""


@dataclass(frozen=True, slots=True)
class Aborted:
    """The server reset the channel."""

    code: int


@dataclass(frozen=True, slots=True)
class Gone:
    """The connection is closed."""

    code: int
    text: str


Item = Frame | Ended | Aborted | Gone | BadFrameError


class SilenceError(Exception):
    """Nothing came in time."""


class Exporting(QuicConnection):
    """Keeps the exporter master secret, which aioquic forgets."""

    exporter: tuple[hashes.HashAlgorithm, bytes] | None = None

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if epoch is tls.Epoch.ONE_RTT and direction is tls.Direction.DECRYPT:
            # The transcript is ClientHello..server Finished exactly now.
            schedule = self.tls.key_schedule
            assert schedule is not None
            self.exporter = (schedule.algorithm, schedule.derive_secret(b"exp master"))
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    def channel_binding(self) -> bytes:
        """RFC 9266: 32 bytes that only the two ends of this connection know."""
        assert self.exporter is not None, "the handshake is not complete"
        algorithm, master = self.exporter
        return channel_binding(algorithm, master)


def channel_binding(algorithm: hashes.HashAlgorithm, exporter_master_secret: bytes) -> bytes:
    """The exporter value of section 4."""
    digest = hashes.Hash(algorithm)
    empty = digest.finalize()
    derived = tls.hkdf_expand_label(
        algorithm, exporter_master_secret, b"EXPORTER-Channel-Binding", empty, algorithm.digest_size
    )
    return tls.hkdf_expand_label(algorithm, derived, b"exporter", empty, 32)


class Channel:
    """One channel: what is written goes out at once, what comes in waits in a queue."""

    def __init__(self, link: Link, number: int) -> None:
        self.link = link
        self.number = number
        self.splitter = Splitter()
        self.items: asyncio.Queue[Item] = asyncio.Queue()

    def write(self, data: bytes, *, end: bool = False) -> None:
        """Send bytes, one flush each."""
        self.link.send(self.number, data, end)

    async def next(self) -> Item:
        """What comes next on this channel. Raises SilenceError, BadFrameError."""
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                item = await self.items.get()
        except TimeoutError:
            raise SilenceError from None
        if isinstance(item, BadFrameError):
            raise item
        if isinstance(item, Gone):
            self.items.put_nowait(item)  # whoever asks again gets the same answer
        return item


class Link(QuicConnectionProtocol):
    """A client's end of one connection."""

    def __init__(self, quic: QuicConnection, stream_handler: Any = None) -> None:
        super().__init__(quic, stream_handler)
        self._channels: dict[int, Channel] = {}
        self._aborted: set[int] = set()
        self._gone: Gone | None = None
        self._next_number = 0
        self.tickets: list[tls.SessionTicket] = []
        """What the server gave to resume this connection with."""
        self.handshake: events.HandshakeCompleted | None = None

    @property
    def binding(self) -> bytes:
        """The channel binding of this connection."""
        assert isinstance(self._quic, Exporting)
        return self._quic.channel_binding()

    def channel(self) -> Channel:
        """Open the next channel; the first one is channel 0."""
        channel = self._channels[self._next_number] = Channel(self, self._next_number)
        self._next_number += 1
        if self._gone is not None:
            channel.items.put_nowait(self._gone)
        return channel

    def send(self, number: int, data: bytes, end: bool) -> None:
        """Write to a channel and let it go out."""
        # What the server has aborted takes nothing more; a check finds out by reading it.
        if self._gone is None and number not in self._aborted:
            self._quic.send_stream_data(number * 4, data, end)
            self.transmit()

    def quic_event_received(self, event: events.QuicEvent) -> None:
        match event:
            case events.HandshakeCompleted():
                self.handshake = event
            case events.StreamDataReceived():
                self._data_received(event)
            case events.StreamReset():
                self._aborted.add(event.stream_id // 4)
                self._put(event.stream_id, Aborted(event.error_code))
            case events.StopSendingReceived():
                self._aborted.add(event.stream_id // 4)
            case events.ConnectionTerminated():
                self._gone = Gone(event.error_code, event.reason_phrase)
                for channel in self._channels.values():
                    channel.items.put_nowait(self._gone)
            case _:
                pass

    def _data_received(self, event: events.StreamDataReceived) -> None:
        channel = self._channels.get(event.stream_id // 4)
        if channel is None or event.stream_id % 4:
            for known in self._channels.values():
                known.items.put_nowait(BadFrameError(f"the server opened stream {event.stream_id}"))
            return
        try:
            for frame in channel.splitter.feed(event.data):
                channel.items.put_nowait(frame)
        except BadFrameError as error:
            channel.items.put_nowait(error)
        if event.end_stream:
            whole = channel.splitter.buffered == 0
            channel.items.put_nowait(Ended() if whole else BadFrameError("FIN within a frame"))

    def _put(self, stream_id: int, item: Item) -> None:
        channel = self._channels.get(stream_id // 4)
        if channel is not None:
            channel.items.put_nowait(item)


@contextlib.asynccontextmanager
async def connect(
    host: str,
    port: int,
    ca_file: Path | None,
    *,
    ticket: tls.SessionTicket | None = None,
    early: Callable[[Link], None] | None = None,
) -> AsyncIterator[Link]:
    """A connection whose handshake is complete. Raises ConnectError and CertificateError. `ticket`: of the
    connection to resume; `early`: says something before the handshake, which is sent if the ticket allows."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise ConnectError(f"the name {host} does not resolve: {error}") from error
    family, address = found[0][0], found[0][4]
    configuration = _configuration(host, ca_file)
    configuration.session_ticket = ticket
    tickets: list[tls.SessionTicket] = []
    quic = Exporting(configuration=configuration, session_ticket_handler=tickets.append)
    transport, link = await loop.create_datagram_endpoint(
        lambda: Link(quic), local_addr=("::" if family is socket.AF_INET6 else "0.0.0.0", 0), family=family
    )
    link.tickets = tickets
    try:
        link.connect(address)
        if early is not None:
            early(link)
        await _handshake(link, f"{host}:{port}")
        yield link
        link.close()
        await link.wait_closed()
    finally:
        # Not waited for when something went wrong: the closing period is 3 probe timeouts long.
        link.close()
        transport.close()


def _configuration(host: str, ca_file: Path | None) -> QuicConfiguration:
    configuration = QuicConfiguration(alpn_protocols=["quicmsg/1"], is_client=True, server_name=host)
    if ca_file is not None:
        try:
            configuration.load_verify_locations(cafile=str(ca_file))
            ca_file.read_bytes()
        except OSError as error:
            raise CertificateError(f"cannot read the CA file {ca_file}: {error.strerror}") from error
    return configuration


async def _handshake(link: Link, where: str) -> None:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            await link.wait_connected()
    except TimeoutError:
        raise ConnectError(f"nothing answers at {where}") from None
    except ConnectionError as error:
        gone = link._gone
        if gone is not None and gone.code in CERTIFICATE_ALERTS:
            raise CertificateError(
                f"the certificate of {where} is not trusted ({gone.text}): give the server's ca.pem with --ca"
            ) from error
        raise ConnectError(f"no connection to {where}: {gone.text if gone else error}") from error
