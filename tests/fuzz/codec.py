"""Bytes into the decoder: nothing but frames and ProtocolError comes out, and msgpack agrees on every frame.

The oracle is a second implementation: `msgpack` takes the bytes apart, and a check written from the
annotations says whether the values are a frame. Both must agree, in both directions, wherever msgpack can
read the bytes.
"""

from __future__ import annotations

import io
from collections import Counter
from random import Random
from typing import Any, Final

import msgpack
import msgspec
from msgspec import inspect

from fuzz.engine import Target
from fuzz.grammar import FIELDS, Grammar, pieces
from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import FRAME_HEADER_SIZE, FRAME_SIZE_MAX, LEVELS_TAKEN
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader

INPUTS_PER_CASE: Final = 100
_BY_TAG: Final = {
    control: {kind.__struct_config__.tag: kind for kind in kinds}
    for control, kinds in ((True, frames.CONTROL_FRAMES), (False, frames.CONVERSATION_FRAMES))
}
_encode: Final = msgspec.msgpack.Encoder().encode
_SPECIAL: Final = bytes.fromhex(
    "00017f80818f90919f9fa0bfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d3d4d8d9dadbdcdddedfe0ff"
)
_HEADS: Final = (
    b"\xdd\xff\xff\xff\xff", b"\xdd\x05\xf5\xe1\x00", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdb\x40\x00\x00\x00", b"\xc9\xff\xff\xff\xff\x05", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xc5\xff\xff",
    b"\xd4\x05\x00", b"\xc7\x0c\xff" + b"\xff" * 12, b"\xcf" + b"\xff" * 8, b"\xd3\x80" + b"\0" * 7,
    b"\xcb\x7f\xf8" + b"\0" * 6, b"\xa4\xed\xa0\x80\x00", b"\xa2\xff\xfe", b"\x81\x91\x01\x02", b"\x91" * 200,
    b"\x81\xa0" * 200, b"\xdd\x00\x0f\x42\x40" * 40, b"\x91" * 2000 + b"\xc0",
    b"\x81\xa0" * 2000 + b"\xc0", b"\x91" * 63 + b"\xc0", b"\x81\xa0" * 63 + b"\xc0",
    b"\x91" * 1000 + b"\xc0",
)  # fmt: skip


def case(random: Random) -> Counter[str]:
    """Some inputs, each on a channel of its own."""
    counts: Counter[str] = Counter()
    grammar = Grammar(random, names=("alice", "bob"), conversations=("@bob", "#team"))
    for _ in range(INPUTS_PER_CASE):
        counts["inputs"] += 1
        control = random.random() < 0.5
        stream = _stream(random, grammar, control)
        try:
            counts += check(stream, control, random)
        except Exception as error:
            raise AssertionError(
                f"{error!r} of {'control' if control else 'conversation'} {stream.hex()}"
            ) from error
        counts["bytes"] += len(stream)
    return counts


def check(stream: bytes, control: bool, random: Random) -> Counter[str]:
    """Both readings of a stream agree, whatever the pieces in which it comes; counts what was in it."""
    counts: Counter[str] = Counter()
    expected = _oracle(stream, control)
    whole = _read([stream], control)
    assert whole == _read(pieces(random, stream), control), "the pieces matter"
    if expected[-1:] == [UNCLEAR]:
        whole = whole[: len(expected)]  # what follows was not judged
    assert len(whole) == len(expected), f"{whole} where {expected} was expected"
    for found, oracle in zip(whole, expected, strict=True):
        if oracle is UNCLEAR:
            counts["unclear"] += 1
        elif oracle is REFUSED:
            counts["refused"] += 1
            assert found in _REFUSALS, f"{found} where nothing valid is"
        else:
            counts["accepted"] += 1
            assert found == _plain(oracle), f"{found} where msgpack reads {oracle}"
    return counts


# ---- what the product reads


def _read(parts: list[bytes], control: bool) -> list[Any]:
    reader, found, size = FrameReader(control=control), list[Any](), 0
    try:
        for part in parts:
            reader.feed(part)
            while (frame := reader.next_frame()) is not None:
                size += reader.frame_size
                found.append([type(frame).__struct_config__.tag, *_plain(msgspec.structs.astuple(frame))])
            size += reader.frame_size
    except ProtocolError as error:
        found.append(error.code)
        return found
    assert size + reader.buffered == sum(map(len, parts)), "bytes got lost"
    assert reader.buffered < FRAME_SIZE_MAX + FRAME_HEADER_SIZE
    return found


