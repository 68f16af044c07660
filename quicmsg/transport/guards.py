"""Bounds that stock aioquic 1.7.2 lacks: what one peer can make us hold or compute.

Measured without them: 435 tiny packets cost 29 s of CPU (ranges with holes), 15 MB of CRYPTO bytes cost
24 s before any handshake is complete. Streams are opened by the client only and are bidirectional.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

from aioquic._buffer import Buffer
from aioquic.quic import connection as upstream
from aioquic.quic.connection import NetworkAddress, QuicConnectionError, QuicReceiveContext
from aioquic.quic.packet import QuicErrorCode, QuicFrameType

from quicmsg.limits import (
    CRYPTO_SIZE_MAX,
    SERVER_CHANNELS_MAX,
    STREAM_GAPS_MAX,
)
from quicmsg.transport.streams import ScheduledConnection


class GuardedConnection(ScheduledConnection):
    """A connection that closes when its peer goes beyond what an honest one ever needs."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        # What we announce as allowed is also what aioquic enforces: STREAM_LIMIT_ERROR beyond it.
        for limit, count in (
            (self._local_max_streams_bidi, 0 if self._is_client else SERVER_CHANNELS_MAX),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = count

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        # aioquic keeps to three times what an unproved address sent (RFC 9000 section 8.1), but not with its
        # close: a spoofed first packet got 3,600 bytes, and 142 more when its handshake timed out.
        room, is_closing = self._unproved_room(), self._close_pending
        datagrams = super().datagrams_to_send(now)
        if is_closing and room is not None and sum(len(data) for data, _ in datagrams) > room:
            return []
        return datagrams

    @property
    def is_address_proved(self) -> bool:
        """Whoever is at the peer's address has answered from there."""
        return self._network_paths[0].is_validated

    def _unproved_room(self) -> int | None:
        """Bytes that may still go to an address that is not proved to be the peer's; None: it is."""
        path = self._network_paths[0]
        return None if path.is_validated else 3 * path.bytes_received - path.bytes_sent

    def _handle_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        with _rewound(buf):
            stream_id = buf.pull_uint_var()
        super()._handle_stream_frame(context, frame_type, buf)
        stream = self._streams.get(stream_id)
        if stream is not None and stream.receiver.gaps() > STREAM_GAPS_MAX:  # type: ignore[attr-defined]
            raise QuicConnectionError(
                error_code=QuicErrorCode.INTERNAL_ERROR, frame_type=frame_type, reason_phrase="too many gaps"
            )

    def _handle_crypto_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        with _rewound(buf):
            stop = buf.pull_uint_var() + buf.pull_uint_var()
        # Checked before TLS sees the bytes: it collects a message of up to 16 MB in quadratic time.
        gaps = len(self._crypto_streams[context.epoch].receiver._ranges)
        if stop > CRYPTO_SIZE_MAX or gaps > STREAM_GAPS_MAX:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=QuicFrameType.CRYPTO,
                reason_phrase="too much handshake data",
            )
        was_complete = self._handshake_complete
        super()._handle_crypto_frame(context, frame_type, buf)
        if self._handshake_complete and not was_complete:
            # Into these TLS writes what it says: 16 KB for each epoch, and it has said everything.
            self._crypto_buffers = {epoch: Buffer(capacity=1) for epoch in self._crypto_buffers}


def share_epochs() -> None:
    """Let all connections share sets that never change: aioquic makes them anew for each of its 30 kinds of
    frames, 7 KB a connection. Called once, by the self-test."""
    upstream.EPOCHS = functools.cache(upstream.EPOCHS)


@contextlib.contextmanager
def _rewound(buf: Buffer) -> Iterator[None]:
    """Look ahead: afterwards the buffer stands where it stood."""
    start = buf.tell()
    yield
    buf.seek(start)
