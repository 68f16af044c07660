"""Frames as docs/protocol.md describes them, by hand on top of the `msgpack` package.

The numbers are those of the document. They are not imported from quicmsg: a wrong one there must not
become a wrong one here.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgpack

FRAME_SIZE_MAX: Final = 65_536
BODY_SIZE_MAX: Final = 16_384
SEQ_MAX: Final = 9_007_199_254_740_992
NUMBER_MAX: Final = 9_223_372_036_854_775_807
PARKED_SIZE_MAX: Final = 65_536
SIGN_IN_TIMEOUT: Final = 5.0
DELIVER_WINDOW_MESSAGES: Final = 64
DELIVER_WINDOW_SIZE: Final = 262_144
PAGE_MESSAGES_MAX: Final = 100


class BadFrameError(Exception):
    """The server sent what the document does not allow."""


class Code(enum.IntEnum):
    """Section 11, as far as a check expects it."""

    NO_ERROR = 0x00
    MALFORMED = 0x02
    FRAME_TOO_BIG = 0x03
    UNEXPECTED = 0x04
    VERSION = 0x05
    ACK_BEYOND = 0x06
    LIMIT = 0x07
    TIMEOUT = 0x08
    SIGN_IN_REQUIRED = 0x10
    SIGN_IN_REFUSED = 0x11
    NAME_TAKEN = 0x12
    INVITE_NEEDED = 0x13
    CODE_INVALID = 0x14
    UNKNOWN = 0x20
    FORBIDDEN = 0x21
    CONFLICT = 0x22
    EXISTS = 0x24
    REPLACED = 0x30


class Type(enum.IntEnum):
    """Frame types of sections 5 and 6."""

    HELLO = 1
    AUTHENTICATE = 2
    WELCOME = 3
    SYNC = 4
    SYNC_PAGE = 5
    NOTICE = 6
    PING = 7
    PONG = 8
    MOVED = 9
    STATE = 10
    GO_AWAY = 11
    CLOSE = 12
    CREATE = 13
    INVITE = 14
    JOIN = 15
    LEAVE = 16
    LINK = 17
    DONE = 18
    FAILED = 19
    OPEN = 32
    OPENED = 33
    SEND = 34
    ACCEPTED = 35
    REJECTED = 36
    DELIVER = 37
    ACK = 38
    READ = 39
    RECEIPT = 40
    FETCH = 41
    PAGE = 42
    REFUSED = 43


@dataclass(frozen=True, slots=True)
class Frame:
    """A frame with its fields by name: `frame["seq"]`."""

    type: Type
    fields: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.fields[name]

    def __str__(self) -> str:
        inside = ", ".join(f"{name}={value!r:.80}" for name, value in self.fields.items())
        return f"{self.type.name}({inside})"


def encode(kind: int, *fields: object) -> bytes:
    """A frame with its length prefix."""
    return prefixed(msgpack.packb([int(kind), *fields]))


def prefixed(body: bytes) -> bytes:
    """Any bytes with a length prefix, to say things that are no frame."""
    return len(body).to_bytes(4, "big") + body


def decode(body: bytes) -> Frame | None:
    """A frame without its prefix; None for a type that this client does not know (M3)."""
    kind = _type(body)
    if kind not in _FIELDS:
        return None
    try:
        # Maps, which only elements of a newer version can be, become lists of pairs: their keys need not be
        # hashable then.
        value = msgpack.unpackb(body, raw=False, strict_map_key=False, object_pairs_hook=list)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise BadFrameError(f"not msgpack: {error!r}") from error
    names = _FIELDS[kind]
    if len(value) - 1 < len(names):
        raise BadFrameError(f"{Type(kind).name} without {list(names)[len(value) - 1]}")
    fields = dict(zip(names, value[1:], strict=False))
    for name, found in fields.items():
        if not names[name](found):
            raise BadFrameError(f"{Type(kind).name}.{name} is out of its bounds: {found!r:.80}")
    return Frame(Type(kind), fields)


def _type(body: bytes) -> int:
    """The first element, which is one byte; what follows need not be msgpack for a type that is unknown."""
    head = body[0]
    at = 1 if 0x91 <= head <= 0x9F else {0xDC: 3, 0xDD: 5}.get(head, len(body))
    if at >= len(body) or body[at] > 0x7F:
        raise BadFrameError(f"not [type, ...]: {body[:16].hex()}")
    return body[at]


class Splitter:
    """Bytes of one channel in, frames out, whatever the pieces (M1)."""

    def __init__(self) -> None:
        self._buffer = b""

    @property
    def buffered(self) -> int:
        """Bytes of a frame that is not complete."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that are complete now."""
        self._buffer += data
        found = []
        while len(self._buffer) >= 4:
            size = int.from_bytes(self._buffer[:4], "big")
            if not 2 <= size <= FRAME_SIZE_MAX:
                raise BadFrameError(f"a frame of {size} bytes")
            if len(self._buffer) < 4 + size:
                break
            body, self._buffer = self._buffer[4 : 4 + size], self._buffer[4 + size :]
            frame = decode(body)
            if frame is not None:
                found.append(frame)
        return found


