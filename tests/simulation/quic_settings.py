"""What a seed of the QUIC tier draws, beside what every seed draws: datagrams have a weather of their own.

A handshake costs milliseconds, so these worlds are smaller than those of the streams.
"""

from __future__ import annotations

from random import Random

from simulation.settings import Settings, draw, pacify

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
    settings.tier, settings.patience = "quic", float("inf")
    kind = random.random()
    settings.calm = kind < 0.06
    _shrink(settings, random)
    weather = settings.weather
    weather.delay = random.choice([0.001, 0.02, 0.1])
    weather.jitter = random.choice([0.0, 0.001, 0.01, 0.08])
    weather.loss = 0.0 if random.random() < 0.3 else random.choice([0.01, 0.05, 0.15])
    weather.duplicate = 0.05 if random.random() < 0.5 else 0.0
    weather.corrupt = 0.02 if random.random() < 0.3 else 0.0
    weather.burst = 0.01 if random.random() < 0.3 else 0.0
    settings.faults = {name: mean for name, mean in FAULTS.items() if random.random() < 0.4}
    settings.bounds |= _bounds(random)
    if settings.calm:
        weather.clear_up()
        pacify(settings, only_stalls=False)
        # Who leaves a group and comes back sends again what was refused.
        settings.repeats = settings.membership_rate = 0.0
        settings.bounds |= {"CHANNELS_MAX": 100, "SERVER_CHANNELS_MAX": 128, "STREAM_WINDOW": 256 * 1024}
        # A renewal of the keys costs what is in flight: aioquic drops packets with the older ones.
        settings.bounds["KEY_UPDATE_PACKETS"] = 2**20
    elif kind < 0.16:
        only_move(settings, random)
    elif kind < 0.20:
        only_restart(settings, random)
    return settings


def only_move(settings: Settings, random: Random) -> None:
    """Addresses change, and short outages end: nobody reconnects, or waits for long."""
    settings.calm, settings.only_moves = False, True
    settings.faults = random.choice(
        [{"move": 2.0}, {"rebinding": 2.0}, {"outage": 3.0}, {"outage": 3.0, "move": 3.0}]
    )
    _only_network(settings, random)


def only_restart(settings: Settings, random: Random) -> None:
    """The server is killed and started: a client is usable again soon after it."""
    settings.calm, settings.only_restarts = False, True
    settings.faults = {"server crash": 3.0}
    _only_network(settings, random)
    settings.weather.loss = 0.0


def _only_network(settings: Settings, random: Random) -> None:
    """Nothing makes anybody wait but the network: the real bounds, and quick disks."""
    weather, faults = settings.weather, settings.faults
    weather.duplicate = weather.corrupt = weather.burst = 0.0
    weather.loss = random.choice([0.0, 0.0, 0.01, 0.05])
    weather.jitter = random.choice([0.0, 0.001, 0.01])
    pacify(settings, only_stalls=False)
    settings.repeats = settings.edits = settings.membership_rate = 0.0
    settings.queue_max = 10_000
    settings.journal_slowness = settings.commit_max = 0.005
    settings.rate, settings.duration = random.choice(RATES[1:]), 12.0
    settings.bounds = {"KEY_UPDATE_PACKETS": random.choice([300, 2**20])}
    settings.faults = faults


def _shrink(settings: Settings, random: Random) -> None:
    """Few devices, and mostly without files: SQLite takes its time, and has a tier where that is cheap."""
    users = list(settings.devices)[:USERS_MAX]
    settings.devices = {user: min(settings.devices[user], DEVICES_MAX) for user in users}
    settings.private = tuple(user for user in settings.private if user in users)
    settings.rate = random.choice(RATES)
    settings.duration = random.choice(DURATIONS)
    names = {f"{user}/{number}" for user, count in settings.devices.items() for number in range(count)}
    settings.thinking = {name: settings.thinking.get(name, 0.001) for name in sorted(names)}
    settings.late &= names
    settings.revoked = settings.revoked if settings.revoked in names else ""
    if random.random() < 0.9:
        settings.sqlite = False
        settings.forgetful = set()
    settings.forgetful &= names


def _bounds(random: Random) -> dict[str, float]:
    channels = random.choice([1, 2, 100])
    return {
        "CHANNELS_MAX": channels,
        # One for the control channel, one for a channel that is being closed, and one for its successor.
        "SERVER_CHANNELS_MAX": random.choice([channels + 3, 128]),
        # Half a window holds a whole frame: bytes are credited by the frame, windows announced by the half.
        "STREAM_WINDOW": random.choice([8_000, 256 * 1024]),
        "CONNECTION_WINDOW": random.choice([32_000, 4 * 1024 * 1024]),
        "RETRY_ABOVE": random.choice([0, 1, 64]),
        "KEY_UPDATE_PACKETS": random.choice([300, 2**20]),
    }
