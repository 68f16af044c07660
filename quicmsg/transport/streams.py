"""Streams whose cost does not grow with their number, and windows that slide with consumption.

Stock aioquic scans all open streams twice per packet (8 ms per packet with 10,000 of them) and doubles its
receive windows whenever bytes *arrive*, so that a peer can make it allocate gigabytes with a dozen frames.
Here only streams that have something to do are looked at, and a window moves when the application has
processed bytes. Also here: how much is waiting to be acknowledged (`buffered`), and channel 0 first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from aioquic.quic.connection import QuicConnection, QuicNetworkPath
from aioquic.quic.events import StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from quicmsg.limits import CONNECTION_WINDOW, STREAM_WINDOW

CONTROL_STREAM = 0


class Ledger:
    """What we keep about one stream beside aioquic's own state."""

    __slots__ = ("aborted", "connection", "credited", "given_up", "queued", "stream")

    def __init__(self, connection: ScheduledConnection, stream: QuicStream) -> None:
        self.connection = connection
        self.stream = stream
        self.queued = False
        self.credited = 0
        self.aborted = False
        self.given_up = False

    def wake(self) -> None:
        """The stream has something to send, or has finished: look at it at the next flush."""
        self.connection._queue.append(self.stream)


class _Sender(QuicStreamSender):
    """aioquic's sender, telling its connection when there is work and how much is unacknowledged."""

    ledger: Ledger

    def write(self, data: bytes, end_stream: bool = False) -> None:
        super().write(data, end_stream)
        self.ledger.connection.buffered += len(data)
        self.ledger.wake()

    def reset(self, error_code: int) -> None:
        super().reset(error_code)
        if self._reset_error_code is not None:
            self.drop_unacknowledged()
        self.ledger.wake()

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:
        before = self._buffer_start
        super().on_data_delivery(delivery, start, stop, fin)
        self.ledger.connection.buffered -= self._buffer_start - before
        if self.is_finished or delivery is not QuicDeliveryState.ACKED:
            self.ledger.wake()

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        super().on_reset_delivery(delivery)
        self.ledger.wake()

    def has_work(self) -> bool:
        """Something could be written now, if windows allow it."""
        return self.reset_pending or (
            not self.buffer_is_empty and (self._pending_eof or len(self._pending) > 0)
        )

    def drop_unacknowledged(self) -> None:
        """Nothing of this stream will be sent again."""
        self.ledger.connection.buffered -= len(self._buffer)
        self._buffer.clear()


class _Receiver(QuicStreamReceiver):
    """aioquic's receiver, telling its connection when the stream must be looked at."""

    ledger: Ledger

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        super().stop(error_code)
        self.ledger.wake()

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        super().on_stop_sending_delivery(delivery)
        self.ledger.wake()

    def handle_frame(self, frame: QuicStreamFrame) -> Any:
        event = super().handle_frame(frame)
        if self.is_finished:
            self.ledger.wake()
        return event

    def handle_reset(
        self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR
    ) -> StreamReset | None:
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if event is not None:
            # Bytes that will never be delivered can never be consumed: without this credit eleven honest
            # resets of lossy streams use up the connection's window for ever (measured).
            self.ledger.connection._credit(self.ledger, self.highest_offset - self._buffer_start)
        self.ledger.wake()
        return event

    def gaps(self) -> int:
        """Separate ranges that arrived ahead of a hole."""
        return len(self._ranges)


class _Streams(dict[int, QuicStream]):
    """All open streams; `values()`, which only aioquic's loop over MAX_STREAM_DATA uses, is limited to
    streams whose window may move (`check_aioquic` notices when that stops being true)."""

    def __init__(self, connection: ScheduledConnection) -> None:
        super().__init__()
        self._connection = connection

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        ledger = Ledger(self._connection, stream)
        # aioquic makes the stream itself, so its halves are given our classes here, before their first use.
        stream.sender.__class__ = _Sender
        stream.receiver.__class__ = _Receiver
        stream.sender.ledger = stream.receiver.ledger = ledger  # type: ignore[attr-defined]
        super().__setitem__(stream_id, stream)

    def pop(self, stream_id: int, *default: Any) -> QuicStream:
        stream = super().pop(stream_id)
        self._connection._forget(stream)
        return stream

    def values(self) -> Any:
        return list(self._connection._moving)


class _Queue(list[QuicStream]):
    """Streams with work, each once, in the order in which they will be served: control before all others,
    those round robin."""

    def append(self, stream: QuicStream) -> None:
        ledger = ledger_of(stream)
        if not ledger.queued:
            ledger.queued = True
            self._place(stream)

    def extend(self, streams: Iterable[QuicStream]) -> None:
        # aioquic gives the served streams as a set, whose order is that of memory addresses. Sorted, the
        # same run gives the same packets.
        for stream in sorted(streams, key=lambda stream: stream.stream_id or 0):
            self._place(stream)

    def _place(self, stream: QuicStream) -> None:
        self.insert(0 if stream.stream_id == CONTROL_STREAM else len(self), stream)


def ledger_of(stream: QuicStream) -> Ledger:
    """Our notes about a stream."""
    ledger = stream.sender.ledger  # type: ignore[attr-defined]
    assert isinstance(ledger, Ledger)
    return ledger


