"""The same seeds in other processes: a run must be the same everywhere, or no failure can be replayed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def hashes_elsewhere(module: str, call: str, seeds: range | tuple[int, ...]) -> list[list[str]]:
    """The hashes that two processes get, each with a hash seed of its own. `call` uses `seed`."""
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]\n"
        f"from {module} import simulate\n"
        f"print(*({call}.hash for seed in {tuple(seeds)}))"
    )
    return [
        subprocess.run(
            [sys.executable, "-c", program, str(TESTS), str(TESTS.parent)],
            env={"PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout.split()
        for hash_seed in ("1", "2")
    ]
