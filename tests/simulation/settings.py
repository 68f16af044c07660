"""What one seed draws: its own mix of faults, people and limits (swarm testing), so that runs differ."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from quicmsg import limits
from quicmsg.protocol import channels, heartbeat, outbox
from quicmsg.server import conversations, topics
from quicmsg.transport import admission, connection, guards, streams
from simulation.network import Weather

FAULTS = {
    "server crash": 3.0,
    "client crash": 1.5,
    "hole": 3.0,
    "one-way hole": 4.0,
    "break": 2.5,
    "move": 2.0,
    "rebinding": 3.0,
    "reset": 2.0,
    "drain": 6.0,
    "slow disk": 4.0,
    "stall": 2.0,
    "stranger": 3.0,
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
    journal_stalls: float = 0.0
    commit_max: float = 0.005
    stall_chance: float = 0.0
    queue_max: int = 10_000
    bounds: dict[str, float] = field(default_factory=dict)
    tier: str = "streams"
    """What the network is made of: fake ordered "streams", or "quic"."""
    only_moves: bool = False
    """Nothing but changes of address happens: nobody may reconnect, or wait for long."""
    only_restarts: bool = False
    """Nothing but restarts of the server happens: nobody may wait for long after one."""
    sqlite: bool = False
    """The server has the real SQLite store, on a disk that forgets."""
    forgetful: set[str] = field(default_factory=set)
    """Devices whose journal is on a disk that forgets."""
    edits: float = 0.0
    repeats: float = 0.0
    gives_back: float = 0.0
    late: set[str] = field(default_factory=set)
    """Devices that are linked during the run."""
    revoked: str = ""
    """A device that is removed during the run."""
    patience: float = float("inf")
    """In a world with stalls, and nothing else: how long something may take in a conversation without any."""


MODULES = (
    limits, channels, heartbeat, outbox, conversations, topics, admission, connection, guards, streams,
)  # fmt: skip
"""Those that have bounds under names of their own."""


def draw(seed: int) -> Settings:
    """The settings of a seed."""
    random = Random(f"settings {seed}")
    kind = random.random()
    calm, only_stalls = kind < 0.06, 0.06 <= kind < 0.12
    peaceful = calm or only_stalls
    users = ["alice", "bob", "carol", "dave"][: random.choice([2, 2, 3, 3, 4])]
    duration = random.choice([1.5, 3.0, 5.0])
    settings = Settings(
        calm=calm,
        weather=_weather(random, peaceful=peaceful),
        faults={name: mean for name, mean in FAULTS.items() if random.random() < 0.4},
        restores=random.random() < 0.15,
        duration=duration,
        rate=random.choice([4, 10, 25]) / duration,
        devices={user: random.choice([1, 1, 1, 2, 3 if len(users) < 4 else 1]) for user in users},
        groups=random.choice([0, 1, 1, 2, 4]),
        membership_rate=random.choice([0.0, 0.0, 0.5, 2.0]),
        by_hand=random.choice([0.0, 0.0, 0.4, 2.0]),
        reads=random.choice([0.0, 0.1, 0.7]),
        private=tuple(user for user in users if random.random() < 0.2),
        foreground=random.choice([0.0, 0.5, 1.0]),
        journal_slowness=random.choice([0.001, 0.005, 0.03]),
        journal_stalls=random.choice([0.0, 0.0, 0.01]),
        commit_max=random.choice([0.001, 0.005, 0.03]),
        stall_chance=random.choice([0.0, 0.0, 0.01, 0.05]),
        queue_max=random.choice([5, 50, 10_000]),
        bounds=_bounds(random),
        sqlite=random.random() < 0.35,
        edits=random.choice([0.0, 0.0, 1.0]),
        repeats=random.choice([0.0, 0.0, 0.5]),
        gives_back=random.choice([0.0, 0.0, 0.1]),
    )
    names = [f"{user}/{number}" for user, count in settings.devices.items() for number in range(count)]
    settings.thinking = {name: random.choice([0.001, 0.001, 0.02, 0.3]) for name in names}
    settings.forgetful = {name for name in names if random.random() < 0.35}
    if not settings.restores:
        settings.late = {name for name in names if not name.endswith("/0") and random.random() < 0.3}
        further = [name for name in names if not name.endswith("/0")]
        settings.revoked = random.choice(["", *further]) if random.random() < 0.2 else ""
    if peaceful:
        pacify(settings, only_stalls=only_stalls)
    return settings


def _weather(random: Random, *, peaceful: bool) -> Weather:
    weather = Weather(
        delay=random.choice([0.001, 0.02, 0.1]),
        jitter=random.choice([0.0, 0.001, 0.01, 0.08]),
        loss=0.0 if random.random() < 0.3 else random.choice([0.01, 0.05, 0.15]),
        stall=random.choice([0.0, 0.0, 0.01, 0.05]),
        split=random.choice([0.0, 0.2, 0.8]),
        window=random.choice([600, 8_000, 256 * 1024]),
    )
    if peaceful:
        weather.loss = weather.stall = 0.0
    return weather


def pacify(settings: Settings, *, only_stalls: bool) -> None:
    """Nothing goes wrong in a calm world; in the other kind single channels get stuck."""
    settings.faults = {"stall": 0.7} if only_stalls else {}
    settings.restores, settings.revoked, settings.late = False, "", set()
    settings.by_hand = settings.stall_chance = settings.journal_stalls = settings.gives_back = 0.0
    settings.repeats = 0.0  # which asks for another path, as any resending by hand
    settings.thinking = dict.fromkeys(settings.thinking, 0.001)
    # Waiting for one of two channels for 3 s is no calm world, and the clocks are those of the product.
    settings.bounds = {"SYNC_PAGE_ENTRIES": 1} if only_stalls else {**settings.bounds, "CHANNELS_MAX": 100}
    for name in CLOCKS:
        settings.bounds.pop(name, None)
    if only_stalls:
        settings.membership_rate, settings.duration = 0.0, 6.0
        settings.weather = Weather(delay=0.02, jitter=0.001)
        settings.rate, settings.queue_max, settings.journal_slowness = 8.0, 10_000, 0.005
        settings.commit_max = 0.005
        settings.patience = 0.8


CLOCKS = (
    "RESEND_INTERVAL", "FAILED_AFTER", "CONNECT_TIMEOUT", "CONNECT_PATIENCE",
    "PING_INTERVAL_ACTIVE_MAX", "PING_INTERVAL_IDLE", "CHANNEL_IDLE",
)  # fmt: skip
"""Bounds that make a world more nervous than the product is."""


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
        "OPERATIONS_MAX": (8, 1024),
        "REOPEN_DELAY": (0.1, 0.5),
        "RECONNECT_MIN": (0.05, 0.2, 1.0),
        "RECEIPT_INTERVAL": (0.05, 0.25, 1.0),
        "PING_INTERVAL_IDLE": (5.0, 15.0),
    }
    bounds = {name: random.choice(values) for name, values in choices.items()}
    if random.random() < 0.4:
        # All of them together, as their relations want it.
        bounds |= {"RESEND_INTERVAL": 1.5, "FAILED_AFTER": 6.0, "PING_INTERVAL_ACTIVE_MAX": 1.0}
        bounds |= {"CONNECT_TIMEOUT": 4.0, "CONNECT_PATIENCE": 5.0}
    return bounds


@contextlib.contextmanager
def bounded(bounds: dict[str, float]) -> Iterator[None]:
    """Small bounds are met often; the real ones hardly ever in a short run."""
    changed = []
    for name, value in bounds.items():
        for module in MODULES:
            if hasattr(module, name):
                changed.append((module, name, getattr(module, name)))
                setattr(module, name, value)
    try:
        yield
    finally:
        for module, name, old in changed:
            setattr(module, name, old)
