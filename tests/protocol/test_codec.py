"""Bytes to frames: any split of them, whatever is in them, and never more memory than one frame."""

from __future__ import annotations

import itertools
import tracemalloc

import msgpack
import pytest
from generated_frames import CONTROL, CONVERSATION
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import BODY_SIZE_MAX, FRAME_HEADER_SIZE, FRAME_SIZE_MAX, LEVELS_TAKEN, SEQ_MAX
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode

ID = b"i" * 16
SEND = frames.Send(ID, 0, 0, b"hello")
UNKNOWN_TAG = 127


def prefixed(body: bytes) -> bytes:
    return len(body).to_bytes(FRAME_HEADER_SIZE, "big") + body


def packed(*fields: object) -> bytes:
    """A frame as the independent second implementation of msgpack writes it."""
    return prefixed(msgpack.packb(list(fields)))


def read(data: bytes, *, control: bool = False) -> list[frames.Frame]:
    reader = FrameReader(control=control)
    reader.feed(data)
    return list(iter(reader.next_frame, None))


def read_pieces(pieces: list[bytes], *, control: bool) -> list[frames.Frame]:
    reader = FrameReader(control=control)
    found = []
    for piece in pieces:
        reader.feed(piece)
        found += list(iter(reader.next_frame, None))
    return found


def outcome(data: bytes, *, control: bool) -> list[frames.Frame] | ErrorCode:
    try:
        return read(data, control=control)
    except ProtocolError as error:
        return error.code


def refusal(data: bytes, *, control: bool = False) -> ErrorCode:
    with pytest.raises(ProtocolError) as caught:
        read(data, control=control)
    return caught.value.code


# ---- splits ------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None, database=None)
@given(st.data(), st.booleans())
def test_any_split_of_the_bytes_gives_the_same_frames(data: st.DataObject, control: bool) -> None:
    """A stream has no message boundaries: pieces of any size, and single bytes, mean the same."""
    sent = data.draw(st.lists(CONTROL if control else CONVERSATION, max_size=6))
    stream = b"".join(map(encode, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    ends = [0, *cuts, len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(ends)]
    assert read(stream, control=control) == sent
    assert read_pieces(pieces, control=control) == sent
    assert read_pieces([bytes([byte]) for byte in stream], control=control) == sent


def test_many_frames_do_not_gather_in_the_reader() -> None:
    """What was read is forgotten, also when the buffer never runs empty at a frame's end."""
    frame = encode(frames.Send(ID, 0, 0, bytes(BODY_SIZE_MAX)))
    stream = frame * 40
    reader = FrameReader(control=False)
    count = 0
    for start in range(0, len(stream), 1000):
        reader.feed(stream[start : start + 1000])
        count += len(list(iter(reader.next_frame, None)))
        assert reader.buffered < len(frame)
        assert len(reader._buffer) <= 2 * FRAME_SIZE_MAX
    assert (count, reader.buffered) == (40, 0)


def test_frame_sizes_add_up_to_the_bytes_of_the_stream() -> None:
    """Flow control is given back by frame_size: skipped frames count into the next one, and at the end."""
    unknown = packed(UNKNOWN_TAG, "from the future", {"any": [1, 2]})
    reader = FrameReader(control=False)
    reader.feed(unknown + unknown + encode(SEND) + unknown)
    assert reader.next_frame() == SEND
    assert reader.frame_size == 2 * len(unknown) + len(encode(SEND))
    assert reader.next_frame() is None
    assert reader.frame_size == len(unknown)
    assert reader.next_frame() is None
    assert reader.frame_size == 0


# ---- forward compatibility ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [
        msgpack.packb([UNKNOWN_TAG]),
        b"\xdc\x00\x01\x7f",  # array16
        b"\xdd\x00\x00\x00\x01\x7f",  # array32
        b"\x91\x7f\xc1",  # what follows an unknown type is not looked at
        b"\x92\x07" + b"\x00",  # Ping is known on channel 0 only
    ],
)
def test_unknown_types_are_skipped(body: bytes) -> None:
    """A newer peer can say more than we understand."""
    assert read(prefixed(body) + encode(SEND)) == [SEND]


def test_extra_fields_of_a_newer_version_are_ignored() -> None:
    """Fields are only ever added at the end."""
    assert read(packed(34, ID, 0, 0, b"hello", "new", {"deep": [[[]]]})) == [SEND]


