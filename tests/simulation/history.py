"""What happened in a world, in order: the checker reads it, and its hash says that two runs were the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

Happening = tuple[float, str, tuple[object, ...]]


class History:
    """A list of (time, what, details)."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.happenings: list[Happening] = []
        self.trace = False
        self._now = now

    def note(self, what: str, *details: object) -> None:
        self.happenings.append((self._now(), what, details))
        if self.trace:
            print(f"{self._now():9.4f} {what:12} {' '.join(_plain(d) for d in details)}")  # noqa: T201

    def count(self, what: str) -> int:
        return sum(happening[1] == what for happening in self.happenings)

    def hash(self) -> str:
        return hashlib.sha256(repr(self.happenings).encode()).hexdigest()


def _plain(detail: object) -> str:
    return detail.hex()[-6:] if isinstance(detail, bytes) else str(detail)
