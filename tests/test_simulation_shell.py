"""The unmodified shell under a virtual-time loop: many seeds keep the contract, a seed is always one run."""

from __future__ import annotations

import sys

import pytest
from simulation.elsewhere import hashes_elsewhere
from simulation.shell.mutants import MUTANTS, hunt
from simulation.shell.run import simulate

SEEDS = range(1, 101)
SEEDS_PER_TEST = 10
BATCHES = [SEEDS[start : start + SEEDS_PER_TEST] for start in range(0, len(SEEDS), SEEDS_PER_TEST)]
TWICE = (2, 3, 7)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(sys.platform != "linux", reason="the simulated kernel is a Linux"),
]


@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_contract_holds_in_every_world(seeds: range) -> None:
    """Whatever is killed, moved, cut off or lost: what programs are told and shown is true, all arrives."""
    failures = [
        f"python -m tests.simulation --tier shell --seed {report.seed} --trace: {report.problems[0]}"
        for report in map(simulate, seeds)
        if report.problems
    ]
    assert not failures, "\n".join(failures)


def test_same_seed_is_the_same_run() -> None:
    """To the datagram, also in another process and with other hash seeds: else nothing could be replayed."""
    runs = hashes_elsewhere("simulation.shell.run", "simulate(seed)", TWICE)
    assert runs[0] == runs[1] == [simulate(seed).hash for seed in TWICE]


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_bug_is_found(name: str) -> None:
    """Each takes away what some promise rests on."""
    assert hunt(name) is not None, MUTANTS[name].text
