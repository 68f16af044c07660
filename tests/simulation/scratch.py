"""Real paths for simulated disks: locks, and files that say who owns what, are real even there."""

from __future__ import annotations

import functools
import itertools
import os
import tempfile
from multiprocessing.util import Finalize
from pathlib import Path

import proofs

_numbers = itertools.count()


def fresh_path(name: str) -> Path:
    """A path that nothing else in this process uses; what is made there is gone when the process ends."""
    return Path(_directory(os.getpid()).name) / f"{name.replace('/', '-')}-{next(_numbers)}.db"


def remove_traces(path: Path) -> None:
    """Of a world that has ended."""
    for found in path.parent.glob(f"{path.name}*"):
        found.unlink()


@functools.cache
def _directory(_process: int) -> tempfile.TemporaryDirectory[str]:
    made = tempfile.TemporaryDirectory(prefix=f"quicmsg-simulation-{os.getpid()}-", dir=proofs.scratch())
    # Worker processes do not run what is registered with `atexit`.
    Finalize(None, made.cleanup, exitpriority=1)
    return made