def _plain(value: Any) -> Any:
    """Structs and tuples as lists; True and 1 are told apart."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.astuple(value)
    if isinstance(value, tuple | list) and value[:1] != ("bool",):
        return [_plain(item) for item in value]
    return value


# ---- what the oracle reads

_REFUSALS: Final = (ErrorCode.MALFORMED, ErrorCode.FRAME_TOO_BIG)
REFUSED: Final = "refused"
UNCLEAR: Final = "unclear"


def _oracle(stream: bytes, control: bool) -> list[Any]:
    """Frames as lists; REFUSED ends it; UNCLEAR where only one of the two can read what follows a frame."""
    found: list[Any] = []
    while len(stream) >= FRAME_HEADER_SIZE:
        size = int.from_bytes(stream[:FRAME_HEADER_SIZE], "big")
        if not 1 < size <= FRAME_SIZE_MAX:
            return [*found, REFUSED]
        if len(stream) < FRAME_HEADER_SIZE + size:
            break
        body, stream = (
            stream[FRAME_HEADER_SIZE : FRAME_HEADER_SIZE + size],
            stream[FRAME_HEADER_SIZE + size :],
        )
        verdict = _judge(body, control)
        if verdict is None:
            continue
        found.append(verdict)
        if verdict is REFUSED or verdict is UNCLEAR:
            break
    return found


def _judge(body: bytes, control: bool) -> Any:
    """A frame's values, None to skip it, REFUSED or UNCLEAR."""
    head = {0xDC: 3, 0xDD: 5}.get(body[0], 1 if 0x91 <= body[0] <= 0x9F else 0)
    if not head or len(body) <= head or body[head] > 0x7F:
        return REFUSED
    kind = _BY_TAG[control].get(body[head])
    if kind is None:
        return None
    count = body[0] & 0x0F if head == 1 else int.from_bytes(body[1:head], "big")
    fields = FIELDS[kind]
    if count < 1 + len(fields):
        return REFUSED
    if levels(body) > LEVELS_TAKEN:
        return UNCLEAR  # may be refused, or not: that depends on the stack of who calls the decoder
    unpacker = _unpacker(body[head:], raw=True)
    try:
        unpacker.unpack()
        starts = []
        values = []
        for _ in fields:
            starts.append(head + unpacker.tell())
            values.append(unpacker.unpack())
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError, OverflowError):
        return REFUSED
    texts = _with_texts(body, head, len(fields))
    if texts is None or not all(_fits(v, f.type) for v, f in zip(texts, fields, strict=True)):
        return REFUSED
    rest, extra = body[head + unpacker.tell() :], count - 1 - len(fields)
    if not extra:
        return REFUSED if rest else [body[head], *texts]
    return _judge_tail(rest, extra, [body[head], *texts])


def _with_texts(body: bytes, head: int, count: int) -> list[Any] | None:
    """The fields again, strings as text."""
    unpacker = _unpacker(body[head:], raw=False)
    try:
        return [unpacker.unpack() for _ in range(1 + count)][1:]
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError, OverflowError):
        return None


def _judge_tail(rest: bytes, extra: int, frame: list[Any]) -> Any:
    """Fields of a newer version are skipped, if they are msgpack; the oracle refuses more (depth, text that
    is not UTF-8, unhashable keys), so only its yes is an answer."""
    if extra > len(rest):
        return REFUSED
    if b"\xc9\xff\xff\xff\xff" in rest:
        return (
            UNCLEAR  # the oracle's own bug: this size and the byte of the type overflow, and it skips nothing
        )
    unpacker = _unpacker(rest, raw=True)
    try:
        for _ in range(extra):
            unpacker.skip()
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError):
        return UNCLEAR
    return frame if unpacker.tell() == len(rest) else REFUSED


