"""Fuzz one part of quicmsg with made-up input; a finding comes with the command that replays it.

Deterministic: the same target, seed and case feed the same input.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import proofs

with proofs.packages():
    from fuzz.engine import MEMORY_GROWTH_MAX, random_of, run
    from fuzz.targets import TARGETS


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "target", choices=TARGETS, help="; ".join(f"{n}: {t.text}" for n, t in TARGETS.items())
    )
    parser.add_argument("--inputs", type=proofs.count, help="stop after so many (default 100,000)")
    parser.add_argument("--minutes", type=proofs.minutes, help="stop after so long")
    parser.add_argument("--seed", type=proofs.whole, default=1)
    parser.add_argument(
        "--case", type=proofs.whole, help="only this one, with the whole traceback of what it raises"
    )
    arguments = parser.parse_args()
    logging.getLogger("quic").setLevel(logging.CRITICAL)  # aioquic has a word for every hostile frame
    target = TARGETS[arguments.target]
    if arguments.case is not None:
        counts = target.case(random_of(target, arguments.seed, arguments.case))
        print(_text(counts))
        return 0
    seconds = None if arguments.minutes is None else arguments.minutes * 60
    inputs = arguments.inputs or (None if seconds else 100_000)
    report = run(
        target, seed=arguments.seed, inputs=inputs, seconds=seconds, say=lambda text: print(text, flush=True)
    )
    kinds = len({finding.place for finding in report.findings})
    growth = report.memory_growth / 1e6
    print(
        f"{target.name}: {report.cases} cases, {_text(report.counts)}; {len(report.findings)} findings of "
        f"{kinds} kinds; memory +{growth:.1f} MB; {report.seconds:.0f} s, "
        f"{report.inputs / report.seconds:.0f} inputs/s"
    )
    if report.interrupted:
        raise KeyboardInterrupt
    return 1 if report.findings or report.memory_growth > MEMORY_GROWTH_MAX else 0


def _text(counts: Counter[str]) -> str:
    ordered = sorted(counts.items(), key=lambda item: item[0] != "inputs")
    return ", ".join(f"{count} {name}" for name, count in ordered)


if __name__ == "__main__":
    sys.exit(proofs.run(main))
