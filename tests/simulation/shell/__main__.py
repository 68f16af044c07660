"""`python -m tests.simulation --tier shell`: many seeds, one seed again, or the planted bugs."""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice

import proofs

from simulation.shell.mutants import MUTANTS, SEEDS_MAX, hunt
from simulation.shell.run import Report, simulate
from simulation.shell.settings import draw

CHUNK = 5


def main(arguments: argparse.Namespace) -> int:
    """Do what the command line says; the exit status."""
    if arguments.mutants or arguments.mutant:
        return hunt_all([arguments.mutant] if arguments.mutant else list(MUTANTS))
    if arguments.seed is not None:
        return replay(arguments.seed, trace=arguments.trace)
    minutes = getattr(arguments, "minutes", None)
    jobs = getattr(arguments, "jobs", None) or 1
    return run_many(arguments.first_seed, arguments.seeds or 300, minutes=minutes, jobs=jobs)


def replay(seed: int, *, trace: bool) -> int:
    print(draw(seed), flush=True)
    with proofs.workers(1) as pool:
        report = pool.submit(simulate, seed, trace=trace).result()
    print(f"seed {seed}: {report.messages} messages, {report.datagrams} datagrams, hash {report.hash[:16]}")
    for problem in report.problems:
        print("  " + problem)
    return 1 if report.problems else 0


def run_many(first: int, seeds: int, *, minutes: float | None = None, jobs: int = 1) -> int:
    """Seeds from `first` on: so many, or for so long; says what was survived, and what was not."""
    began = time.monotonic()
    failed = done = messages = datagrams = 0
    simulated, interrupted = 0.0, False
    counts: Counter[str] = Counter()
    numbers = iter(count(first)) if minutes else iter(range(first, first + seeds))
    try:
        for report in _reports(numbers, jobs):
            done += 1
            messages += report.messages
            datagrams += report.datagrams
            simulated += report.simulated
            counts += report.counts
            if report.problems:
                failed += 1
                again = f"python -m tests.simulation --tier shell --seed {report.seed} --trace"
                print(f"FAILED: {again}\n  {report.problems[0]}", flush=True)
            if done % 100 == 0:
                print(f"... seed {report.seed}, {failed} failed", flush=True)
            if minutes and time.monotonic() - began > minutes * 60:
                break
    except KeyboardInterrupt:
        interrupted = True
    took = time.monotonic() - began
    faults = ", ".join(f"{number} {name}" for name, number in sorted(counts.items()))
    print(
        f"{done} seeds, {failed} failed; {messages} messages, {datagrams} datagrams, {simulated:.0f} "
        f"simulated seconds; survived: {faults}; {took:.0f} s, {done / took * 60:.0f} seeds a minute"
    )
    if interrupted:
        raise KeyboardInterrupt
    return 1 if failed else 0


def hunt_all(names: list[str]) -> int:
    survivors = 0
    for name in names:
        began = time.monotonic()
        with proofs.workers(1) as pool:
            found = pool.submit(hunt, name).result()
        took = time.monotonic() - began
        if found is None:
            survivors += 1
            text = f"SURVIVED {SEEDS_MAX} seeds: {name}, {MUTANTS[name].text} ({took:.0f} s)"
        else:
            text = f"seed {found[0]:3} finds {name} ({took:.0f} s): {found[1][:100]}"
        print(text, flush=True)
    print(f"{len(names)} planted bugs, {survivors} survived")
    return 1 if survivors else 0


def _reports(numbers: Iterator[int], jobs: int) -> Iterator[Report]:
    """Reports in the order of the seeds. Also one process is a worker: its threads do not survive Ctrl-C."""
    with proofs.workers(jobs) as pool:
        while chunk := list(islice(numbers, jobs * CHUNK)):
            yield from pool.map(_report, chunk)


def _report(seed: int) -> Report:
    try:
        return simulate(seed)
    except Exception:
        traceback.print_exc(file=sys.stderr)
        return Report(seed, ["an exception in the simulation itself"], "", 0, 0, 0.0)
