"""Runs the cases of a target, and reports what they find with a command that replays it.

A case is a function of a random source, so a seed and a number name it. Whatever it raises is a finding.
"""

from __future__ import annotations

import gc
import resource
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

MEMORY_GROWTH_MAX = 16 * 1024 * 1024
"""Between the first fifth of a run and its end; what a leak of 100 bytes per input would exceed at once."""
PROGRESS_INTERVAL = 20.0
SAID_MAX = 2
"""Findings of one kind that are printed."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something to be fuzzed: `case` runs one case, and counts what it fed and met by name; "inputs" is
    the number that `--inputs` means."""

    name: str
    text: str
    case: Callable[[Random], Counter[str]]


@dataclass(slots=True)
class Finding:
    """A case that raised; `place` tells equal ones apart from others."""

    case: int
    place: str
    text: str


@dataclass(slots=True)
class Report:
    """How a run went."""

    cases: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0
    memory_growth: int = 0
    interrupted: bool = False

    @property
    def inputs(self) -> int:
        return self.counts["inputs"]


def random_of(target: Target, seed: int, case: int) -> Random:
    """The source from which a case draws everything."""
    return Random(f"{target.name} {seed} {case}")


def run(
    target: Target,
    *,
    seed: int,
    inputs: int | None = None,
    seconds: float | None = None,
    stop_at_first: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run cases until there were `inputs` inputs, or `seconds` are over."""
    report, began = Report(), time.monotonic()
    said, memory = began, -1
    while True:
        report.seconds = time.monotonic() - began
        done = report.inputs / inputs if inputs else report.seconds / (seconds or 1.0)
        if done >= 1 or (stop_at_first and report.findings):
            break
        if memory < 0 and done >= 0.2:
            memory = _memory()
        if time.monotonic() - said > PROGRESS_INTERVAL:
            said = time.monotonic()
            say(f"... {report.inputs} inputs, {len(report.findings)} findings, {report.seconds:.0f} s")
        try:
            finding = run_case(target, seed, report.cases, report.counts)
        except KeyboardInterrupt:
            report.interrupted = True
            break
        report.cases += 1
        if finding is not None:
            report.findings.append(finding)
            if sum(finding.place == other.place for other in report.findings) > SAID_MAX:
                continue
            say(f"FOUND by: python -m tests.fuzz {target.name} --seed {seed} --case {finding.case}")
            say("  " + finding.text)
    report.memory_growth = max(0, _memory() - memory) if memory >= 0 else 0
    return report


def run_case(target: Target, seed: int, case: int, counts: Counter[str]) -> Finding | None:
    """One case; what it raised, if it did."""
    try:
        counts += target.case(random_of(target, seed, case))
    except Exception as error:
        counts["inputs"] += 1
        frames = traceback.extract_tb(error.__traceback__)
        place = " < ".join(f"{f.filename.rpartition('/')[2]}:{f.lineno}" for f in reversed(frames[-3:]))
        return Finding(case, place, f"{type(error).__name__}: {str(error)[:300]} at {place}")
    return None


def _memory() -> int:
    """The most that this process ever held: what is freed in between does not matter."""
    gc.collect()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
