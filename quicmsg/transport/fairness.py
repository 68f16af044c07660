"""A queue in which everybody's turn comes round, for a server that gets more than it can process.

Without it the kernel's buffer is the queue, and who sends most has most of it: then all others lose packets
because of one. Here what arrives is sorted by whose it is, which costs a hundredth of processing it; each
gets one turn after the other, and who fills more than an equal share of the room loses what goes beyond.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FairQueue(Generic[K, V]):
    """First in, first out for each key; keys in turn.

    Args:
        size_max: items above which a key with more than an equal share of them loses what comes; at twice as
            many, one that has any.
    """

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._lines: dict[K, deque[V]] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, key: K, item: V) -> bool:
        """Add it behind the key's others; False: dropped."""
        line = self._lines.get(key)
        own = len(line) if line is not None else 0
        if self._size >= self._size_max and own * len(self._lines) >= self._size_max:
            return False
        if self._size >= 2 * self._size_max and own:
            return False
        if line is None:
            line = self._lines[key] = deque()
        line.append(item)
        self._size += 1
        return True

    def pop(self) -> V:
        """The first item of the key whose turn it is. Raises StopIteration when there is none."""
        key, line = next(iter(self._lines.items()))
        item = line.popleft()
        del self._lines[key]
        if line:
            self._lines[key] = line  # behind everybody else
        self._size -= 1
        return item

    def clear(self) -> None:
        """Forget everything."""
        self._lines.clear()
        self._size = 0
