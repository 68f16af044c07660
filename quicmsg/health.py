"""`quicmsg health`: is a server there that this computer may trust, and does it answer?

A real QUIC handshake with the certificate checked, then one Ping on channel 0, which a server answers before
anybody has signed in. It leaves nothing behind: no key, no pin, no user.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import certifi

from quicmsg.config import default_ca_file, format_address, parse_address
from quicmsg.errors import ConnectError, ErrorCode, ProtocolError, QuicmsgError
from quicmsg.limits import HEALTH_TIMEOUT
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import CONTROL, Ping, Pong
from quicmsg.protocol.session import Outgoing
from quicmsg.transport.quic import Link, Trust, dial


async def check(server: str, ca: Path | None) -> str:
    """One line about a server that is well. Raises ConnectError, CertificateError, ConfigurationError."""
    host, port = parse_address(server)
    host = host or "localhost"
    probe = Probe()
    began = time.monotonic()
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT):
            link = await dial(
                host,
                port,
                server_name=host,
                trust=Trust(ca_file=ca or default_ca_file(host) or Path(certifi.where())),
                session=probe,
                on_activity=_nothing,
                timeout=HEALTH_TIMEOUT,
            )
            try:
                handshake = time.monotonic() - began
                await probe.answered
            finally:
                link.close(ErrorCode.NO_ERROR, "")
    except TimeoutError as error:
        raise ConnectError(
            f"{format_address(host, port)} does not answer within {HEALTH_TIMEOUT:g} s"
        ) from error
    answer = time.monotonic() - began - handshake
    return (
        f"healthy: {format_address(host, port)}, handshake {handshake * 1000:.0f} ms, "
        f"answer {answer * 1000:.0f} ms"
    )


class Probe:
    """A session that says Ping and waits for Pong; the transport pumps it like any other."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reader = FrameReader(control=True)
        self._output: list[Outgoing] = []
        self._consumed = 0

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        """See Pumped."""
        self._output.append(Outgoing(CONTROL, encode(Ping(1))))

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """See Pumped."""
        self._consumed += len(data)
        self._reader.feed(data)
        try:
            while (frame := self._reader.next_frame()) is not None:
                if isinstance(frame, Pong) and not self.answered.done():
                    self.answered.set_result(None)
        except ProtocolError as error:
            self._fail(error)

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        """See Pumped."""
        self._fail(ProtocolError("the server reset the control channel"))

    def path_changed(self, observed_address: str, now: float) -> None:
        """See Pumped."""

    def connection_lost(self, code: int, text: str, now: float) -> None:
        """See Pumped."""
        self._fail(ConnectError(f"the connection ended: {text or code}"))

    def get_timer(self) -> float | None:
        """See Pumped."""
        return None

    def handle_timer(self, now: float) -> None:
        """See Pumped."""

    def data_to_send(self) -> Sequence[Outgoing]:
        """See Pumped."""
        output, self._output = self._output, []
        return output

    def take_consumed(self) -> Sequence[tuple[int, int]]:
        """See Pumped."""
        consumed, self._consumed = self._consumed, 0
        return [(CONTROL, consumed)] if consumed else []

    def backlog_changed(self, size: int, now: float) -> bool:
        """See Pumped."""
        return False

    def take_close(self) -> tuple[int, str] | None:
        """See Pumped."""
        return None

    def _fail(self, error: QuicmsgError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            self.answered.exception()  # asked for: it may also come after the answer was given up


def _nothing(_: Link) -> None:
    """The session needs no help."""
