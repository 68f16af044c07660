"""One `Connection` and its session, coupled: events one way, output the other. Pure, the time is passed in.

`Link` (asyncio, real sockets) and the tests' virtual network (`tests/quicpair.py`) both pump this object, so
that what is tested in virtual time is what runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from quicmsg.errors import ErrorCode
from quicmsg.limits import CLOSE_TIMEOUT, HANDSHAKE_TIMEOUT, SEND_BUFFER_MAX, TEXT_SIZE_MAX
from quicmsg.protocol.frames import EXPORTER_LABEL
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.connection import Connection
from quicmsg.transport.paths import PathChanged

CHANNEL_BINDING_SIZE: Final = 32
_STREAM_STEP: Final = 4
"""Channel n is stream 4n: the low two bits of a stream id say who opened it and in which direction."""


class Coupling:
    """Takes a connection's events to a session, and the session's output to the connection."""

    def __init__(
        self,
        connection: Connection,
        *,
        claim: Callable[[], Pumped | None],
        local_address: Callable[[], str],
        now: float,
    ) -> None:
        """`claim` is asked for the session when the handshake is complete; None: not wanted, close."""
        self.connection = connection
        self.session: Pumped | None = None
        self._claim = claim
        self._local_address = local_address
        self._handshake_until = now + HANDSHAKE_TIMEOUT
        self._closing: tuple[int, str] | None = None
        self._close_until = 0.0

    @property
    def peer_address(self) -> str:
        """Where packets are sent now."""
        address = self.connection.get_peer_address()
        return "" if address is None else address_text(address)

    def get_timer(self) -> float | None:
        """When to pump next, whatever the network does. The connection has a timer of its own."""
        if self.session is None:
            return self._handshake_until
        timer = self.session.get_timer()
        if self._closing is not None:
            timer = self._close_until if timer is None else min(timer, self._close_until)
        return timer

    def end(self) -> tuple[int, str]:
        """Why the connection ended: our number, and a text that cannot harm a terminal."""
        if self.connection.reset_received:
            return ErrorCode.GOING_AWAY, "the server does not know this connection any more: it was restarted"
        end = self.connection.end
        assert end is not None
        text = "".join(character for character in end.reason_phrase if character.isprintable())
        text = text[:TEXT_SIZE_MAX]
        if end.frame_type is None:
            return end.error_code, text
        if end.error_code == QuicErrorCode.APPLICATION_ERROR:  # all that may be said that early
            return ErrorCode.GOING_AWAY, "the other end closed the connection during the handshake"
        if end.reason_phrase == "Idle timeout":
            return ErrorCode.UNREACHABLE, "nothing was heard for too long"
        return ErrorCode.UNEXPECTED, f"transport error 0x{end.error_code:x}: {text}"

    # ---- input

    def feed(self, now: float) -> bool:
        """Give the session what arrived and its timer; whether it was given anything."""
        fed = self._take_events(now)
        if self.session is not None and self.session.backlog_changed(self.connection.buffered, now):
            fed = True
        return self._run_timers(now) or fed

    def _take_events(self, now: float) -> bool:
        fed = False
        while (event := self.connection.next_event()) is not None:
            if isinstance(event, events.HandshakeCompleted):
                self._establish(now)
                fed = True
            elif self.session is not None:
                fed = self._take_event(self.session, event, now) or fed
        return fed

    def _take_event(self, session: Pumped, event: events.QuicEvent, now: float) -> bool:
        match event:
            case events.StreamDataReceived():
                if self.connection.is_aborted(event.stream_id):
                    self.connection.consume(event.stream_id, len(event.data))
                    return False
                session.receive_data(event.stream_id // _STREAM_STEP, event.data, event.end_stream, now)
            case events.StreamReset() | events.StopSendingReceived():
                if not self.connection.is_first_reset(event.stream_id):
                    return False
                session.receive_reset(event.stream_id // _STREAM_STEP, event.error_code, now)
            case PathChanged():
                session.path_changed(address_text(event.address), now)
            case _:
                return False
        return True

    def _establish(self, now: float) -> None:
        session = self._claim()
        if session is None:
            self.connection.close(error_code=ErrorCode.NO_ERROR)
            return
        self.session = session
        binding = self.connection.export_keying_material(EXPORTER_LABEL, b"", CHANNEL_BINDING_SIZE)
        observed = self._local_address() if self.connection.is_client else self.peer_address
        session.connected(channel_binding=binding, observed_address=observed, now=now)

    def _run_timers(self, now: float) -> bool:
        if self.session is None:
            if now >= self._handshake_until:
                self.connection.close(error_code=ErrorCode.TIMEOUT, reason_phrase="handshake timeout")
            return False
        timer = self.session.get_timer()
        if timer is None or timer > now:
            return False
        self.session.handle_timer(now)
        return True

    # ---- output

    def give_output(self, now: float) -> None:
        """Put what the session says into streams, what it consumed into windows, and close if it wants."""
        session, connection = self.session, self.connection
        if session is None:
            return
        for channel, size in session.take_consumed():
            connection.consume(channel * _STREAM_STEP, size)
        for item in session.data_to_send():
            if item.reset is not None:
                connection.abort(item.channel * _STREAM_STEP, item.reset)
            else:
                connection.write(item.channel * _STREAM_STEP, item.data, item.end)
        if self._closing is None and (wanted := session.take_close()) is not None:
            self._closing = wanted
            self._close_until = now + CLOSE_TIMEOUT
        if connection.buffered > SEND_BUFFER_MAX:
            connection.close(error_code=ErrorCode.SLOW_READER, reason_phrase="too much is unacknowledged")
        # aioquic throws queued data away when it closes, so the last words are waited for.
        elif self._closing is not None and (connection.buffered == 0 or now >= self._close_until):
            code, text = self._closing
            connection.close(error_code=code, reason_phrase=text)
