"""kill -9 of a server and two clients at every named point and at random moments: nothing that was said turns
out to be untrue. `python -m tests.kills --kills 1000` does it for longer."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from kills.campaign import POINTS, Campaign, Kill, at_random, every_point

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


async def test_contract_survives_a_kill_at_every_point(tmp_path: Path) -> None:
    """Each named point of the server and of both clients at least once: 0 lost, 0 doubled, in order, and what
    was shown a second time was within the window that the guarantees name."""
    plan = every_point(random.Random(3))
    campaign = Campaign(tmp_path, plan)
    await campaign.run()
    assert not campaign.problems, campaign.summary()
    assert not campaign.missed
    reached = set(campaign.killed)
    assert reached == {(program, point) for program, points in POINTS.items() for point in points}
    assert campaign.truth.lost == campaign.truth.doubled == campaign.truth.disorder == 0
    assert len(campaign.truth.delivered) >= 100


async def test_contract_survives_kills_at_random_moments(tmp_path: Path) -> None:
    """Some moment or other, mostly of the server."""
    campaign = Campaign(tmp_path, at_random(random.Random(4), 12))
    await campaign.run()
    assert len(campaign.killed) == 12
    assert not campaign.problems, campaign.summary()


@pytest.mark.parametrize(
    ("bug", "program", "kill"),
    [
        ("answer before commit", "server", Kill("before COMMIT", 12)),
        ("acknowledge before commit", "bob", Kill("Processed asked", 3)),
    ],
)
async def test_planted_bug_is_found(tmp_path: Path, bug: str, program: str, kill: Kill) -> None:
    """One kill is enough to see that something was said too early."""
    plan = {name: [kill] if name == program else [] for name in POINTS}
    campaign = Campaign(tmp_path, plan, bug, patience=10)
    await campaign.run()
    assert campaign.killed == [(program, kill.point)]
    assert campaign.truth.lost, campaign.summary()