@pytest.mark.parametrize("level", [b"\x91", b"\x81\xa0"], ids=["arrays", "maps"])
@pytest.mark.parametrize("calls", [0, 800])
def test_what_a_newer_version_adds_may_be_64_levels_deep(level: bytes, calls: int) -> None:
    """The number of the document, also where the caller has used up most of Python's stack."""

    def deeper(calls: int) -> list[frames.Frame]:
        return deeper(calls - 1) if calls else read(prefixed(TAIL + level * (LEVELS_TAKEN - 1) + b"\xc0"))

    assert LEVELS_TAKEN == 64
    assert deeper(calls) == [SEND]


@pytest.mark.parametrize("head", [b"\x95", b"\xdc\x00\x05", b"\xdd\x00\x00\x00\x05"])
def test_longer_array_heads_mean_the_same(head: bytes) -> None:
    """msgpack allows them, and some libraries write them."""
    assert read(prefixed(head + msgpack.packb([34, ID, 0, 0, b"hello"])[1:])) == [SEND]


# ---- hostile input -----------------------------------------------------------------------------

HEAD = b"\x95\x22" + msgpack.packb(ID) + b"\x00\x00"
"""A Send up to its body."""
TAIL = b"\x96\x22" + msgpack.packb(ID) + b"\x00\x00" + msgpack.packb(b"hello")
"""A Send with one more field, of a newer version."""
HOSTILE = {
    "one byte": b"\x90",
    "empty array": b"\x90\x00",
    "nil": b"\xc0\xc0",
    "map": msgpack.packb({"type": 34}),
    "string": msgpack.packb("hello"),
    "0xc1": b"\xc1\xc1",
    "0xc1 as a type": b"\x91\xc1",
    "0xc1 as a body": HEAD + b"\xc1",
    "no type": msgpack.packb([ID, 0, 0, b""]),
    "negative type": msgpack.packb([-1, ID, 0, 0, b""]),
    "type in two bytes": b"\x95\xcc\x22" + HEAD[2:] + b"\xc4\x00",
    "type True": msgpack.packb([True, ID, 0, 0, b""]),
    "array16 without a type": b"\xdc\x00\x05",
    "array32 without a type": b"\xdd\x00\x00\x00\x05",
    "array32 claims 4 G": b"\xdd\xff\xff\xff\xff\x22",
    "array32 claims 100 M": b"\xdd\x05\xf5\xe1\x00\x22" + HEAD[2:] + b"\xc4\x00",
    "body claims 4 G": HEAD + b"\xc6\xff\xff\xff\xff",
    "body claims 1 G as a string": HEAD + b"\xdb\x40\x00\x00\x00",
    "body is an array of 4 G": HEAD + b"\xdd\xff\xff\xff\xff",
    "body is a map of 4 G": HEAD + b"\xdf\xff\xff\xff\xff",
    "body is 512 arrays deep": HEAD + b"\x91" * 512 + b"\xc0",
    "body is 65 kB of claims": HEAD + b"\xdd\x00\x0f\x42\x40" * 12_000,
    "unknown tail 60,000 arrays deep": TAIL + b"\x91" * 60_000 + b"\xc0",
    "unknown tail 30,000 maps deep": TAIL + b"\x81\xa0" * 30_000 + b"\xc0",
    "unknown tail claims 4 G": TAIL + b"\xdd\xff\xff\xff\xff",
    "truncated": encode(SEND)[FRAME_HEADER_SIZE:-1],
    "trailing bytes": encode(SEND)[FRAME_HEADER_SIZE:] + b"\x00",
    "too few fields": msgpack.packb([34, ID, 0, 0]),
    "bool for int": msgpack.packb([34, ID, True, 0, b""]),
    "float for int": msgpack.packb([34, ID, 1.5, 0, b""]),
    "NaN": msgpack.packb([38, float("nan")]),
    "infinity": msgpack.packb([38, float("inf")]),
    "negative position": msgpack.packb([38, -1]),
    "position above 2^53": msgpack.packb([38, SEQ_MAX + 1]),
    "uint64 max": msgpack.packb([38, 2**64 - 1]),
    "int for bool": msgpack.packb([39, 1, 1]),
    "string for bytes": msgpack.packb([34, "i" * 16, 0, 0, b""]),
    "bytes for string": msgpack.packb([32, b"@bob", 0, 0, 0]),
    "nil for bytes": msgpack.packb([34, ID, 0, 0, None]),
    "id of 15 bytes": msgpack.packb([34, ID[:15], 0, 0, b""]),
    "id of 17 bytes": msgpack.packb([34, ID + b"i", 0, 0, b""]),
    "body above the limit": msgpack.packb([34, ID, 0, 0, bytes(BODY_SIZE_MAX + 1)]),
    "ext 5": HEAD + b"\xd4\x05\x00",
    "bad timestamp": HEAD + b"\xc7\x0c\xff" + b"\xff" * 12,
    "map with int keys": HEAD + b"\x81\x01\x02",
    "map with list keys": HEAD + b"\x81\x91\x01\x02",
    "8,000 colliding keys": HEAD + msgpack.packb({n * (2**61 - 1): 0 for n in range(8)}) * 800,
    "duplicate keys": HEAD + b"\x82\xa1a\x01\xa1a\x02",
    "invalid UTF-8": b"\x95\x20\xa4@\xff\xfeb\x00\x00\x00",
    "lone surrogate": b"\x95\x20\xa4@\xed\xa0\x80\x00\x00\x00",
    "escape sequence in a name": msgpack.packb([32, "@b\x1b[2J", 0, 0, 0]),
    "NUL in a name": msgpack.packb([32, "@b\x00b", 0, 0, 0]),
    "address without a mark": msgpack.packb([32, "bob", 0, 0, 0]),
    "receipt of nobody": msgpack.packb([40, []]),
    "65,000 nils": b"\x92\x28\xdc\xfd\xe8" + b"\xc0" * 65_000,
    "65,000 empty maps": b"\x92\x28\xdc\xfd\xe8" + b"\x80" * 65_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_input_is_a_protocol_error(name: str) -> None:
    """Nothing that a peer can write raises anything else."""
    body = HOSTILE[name]
    assert 1 <= len(body) <= FRAME_SIZE_MAX
    assert refusal(prefixed(body)) is ErrorCode.MALFORMED


def test_hostile_input_takes_no_memory() -> None:
    """A claim costs who makes it: nothing is allocated for what has not come."""
    tracemalloc.start()
    try:
        for body in HOSTILE.values():
            for control in (False, True):
                reader = FrameReader(control=control)
                reader.feed(prefixed(body))
                tracemalloc.reset_peak()
                before = tracemalloc.get_traced_memory()[0]
                try:
                    while reader.next_frame() is not None:
                        pass
                except ProtocolError:
                    pass
                # The body's own copy, the frame, the exception; 4 G and 100 M claims would be far above.
                assert tracemalloc.get_traced_memory()[1] - before < 4 * FRAME_SIZE_MAX
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [FRAME_SIZE_MAX + 1, 2**31, 2**32 - 1])
def test_length_above_the_limit_is_refused_before_a_byte_of_the_body(size: int) -> None:
    """A 4 GiB prefix costs nothing."""
    assert refusal(size.to_bytes(FRAME_HEADER_SIZE, "big")) is ErrorCode.FRAME_TOO_BIG


