"""Planted bugs: each breaks one mechanism, and the checker has to find it within a few seeds.

A mechanism that no mutant here can show to be needed should be deleted; a mutant that nothing catches is a
hole in the checker.
"""

from __future__ import annotations

import runpy
from pathlib import Path

from simulation import client_mutants, disk_mutants, peer_mutants, server_mutants, transport_mutants
from simulation.planting import MUTANTS, Mutant, planted
from simulation.run import DRAW, simulate

SEEDS_MAX = 200
assert client_mutants
assert disk_mutants
assert peer_mutants
assert server_mutants
assert transport_mutants


def hunt(name: str, seeds: int = SEEDS_MAX) -> tuple[int, str] | None:
    """The first seed that finds the bug, and what is wrong there; None: it was not found. The same world
    without the bug must be in order, or it was something else that was found."""
    mutant = MUTANTS[name]
    if mutant.story:
        with planted(mutant):
            found = _tell(mutant.story)
        return None if found is None or _tell(mutant.story) is not None else (0, found)
    for seed in range(1, seeds + 1):
        with planted(mutant):
            problem = _problem(seed, mutant)
        if problem and not _problem(seed, mutant):
            return seed, problem
    return None


def _problem(seed: int, mutant: Mutant) -> str:
    drawn = DRAW[mutant.tier](seed)
    mutant.settings(drawn)
    try:
        return next(iter(simulate(seed, settings=drawn).problems), "")
    except Exception as error:  # a crash of the program is a find
        return repr(error)


def _tell(story: str) -> str | None:
    file, _, test = story.partition(":")
    found = runpy.run_path(str(Path(__file__).parents[1] / "scenarios" / file))[test]
    try:
        found()
    except AssertionError as error:
        return str(error).splitlines()[0]
    return None
