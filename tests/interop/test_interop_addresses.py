"""The interop runner's scenarios of changing addresses, and its two measurements, with people who chat."""

from __future__ import annotations

from typing import Any

import pytest
from chatting import Room, assert_smooth
from quicpair import SERVER

# ---- addresses ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("whole_address", [False, True], ids=["rebind-port", "rebind-addr"])
def test_rebind(seed: int, whole_address: bool) -> None:
    """A NAT gives everybody another port, or address: first after 1 s, then every 5 s. Nobody is told."""
    room = Room(seed, latency=0.015)
    room.chatter(20)
    room.run_for(1)
    for turn in range(4):
        for number, person in enumerate(room.people.values()):
            assert person.end is not None
            person.end.rebind(f"10.0.{turn + 7}.{number + 1}" if whole_address else None)
        room.run_for(5)
    room.finish(limit=10)
    assert_smooth(room)
    assert room.flips() >= 8


def test_ipv6(seed: int) -> None:
    """The same over IPv6, addresses shown in brackets."""
    room = Room(seed, latency=0.015, hosts="fd00::1:{}", address=("fd00::1", 4433))
    room.chatter(2)
    room.run_for(2)
    ann = room.people["ann"]
    assert ann.end is not None
    assert ann.end.session.observed_address.startswith("[fd00::1:1]:")
    ann.end.migrate("fd00::9:9")
    room.say("ann", "@bob")
    room.finish()
    assert_smooth(room)
    assert ann.end.session.observed_address.startswith("[fd00::9:9]:")


def test_connectionmigration(seed: int) -> None:
    """The client moves by itself: another address, another connection id, the same connection."""
    room = Room(seed, latency=0.015, loss=0.01)
    room.chatter(6)
    for turn in range(3):
        room.run_for(1.5)
        for number, person in enumerate(room.people.values()):
            assert person.end is not None
            person.end.migrate(f"10.1.{turn}.{number + 1}")
    room.run_for(2)
    room.finish(limit=10)
    assert_smooth(room)
    assert room.flips() == 9


# ---- measurements ------------------------------------------------------------------------------

LINK = 10_000_000 / 8
"""Bytes a second of the bottleneck."""
QUEUE_TIME = 0.1
"""What it holds before it drops."""


class Bottleneck:
    """A link of LINK in each direction, which both share with whoever else is there."""

    def __init__(self, room: Room) -> None:
        self._world = room.world
        self._carry = room.world.network.carry
        self._free = {True: 0.0, False: 0.0}
        room.world.network.carry = self.carry  # type: ignore[method-assign]

    def carry(self, sender: Any, to: Any, data: bytes) -> None:
        at = self.take(to == SERVER, len(data) + 28)
        if at is not None:
            self._world.at(at, lambda: self._carry(sender, to, data))

    def take(self, outward: bool, size: int) -> float | None:
        """When these bytes have left, or None: the queue is full."""
        start = max(self._free[outward], self._world.now)
        if start - self._world.now > QUEUE_TIME:
            return None
        self._free[outward] = start + size / LINK
        return self._free[outward]

    def other_traffic(self, share: float, seconds: float) -> None:
        """Somebody else's packets, evenly, both ways."""
        interval = 1228 / (LINK * share)
        stop = self._world.now + seconds

        def send() -> None:
            for outward in (True, False):
                self.take(outward, 1228)
            if self._world.now < stop:
                self._world.after(interval, send)

        send()


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(("share", "goodput_min"), [(0.0, 0.6), (0.5, 0.25)], ids=["goodput", "crosstraffic"])
def test_goodput(seed: int, share: float, goodput_min: float) -> None:
    """1.6 MB through 10 Mbit/s with 30 ms: most of the link is used, also beside other traffic."""
    room = Room(seed, ("ann", "bob"), latency=0.015, start=False)
    link = Bottleneck(room)
    for person in room.people.values():
        person.dial()
    room.say("bob", "@ann")
    room.finish()
    if share:
        link.other_traffic(share, 60.0)
    start = room.world.now
    room.say("ann", "@bob", 100, 16_000)
    bob = room.people["bob"]
    room.world.run(lambda: len(bob.shown["@ann"]) == 100, limit=60)
    goodput = 100 * 16_000 / (room.world.now - start) / LINK
    room.finish()
    assert goodput > goodput_min, f"{goodput:.2f} of the link"
