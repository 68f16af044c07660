"""Many seeds, or many planted bugs, on all cores: a worker is a process, and is counted here."""

from __future__ import annotations

import itertools
import os
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Any

import proofs

from simulation.found_at import FOUND_AT
from simulation.mutants import hunt, look
from simulation.run import simulate

BATCH = 10
"""Seeds that a worker takes at once."""
PROGRESS_INTERVAL = 15.0


@dataclass(slots=True)
class Summary:
    """What has been run so far."""

    seeds: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    messages: int = 0
    simulated: float = 0.0
    survived: Counter[str] = field(default_factory=Counter)

    def add(self, other: Summary) -> None:
        self.seeds += other.seeds
        self.failed += other.failed
        self.messages += other.messages
        self.simulated += other.simulated
        self.survived.update(other.survived)


def run_batch(seeds: list[int], tier: str) -> Summary:
    """In a worker."""
    summary = Summary()
    for seed in seeds:
        summary.seeds += 1
        try:
            report = simulate(seed, tier=tier)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            summary.failed.append((seed, f"{error!r} at {place.filename}:{place.lineno}"))
            continue
        summary.messages += report.messages
        summary.simulated += report.simulated
        summary.survived.update(report.survived)
        if report.problems:
            summary.failed.append((seed, report.problems[0]))
    return summary


def run_many(first: int, count: int | None, tier: str, *, jobs: int, minutes: float | None) -> int:
    """Run seeds until there are `count`, or for so long; what was done so far is told also after Ctrl-C."""
    began = told = time.monotonic()
    seeds = itertools.count(first) if count is None else iter(range(first, first + count))
    until = float("inf") if minutes is None else began + minutes * 60
    summary = Summary()
    try:
        for batch in _work_off(seeds, tier, jobs, until):
            summary.add(batch)
            for seed, problem in batch.failed:
                again = f"python -m tests.simulation --tier {tier} --seed {seed} --trace"
                say(f"FAILED: {again}\n  {problem}")
            if time.monotonic() - told > PROGRESS_INTERVAL:
                told = time.monotonic()
                say(f"... {summary.seeds} seeds, {len(summary.failed)} failed")
    finally:
        tell(summary, time.monotonic() - began)
    return 1 if summary.failed else 0


def _work_off(seeds: Iterator[int], tier: str, jobs: int, until: float) -> Iterator[Summary]:
    running: set[Future[Summary]] = set()
    with proofs.workers(jobs) as executor:
        while True:
            while len(running) < 2 * jobs and time.monotonic() < until:
                batch = list(itertools.islice(seeds, BATCH))
                if not batch:
                    break
                running.add(executor.submit(run_batch, batch, tier))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def tell(summary: Summary, took: float) -> None:
    """One line of what was survived, and last one of what was run."""
    faults = ", ".join(f"{count} {what}" for what, count in sorted(summary.survived.items()))
    say(f"survived: {faults or 'nothing'}")
    say(
        f"{summary.seeds} seeds, {len(summary.failed)} failed; {summary.messages} messages, "
        f"{summary.simulated:.0f} simulated seconds; {took:.0f} s, "
        f"{summary.seeds / took * 60:.0f} seeds a minute"
    )


def hunt_all(names: list[str], texts: dict[str, str], *, jobs: int) -> int:
    """Look for each planted bug; the table says which seed found it, after how long, and by what. Then the
    hints that do not hold any more."""
    found: list[tuple[str, Any]] = []
    stale: list[str] = []
    with proofs.workers(jobs) as executor:
        for name, result, took, hint_holds in executor.map(_hunt_one, names):
            found.append((name, result))
            if result is None:
                say(f"SURVIVED          {name}: {texts[name]} ({took:.0f} s)")
            else:
                say(f"seed {result[0]:3} in {took:4.1f} s  {name}: {texts[name]}\n    {result[1][:100]}")
                stale += [] if hint_holds else [f'"{name}": {result[0]},']
    survivors = [name for name, result in found if result is None]
    say(f"{len(names)} planted bugs, {len(survivors)} survived {' '.join(survivors)}")
    if stale:
        say("\n".join([f"{len(stale)} entries of found_at.py are stale or missing; they should be:", *stale]))
    return 1 if survivors else 0


def _hunt_one(name: str) -> tuple[str, tuple[int, str] | None, float, bool]:
    began = time.monotonic()
    result = hunt(name)
    took = time.monotonic() - began
    hint = FOUND_AT.get(name, 0)
    holds = result is not None and (result[0] == hint or bool(hint and look(name, hint)))
    return name, result, took, holds


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()
