"""What one seed draws: its own mix of faults, people and limits (swarm testing), so that runs differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from quicmsg import limits
from quicmsg.protocol import channels
from quicmsg.server import conversations, topics
from quicmsg.transport import admission, connection, guards, streams
from simulation.network import Weather

FAULTS = {
    "server crash": 6.0,
    "client crash": 4.0,
    "hole": 5.0,
    "one-way hole": 6.0,
    "break": 4.0,
    "move": 3.0,
    "rebinding": 4.0,
    "reset": 3.0,
    "drain": 10.0,
    "slow disk": 6.0,
}
"""Mean seconds between two of each, where a seed has drawn it."""


@dataclass(slots=True)
class Settings:
    """One seed's world."""

    calm: bool
    weather: Weather
    faults: dict[str, float]
    restores: bool
    duration: float
    rate: float
    devices: dict[str, int]
    groups: int
    membership_rate: float
    by_hand: float
    thinking: dict[str, float] = field(default_factory=dict)
    reads: float = 0.0
    private: tuple[str, ...] = ()
    foreground: float = 0.0
    journal_slowness: float = 0.004
    commit_max: float = 0.005
    stall_chance: float = 0.0
    queue_max: int = 10_000
    bounds: dict[str, float] = field(default_factory=dict)
    tier: str = "streams"
    """What the network is made of: fake ordered "streams", or "quic"."""
    only_moves: bool = False
    """Nothing but changes of address happens: nobody may reconnect, or wait for long."""


def draw(seed: int) -> Settings:
    """The settings of a seed."""
    random = Random(f"settings {seed}")
    calm = random.random() < 0.08
    users = ["alice", "bob", "carol", "dave"][: random.choice([2, 2, 3, 3, 4])]
    devices = {user: random.choice([1, 1, 1, 2, 3]) for user in users}
    weather = Weather(
        delay=random.choice([0.001, 0.02, 0.1]),
        jitter=random.choice([0.0, 0.001, 0.01, 0.08]),
        loss=0.0 if calm or random.random() < 0.3 else random.choice([0.01, 0.05, 0.15]),
        stall=0.0 if calm else random.choice([0.0, 0.0, 0.01, 0.05]),
        split=random.choice([0.0, 0.2, 0.8]),
        window=random.choice([600, 4_000, 256 * 1024]),
    )
    faults = {}
    if not calm:
        faults = {name: mean for name, mean in FAULTS.items() if random.random() < 0.4}
    settings = Settings(
        calm=calm,
        weather=weather,
        faults=faults,
        restores=not calm and random.random() < 0.15,
        duration=random.choice([4.0, 8.0, 14.0]),
        rate=random.choice([1.0, 3.0, 8.0, 20.0]),
        devices=devices,
        groups=random.choice([0, 1, 1, 2]),
        membership_rate=random.choice([0.0, 0.0, 0.3, 1.0]),
        by_hand=0.0 if calm else random.choice([0.0, 0.0, 0.2, 1.0]),
        reads=random.choice([0.0, 0.1, 0.7]),
        private=tuple(user for user in users if random.random() < 0.2),
        foreground=random.choice([0.0, 0.5, 1.0]),
        journal_slowness=random.choice([0.001, 0.005, 0.03]),
        commit_max=random.choice([0.001, 0.005, 0.03]),
        stall_chance=0.0 if calm else random.choice([0.0, 0.0, 0.01, 0.05]),
        queue_max=random.choice([5, 50, 10_000]),
        bounds=_bounds(random),
    )
    if calm:
        # Waiting for one of two channels for 3 s is no calm world.
        settings.bounds["CHANNELS_MAX"] = 100
    for user, count in devices.items():
        for number in range(count):
            slow = 0.001 if calm else random.choice([0.001, 0.001, 0.02, 0.3])
            settings.thinking[f"{user}/{number}"] = slow
    return settings


def _bounds(random: Random) -> dict[str, float]:
    choices: dict[str, tuple[float, ...]] = {
        "DELIVER_WINDOW_MESSAGES": (1, 3, 64),
        "SUBMIT_WINDOW_MESSAGES": (1, 3, 64),
        "CHANNELS_MAX": (1, 2, 100),
        "CHANNEL_IDLE": (1.0, 300.0),
        "INBOX_MAX": (2, 4096),
        "SYNC_PAGE_ENTRIES": (1, 256),
        "LOG_CACHE_SIZE": (1000, 32 * 1024 * 1024),
        "RECEIPT_AT_ONCE_MEMBERS": (1, 8),
        "EARLY_SIZE_MAX": (200, 48 * 1024),
        "SEND_BURST": (2, 20_000),
        "SEND_RATE": (20.0, 20_000.0),
    }
    return {name: random.choice(values) for name, values in choices.items()}


@contextlib.contextmanager
def bounded(bounds: dict[str, float]) -> Iterator[None]:
    """Small bounds are met often; the real ones hardly ever in a short run."""
    changed = []
    for name, value in bounds.items():
        for module in (limits, channels, conversations, topics, admission, connection, guards, streams):
            if hasattr(module, name):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, old in changed:
            setattr(module, name, old)
