"""What happens to datagrams between the ends of `quicpair.World`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quicpair import World

Address = tuple[str, int]


class Network:
    """What happens to datagrams. All times in seconds, all rates from 0 to 1."""

    def __init__(self, world: World, *, latency: float, jitter: float, loss: float, duplicate: float) -> None:
        self.latency = latency
        self.jitter = jitter
        self.loss = loss
        self.duplicate = duplicate
        self.drop: Callable[[Address, Address, bytes], bool] | None = None
        self.sent = self.lost = 0
        self._world = world
        self._holes: list[tuple[float, str | None, str | None]] = []

    def hole(self, seconds: float, *, sender: str | None = None, to: str | None = None) -> None:
        """Let nothing pass from now on for some time; with a host given, only what it sends or gets."""
        self._holes.append((self._world.now + seconds, sender, to))

    def carry(self, sender: Address, to: Address, data: bytes) -> None:
        """Deliver, late, twice or not at all."""
        world, draw = self._world, self._world.random
        self.sent += 1
        world.note(sender, to, data)
        if self._is_lost(sender, to, data):
            self.lost += 1
            return
        for _ in range(2 if draw.random() < self.duplicate else 1):
            delay = self.latency + (draw.expovariate(1 / self.jitter) if self.jitter else 0.0)
            world.at(world.now + delay, lambda: world.arrive(sender, to, data))

    def _is_lost(self, sender: Address, to: Address, data: bytes) -> bool:
        now = self._world.now
        self._holes = [hole for hole in self._holes if hole[0] > now]
        for _, from_host, to_host in self._holes:
            if from_host in (None, sender[0]) and to_host in (None, to[0]):
                return True
        if self.drop is not None and self.drop(sender, to, data):
            return True
        return self._world.random.random() < self.loss