class ScheduledConnection(QuicConnection):
    """A QuicConnection whose work per packet depends on the active streams only."""

    _streams: dict[int, QuicStream]

    def __init__(self, **arguments: Any) -> None:
        self._moving: dict[QuicStream, None] = {}
        self._queue = _Queue()
        self._consumed = 0
        self.buffered = 0
        """Bytes that were written and are not acknowledged, sent or not."""
        super().__init__(**arguments)
        self._streams = _Streams(self)

    # ---- commands

    def write(self, stream_id: int, data: bytes, end: bool) -> bool:
        """Queue bytes for a stream; False when the peer gave the stream up, or a client never opened it, and
        the bytes are dropped."""
        if self._is_client:
            self._open_through(stream_id)
        elif stream_id not in self._streams:
            # A client that falls silent after the handshake is told so on a channel that it has not opened.
            return False
        if self._stream_is_discarded(stream_id):
            return False
        stream = self._streams.get(stream_id)
        if stream is not None and stream.sender._reset_error_code is not None:
            return False
        self.send_stream_data(stream_id, data, end)
        return True

    def abort(self, stream_id: int, code: int) -> None:
        """Give a stream up in both directions; what still arrives on it is thrown away."""
        if self._is_client:
            self._open_through(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        ledger = ledger_of(stream)
        ledger.aborted = True
        self.reset_stream(stream_id, code)
        if not stream.receiver.is_finished:
            self.stop_stream(stream_id, code)

    def is_aborted(self, stream_id: int) -> bool:
        """Whether `abort` was called; also true for a stream that no longer exists."""
        stream = self._streams.get(stream_id)
        return stream is None or ledger_of(stream).aborted

    def is_first_reset(self, stream_id: int) -> bool:
        """Whether the peer's giving up is news: RESET_STREAM and STOP_SENDING usually come both."""
        stream = self._streams.get(stream_id)
        if stream is None or ledger_of(stream).aborted or ledger_of(stream).given_up:
            return False
        ledger_of(stream).given_up = True
        return True

    def consume(self, stream_id: int, size: int) -> None:
        """The application has processed bytes of this stream: let the peer send as many more."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._credit(ledger_of(stream), size)

    # ---- scheduling: overrides of private names of aioquic

    @property
    def _streams_queue(self) -> list[QuicStream]:
        return self._queue

    @_streams_queue.setter
    def _streams_queue(self, streams: list[QuicStream]) -> None:
        self._queue = _Queue(streams)

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        blocked = list(self._streams_blocked_uni if is_unidirectional else self._streams_blocked_bidi)
        super()._unblock_streams(is_unidirectional)
        for stream in blocked:
            if not stream.is_blocked:
                ledger_of(stream).wake()

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        try:
            super()._write_application(builder, network_path, now)
        finally:
            self._queue = _Queue(self._still_busy())
            # A window update that did not fit into a packet (or whose packet was never begun) stays here.
            for stream in list(self._moving):
                if not self._window_is_due(stream) and _is_announced(stream):
                    del self._moving[stream]

    def _still_busy(self) -> Iterator[QuicStream]:
        for stream in self._queue:
            if stream.stream_id in self._streams and (
                stream.is_finished
                or stream.receiver.stop_pending
                or (not stream.is_blocked and stream.sender.has_work())  # type: ignore[attr-defined]
            ):
                yield stream
            else:
                ledger_of(stream).queued = False

    def _open_through(self, stream_id: int) -> None:
        # aioquic takes a stream below the highest one that we opened for a finished one, so streams are
        # opened in order, whatever the order in which the session first writes to its channels.
        for number in range(self._local_next_stream_id_bidi, stream_id + 4, 4):
            self._get_or_create_stream_for_send(number)

    # ---- receive windows

    def _credit(self, ledger: Ledger, size: int) -> None:
        # Never more than what arrived: a session that counts wrongly must not inflate the windows.
        size = min(size, ledger.stream.receiver.highest_offset - ledger.credited)
        ledger.credited += size
        self._consumed += size
        self._moving[ledger.stream] = None

    def _forget(self, stream: QuicStream) -> None:
        """Both directions are finished and aioquic has dropped the stream: settle its accounts."""
        ledger = ledger_of(stream)
        self._credit(ledger, stream.receiver.highest_offset)
        self._moving.pop(stream, None)
        stream.sender.drop_unacknowledged()  # type: ignore[attr-defined]

    def _window_is_due(self, stream: QuicStream) -> bool:
        """Half of the window was used: worth a frame."""
        limit = stream.max_stream_data_local
        if not limit or stream.receiver._final_size is not None:
            return False
        return ledger_of(stream).credited + STREAM_WINDOW - limit >= STREAM_WINDOW // 2

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id in self._streams:
            self._moving[stream] = None

    def _write_stream_limits(
        self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream
    ) -> None:
        if self._window_is_due(stream):
            stream.max_stream_data_local = ledger_of(stream).credited + STREAM_WINDOW
        receiver = stream.receiver
        highest, receiver.highest_offset = receiver.highest_offset, 0  # keeps aioquic from doubling
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        limit = self._local_max_data
        if self._consumed + CONNECTION_WINDOW - limit.value >= CONNECTION_WINDOW // 2:
            limit.value = self._consumed + CONNECTION_WINDOW
        used, limit.used = limit.used, 0  # keeps aioquic from doubling
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used


def _is_announced(stream: QuicStream) -> bool:
    return stream.max_stream_data_local_sent == stream.max_stream_data_local