def levels(body: bytes) -> int:
    """How deep the arrays and maps of a frame go, its own included; 0 if it is no msgpack at all."""
    if b"\xc9\xff\xff\xff\xff" in body:
        return 0  # see _judge_tail
    unpacker, waiting, deepest = _unpacker(body, raw=True), [1], 0
    try:
        while waiting:
            if not waiting[-1]:
                waiting.pop()
                continue
            waiting[-1] -= 1
            head = body[unpacker.tell()]
            if 0x90 <= head <= 0x9F or head in (0xDC, 0xDD):
                waiting.append(unpacker.read_array_header())
            elif 0x80 <= head <= 0x8F or head in (0xDE, 0xDF):
                waiting.append(2 * unpacker.read_map_header())
            else:
                unpacker.skip()
            deepest = max(deepest, len(waiting) - 1)
    except (ValueError, IndexError, msgpack.exceptions.UnpackException):
        return 0
    return deepest


def _unpacker(data: bytes, *, raw: bool) -> msgpack.Unpacker:
    return msgpack.Unpacker(io.BytesIO(data), raw=raw, strict_map_key=False, max_buffer_size=FRAME_SIZE_MAX)


def _fits(value: Any, kind: Any) -> bool:
    """Is this value one of this type, by its annotation?"""
    match kind:
        case inspect.IntType():
            return type(value) is int and (kind.ge or 0) <= value <= kind.le
        case inspect.BoolType():
            return type(value) is bool
        case inspect.StrType():
            if type(value) is not str or len(value) > (kind.max_length or FRAME_SIZE_MAX):
                return False
            return kind.pattern is None or _is_name(value, address=kind.pattern == frames.ADDRESS_PATTERN)
        case inspect.BytesType():
            return type(value) is bytes and (kind.min_length or 0) <= len(value) <= (kind.max_length or 0)
        case inspect.VarTupleType():
            if type(value) is not list or not (kind.min_length or 0) <= len(value) <= kind.max_length:
                return False
            return all(_fits(item, kind.item_type) for item in value)
        case inspect.StructType():
            fields = FIELDS[kind.cls]
            # A longer list: of a newer version.
            return (
                type(value) is list
                and len(value) >= len(fields)
                and all(map(_fits, value, (f.type for f in fields)))
            )
    raise AssertionError(f"a frame has a field of a new type: {kind}")


def _is_name(text: str, *, address: bool) -> bool:
    """Written without the pattern, which it checks."""
    if address:
        if text[:1] not in ("@", "#") or not text:
            return False
        text = text[1:]
    letters = set("abcdefghijklmnopqrstuvwxyz0123456789")
    return 1 <= len(text) <= 32 and text[0] in letters and set(text) <= letters | set("._-")


# ---- making input


def _stream(random: Random, grammar: Grammar, control: bool) -> bytes:
    kinds = frames.CONTROL_FRAMES if control else frames.CONVERSATION_FRAMES
    draw, stream = random.random(), b""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        if draw < 0.1:
            body = random.randbytes(random.randint(0, 60))
        else:
            body = _encode(grammar.any_of(kinds))
            if random.random() < 0.1 and body[0] < 0x9F:
                # Of a newer version: one more field, whatever that is.
                body = bytes([body[0] + 1]) + body[1:] + random.choice(_HEADS)
            if draw > 0.3:
                body = mutated(random, body, random.randint(1, 4))
        stream += len(body).to_bytes(FRAME_HEADER_SIZE, "big") + body
    if draw > 0.9:
        stream = mutated(random, stream, 1)  # also lengths
    return stream


def mutated(random: Random, data: bytes, edits: int) -> bytes:
    """Almost right is what reaches deepest into a decoder."""
    changed = bytearray(data)
    for _ in range(edits):
        at = random.randint(0, len(changed))
        match random.randrange(7):
            case 0:
                changed[at : at + 1] = bytes([random.randrange(256)])
            case 1:
                changed[at : at + 1] = bytes([random.choice(_SPECIAL)])
            case 2:
                changed[at:at] = bytes([random.choice(_SPECIAL)])
            case 3:
                del changed[at : at + random.randint(1, 4)]
            case 4:
                changed[at:at] = random.choice(_HEADS)
            case 5:
                changed[at:at] = changed[: random.randint(0, 40)]
            case 6:
                del changed[at:]
    return bytes(changed[: 2 * FRAME_SIZE_MAX])


TARGET: Final = Target("codec", "bytes into the decoder, with msgpack as oracle", case)
