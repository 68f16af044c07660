"""How a bug is planted into running code, and how a seed's mix is adjusted to give it its chance."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from simulation.settings import Settings

Patch = tuple[Any, str, Callable[..., Any]]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug as replacements of methods; `settings` adjusts a seed's mix so that the bug has its chance."""

    text: str
    patches: tuple[Patch, ...]
    settings: Callable[[Settings], None] = lambda drawn: None
    tier: str = "streams"
    """The kind of network in which it can be found."""


MUTANTS: dict[str, Mutant] = {}


@contextlib.contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The bug is in while the context lasts."""
    old = [(owner, name, owner.__dict__[name]) for owner, name, _ in mutant.patches]
    for owner, name, function in mutant.patches:
        setattr(owner, name, function)
    try:
        yield
    finally:
        for owner, name, function in old:
            setattr(owner, name, function)


def plant(
    name: str,
    text: str,
    *patches: Patch,
    settings: Callable[[Settings], None] = lambda drawn: None,
    tier: str = "streams",
) -> None:
    MUTANTS[name] = Mutant(text, patches, settings, tier)


def wrap(owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Patch:
    return owner, name, make(owner.__dict__[name])


# ---- settings


def patient(drawn: Settings) -> None:
    """What is late is no find: what never comes is."""
    drawn.patience = float("inf")


def crashes(drawn: Settings) -> None:
    drawn.calm = drawn.sqlite = False
    drawn.faults |= {"server crash": 0.6, "client crash": 2.0}
    drawn.duration, drawn.rate, drawn.patience = 5.0, 10.0, float("inf")


def crashes_while_reading(drawn: Settings) -> None:
    """Much is written while others catch up from the disk, and then the server is gone."""
    drawn.calm = drawn.sqlite = False
    drawn.faults = {"server crash": 0.7}
    drawn.duration, drawn.rate, drawn.groups, drawn.patience = 8.0, 30.0, 1, float("inf")
    drawn.devices = dict.fromkeys(drawn.devices, 2)
    drawn.thinking = {f"{user}/{n}": 0.001 for user in drawn.devices for n in range(2)}
    drawn.late, drawn.revoked = set(), ""
    drawn.bounds |= {"CHANNELS_MAX": 100, "SUBMIT_WINDOW_MESSAGES": 64, "DELIVER_WINDOW_MESSAGES": 64}
    drawn.bounds |= {"OPERATIONS_MAX": 1024, "SEND_BURST": 20_000, "SEND_RATE": 20_000.0}
    drawn.bounds |= {"LOG_CACHE_SIZE": 1000, "RECONNECT_MIN": 0.05}
    drawn.weather.delay = drawn.weather.jitter = 0.001
    drawn.weather.loss = drawn.weather.stall = 0.0


def client_crashes(drawn: Settings) -> None:
    drawn.calm = False
    drawn.faults = {"client crash": 1.5}


def breaks(drawn: Settings) -> None:
    drawn.calm = drawn.sqlite = False
    drawn.faults |= {"break": 1.5}


def restores(drawn: Settings) -> None:
    drawn.calm = False
    drawn.restores = True


def moves(drawn: Settings) -> None:
    drawn.calm = False
    drawn.faults |= {"rebinding": 2.0, "server crash": 3.0}


def rejoining(drawn: Settings) -> None:
    """Who leaves a group is back in it before the commit that has a message of theirs behind both."""
    drawn.calm, drawn.patience, drawn.sqlite, drawn.restores = False, float("inf"), False, False
    drawn.devices = {"alice": 2, "bob": 1}
    drawn.thinking = dict.fromkeys(("alice/0", "alice/1", "bob/0"), 0.001)
    drawn.late, drawn.revoked, drawn.forgetful, drawn.private = set(), "", set(), ()
    drawn.faults, drawn.bounds = {}, {}
    drawn.groups, drawn.membership_rate, drawn.rate, drawn.duration = 1, 15.0, 15.0, 5.0
    drawn.commit_max, drawn.weather.delay = 0.3, 0.02


def small_windows(drawn: Settings) -> None:
    drawn.bounds["DELIVER_WINDOW_MESSAGES"] = 1
    drawn.devices = dict.fromkeys(drawn.devices, 2)
    drawn.thinking = {f"{user}/{n}": 0.001 for user in drawn.devices for n in range(2)}


def late_joins(drawn: Settings) -> None:
    drawn.calm = False
    drawn.groups, drawn.membership_rate, drawn.rate, drawn.duration = 1, 4.0, 8.0, 8.0
    drawn.late, drawn.revoked, drawn.patience = set(), "", float("inf")
    drawn.bounds["DELIVER_WINDOW_MESSAGES"] = 1
    drawn.thinking = {device: (0.3 if device.startswith("alice") else 0.001) for device in drawn.thinking}
