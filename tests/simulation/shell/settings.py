"""What one seed draws: its own mix of people, faults and weather (swarm testing)."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

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
    sizes: tuple[int, ...] = field(default=(10, 40, 40, 300))


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
        weather.jitter = min(weather.jitter, 0.01)
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
        sizes=random.choice([(10, 40, 40, 300), (20,), (20, 3000, 16_000)]),
    )