# ---- section 3: types and their bounds ---------------------------------------------------------

_Check = Callable[[Any], bool]


def _integer(low: int, high: int) -> _Check:
    return lambda value: type(value) is int and low <= value <= high


def _string(characters: int) -> _Check:
    return lambda value: type(value) is str and len(value) <= characters


def _pattern(expression: str) -> _Check:
    compiled = re.compile(expression)
    return lambda value: type(value) is str and compiled.fullmatch(value) is not None


def _binary(low: int, high: int) -> _Check:
    return lambda value: type(value) is bytes and low <= len(value) <= high


def _array(element: _Check, high: int, low: int = 0) -> _Check:
    return lambda value: type(value) is list and low <= len(value) <= high and all(map(element, value))


def _structure(*elements: _Check) -> _Check:
    def check(value: Any) -> bool:
        if type(value) is not list or len(value) < len(elements):
            return False
        return all(element(found) for element, found in zip(elements, value, strict=False))

    return check


def _boolean(value: Any) -> bool:
    return type(value) is bool


_byte = _integer(0, 255)
_number = _integer(0, NUMBER_MAX)
_position = _integer(0, SEQ_MAX)
_seq = _integer(1, SEQ_MAX)
_code = _integer(0, 1_073_741_824)
_name = _pattern(r"[a-z0-9][a-z0-9._-]{0,31}")
_address = _pattern(r"[@#][a-z0-9][a-z0-9._-]{0,31}")
_text = _string(256)
_short = _string(64)
_features = _array(_short, 32)
_id = _binary(16, 16)
_body = _binary(0, BODY_SIZE_MAX)
_change = _structure(_address, _position, _number)
_member = _structure(_name, _position, _position)
_entry_fields: dict[str, _Check] = {
    "seq": _seq, "message_id": _id, "sender": _name, "device": _id,
    "kind": _byte, "encoding": _byte, "body": _body, "stored_at_ms": _number,
}  # fmt: skip
_entry = _structure(*_entry_fields.values())

_FIELDS: Final[dict[int, dict[str, _Check]]] = {
    Type.HELLO: {"version_min": _byte, "version_max": _byte, "agent": _short, "features": _features,
                 "foreground": _boolean},
    Type.AUTHENTICATE: {"user": _name, "public_key": _binary(32, 32), "signature": _binary(64, 64),
                        "label": _short, "code": _short},
    Type.WELCOME: {"version": _byte, "user": _name, "device": _id, "epoch": _number,
                   "server_time_ms": _number, "observed_address": _short, "account_head": _number,
                   "body_size_max": _number, "features": _features},
    Type.SYNC: {"epoch": _number, "cursor": _number},
    Type.SYNC_PAGE: {"epoch": _number, "entries": _array(_change, 256), "cursor": _number,
                     "more": _boolean},
    Type.NOTICE: {"conversation": _address, "head": _position, "change": _number},
    Type.PING: {"number": _number},
    Type.PONG: {"number": _number, "time_ms": _number, "account_head": _number},
    Type.MOVED: {"observed_address": _short},
    Type.STATE: {"foreground": _boolean},
    Type.GO_AWAY: {"code": _code, "deadline_ms": _number, "alternative": _short},
    Type.CLOSE: {"code": _code, "text": _text},
    Type.CREATE: {"ref": _number, "conversation": _address, "members": _array(_name, 500),
                  "open": _boolean},
    Type.INVITE: {"ref": _number, "conversation": _address, "user": _name},
    Type.JOIN: {"ref": _number, "conversation": _address},
    Type.LEAVE: {"ref": _number, "conversation": _address},
    Type.LINK: {"ref": _number},
    Type.DONE: {"ref": _number, "text": _text},
    Type.FAILED: {"ref": _number, "code": _code, "text": _text},
    Type.OPEN: {"conversation": _address, "epoch": _number, "position": _position,
                "received": _position},
    Type.OPENED: {"epoch": _number, "oldest": _seq, "head": _position, "position": _position,
                  "reset": _boolean, "members": _array(_member, 500)},
    Type.SEND: {"message_id": _id, "kind": _byte, "encoding": _byte, "body": _body},
    Type.ACCEPTED: {"message_id": _id, "seq": _seq, "stored_at_ms": _number},
    Type.REJECTED: {"message_id": _id, "code": _code, "text": _text},
    Type.DELIVER: _entry_fields,
    Type.ACK: {"position": _position},
    Type.READ: {"position": _position, "public": _boolean},
    Type.RECEIPT: {"members": _array(_member, 500, low=1)},
    Type.FETCH: {"ref": _number, "after": _position, "before": _position,
                 "limit": _integer(1, PAGE_MESSAGES_MAX)},
    Type.PAGE: {"ref": _number, "entries": _array(_entry, PAGE_MESSAGES_MAX), "last": _boolean},
    Type.REFUSED: {"code": _code, "text": _text, "retry_after_ms": _number},
}  # fmt: skip


def entry(elements: Sequence[Any]) -> dict[str, Any]:
    """An Entry of a Page, by name."""
    return dict(zip(_entry_fields, elements, strict=False))
