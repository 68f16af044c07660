"""Three programs talk, each is killed again and again and started at once, and in the end every disk is
compared with what every program was told."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kills.nursery import Nursery
from kills.points import RECIPIENT, SENDER, SERVER
from kills.truth import Truth

POINTS = {"server": SERVER, "alice": SENDER, "bob": RECIPIENT}
PASSAGES = {"sign-in asked": 2, "sign-in stored": 2, "before flush": 40}
"""Up to which passage a point may be let pass before it kills; others: PASSAGES_OTHERS."""
PASSAGES_OTHERS = 12
COMMIT_TIME_MAX = 0.0015
"""Seconds after the beginning of a commit; it takes about one millisecond where nobody else is busy."""
COMMITS_SHARE = 0.4
"""Of the random kills, how many hit a commit on its way: a moment that chance alone hardly ever meets."""
RANDOM_LIFE = (0.05, 0.4)
PATIENCE = 30.0
"""Seconds until a point must have been passed, and for each step of settling in the end."""


@dataclass(frozen=True, slots=True)
class Kill:
    """How a life ends: at a point, or (no point) `delay` seconds after it was ready."""

    point: str = ""
    passage: int = 0
    delay: float = 0.0


Plan = dict[str, list[Kill]]


def every_point(dice: random.Random) -> Plan:
    """Each named point of each program once, and the store's very first transaction."""
    plan = {}
    for program, points in POINTS.items():
        kills = []
        for point in points:
            passage = dice.randint(1, PASSAGES.get(point, PASSAGES_OTHERS))
            kills.append(Kill(point, passage, dice.uniform(0, COMMIT_TIME_MAX)))
        dice.shuffle(kills)
        plan[program] = kills
    plan["server"].insert(0, Kill("before COMMIT", 1))
    return plan


def at_random(dice: random.Random, kills: int, programs: tuple[str, ...] = tuple(POINTS)) -> Plan:
    """Some moment or other, the server as often as both clients together."""
    plan: Plan = {program: [] for program in POINTS}
    weights = [2 if program == "server" else 1 for program in programs]
    for program in dice.choices(programs, weights, k=kills):
        if dice.random() < COMMITS_SHARE:
            kill = Kill("in COMMIT", dice.randint(1, PASSAGES_OTHERS), dice.uniform(0, COMMIT_TIME_MAX))
        else:
            kill = Kill(delay=dice.uniform(*RANDOM_LIFE))
        plan[program].append(kill)
    return plan


