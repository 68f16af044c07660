"""The simulated world: many seeds keep the contract, a seed is always the same run, bugs are found.

This is the tier of the fake streams; `test_simulation_quic.py`, `test_simulation_shell.py` do the others.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from simulation.elsewhere import hashes_elsewhere
from simulation.found_at import FOUND_AT
from simulation.mutants import SEEDS_MAX, find
from simulation.planting import MUTANTS
from simulation.regressions import REGRESSIONS, Regression, run_again
from simulation.run import simulate
from simulation.settings import draw

from quicmsg import limits

SEEDS = range(1, 3001)
SEEDS_PER_TEST = 100
BATCHES = [SEEDS[start : start + SEEDS_PER_TEST] for start in range(0, len(SEEDS), SEEDS_PER_TEST)]
STREAMS = [name for name, mutant in MUTANTS.items() if mutant.tier == "streams"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_contract_holds_in_every_world(seeds: range) -> None:
    """Whatever crashes, stalls, moves or is restored: stored is kept, in one order, once, with true ticks."""
    failures = [
        f"python -m tests.simulation --seed {report.seed} --trace: {report.problems[0]}"
        for report in map(simulate, seeds)
        if report.problems
    ]
    assert not failures, "\n".join(failures)


@pytest.mark.slow
@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda regression: f"{regression.seed}")
def test_world_that_found_something_once_is_in_order(regression: Regression) -> None:
    assert run_again(regression).problems == [], regression.found


@pytest.mark.slow
def test_calm_world_has_no_retries() -> None:
    """Without trouble nobody reconnects, doubts, resends or shows anything red."""
    calm = [seed for seed in range(1, 400) if draw(seed).calm][:8]
    assert len(calm) == 8
    for seed in calm:
        assert simulate(seed).problems == []


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_same_seed_is_the_same_run() -> None:
    """Also in another process, with other hash seeds: otherwise a failure could not be replayed."""
    runs = hashes_elsewhere("simulation.run", "simulate(seed)", range(3, 13))
    assert runs[0] == runs[1] == [simulate(seed).hash for seed in range(3, 13)]


def test_drawn_bounds_keep_the_relations_of_the_real_ones() -> None:
    """Small bounds and quick clocks, but none that the product itself would refuse to start with."""
    tree = ast.parse(Path(limits.__file__).read_text())
    relations = [
        compile(ast.Expression(n.test), "limits", "eval") for n in tree.body if isinstance(n, ast.Assert)
    ]
    assert len(relations) > 10
    for seed in range(1, 301):
        names = {**vars(limits), **draw(seed).bounds}
        assert all(eval(relation, names) for relation in relations), f"seed {seed}"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", STREAMS)
def test_planted_bug_is_found(name: str) -> None:
    """A checker that finds nothing has to be shown to find something."""
    assert find(name) is not None, MUTANTS[name].text


def test_each_planted_bug_has_its_seed() -> None:
    """Without one its test would hunt from the first seed on; all are within what the hunt promises."""
    assert sorted(FOUND_AT) == sorted(MUTANTS)
    assert len(MUTANTS) >= 25
    assert all(1 <= seed <= SEEDS_MAX for seed in FOUND_AT.values())
