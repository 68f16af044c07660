"""The simulated world: many seeds keep the contract, a seed is always the same run, bugs are found."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from simulation.mutants import hunt
from simulation.planting import MUTANTS
from simulation.run import simulate
from simulation.settings import draw

SEEDS = range(1, 301)
SEEDS_PER_TEST = 50
BATCHES = [SEEDS[start : start + SEEDS_PER_TEST] for start in range(0, len(SEEDS), SEEDS_PER_TEST)]
QUICKLY_FOUND = (
    "no_dedupe",
    "stale_epoch_trusted",
    "delivered_on_send",
    "jump_over_a_gap",
    "lost_notice_unrepaired",
    "moves_replaced",
    "never_sent_again",
    "new_id_on_resend",
    "sent_backwards",
    "delivered_to_anybody",
    "reset_ignored",
    "restored_shown_again",
    "no_ack_when_nothing_is_owed",
    "receipt_not_owed_after_crash",
    "receipts_lost_with_the_channel",
    "no_heartbeat",
    "not_published",
)
"""All of them: `python -m tests.simulation --mutants`, under a minute."""


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


def test_calm_world_has_no_retries() -> None:
    """Without trouble nobody reconnects, doubts, resends or shows anything red."""
    calm = [seed for seed in range(1, 400) if draw(seed).calm][:8]
    assert len(calm) == 8
    for seed in calm:
        assert simulate(seed).problems == []


def test_same_seed_is_the_same_run() -> None:
    """Also in another process, with other hash seeds: otherwise a failure could not be replayed."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        "from simulation.run import simulate\n"
        "print(*(simulate(seed).hash for seed in (3, 4, 5)))"
    )
    here = Path(__file__).resolve().parent
    runs = [
        subprocess.run(
            [sys.executable, "-c", program, str(here), str(here.parent)],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1] == [simulate(seed).hash for seed in (3, 4, 5)]


@pytest.mark.parametrize("name", QUICKLY_FOUND)
def test_planted_bug_is_found(name: str) -> None:
    """A checker that finds nothing has to be shown to find something."""
    assert hunt(name, seeds=60) is not None, MUTANTS[name].text
