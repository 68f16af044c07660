"""`python -m tests.security`: what is too long for every commit.

--minutes 20            abuse soak: hostile clients of all kinds beside honest ones, against a real server
--acks 1000000          so many forged receipts
--handshakes 100000     so many first packets with forged addresses
--memory                what each kind of peer costs a server process
--mutants [NAME ...]    each defence taken away, and the test that notices it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), *(str(HERE.parent / part) for part in ("transport", "server"))]

import proofs  # noqa: E402

with proofs.packages():
    import memory
    import mutants
    import soak
    from receipts import ReceiptForger


def acks(count: int, seed: int) -> int:
    forger, started = ReceiptForger(seed=seed), time.monotonic()
    while count > 0:
        forger.run(min(count, 50_000))
        count -= 50_000
        seconds = time.monotonic() - started
        print(f"{forger.moved} moved, {forger.refused} refused, {seconds:.0f} s", flush=True)
    for problem in forger.problems[:20]:
        print(problem)
    print(f"{forger.moved} moved, {forger.refused} refused, {len(forger.problems)} problems")
    return 1 if forger.problems else 0


def handshakes(count: int) -> int:
    from test_threats_transport import flood

    held, seconds = flood(count)
    print(f"{count} first packets: {held / 1e6:.1f} MB held; an honest client was in after {seconds:.3f} s")
    return 0 if held < 100_000_000 and seconds < 1 else 1


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.security",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=proofs.minutes)
    parser.add_argument("--acks", type=proofs.count)
    parser.add_argument("--handshakes", type=proofs.count)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--mutants", nargs="*")
    parser.add_argument("--seed", type=proofs.whole, default=1)
    options = parser.parse_args()
    proofs.known(parser, options.mutants or [], list(mutants.MUTANTS))
    if options.acks:
        return acks(options.acks, options.seed)
    if options.handshakes:
        return handshakes(options.handshakes)
    if options.mutants is not None:
        return mutants.table(options.mutants)
    if options.memory:
        print(json.dumps(asyncio.run(memory.measure()), indent=2))
        return 0
    if options.minutes:
        report = soak.soak(options.minutes, options.seed)
        print(json.dumps(report, indent=2))
        print(soak.line(report))
        return 1 if report["failed"] else 0
    parser.print_help()
    return 2


if __name__ == "__main__":
    sys.exit(proofs.run(main))
