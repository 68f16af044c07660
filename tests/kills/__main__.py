"""kill -9 of a server and two clients, again and again.

    python -m tests.kills [--kills 1000 | --minutes 20] [--seed S]

A round kills at every named point first (see points.py), then at random moments, and is always run to its
end: there may be more kills than were asked for. Exit status 1 when anything was lost, doubled or out of
order.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proofs

with proofs.packages():
    from kills.campaign import POINTS, Campaign, at_random, every_point
    from kills.programs import BUGS

ROUND = 100
"""Kills on one set of disks; then the disks are compared, and new ones are taken."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument(
        "--kills",
        type=proofs.count,
        default=200,
        help="at least so many: up to the end of a round (default 200)",
    )
    parser.add_argument(
        "--minutes", type=proofs.minutes, help="in place of --kills: until so much time is over"
    )
    parser.add_argument("--seed", type=proofs.whole, default=1)
    parser.add_argument("--bug", choices=list(BUGS), default="", help="plant it, and see it found")
    arguments = parser.parse_args()
    total, failures, stored, began = 0, 0, 0, time.monotonic()
    seed, interrupted = arguments.seed, False
    goal = arguments.kills if arguments.minutes is None else sys.maxsize
    end = began + 60 * arguments.minutes if arguments.minutes is not None else float("inf")
    while total < goal and time.monotonic() < end:
        dice = random.Random(seed)
        plan = every_point(dice)
        named = sum(map(len, plan.values()))
        more = at_random(dice, max(0, min(ROUND, goal - total) - named))
        with tempfile.TemporaryDirectory() as directory:
            both = {program: plan[program] + more[program] for program in POINTS}
            campaign = Campaign(Path(directory), both, arguments.bug, progress=_progress)
            try:
                asyncio.run(campaign.run())
            except KeyboardInterrupt:
                interrupted = True
                break
        total += len(campaign.killed)
        stored += len(campaign.truth.stored)
        failures += bool(campaign.problems)
        print(f"seed {seed}: {campaign.summary()}", flush=True)
        for problem in campaign.problems[:10]:
            print(f"  {problem}")
        seed += 1
    took = time.monotonic() - began
    rounds = seed - arguments.seed
    print(
        f"{total} kills in {took:.0f} s, {stored} stored, {failures} of {rounds} whole rounds failed"
        + ("" if arguments.minutes else f" ({arguments.kills} were asked for)")
    )
    if interrupted:
        raise KeyboardInterrupt
    return 1 if failures else 0


def _progress(campaign: Campaign) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{len(campaign.killed)} kills, {len(campaign.truth.stored)} stored ")


if __name__ == "__main__":
    sys.exit(proofs.run(main))
