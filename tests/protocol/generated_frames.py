"""Valid frames for hypothesis, made from the very annotations that the decoder checks."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from hypothesis import strategies as st

from quicmsg.protocol import frames

CONVERSATIONS: Final = ("@bob", "@carol", "#team")
"""Few, so that generated frames meet the conversations that a test has opened."""
NAMES: Final = ("alice", "bob", "carol")
IDS: Final = tuple(bytes([n]) * 16 for n in range(4))
_LISTED_MAX: Final = 4
_SIZE_MAX: Final = 40


def _value(kind: Any) -> st.SearchStrategy[Any]:
    match kind:
        case msgspec.inspect.IntType():
            low, high = kind.ge or 0, kind.le
            assert high is not None, "every number of a frame has an upper bound"
            # Small numbers are what positions, refs and codes really are; the ends are where bugs are.
            return st.one_of(st.integers(low, min(high, 4)), st.integers(low, high), st.just(high))
        case msgspec.inspect.BoolType():
            return st.booleans()
        case msgspec.inspect.StrType(pattern=frames.NAME_PATTERN):
            return st.sampled_from(NAMES)
        case msgspec.inspect.StrType(pattern=frames.ADDRESS_PATTERN):
            return st.sampled_from(CONVERSATIONS)
        case msgspec.inspect.StrType():
            return st.text(max_size=min(kind.max_length or _SIZE_MAX, _SIZE_MAX))
        case msgspec.inspect.BytesType(min_length=16, max_length=16):
            return st.sampled_from(IDS)
        case msgspec.inspect.BytesType():
            least = kind.min_length or 0
            most = min(kind.max_length or _SIZE_MAX, _SIZE_MAX)
            return st.binary(min_size=least, max_size=max(least, most))
        case msgspec.inspect.VarTupleType():
            items = _value(kind.item_type)
            return st.lists(items, min_size=kind.min_length or 0, max_size=_LISTED_MAX).map(tuple)
        case msgspec.inspect.StructType():
            return frame_of(kind.cls)
        case _:
            raise AssertionError(f"a frame has a field of a new type: {kind}")


def frame_of(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Valid frames of one class."""
    found = msgspec.inspect.type_info(kind)
    assert isinstance(found, msgspec.inspect.StructType)
    return st.builds(kind, *(_value(field.type) for field in found.fields))


CONTROL: Final = st.one_of(*map(frame_of, frames.CONTROL_FRAMES))
CONVERSATION: Final = st.one_of(*map(frame_of, frames.CONVERSATION_FRAMES))
