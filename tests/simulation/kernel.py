"""Simulated time: a heap of things to do, run in order, with nothing else going on."""

from __future__ import annotations

import heapq
from collections.abc import Callable

SAME_INSTANT_MAX = 20_000
"""More events than this without time moving on: something wakes itself for ever."""


class Timer:
    """Something to be done at a time, unless it is cancelled."""

    __slots__ = ("args", "function", "when")

    def __init__(self, when: float, function: Callable[..., object], args: tuple[object, ...]) -> None:
        self.when = when
        self.function: Callable[..., object] | None = function
        self.args = args

    def cancel(self) -> None:
        self.function = None


class Kernel:
    """Runs events in the order of their time, then of their making. `settled` is called after each."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.settled: Callable[[], None] = lambda: None
        self._heap: list[tuple[float, int, Timer]] = []
        self._made = 0
        self._same = 0

    def call_at(self, when: float, function: Callable[..., object], *args: object) -> Timer:
        self._made += 1
        timer = Timer(max(when, self.now), function, args)
        heapq.heappush(self._heap, (timer.when, self._made, timer))
        return timer

    def call_later(self, delay: float, function: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self.now + delay, function, *args)

    def run_until(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Run up to a time, or until `stop` says so after an event; whether it did."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            when, _, timer = heapq.heappop(heap)
            function = timer.function
            if function is None:
                continue
            self._same = self._same + 1 if when == self.now else 0
            if self._same > SAME_INSTANT_MAX:
                raise RuntimeError(f"time stands still at {self.now}: {function}")
            self.now = when
            self.events += 1
            function(*timer.args)
            self.settled()
            if stop is not None and stop():
                return True
        self.now = max(self.now, until)
        return False