@pytest.mark.parametrize("size", [0, 1])
def test_length_that_holds_no_type_is_refused(size: int) -> None:
    """Empty frames in a loop would be work for nothing."""
    assert refusal(size.to_bytes(FRAME_HEADER_SIZE, "big")) is ErrorCode.MALFORMED


def test_a_frame_of_the_greatest_size_is_taken() -> None:
    """The bound itself is allowed."""
    filler = bytes(FRAME_SIZE_MAX - len(TAIL) - 3)
    body = TAIL + b"\xc5" + len(filler).to_bytes(2, "big") + filler
    assert len(body) == FRAME_SIZE_MAX
    assert read(prefixed(body)) == [SEND]
    biggest = frames.Send(ID, 255, 255, bytes(BODY_SIZE_MAX))
    assert read(encode(biggest)) == [biggest]


@settings(max_examples=700, deadline=None, database=None)
@given(st.binary(max_size=120), st.booleans(), st.booleans())
def test_random_bytes_raise_nothing_but_protocol_error(data: bytes, prefix: bool, control: bool) -> None:
    """Whatever comes, the reader says frame, more bytes, or ProtocolError."""
    found = outcome(prefixed(data) if prefix else data, control=control)
    assert isinstance(found, list) or found in (ErrorCode.MALFORMED, ErrorCode.FRAME_TOO_BIG)


@settings(max_examples=1200, deadline=None, database=None)
@given(st.data(), st.booleans())
def test_mutated_frames_raise_nothing_but_protocol_error(data: st.DataObject, control: bool) -> None:
    """Almost right is what reaches deepest into a decoder; what is accepted is a frame like any other."""
    frame = data.draw(CONTROL if control else CONVERSATION)
    body = bytearray(encode(frame)[FRAME_HEADER_SIZE:])
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(body)))
        cut = data.draw(st.integers(0, 3))
        body[at : at + cut] = data.draw(st.binary(max_size=4))
    found = outcome(prefixed(bytes(body)), control=control)
    if not isinstance(found, list):
        assert found is ErrorCode.MALFORMED
        return
    for accepted in found:
        assert read(encode(accepted), control=control) == [accepted]