@dataclass
class Campaign:
    """One run. `bug`: planted into the program that it is about, see `programs.BUGS`."""

    base: Path
    plan: Plan
    bug: str = ""
    patience: float = PATIENCE
    progress: Callable[[Campaign], None] = lambda campaign: None
    killed: list[tuple[str, str]] = field(default_factory=list)
    missed: list[tuple[str, str]] = field(default_factory=list)
    seconds: float = 0.0
    port: int = 0

    def __post_init__(self) -> None:
        self.truth = Truth(self.base)
        self.problems: list[str] = []
        self._open = asyncio.Event()
        self._known = asyncio.Event()
        self._empty = asyncio.Event()
        self._heard = asyncio.Event()
        self._last_lives: dict[str, asyncio.Future[int]] = {}

    async def run(self) -> None:
        """Until every kill was done, everything has settled, and the disks were looked at."""
        began = time.monotonic()
        loop = asyncio.get_running_loop()
        self._last_lives = {program: loop.create_future() for program in POINTS}
        nursery = Nursery()
        keepers = [asyncio.create_task(self._keep(nursery, program)) for program in POINTS]
        try:
            await self._settle(keepers)
            for program in ("alice", "bob", "server"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self._last_lives[program].result(), signal.SIGTERM)
            _, late = await asyncio.wait(keepers, timeout=self.patience)
            self.problems += ["a program did not end when it was told to"] * len(late)
        finally:
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)
            nursery.close()
        self.truth.conclude()
        self.problems += self.truth.problems
        self.seconds = time.monotonic() - began

    def summary(self) -> str:
        """One line for people."""
        truth, kills = self.truth, len(self.killed)
        return (
            f"{kills} kills in {self.seconds:.1f} s ({kills / self.seconds:.1f} a second), "
            f"{len(truth.stored)} stored, {len(truth.delivered)} delivered; lost {truth.lost}, "
            f"doubled {truth.doubled}, out of order {truth.disorder}, shown again {truth.again}, "
            f"not reached {self.missed or 0}, other problems {len(self.problems) - len(truth.problems)}"
        )

    # ---- private

    async def _settle(self, keepers: list[asyncio.Task[None]]) -> None:
        """All last lives have begun; no more messages; all that there are arrive, and the sender sees it."""
        begun = asyncio.gather(*self._last_lives.values())
        await asyncio.wait([begun, *keepers], return_when=asyncio.FIRST_COMPLETED)
        for keeper in keepers:
            if keeper.done():
                keeper.result()
        assert begun.done(), f"a program ended before its time: {self.problems}"
        os.kill(self._last_lives["alice"].result(), signal.SIGUSR1)
        try:
            await asyncio.wait_for(self._empty.wait(), self.patience)
            await asyncio.wait_for(self._all_delivered(), self.patience)
        except TimeoutError:
            self.problems.append("stuck: not everything was stored and delivered in the end")

    async def _all_delivered(self) -> None:
        while max(self.truth.stored.values()) > max(self.truth.delivered.values(), default=0):
            self._heard.clear()
            await self._heard.wait()

    async def _keep(self, nursery: Nursery, program: str) -> None:
        """One life after the other; the last one ends when it is told to."""
        kills = deque(self.plan[program])
        life = 0
        if program != "server":
            await self._open.wait()
        if program == "alice":
            await self._known.wait()  # nobody can be sent anything before they have signed in once
        while True:
            kill = kills.popleft() if kills else None
            life += 1
            process, reader = await self._start(nursery, program, life, kill)
            try:
                await self._live(program, process, reader, kill)
            finally:
                status = nursery.reap(process) if reader.at_eof() else 0
            if kill is None:
                if status:
                    self.problems.append(f"{program} ended with status {status}")
                return
            if status != -signal.SIGKILL:
                self.problems.append(f"{program} was to be killed at {kill}, and ended with status {status}")
            self.killed.append((program, kill.point))
            if program == "bob":
                self.truth.recipient_died()
            self.progress(self)

    async def _start(
        self, nursery: Nursery, program: str, life: int, kill: Kill | None
    ) -> tuple[int, asyncio.StreamReader]:
        trap = [kill.point, kill.passage, kill.delay] if kill is not None and kill.point else None
        order: dict[str, Any] = {"program": program, "base": str(self.base), "port": self.port, "life": life}
        process, words = nursery.start({**order, "trap": trap, "bug": self._bug(program)})
        if program == "bob":
            self.truth.recipient_started()
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(words, "rb", 0)
        )
        return process, reader

    def _bug(self, program: str) -> str:
        about = {"answer before commit": "server", "acknowledge before commit": "bob"}
        return self.bug if about.get(self.bug) == program else ""

    async def _live(
        self, program: str, process: int, reader: asyncio.StreamReader, kill: Kill | None
    ) -> None:
        """Hear what it says until it is dead; see to it that it dies when it should."""
        loop = asyncio.get_running_loop()
        end: asyncio.TimerHandle | None = None
        if kill is not None and kill.point:
            end = loop.call_later(self.patience, self._miss, program, process, kill)
        while line := await reader.readline():
            words = line.decode().split()
            if "ready" in words[:2]:
                if program == "server":
                    self.port = int(words[3].rpartition(":")[2])
                    self._open.set()
                if kill is None and not self._last_lives[program].done():
                    self._last_lives[program].set_result(process)
                elif kill is not None and not kill.point:
                    end = loop.call_later(kill.delay, os.kill, process, signal.SIGKILL)
            elif words == ["up"]:
                self._known.set()
            elif words == ["empty"]:
                self._empty.set()
            else:
                self.truth.heard(words)
                self._heard.set()
        if end is not None:
            end.cancel()

    def _miss(self, program: str, process: int, kill: Kill) -> None:
        self.missed.append((program, kill.point))
        os.kill(process, signal.SIGKILL)
