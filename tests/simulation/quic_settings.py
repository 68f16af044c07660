"""What a seed of the QUIC tier draws, beside what every seed draws: datagrams have a weather of their own.

A handshake costs milliseconds, so these worlds are smaller than those of the streams.
"""

from __future__ import annotations

from random import Random

from simulation.settings import Settings, draw

FAULTS = {
    "server crash": 6.0,
    "client crash": 4.0,
    "hole": 5.0,
    "one-way hole": 6.0,
    "break": 5.0,
    "move": 3.0,
    "rebinding": 3.0,
    "reset": 3.0,
    "drain": 10.0,
    "slow disk": 6.0,
}
"""Mean seconds between two of each, where a seed has drawn it."""
RATES = (0.5, 2.0, 6.0)
DURATIONS = (4.0, 8.0, 12.0)
USERS_MAX, DEVICES_MAX = 3, 2


def draw_quic(seed: int) -> Settings:
    """The settings of a seed of this tier."""
    random = Random(f"quic settings {seed}")
    settings = draw(seed)
    settings.tier = "quic"
    kind = random.random()
    settings.calm = kind < 0.06
    settings.only_moves = 0.06 <= kind < 0.16
    calm = settings.calm or settings.only_moves
    _shrink(settings, random, calm=calm)
    weather = settings.weather
    weather.delay = random.choice([0.001, 0.02, 0.1])
    weather.jitter = random.choice([0.0, 0.001, 0.01, 0.08])
    weather.loss = 0.0 if random.random() < 0.3 else random.choice([0.01, 0.05, 0.15])
    weather.duplicate = 0.05 if random.random() < 0.5 else 0.0
    weather.corrupt = 0.02 if random.random() < 0.3 else 0.0
    weather.burst = 0.01 if random.random() < 0.3 else 0.0
    settings.faults = {name: mean for name, mean in FAULTS.items() if random.random() < 0.4}
    settings.restores = settings.restores and not calm
    if calm:
        weather.clear_up()
        settings.faults = {"move": 2.0, "rebinding": 2.0} if settings.only_moves else {}
        settings.by_hand = settings.stall_chance = 0.0
        settings.thinking = dict.fromkeys(settings.thinking, 0.001)
    settings.bounds |= _bounds(random)
    if calm:
        settings.bounds |= {"CHANNELS_MAX": 100, "SERVER_CHANNELS_MAX": 128, "STREAM_WINDOW": 256 * 1024}
    return settings


def _shrink(settings: Settings, random: Random, *, calm: bool) -> None:
    users = list(settings.devices)[:USERS_MAX]
    settings.devices = {user: min(settings.devices[user], DEVICES_MAX) for user in users}
    settings.private = tuple(user for user in settings.private if user in users)
    settings.rate = random.choice(RATES)
    settings.duration = random.choice(DURATIONS)
    for user, count in settings.devices.items():
        for number in range(count):
            settings.thinking.setdefault(f"{user}/{number}", 0.001)


def _bounds(random: Random) -> dict[str, float]:
    channels = random.choice([1, 2, 100])
    return {
        "CHANNELS_MAX": channels,
        # One for the control channel, one for a channel that is being closed, and one for its successor.
        "SERVER_CHANNELS_MAX": random.choice([channels + 3, 128]),
        # Half a window must hold a whole frame: bytes are credited by the frame, windows announced by the half.
        "STREAM_WINDOW": random.choice([2_000, 8_000, 256 * 1024]),
        "CONNECTION_WINDOW": random.choice([16_000, 4 * 1024 * 1024]),
        "RETRY_ABOVE": random.choice([0, 1, 64]),
        "KEY_UPDATE_PACKETS": random.choice([300, 2**20]),
    }
