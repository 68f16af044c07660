"""What both ends of a connection have in common: channels, frames, heartbeat, close.

A session is a pure object. Bytes, time and the transport's news go in as arguments; events come out of
`next_event`, bytes out of `data_to_send`. It has the verbs of aioquic's QuicConnection, so both are
pumped alike: feed it, take its events, flush. Receiving never raises: what the peer does wrong ends that
channel (or, on channel 0, the connection) with an ErrorCode. Our own misuse raises LocalProtocolError.

States: CONNECTING (transport not ready) -> SIGNING_IN -> UP -> CLOSED. One place changes the state.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass

from quicmsg import limits
from quicmsg.errors import ErrorCode, LocalProtocolError, ProtocolError
from quicmsg.limits import TEXT_SIZE_MAX
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.events import Event, SessionEnded
from quicmsg.protocol.frames import CONTROL, Close, Frame
from quicmsg.protocol.heartbeat import Heartbeat


class SessionState(enum.Enum):
    """Where a session stands."""

    CONNECTING = "connecting"
    SIGNING_IN = "signing in"
    UP = "up"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes for one channel; `end`: nothing follows; `reset`: abort it with this code instead."""

    channel: int
    data: bytes
    end: bool = False
    reset: int | None = None


class Channel:
    """One ordered byte stream in both directions, as the session sees it."""

    def __init__(self, number: int, *, control: bool) -> None:
        self.number = number
        self.reader = FrameReader(control=control)
        self.ended_by_peer = False
        self.ended_by_us = False


