"""Measure every trouble at every loss, one after the other: `python tests/netns/report.py [KIND ...]`.

Needs root. Prints a table as in docs/migration.md; exit status 0 only if nothing was lost, doubled, out of
order or shown as failed.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[depth]) for depth in (1, 2)]

from namespaces import missing
from trouble import HEADER, LOSSES, TROUBLES, run


def main(kinds: list[str]) -> int:
    """Run them; unknown kinds are an error."""
    if reason := missing():
        _say(reason)
        return 1
    unknown = set(kinds) - TROUBLES.keys()
    if unknown:
        _say(
            f"no such trouble: {', '.join(sorted(unknown))} (there are: {', '.join(TROUBLES)})",
        )
        return 2
    _say(HEADER)
    status = 0
    for kind in kinds or TROUBLES:
        for loss in LOSSES:
            with tempfile.TemporaryDirectory() as directory:
                outcome = asyncio.run(run(TROUBLES[kind], loss, Path(directory)))
            _say(outcome.line())
            if not outcome.account.is_clean:
                status = 1
                _say("\n".join(outcome.account.problems[:10]))
    return status


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
