"""The simulated world over real QUIC: the contract holds, a seed is always the same bytes, bugs are found."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from pinned import pinned_aioquic
from simulation.elsewhere import hashes_elsewhere
from simulation.mutants import find
from simulation.planting import MUTANTS
from simulation.quic_settings import draw_quic
from simulation.run import Simulation, simulate
from simulation.settings import bounded

from quicmsg.store import rules

SEEDS = range(1, 201)
SEEDS_PER_TEST = 25
REGRESSIONS = (213, 358)
"""Seeds that once failed, beyond those."""
BATCHES = [
    *(SEEDS[start : start + SEEDS_PER_TEST] for start in range(0, len(SEEDS), SEEDS_PER_TEST)),
    REGRESSIONS,
]
QUIC = [name for name, mutant in MUTANTS.items() if mutant.tier == "quic"]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("seeds", BATCHES, ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_contract_holds_over_quic(seeds: Sequence[int]) -> None:
    """Whatever is lost, doubled, broken, moved or restarted: the contract holds, and its point 7 too."""
    failures = [
        f"python -m tests.simulation --tier quic --seed {report.seed} --trace: {report.problems[0]}"
        for report in (simulate(seed, tier="quic") for seed in seeds)
        if report.problems
    ]
    assert not failures, "\n".join(failures)


def test_every_kind_of_world_is_among_the_seeds() -> None:
    """Otherwise the checks of calm, of moves and of restarts would not be made."""
    drawn = [draw_quic(seed) for seed in SEEDS]
    assert sum(settings.calm for settings in drawn) >= 5
    assert sum(settings.only_moves for settings in drawn) >= 10
    assert sum(settings.only_restarts for settings in drawn) >= 4


@pytest.mark.slow
def test_same_seed_is_the_same_datagrams() -> None:
    """Also in another process, with other hash seeds: otherwise a failure could not be replayed."""
    runs = hashes_elsewhere("simulation.run", "simulate(seed, tier='quic')", (2, 5))
    assert runs[0] == runs[1] == [simulate(seed, tier="quic").hash for seed in (2, 5)]


@pytest.mark.slow
def test_more_conversations_than_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with 140 conversations, of which 100 are open at once: streams are opened and closed all the
    time, beyond the 128 that QUIC allows at first, and everything arrives."""
    monkeypatch.setattr(rules, "ADDED_BY_ONE_MAX", 1000)
    drawn = draw_quic(1)
    drawn.calm = drawn.only_moves = drawn.only_restarts = False
    drawn.devices, drawn.thinking = {"alice": 1, "bob": 1}, {"alice/0": 0.001, "bob/0": 0.001}
    drawn.late, drawn.forgetful, drawn.revoked, drawn.faults = set(), set(), "", {}
    drawn.groups, drawn.membership_rate, drawn.rate, drawn.duration = 140, 0.0, 30.0, 12.0
    drawn.bounds = {}
    with bounded(drawn.bounds), pinned_aioquic(1):
        simulation = Simulation(1, drawn)
        assert simulation.run().problems == []
    connections = [link.quic.connection for link in simulation.network.links]
    assert max(connection._local_next_stream_id_bidi // 4 for connection in connections) > 128


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", QUIC)
def test_planted_bug_of_the_transport_is_found(name: str) -> None:
    """A checker that finds nothing has to be shown to find something."""
    assert find(name) is not None, MUTANTS[name].text
