"""The exhaustive model: no order of events breaks the contract, and every planted bug is found."""

from __future__ import annotations

import pytest
from simulation.model import explore, hunt
from simulation.model_steps import MUTANTS, Model

SIZES = {(2, 2): 70_000, (3, 1): 240_000}
"""Messages and faults, and a lower bound of the states; `python -m tests.simulation.model` goes further."""


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("size", "states_min"), SIZES.items())
def test_contract_holds_in_every_state_that_can_be_reached(size: tuple[int, int], states_min: int) -> None:
    """So many messages, so many faults at any place: no violation, and all of it ends well."""
    verdict = explore(Model(*size))
    assert not verdict.problem, verdict.words()
    assert verdict.complete
    assert verdict.states >= states_min


@pytest.mark.slow
@pytest.mark.parametrize("bug", MUTANTS)
def test_planted_bug_is_found_with_its_shortest_story(bug: str) -> None:
    """A model that a bug cannot break would prove nothing."""
    verdict = hunt(bug)
    assert verdict.problem, f"{MUTANTS[bug]} goes unnoticed in {verdict.states} states"
    assert verdict.trace
    assert len(verdict.trace) <= 25


def test_story_is_told_in_words() -> None:
    """The trace of the oldest mistake of all, step by step."""
    verdict = hunt("ack_before_fsync")
    assert verdict.problem == "I1: S was told that 0 is stored as 1, and the log is ()"
    assert verdict.trace == [
        "S's user sends 0",
        "S's journal commits",
        "S connects",
        "V receives Open(0, 0) from S",
        "V commits, and tells",
        "V receives Send(0) from S",
        "S receives Opened(0)",
        "S receives Accepted(0 is 1)",
    ]
