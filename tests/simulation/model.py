"""Look at every state of the small world in `model_steps.py`, breadth first: the first violation found is the
shortest there is, and is told in words.

    python -m tests.simulation.model [--messages 3] [--faults 2] [--mutants]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proofs

from simulation.model_state import ImpossibleError, State
from simulation.model_steps import MUTANTS, Model

PART_BITS = 26
REPORT_EVERY = 200_000
MUTANT_SIZES = ((1, 1), (1, 2), (2, 1), (2, 2))
"""Messages and faults, tried one after the other: a bug that shows with less has the shorter story."""


@dataclass(slots=True)
class Verdict:
    """What was looked at, and the first thing that was wrong, with the way there."""

    states: int = 0
    transitions: int = 0
    seconds: float = 0.0
    problem: str = ""
    trace: list[str] = field(default_factory=list)
    complete: bool = False

    def words(self) -> str:
        """One line, and the trace if there is one."""
        line = f"{self.states:,} states, {self.transitions:,} transitions, {self.seconds:.1f} s"
        if not self.problem:
            return f"{line}: all hold, none is stuck"
        way = "\n".join(f"  {number:2}. {step}" for number, step in enumerate(self.trace, 1))
        return f"{line}: {self.problem}\n{way}"


class _Catalogue:
    """Each part of a state once, by number; a state is one number. Millions of states differ in few parts."""

    def __init__(self) -> None:
        self._numbers: list[dict[object, int]] = [{} for _ in range(4)]
        self._parts: list[list[object]] = [[] for _ in range(4)]

    def number(self, state: State) -> int:
        found = state.faults
        for place in range(4):
            part = state[place]
            numbers = self._numbers[place]
            number = numbers.get(part)
            if number is None:
                number = numbers[part] = len(numbers)
                assert number < 1 << PART_BITS
                self._parts[place].append(part)
            found = found << PART_BITS | number
        return found

    def state(self, number: int) -> State:
        parts: list[object] = []
        for place in (3, 2, 1, 0):
            parts.append(self._parts[place][number & (1 << PART_BITS) - 1])
            number >>= PART_BITS
        return State(*reversed(parts), number)  # type: ignore[arg-type]


def explore(model: Model, progress: Callable[[Verdict], None] = lambda verdict: None) -> Verdict:
    """All states, or all until the first problem."""
    began = time.monotonic()
    verdict = Verdict()
    catalogue = _Catalogue()
    start = catalogue.number(model.start)
    came_from: dict[int, int | None] = {start: None}
    line = [start]
    for number in line:  # grows while it is walked: breadth first
        state = catalogue.state(number)
        problem = model.problem(state)
        try:
            calm = [] if problem else list(model.steps(state))
        except ImpossibleError as error:
            calm, problem = [], str(error)
        if not (calm or problem or model.is_end(state)):
            problem = "stuck: nothing can happen any more, and not everything is where it should be"
        if problem:
            verdict.problem, verdict.trace = problem, _way(model, catalogue, came_from, number)
            break
        for _, after in [*calm, *model.faults(state)]:
            verdict.transitions += 1
            reached = catalogue.number(after)
            if reached not in came_from:
                came_from[reached] = number
                line.append(reached)
                if len(line) % REPORT_EVERY == 0:
                    verdict.states, verdict.seconds = len(line), time.monotonic() - began
                    progress(verdict)
    verdict.states, verdict.seconds = len(came_from), time.monotonic() - began
    verdict.complete = not verdict.problem
    return verdict


def hunt(bug: str) -> Verdict:
    """The shortest story of a planted bug, or a complete verdict if nothing finds it."""
    verdict = Verdict()
    for messages, faults in MUTANT_SIZES:
        verdict = explore(Model(messages, faults, bug))
        if verdict.problem:
            break
    return verdict


def _way(model: Model, catalogue: _Catalogue, came_from: dict[int, int | None], number: int) -> list[str]:
    """The steps from the start to a state, in words."""
    steps: list[str] = []
    before = came_from[number]
    while before is not None:
        state = catalogue.state(before)
        every = [*model.steps(state), *model.faults(state)]
        steps.append(next(words for words, after in every if catalogue.number(after) == number))
        number, before = before, came_from[before]
    return steps[::-1]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.model", description=__doc__)
    parser.add_argument("--messages", type=proofs.count, default=3)
    parser.add_argument("--faults", type=proofs.whole, default=2)
    parser.add_argument("--mutants", action="store_true", help="plant each known bug and look for it")
    parser.add_argument("--mutant", choices=list(MUTANTS), help="only this one")
    arguments = parser.parse_args()
    if arguments.mutants or arguments.mutant:
        return _hunt([arguments.mutant] if arguments.mutant else list(MUTANTS))

    seen = 0

    def progress(verdict: Verdict) -> None:
        nonlocal seen
        seen = verdict.states
        sys.stderr.write(f"... {verdict.states:,} states, {verdict.seconds:.0f} s\n")

    try:
        verdict = explore(Model(arguments.messages, arguments.faults), progress)
    except KeyboardInterrupt:
        sys.stdout.write(f"more than {seen:,} states, nothing found in them; that is not all\n")
        raise
    sys.stdout.write(f"{arguments.messages} messages, {arguments.faults} faults: {verdict.words()}\n")
    return 0 if verdict.complete else 1


def _hunt(names: list[str]) -> int:
    survivors = 0
    for name in names:
        verdict = hunt(name)
        survivors += verdict.complete
        found = "SURVIVED" if verdict.complete else "found"
        sys.stdout.write(f"{found} {name} ({MUTANTS[name]}): {verdict.words()}\n")
    sys.stdout.write(f"{len(names)} planted bugs, {survivors} survived\n")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(proofs.run(main))
