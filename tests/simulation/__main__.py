"""Whole runs of clients and server in virtual time, each drawn from its seed; every promise is checked.

Many seeds, one seed again to the byte, or planted bugs that must be found.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proofs

with proofs.packages():
    from simulation.jobs import cores, hunt_all, run_many
    from simulation.planting import MUTANTS
    from simulation.run import DRAW, simulate
    from simulation.shell import __main__ as shell

logging.getLogger("quic").setLevel(logging.CRITICAL)  # flipped bits are no news here


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=proofs.count, help="how many (default 300)")
    parser.add_argument("--minutes", type=proofs.minutes, help="as many as it can run in this time")
    parser.add_argument("--first-seed", type=proofs.whole, default=1)
    parser.add_argument("--seed", type=proofs.whole, help="only this one")
    parser.add_argument(
        "--jobs", type=proofs.count, default=cores(), help="processes (default: one for each core)"
    )
    parser.add_argument(
        "--tier", choices=[*DRAW, "shell"], default="streams", help="what the network is made of"
    )
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--frames", action="store_true", help="with --trace: every frame too")
    parser.add_argument("--mutants", action="store_true", help="plant each known bug and look for it")
    parser.add_argument("--mutant", metavar="NAME", help="only this one; a name that there is not lists all")
    arguments = parser.parse_args()
    if arguments.mutant is not None:
        every = shell.MUTANTS if arguments.tier == "shell" else MUTANTS
        proofs.known(parser, [arguments.mutant], list(every))
    if arguments.tier == "shell":
        return shell.main(arguments)
    if arguments.mutants or arguments.mutant:
        names = [arguments.mutant] if arguments.mutant else list(MUTANTS)
        return hunt_all(names, {name: mutant.text for name, mutant in MUTANTS.items()}, jobs=arguments.jobs)
    if arguments.seed is not None:
        return replay(arguments.seed, arguments.tier, trace=arguments.trace, frames=arguments.frames)
    count = arguments.seeds or (None if arguments.minutes else 300)
    return run_many(
        arguments.first_seed, count, arguments.tier, jobs=arguments.jobs, minutes=arguments.minutes
    )


def replay(seed: int, tier: str, *, trace: bool, frames: bool) -> int:
    print(DRAW[tier](seed))
    outcome = simulate(seed, tier=tier, trace=trace, with_frames=frames)
    print(f"seed {seed}: {outcome.messages} messages, {outcome.events} events, hash {outcome.hash[:16]}")
    for problem in outcome.problems:
        print("  " + problem)
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(proofs.run(main))
