"""What one seed draws: its own mix of people, faults and weather (swarm testing)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from unittest import mock

from quicmsg import limits
from quicmsg.client import journal, network
from quicmsg.protocol import channels
from quicmsg.server import conversations, directory, topics
from quicmsg.store import writer
from quicmsg.transport import admission
from quicmsg.transport import socket as quic_socket
from simulation.shell.internet import Weather

FAULTS = {
    "server kill": 5.0,
    "server stop": 8.0,
    "client kill": 3.0,
    "client restart": 5.0,
    "hole": 5.0,
    "one-way hole": 6.0,
    "nat rebinding": 4.0,
    "nat address": 5.0,
    "new address": 4.0,
    "no network": 6.0,
    "netlink noise": 3.0,
    "move by hand": 4.0,
    "slow disk": 5.0,
    "clock step": 6.0,
}
"""Mean seconds between two of each, where a seed has drawn it."""
BOUNDS: dict[str, tuple[float, ...]] = {
    "DELIVER_WINDOW_MESSAGES": (1, 64, 64),
    "SUBMIT_WINDOW_MESSAGES": (1, 64, 64),
    "CHANNELS_MAX": (1, 100, 100),
    "INBOX_MAX": (2, 4096, 4096),
    "JOURNAL_QUEUE_MAX": (2, 4096),
    "COMMIT_BATCH_MAX": (1, 512, 512),
    "STORE_QUEUE_MAX": (4, 20_000, 20_000),
    "RECEIVE_BATCH": (1, 64),
    "RETRY_ABOVE": (0, 64, 64),
    "LOG_CACHE_SIZE": (1000, 32 * 1024 * 1024),
}
"""Small ones are drawn for some seeds: what waits in line is met then."""
MODULES = (
    *(limits, admission, channels, conversations, directory, topics),
    *(journal, network, quic_socket, writer),
)


@dataclass(slots=True)
class Settings:
    """One seed's world."""

    calm: bool
    duration: float
    users: dict[str, int]
    """How many devices each has."""
    groups: int
    rate: float
    membership_rate: float
    by_hand: float
    weather: Weather
    faults: dict[str, float]
    natted: dict[str, bool]
    thinking: dict[str, float]
    """Seconds that a device's program needs for one message, at most."""
    reads: float
    private: tuple[str, ...]
    restless: float
    """The chance that a program leaves its loop over messages, and begins another."""
    foreground: float
    pinned: float
    disk_slowness: float
    families: str
    """What the server's name has: "4", "64" (both work), "64-dead" (nothing comes through over IPv6)."""
    hurry: float = 0.0
    """The chance that a program gives a call up before it has returned."""
    fail_fast: float = 0.0
    """The share of devices whose programs would rather fail than wait while there is no link."""
    sizes: tuple[int, ...] = (10, 40, 40, 300)
    bounds: dict[str, float] = field(default_factory=dict)


def draw(seed: int) -> Settings:
    """The settings of a seed."""
    random = Random(f"shell settings {seed}")
    calm = random.random() < 0.08
    names = ["alice", "bob", "carol", "dave"][: random.choice([2, 2, 2, 3, 3, 4])]
    users = {name: random.choice([1, 1, 1, 2]) for name in names}
    devices = [f"{user}/{number}" for user, count in users.items() for number in range(count)]
    weather = Weather(
        delay=random.choice([0.001, 0.02, 0.1]),
        jitter=random.choice([0.0, 0.001, 0.01, 0.08]),
        loss=0.0 if calm or random.random() < 0.3 else random.choice([0.01, 0.05, 0.15]),
        double=0.0 if calm else random.choice([0.0, 0.05]),
        corrupt=0.0 if calm else random.choice([0.0, 0.0, 0.02]),
        burst=random.choice([0.0, 0.3]),
        refusals=random.random() < 0.5,
    )
    if calm:
        # Packets of one burst that overtake each other count as lost: Reno then crawls, which is not calm.
        weather.jitter = 0.0
    return Settings(
        calm=calm,
        duration=random.choice([4.0, 7.0, 12.0]),
        users=users,
        groups=random.choice([0, 1, 1]),
        rate=random.choice([1.0, 3.0, 6.0]),
        membership_rate=random.choice([0.0, 0.0, 0.5]),
        by_hand=0.0 if calm else random.choice([0.0, 0.3, 1.0]),
        weather=weather,
        faults={} if calm else {name: mean for name, mean in FAULTS.items() if random.random() < 0.4},
        natted={device: random.random() < 0.5 for device in devices},
        thinking={device: 0.001 if calm else random.choice([0.001, 0.001, 0.05, 0.4]) for device in devices},
        reads=random.choice([0.0, 0.1, 0.7]),
        private=tuple(user for user in users if random.random() < 0.2),
        restless=0.0 if calm else random.choice([0.0, 0.05, 0.2]),
        foreground=random.choice([0.0, 0.5, 1.0]),
        pinned=random.choice([0.0, 1.0]),
        disk_slowness=random.choice([0.001, 0.005, 0.03]),
        families=random.choice(["4", "4", "64", "64-dead"]),
        hurry=0.0 if calm else random.choice([0.0, 0.0, 0.3]),
        fail_fast=0.0 if calm else random.choice([0.0, 0.0, 0.5]),
        sizes=random.choice([(10, 40, 40, 300), (20,), (20, 3000, 16_000)]),
        bounds={} if calm else {name: random.choice(values) for name, values in BOUNDS.items()},
    )


@contextlib.contextmanager
def bounded(bounds: dict[str, float]) -> Iterator[None]:
    """Small bounds are met often; the real ones hardly ever in a short run."""
    with contextlib.ExitStack() as stack:
        for name, value in bounds.items():
            for module in MODULES:
                if hasattr(module, name):
                    stack.enter_context(mock.patch.object(module, name, value))
        yield
