"""Bytes to frames and back: length prefix, msgpack, typed limits.

`FrameReader` takes any split or coalescing of the bytes of one channel. It raises nothing but
`ProtocolError`. A frame type that it does not know is skipped, so that a newer peer can say more than we
understand; everything else that is malformed, too long or too deep is an error.
"""

from __future__ import annotations

from typing import Final

import msgspec

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import FRAME_HEADER_SIZE, FRAME_SIZE_MAX
from quicmsg.protocol import frames

_encoder: Final = msgspec.msgpack.Encoder()
_control: Final = msgspec.msgpack.Decoder(frames.ControlFrame)
_conversation: Final = msgspec.msgpack.Decoder(frames.ConversationFrame)
_known_control: Final = frozenset(f.__struct_config__.tag for f in frames.CONTROL_FRAMES)
_known_conversation: Final = frozenset(f.__struct_config__.tag for f in frames.CONVERSATION_FRAMES)


def encode(frame: frames.Frame) -> bytes:
    """The frame with its length prefix."""
    body = _encoder.encode(frame)
    assert len(body) <= FRAME_SIZE_MAX, "a frame of ours is above the limit"
    return len(body).to_bytes(FRAME_HEADER_SIZE, "big") + body


class FrameReader:
    """Bytes of one channel in, frames out.

    `feed` keeps at most one window of bytes; `next_frame` returns one frame, or None when more bytes are
    needed. After an error the channel is dead: the caller closes it.
    """

    def __init__(self, *, control: bool) -> None:
        self._decoder = _control if control else _conversation
        self._known = _known_control if control else _known_conversation
        self._buffer = bytearray()
        self._offset = 0
        self.frame_size = 0

    @property
    def buffered(self) -> int:
        """Bytes that were fed and not yet turned into frames."""
        return len(self._buffer) - self._offset

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the channel."""
        if self._offset and self._offset == len(self._buffer):
            self._buffer.clear()
            self._offset = 0
        self._buffer += data

    def next_frame(self) -> frames.Frame | None:
        """The next frame, or None: more bytes are needed. Its size on the wire is in `frame_size`.
        Skipped frames of unknown type are counted into the size of the next one. Raises ProtocolError."""
        self.frame_size = 0
        while True:
            body = self._next_body()
            if body is None:
                return None
            self.frame_size += FRAME_HEADER_SIZE + len(body)
            if self._is_known(body):
                return self._decode(body)

    # ---- private

    def _next_body(self) -> bytes | None:
        start = self._offset + FRAME_HEADER_SIZE
        if len(self._buffer) < start:
            return None
        size = int.from_bytes(self._buffer[self._offset : start], "big")
        if not 1 < size <= FRAME_SIZE_MAX:
            code = ErrorCode.FRAME_TOO_BIG if size > FRAME_SIZE_MAX else ErrorCode.MALFORMED
            raise ProtocolError(f"a frame of {size} bytes; allowed are 2 to {FRAME_SIZE_MAX}", code=code)
        if len(self._buffer) < start + size:
            return None
        body = bytes(self._buffer[start : start + size])
        self._offset = start + size
        if self._offset > FRAME_SIZE_MAX:
            del self._buffer[: self._offset]
            self._offset = 0
        return body

    def _is_known(self, body: bytes) -> bool:
        # msgspec cannot tell "unknown tag" from "malformed", so the tag is looked at first: an array
        # head (fixarray, array16, array32) and then a positive fixint.
        if 0x91 <= body[0] <= 0x9F:
            tag = body[1]
        elif body[0] == 0xDC and len(body) > 3:
            tag = body[3]
        elif body[0] == 0xDD and len(body) > 5:
            tag = body[5]
        else:
            raise ProtocolError("a frame is not a msgpack array")
        if tag > 0x7F:
            raise ProtocolError("a frame does not begin with its type")
        return tag in self._known

    def _decode(self, body: bytes) -> frames.Frame:
        # ValueError: msgspec's DecodeError and ValidationError, UnicodeDecodeError. RecursionError: an
        # unknown tail of more than about 1,000 levels, less what the caller's own stack takes; the protocol
        # promises 64 (LEVELS_TAKEN), which are left as long as the caller is less than 900 calls deep.
        try:
            frame: frames.Frame = self._decoder.decode(body)
        except (ValueError, RecursionError) as error:
            raise ProtocolError(f"malformed frame: {error}") from error
        return frame
