"""Run many seeds, replay one, or hunt planted bugs: see `python -m tests.simulation --help`."""

from __future__ import annotations

import argparse
import logging
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulation.mutants import hunt
from simulation.planting import MUTANTS
from simulation.run import DRAW, simulate

logging.getLogger("quic").setLevel(logging.CRITICAL)  # flipped bits are no news here


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--tier", choices=list(DRAW), default="streams", help="what the network is made of")
    parser.add_argument("--trace", action="store_true", help="print everything that happens")
    parser.add_argument("--frames", action="store_true", help="with --trace: every frame too")
    parser.add_argument("--mutants", action="store_true", help="plant each known bug and look for it")
    parser.add_argument("--mutant", help="only this one")
    arguments = parser.parse_args()
    if arguments.mutants or arguments.mutant:
        return hunt_all([arguments.mutant] if arguments.mutant else list(MUTANTS))
    if arguments.seed is not None:
        return replay(arguments.seed, arguments.tier, trace=arguments.trace, frames=arguments.frames)
    return run_many(arguments.first_seed, arguments.seeds, arguments.tier)


def replay(seed: int, tier: str, *, trace: bool, frames: bool) -> int:
    print(DRAW[tier](seed))
    outcome = simulate(seed, tier=tier, trace=trace, with_frames=frames)
    print(f"seed {seed}: {outcome.messages} messages, {outcome.events} events, hash {outcome.hash[:16]}")
    for problem in outcome.problems:
        print("  " + problem)
    return 1 if outcome.problems else 0


def hunt_all(names: list[str]) -> int:
    survivors = 0
    for name in names:
        began = time.monotonic()
        found = hunt(name)
        took = time.monotonic() - began
        if found is None:
            survivors += 1
            print(f"SURVIVED {name}: {MUTANTS[name].text} ({took:.0f} s)", flush=True)
        else:
            print(f"seed {found[0]:3} finds {name} ({took:.0f} s): {found[1][:90]}", flush=True)
    print(f"{len(names)} planted bugs, {survivors} survived")
    return 1 if survivors else 0


def run_many(first: int, count: int, tier: str) -> int:
    failures, messages, simulated = 0, 0, 0.0
    began = time.monotonic()
    for seed in range(first, first + count):
        try:
            outcome = simulate(seed, tier=tier)
        except Exception:
            traceback.print_exc()
            problems = ["an exception"]
        else:
            problems = outcome.problems
            messages += outcome.messages
            simulated += outcome.simulated
        if problems:
            failures += 1
            again = f"python -m tests.simulation --tier {tier} --seed {seed} --trace"
            print(f"FAILED: {again}\n  {problems[0]}", flush=True)
        if seed % 100 == 0:
            print(f"... seed {seed}, {failures} failed", flush=True)
    took = time.monotonic() - began
    print(
        f"{count} seeds, {failures} failed; {messages} messages, {simulated:.0f} simulated seconds; "
        f"{took:.0f} s, {count / took * 60:.0f} seeds a minute"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
