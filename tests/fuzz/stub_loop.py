"""What the endpoint needs of an event loop and a socket, in virtual time and without either."""

from __future__ import annotations

import heapq
import itertools
import socket
from collections.abc import Callable
from typing import Any

from quicmsg.transport.socket import Address, Arrival

SERVER: Address = ("10.0.0.1", 4433)


class Handle:
    """A call that is due; what `call_at` gives."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self.function: Callable[..., Any] | None = function
        self.arguments = arguments

    def cancel(self) -> None:
        self.function = None


class StubLoop:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.readers: dict[int, tuple[Callable[..., Any], tuple[Any, ...]]] = {}
        self._heap: list[tuple[float, int, Handle]] = []
        self._count = itertools.count()

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, function: Callable[..., Any], *arguments: Any) -> Handle:
        handle = Handle(function, arguments)
        heapq.heappush(self._heap, (when, next(self._count), handle))
        return handle

    def call_later(self, delay: float, function: Callable[..., Any], *arguments: Any) -> Handle:
        return self.call_at(self.now + delay, function, *arguments)

    def call_soon(self, function: Callable[..., Any], *arguments: Any) -> Handle:
        return self.call_at(self.now, function, *arguments)

    def add_reader(self, number: int, function: Callable[..., Any], *arguments: Any) -> None:
        self.readers[number] = function, arguments

    def remove_reader(self, number: int) -> None:
        self.readers.pop(number, None)

    def run_for(self, seconds: float) -> None:
        """Call what becomes due; fails when time stands still."""
        stop, calls = self.now + seconds, 0
        while self._heap and self._heap[0][0] <= stop:
            when, _, handle = heapq.heappop(self._heap)
            if handle.function is not None:
                calls = calls + 1 if when <= self.now else 0
                assert calls < 10_000, "time stands still"
                self.now = max(self.now, when)
                handle.function(*handle.arguments)
        self.now = stop

    @property
    def waiting(self) -> int:
        """Timers that are still set."""
        return sum(handle.function is not None for _, _, handle in self._heap)


class StubSocket:
    """A socket with what arrived, and what was sent."""

    family = socket.AF_INET
    address = SERVER

    def __init__(self, loop: StubLoop) -> None:
        self._loop = loop
        self.arrived: list[Arrival] = []
        self.sent: list[tuple[bytes, Address]] = []
        self.on_error: Any = None

    def fileno(self) -> int:
        return 99

    def local_address(self, local: bytes) -> Address:
        return SERVER

    def receive(self) -> list[Arrival]:
        arrived, self.arrived = self.arrived, []
        return arrived

    def send(self, datagrams: list[bytes], address: Address, local: bytes | None) -> None:
        self.sent += [(datagram, address) for datagram in datagrams]

    def close(self) -> None:
        pass

    def deliver(self, *arrivals: tuple[bytes, Address]) -> None:
        """Let datagrams arrive, as one batch."""
        self.arrived += [(data, sender, bytes(12)) for data, sender in arrivals]
        function, arguments = self._loop.readers[self.fileno()]
        function(*arguments)