class Session:
    """Base of ClientSession and ServerSession."""

    def __init__(self, *, heartbeat: Heartbeat, now: float) -> None:
        self.state = SessionState.CONNECTING
        self.heartbeat = heartbeat
        self.observed_address = ""
        self.created_at = now
        self._channels: dict[int, Channel] = {}
        self._events: deque[Event] = deque()
        self._writes: dict[int, bytearray] = {}
        self._ends: dict[int, int | None] = {}
        self._consumed: dict[int, int] = {}
        self._close: tuple[int, str] | None = None
        self._dead: dict[int, None] = {}
        self._backlog = 0
        self._unsent = 0
        self._crowded = False

    # ---- input from the transport

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """Take bytes of a channel; `end`: the peer will send no more on it."""
        if self.state is SessionState.CLOSED:
            return
        if self.state is SessionState.CONNECTING:
            raise LocalProtocolError("data before `connected`")
        self._heard(now)
        found = self._channels.get(channel)
        if found is None and channel in self._dead:
            self._credit(channel, len(data))
            if end:
                del self._dead[channel]
            return
        if found is None:
            found = self._new_channel(channel, now)
            if found is None:
                self._credit(channel, len(data))
                return
        found.reader.feed(data)
        found.ended_by_peer = found.ended_by_peer or end
        self._read(found, now)

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        """The peer aborted a channel."""
        if self.state is SessionState.CLOSED:
            return
        self._heard(now)
        if channel == CONTROL:
            self._end(ErrorCode.UNEXPECTED, "the control channel was reset", remote=False, now=now)
            return
        self._dead.pop(channel, None)
        found = self._channels.pop(channel, None)
        if found is not None:
            self._drop_output(channel)
            self._ends[channel] = code
            self._channel_lost(found, code, now)

    def connection_lost(self, code: int, text: str, now: float) -> None:
        """The transport is gone; nothing more can be sent."""
        if self.state is not SessionState.CLOSED:
            self._finish(code, text, remote=True, now=now)

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called; None: never."""
        raise AssertionError("a session has timers of its own")

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        raise AssertionError("a session has timers of its own")

    def backlog_changed(self, size: int, now: float) -> bool:
        """The transport holds `size` bytes that the peer has not acknowledged. True: there was too much to go
        on, and now there is room again (the session has something to say or to ask)."""
        self._backlog = size
        if not self._crowded or self._backlog + self._unsent > limits.OUTPUT_MAX // 2:
            return False
        self._crowded = False
        if self.state is SessionState.UP:
            self._relieved(now)
        return True

    # ---- output

    def next_event(self) -> Event | None:
        """The next thing that happened, or None."""
        return self._events.popleft() if self._events else None

    def data_to_send(self) -> list[Outgoing]:
        """Everything to hand to the transport now, control first; empties it."""
        if not self._writes and not self._ends:
            return []
        out = []
        for number in sorted(self._writes.keys() | self._ends.keys()):
            data = bytes(self._writes.get(number, b""))
            if number not in self._ends:
                out.append(Outgoing(number, data))
            else:
                reset = self._ends[number]
                out.append(Outgoing(number, data, end=reset is None, reset=reset))
        self._writes.clear()
        self._ends.clear()
        self._backlog += self._unsent
        self._unsent = 0
        return out

    def take_consumed(self) -> list[tuple[int, int]]:
        """(channel, bytes) processed since the last call: credit for the transport's flow control."""
        if not self._consumed:
            return []
        consumed = list(self._consumed.items())
        self._consumed.clear()
        return consumed

    def take_close(self) -> tuple[int, str] | None:
        """Set once when this side ended the session: close the transport after the data is handed over."""
        close, self._close = self._close, None
        return close

    # ---- commands

    def close(self, code: int = ErrorCode.NO_ERROR, text: str = "", *, now: float) -> None:
        """End the session from this side; says why on channel 0."""
        if self.state is not SessionState.CLOSED:
            self._end(code, text, remote=False, now=now)

    # ---- for subclasses

    @property
    def crowded(self) -> bool:
        """So much is on its way to the peer that nothing which can wait should be added: messages stay in the
        outbox, entries in the log, until `backlog_changed` says that there is room."""
        if self._backlog + self._unsent > limits.OUTPUT_MAX:
            self._crowded = True
        return self._crowded

    def _relieved(self, now: float) -> None:
        """There is room for what had to wait."""
        raise AssertionError("client and server differ in this")

    def _heard(self, now: float) -> None:
        self.heartbeat.received(now)

    def _new_channel(self, number: int, now: float) -> Channel | None:
        """The peer's bytes name a channel that is not open: accept it, or return None to drop them."""
        raise AssertionError("client and server differ in this")

    def _handle_frame(self, channel: Channel, frame: Frame, now: float) -> None:
        raise AssertionError("client and server differ in this")

    def _channel_ended(self, channel: Channel, now: float) -> None:
        raise AssertionError("client and server differ in this")

    def _channel_lost(self, channel: Channel, code: int, now: float) -> None:
        raise AssertionError("client and server differ in this")

    def _may_read(self, channel: Channel) -> bool:
        """False: leave what follows unread and uncredited, so that flow control holds the peer back."""
        return True

    def _read(self, channel: Channel, now: float) -> None:
        """Take frames off a channel until its bytes, or the permission to read, run out."""
        try:
            while self.state is not SessionState.CLOSED and self._may_read(channel):
                try:
                    frame = channel.reader.next_frame()
                finally:
                    # Also what was malformed: bytes that are never credited shrink the connection's window.
                    self._credit(channel.number, channel.reader.frame_size)
                if frame is None:
                    if channel.ended_by_peer and channel.reader.buffered:
                        raise ProtocolError("a channel ends within a frame")
                    break
                self._handle_frame(channel, frame, now)
                if self._channels.get(channel.number) is not channel:
                    return
        except ProtocolError as error:
            self._violation(channel, error, now)
            return
        if channel.ended_by_peer and channel.reader.buffered == 0 and self.state is not SessionState.CLOSED:
            self._channel_ended(channel, now)

    def _violation(self, channel: Channel, error: ProtocolError, now: float) -> None:
        if channel.number == CONTROL:
            self._end(error.code, error.message, remote=False, now=now)
            return
        self._credit(channel.number, channel.reader.buffered)
        self._abort(channel, error.code)
        self._channel_lost(channel, error.code, now)

    def _write(self, channel: int, frame: Frame) -> int:
        """Append a frame to a channel; returns its size on the wire."""
        if self.state is SessionState.CLOSED:
            raise LocalProtocolError("the session is closed")
        assert channel not in self._ends, "written to a channel after its end"
        data = encode(frame)
        buffer = self._writes.get(channel)
        if buffer is None:
            buffer = self._writes[channel] = bytearray()
        buffer += data
        self._unsent += len(data)
        return len(data)

    def _finish_channel(self, channel: Channel) -> None:
        """Say that nothing more follows from us."""
        if not channel.ended_by_us:
            channel.ended_by_us = True
            self._ends[channel.number] = None

    def _abort(self, channel: Channel, code: int) -> None:
        """Reset a channel and forget it."""
        self._bury(channel)
        self._drop_output(channel.number)
        self._ends[channel.number] = int(code)

    def _bury(self, channel: Channel) -> None:
        """Forget a channel; what the peer still sends on it is dropped until its end comes."""
        if self._channels.pop(channel.number, None) is not None and not channel.ended_by_peer:
            self._dead[channel.number] = None
            if len(self._dead) > limits.DEAD_CHANNELS_MAX:
                del self._dead[next(iter(self._dead))]

    def _credit(self, channel: int, size: int) -> None:
        if size:
            self._consumed[channel] = self._consumed.get(channel, 0) + size

    def _drop_output(self, channel: int) -> None:
        self._unsent -= len(self._writes.pop(channel, b""))

    def _end(self, code: int, text: str, *, remote: bool, now: float) -> None:
        """Close from this side, with a last frame that says why."""
        if not remote and self.state in (SessionState.SIGNING_IN, SessionState.UP):
            self._writes.setdefault(CONTROL, bytearray())
            self._writes[CONTROL] += encode(Close(int(code), text[:TEXT_SIZE_MAX]))
        self._close = (int(code), text[:TEXT_SIZE_MAX])
        self._finish(code, text, remote=remote, now=now)

    def _finish(self, code: int, text: str, *, remote: bool, now: float) -> None:
        self.state = SessionState.CLOSED
        for channel in list(self._channels.values()):
            if channel.number != CONTROL:
                self._channel_lost(channel, code, now)
        self._channels.clear()
        self._events.append(SessionEnded(int(code), text, remote))
