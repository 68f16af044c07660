"""Frames from a random source, made from the very annotations that the decoder checks.

Most are valid, with numbers at their bounds and the few names, ids and positions that a case plays with,
so that they reach states behind the decoder; a share has fields of the wrong type, size or number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import msgspec
from msgspec import inspect

from quicmsg.limits import BODY_SIZE_MAX
from quicmsg.protocol import frames
from quicmsg.protocol.frames import Frame

FIELDS: Final = {
    kind: tuple(inspect.type_info(kind).fields)  # type: ignore[attr-defined]
    for kind in (
        *frames.CONTROL_FRAMES,
        *frames.CONVERSATION_FRAMES,
        frames.ChangeEntry,
        frames.MemberEntry,
        frames.Entry,
    )
}
_EDGES: Final = (0, 1, 2, 63, 64, 65, 127, 128, 255, 256, 2**16 - 1, 2**30, 2**31, 2**32, 2**53, 2**63 - 1)
_WILD: Final[tuple[Any, ...]] = (
    None, True, -1,
    2**53 + 1, 2**63, 2**64 - 1, -(2**63), 1.5, float("nan"), float("inf"), "", "\0", "\x1b[2J",
    "@", "#",
    "@" + "b" * 33, "x" * 300, b"", bytes(15), bytes(17), bytes(BODY_SIZE_MAX + 1), [], [[[[[]]]]], {},
    {"a": 1}, [None] * 600, msgspec.msgpack.Ext(5, b"x"),
)  # fmt: skip


class Grammar:
    """Draws frames for one case.

    Attributes:
        positions: what seqs and positions are mostly drawn from; a case keeps it near the truth.
        epochs: the same for epochs.
    """

    def __init__(self, random: Random, *, names: Sequence[str], conversations: Sequence[str]) -> None:
        self.random = random
        self.names = names
        self.conversations = conversations
        self.ids = [bytes([n]) * 16 for n in range(4)]
        self.positions: list[int] = [0, 1, 2, 3]
        self.epochs: list[int] = [0, 7]
        self.wildness = 0.05
        """The chance that a frame has something wrong with it."""

    def frame(self, kind: type[Frame], /, **fixed: Any) -> Frame:
        """One frame of this class; fields that are given are taken as they are."""
        values = {field.name: self._value(field.name, field.type) for field in FIELDS[kind]}
        values.update(fixed)
        if values and self.random.random() < self.wildness:
            values[self.random.choice(list(values))] = self.random.choice(_WILD)
        return kind(**values)

    def any_of(self, kinds: Sequence[type[Frame]]) -> Frame:
        """One frame of one of these classes."""
        return self.frame(self.random.choice(kinds))

    def address(self) -> str:
        if self.random.random() < 0.05:
            return self.random.choice("@#") + self._word(32)
        return self.random.choice(self.conversations)

    def number(self, low: int, high: int) -> int:
        """Mostly small or at an edge: there the bugs are."""
        draw = self.random.random()
        if draw < 0.5:
            return self.random.randint(low, min(high, low + 5))
        if draw < 0.85:
            return min(max(self.random.choice(_EDGES), low), high)
        return high if draw < 0.93 else self.random.randint(low, high)

    # ---- private

    def _value(self, name: str, kind: Any) -> Any:
        return _MAKERS[type(kind)](self, name, kind)

    def _int(self, name: str, kind: Any) -> int:
        low, high = kind.ge or 0, kind.le
        if name in ("position", "received", "seq", "head", "oldest", "after", "before", "read", "delivered"):
            if self.random.random() < 0.85:
                return max(self.random.choice(self.positions), low)
        elif name == "epoch" and self.random.random() < 0.9:
            return self.random.choice(self.epochs)
        elif name == "kind" and self.random.random() < 0.8:
            return 0
        return self.number(low, high)

    def _text(self, name: str, kind: Any) -> str:
        if kind.pattern == frames.NAME_PATTERN:
            return self.random.choice(self.names) if self.random.random() < 0.95 else self._word(32)
        if kind.pattern == frames.ADDRESS_PATTERN:
            return self.address()
        size = self.random.choice((0, 1, 5, kind.max_length or 40))
        return "".join(self.random.choices("ab\x1b\0\n\u202e\u00fc\U0001f600", k=size))

    def _bytes(self, name: str, kind: Any) -> bytes:
        low, high = kind.min_length or 0, kind.max_length or 64
        if low == high == 16:
            if self.random.random() < 0.5:
                return self.random.choice(self.ids)
            return self.random.randbytes(16)
        size = self.random.choice((low, min(low + 3, high), high if self.random.random() < 0.1 else low))
        return self.random.randbytes(size)

    def _list(self, name: str, kind: Any) -> tuple[Any, ...]:
        low, high = kind.min_length or 0, kind.max_length or 8
        size = self.random.choice((low, low + 1, 3, high if self.random.random() < 0.05 else low))
        return tuple(self._value("", kind.item_type) for _ in range(size))

    def _struct(self, name: str, kind: Any) -> Any:
        return kind.cls(*(self._value(field.name, field.type) for field in FIELDS[kind.cls]))

    def _word(self, size_max: int) -> str:
        size = self.random.randint(1, size_max)
        return "".join(self.random.choices("abcdefgh0189", k=size))


_MAKERS: Final[dict[type, Callable[[Grammar, str, Any], Any]]] = {
    inspect.IntType: Grammar._int,
    inspect.BoolType: lambda grammar, _name, _kind: grammar.random.random() < 0.5,
    inspect.StrType: Grammar._text,
    inspect.BytesType: Grammar._bytes,
    inspect.VarTupleType: Grammar._list,
    inspect.StructType: Grammar._struct,
}


def pieces(random: Random, data: bytes) -> list[bytes]:
    """The same bytes in pieces: one, a few, or single ones."""
    draw = random.random()
    if draw < 0.6 or len(data) < 2:
        return [data]
    if draw < 0.65 and len(data) < 200:
        return [bytes([byte]) for byte in data]
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randint(1, 4)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
