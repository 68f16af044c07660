"""Planted bugs: each breaks one mechanism, and the checker has to find it within a few seeds.

A mechanism that no mutant here can show to be needed should be deleted; a mutant that nothing catches is a
hole in the checker.
"""

from __future__ import annotations

from simulation import client_mutants, disk_mutants, peer_mutants, server_mutants, transport_mutants
from simulation.found_at import FOUND_AT
from simulation.planting import MUTANTS, Mutant, planted
from simulation.run import DRAW, simulate

SEEDS_MAX = 500
assert client_mutants
assert disk_mutants
assert peer_mutants
assert server_mutants
assert transport_mutants


def hunt(name: str, seeds: int = SEEDS_MAX) -> tuple[int, str] | None:
    """The first seed that finds the bug, and what is wrong there; None: it was not found. The same world
    without the bug must be in order, or it was something else that was found."""
    for seed in range(1, seeds + 1):
        if problem := look(name, seed):
            return seed, problem
    return None


def find(name: str, seeds: int = SEEDS_MAX) -> tuple[int, str] | None:
    """As `hunt`, but where it was found last is looked at first: that costs two runs, not hundreds."""
    last = FOUND_AT.get(name, 0)
    problem = look(name, last) if last else ""
    return (last, problem) if problem else hunt(name, seeds)


def look(name: str, seed: int) -> str:
    """What this seed finds wrong with the bug, and not without it."""
    mutant = MUTANTS[name]
    with planted(mutant):
        problem = _problem(seed, mutant)
    return problem if problem and not _problem(seed, mutant) else ""


def _problem(seed: int, mutant: Mutant) -> str:
    drawn = DRAW[mutant.tier](seed)
    mutant.settings(drawn)
    try:
        return next(iter(simulate(seed, settings=drawn).problems), "")
    except Exception as error:  # a crash of the program is a find
        return repr(error)
