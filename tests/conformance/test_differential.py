"""Two implementations of the wire, msgspec and msgpack, must agree on every frame."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from quicmsg.conformance import wire
from quicmsg.errors import ProtocolError
from quicmsg.limits import SEQ_MAX
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode

FRAMES = (*frames.CONTROL_FRAMES, *frames.CONVERSATION_FRAMES)


def name() -> st.SearchStrategy[str]:
    first = string.ascii_lowercase + string.digits
    rest = st.text(first + "._-", max_size=31)
    return st.builds(str.__add__, st.sampled_from(first), rest)


def text(size: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=size)


POSITION = st.integers(0, SEQ_MAX)
NUMBER = st.integers(0, 2**63 - 1)
BYTE = st.integers(0, 255)
BODY = st.binary(max_size=300)
ADDRESS = st.builds(str.__add__, st.sampled_from("@#"), name())
CHANGE = st.builds(frames.ChangeEntry, ADDRESS, POSITION, NUMBER)
MEMBER = st.builds(frames.MemberEntry, name(), POSITION, POSITION)
ID = st.binary(min_size=16, max_size=16)
ENTRY = st.builds(frames.Entry, st.integers(1, SEQ_MAX), ID, name(), ID, BYTE, BYTE, BODY, NUMBER)


def several(element: st.SearchStrategy[Any], low: int = 0) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(element, min_size=low, max_size=4).map(tuple)


BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    "Byte": BYTE, "Number": NUMBER, "Position": POSITION, "Seq": st.integers(1, SEQ_MAX),
    "Code": st.integers(0, 2**30), "bool": st.booleans(), "Name": name(), "Address": ADDRESS,
    "Text": text(256), "Label": text(64), "ShortText": text(64), "Features": several(text(64)),
    "MessageId": ID, "DeviceId": ID, "Body": BODY,
}  # fmt: skip
BY_FIELD: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("Authenticate", "public_key"): st.binary(min_size=32, max_size=32),
    ("Authenticate", "signature"): st.binary(min_size=64, max_size=64),
    ("SyncPage", "entries"): several(CHANGE),
    ("Create", "members"): several(name()),
    ("Opened", "members"): several(MEMBER),
    ("Receipt", "members"): several(MEMBER, low=1),
    ("Fetch", "limit"): st.integers(1, 100),
    ("Page", "entries"): several(ENTRY),
}


def fields_of(frame: type[frames.Frame]) -> list[tuple[str, str]]:
    return list(frame.__annotations__.items())


def any_frame() -> st.SearchStrategy[frames.Frame]:
    every = []
    for frame in FRAMES:
        fields = {
            field: BY_FIELD[at] if (at := (frame.__name__, field)) in BY_FIELD else BY_TYPE[kind]
            for field, kind in fields_of(frame)
        }
        every.append(st.builds(frame, **fields))
    return st.one_of(every)


def plain(frame: frames.Frame) -> list[Any]:
    """The fields as msgpack knows them."""
    found: list[Any] = msgspec.to_builtins(frame, builtin_types=(bytes,))
    return [tag_free(value) for value in found]


def tag_free(value: Any) -> Any:
    return [tag_free(one) for one in value] if isinstance(value, list | tuple) else value


def ours(data: bytes, *, control: bool) -> frames.Frame | ProtocolError | None:
    reader = FrameReader(control=control)
    reader.feed(data)
    try:
        return reader.next_frame()
    except ProtocolError as error:
        return error


NO_NUMBERS: tuple[Any, ...] = (-1, 1.0, True, None, "1", b"1", [1])
NO_BYTES: tuple[Any, ...] = ("a" * 16, None, 1, [1])
NO_TEXT: tuple[Any, ...] = (b"a", None, 1, ["a"])
NO_NAMES = (*NO_TEXT, "", "-a", "A", "a b", "a\n", "a" * 33, "ä")
CHANGE_EDGE, MEMBER_EDGE = ["@a", SEQ_MAX, 2**63 - 1], ["a", SEQ_MAX, SEQ_MAX]
ENTRY_EDGE = [SEQ_MAX, bytes(16), "a", bytes(16), 255, 255, b"", 2**63 - 1]
EDGES: dict[str, tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    "Byte": ((0, 255), (*NO_NUMBERS, 256)),
    "Number": ((0, 2**63 - 1), (*NO_NUMBERS, 2**63)),
    "Position": ((0, SEQ_MAX), (*NO_NUMBERS, SEQ_MAX + 1)),
    "Seq": ((1, SEQ_MAX), (*NO_NUMBERS, 0, SEQ_MAX + 1)),
    "Code": ((0, 2**30), (*NO_NUMBERS, 2**30 + 1)),
    "bool": ((True, False), (0, 1, None, "true")),
    "Name": (("a", "a" * 32, "0._-"), NO_NAMES),
    "Address": (("@a", "#" + "a" * 32), (*NO_TEXT, "a", "@", "@-", "@A", "@a\n", "#" + "a" * 33)),
    "Text": (("", "ä" * 256), (*NO_TEXT, "a" * 257)),
    "Label": (("", "ä" * 64), (*NO_TEXT, "a" * 65)),
    "ShortText": (("", "ä" * 64), (*NO_TEXT, "a" * 65)),
    "Features": (([], ["a" * 64] * 32), (["a"] * 33, ["a" * 65], [1], "a", None)),
    "MessageId": ((bytes(16),), (*NO_BYTES, bytes(15), bytes(17))),
    "DeviceId": ((bytes(16),), (*NO_BYTES, bytes(15), bytes(17))),
    "Body": ((b"", bytes(16_384)), (*NO_BYTES, bytes(16_385))),
}
FIELD_EDGES: dict[tuple[str, str], tuple[tuple[Any, ...], tuple[Any, ...]]] = {
    ("Authenticate", "public_key"): ((bytes(32),), (*NO_BYTES, bytes(31), bytes(33))),
    ("Authenticate", "signature"): ((bytes(64),), (*NO_BYTES, bytes(63), bytes(65))),
    ("SyncPage", "entries"): (
        ([], [CHANGE_EDGE] * 256, [[*CHANGE_EDGE, "new"]]),
        ([CHANGE_EDGE] * 257, [CHANGE_EDGE[:2]], [["a", 1, 1]], None),
    ),
    ("Create", "members"): (([], ["a"] * 500), (["a"] * 501, [""], None)),
    ("Opened", "members"): (([], [MEMBER_EDGE] * 500), ([MEMBER_EDGE] * 501, [["a", -1, 0]], None)),
    ("Receipt", "members"): (([MEMBER_EDGE], [MEMBER_EDGE] * 500), ([], [MEMBER_EDGE] * 501, None)),
    ("Fetch", "limit"): ((1, 100), (*NO_NUMBERS, 0, 101)),
    ("Page", "entries"): (
        ([], [ENTRY_EDGE] * 100),
        ([ENTRY_EDGE] * 101, [ENTRY_EDGE[:7]], [[0, *ENTRY_EDGE[1:]]], None),
    ),
}
"""By type, or by field where the type has no name: values at the bounds, and values right behind them."""


def variations() -> Iterator[tuple[type[frames.Frame], list[Any], bool]]:
    """Every frame with every field at its edges; True: allowed."""
    for frame in FRAMES:
        edges = [FIELD_EDGES.get((frame.__name__, field)) or EDGES[kind] for field, kind in fields_of(frame)]
        tag = frame.__struct_config__.tag
        for at, (good, bad) in enumerate(edges):
            for value in (*good, *bad):
                others: list[Any] = [first[0][0] for first in edges]
                others[at] = value
                yield frame, [tag, *others], any(value is one for one in good)


@pytest.mark.parametrize("second", [False, True], ids=["msgspec", "msgpack"])
def test_every_bound_of_every_field_is_where_the_document_says(second: bool) -> None:
    """Each implementation takes a field at its bounds, and refuses it right behind them."""
    count = 0
    for frame, value, allowed in variations():
        data = wire.encode(*value)
        try:
            found = wire.decode(data[4:]) if second else ours(data, control=frame in frames.CONTROL_FRAMES)
        except wire.BadFrameError:
            found = None
        assert isinstance(found, wire.Frame | frames.Frame) is allowed, f"{frame.__name__} {value!r:.200}"
        count += 1
    assert count > 800


@given(any_frame())
def test_what_msgspec_writes_msgpack_reads(frame: frames.Frame) -> None:
    """Same type, same fields, same names."""
    second = wire.decode(encode(frame)[4:])
    assert second is not None
    assert [int(second.type), *second.fields.values()] == plain(frame)
    assert tuple(second.fields) == frame.__struct_fields__


@given(any_frame())
def test_what_msgpack_writes_msgspec_reads(frame: frames.Frame) -> None:
    """And the bytes are the same ones."""
    data = wire.encode(*plain(frame))
    assert ours(data, control=isinstance(frame, frames.CONTROL_FRAMES)) == frame
    assert data == encode(frame)


@given(any_frame(), st.data())
@example(frames.Ping(1), None)
def test_both_agree_on_damaged_frames(frame: frames.Frame, data: st.DataObject | None) -> None:
    """Refused by both, or read alike: a frame that only one of them takes is a hole in the document."""
    body = bytearray(encode(frame)[4:])
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            body[data.draw(st.integers(0, min(len(body), 64) - 1))] = data.draw(st.integers(0, 255))
    known = frames.CONTROL_FRAMES if isinstance(frame, frames.CONTROL_FRAMES) else frames.CONVERSATION_FRAMES
    try:
        second: object = wire.decode(bytes(body))
    except wire.BadFrameError as error:
        second = error
    if isinstance(second, wire.Frame):
        # The client has one table for all channels; a type of the other kind of channel is unknown here.
        assume(int(second.type) in {one.__struct_config__.tag for one in known})
    first = ours(wire.prefixed(bytes(body)), control=known is frames.CONTROL_FRAMES)
    if isinstance(first, frames.Frame):
        if isinstance(second, wire.BadFrameError):
            # What is ignored (M4) is skipped by one and parsed by the other.
            assert (
                len(msgspec.msgpack.decode(bytes(body), type=list[msgspec.Raw]))
                > len(type(first).__struct_fields__) + 1
            )
            return
        assert isinstance(second, wire.Frame)
        assert [int(second.type), *second.fields.values()] == plain(first)
    else:
        assert not isinstance(second, wire.Frame)
