"""Worlds in which something was found once: (seed, tier, what adjusts its mix), and what was found there.

A seed's meaning changes when anything in the drawing changes, so an entry may have come to mean another world
by now; the durable form of a finding is a test of its own, among those of the product, or in
`tests/scenarios/`.
`adjust` is one of the functions with which planted bugs are given their chance: it fixes what matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from simulation.disk_mutants import crashing_groups, crashing_readers, power_cuts, restored_and_restarted
from simulation.peer_mutants import private_readers, stuck_receipts
from simulation.planting import breaks
from simulation.run import DRAW, Report, simulate
from simulation.settings import Settings


@dataclass(frozen=True, slots=True)
class Regression:
    """One world to be run again for ever."""

    seed: int
    found: str
    adjust: Callable[[Settings], None] = lambda drawn: None
    tier: str = "streams"


def run_again(regression: Regression) -> Report:
    drawn = DRAW[regression.tier](regression.seed)
    regression.adjust(drawn)
    return simulate(regression.seed, settings=drawn)


REGRESSIONS = (
    Regression(679, "an Ack's move was told after that of the next Open, and took its place"),
    Regression(1242, "a new device in a group joined late waited for entries before its beginning"),
    Regression(12, "an own message behind another's was ticked again after a restart", crashing_readers),
    Regression(16, "a message to who has no device left is never delivered, and that is no fault", breaks),
    Regression(23, "what another device read in private was written down as public", private_readers),
    Regression(45, "a public reading of something older made a private one public", private_readers),
    Regression(
        278, "an id that a program sent again while its answer was on the way was sent once more", breaks
    ),
    Regression(298, "killed before the sync, read as committed, lost by a power cut", power_cuts),
    Regression(370, "a stall on a stalled channel of the fake network reordered it", stuck_receipts),
    Regression(1, "restored, and restarted before the resync: shown again", restored_and_restarted),
    Regression(2, "left, restarted and joined again: epoch and position were not known", crashing_groups),
)
