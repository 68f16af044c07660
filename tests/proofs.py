"""What the commands of the proof have in common: numbers that are checked, packages that may be missing, and
an end by Ctrl-C that leaves one line and no directory behind."""

from __future__ import annotations

import argparse
import contextlib
import math
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

SCRATCH = "QUICMSG_PROOF_SCRATCH"
"""Environment: where simulated disks are, in memory if possible."""
INTERRUPTED = 130
"""Exit status, as of a shell."""


def count(text: str) -> int:
    """For argparse: how many; 0 or less would run nothing, and find nothing."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return number


def whole(text: str) -> int:
    """For argparse: a seed or a number that may be 0."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return number


def minutes(text: str) -> float:
    """For argparse: a time that is over some day, and not already."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of minutes") from None
    if not (math.isfinite(number) and number > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a time above 0")
    return number


def known(parser: argparse.ArgumentParser, names: list[str], every: list[str]) -> None:
    """A usage error that lists what there is, unless all names are."""
    unknown = [name for name in names if name not in every]
    if unknown:
        parser.error(f"no such mutant: {', '.join(unknown)}; there are:\n  " + "\n  ".join(every))


@contextlib.contextmanager
def packages() -> Iterator[None]:
    """Around the imports of a command: what only tests need is not installed by `dev.py demo`."""
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: python3 dev.py test (or nightly) installs what this needs")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def run(main: Callable[[], int]) -> int:
    """The exit status of `main`. All temporary directories are in two that go with the command, whatever
    became of its workers."""
    memory = Path("/dev/shm")
    within = memory if os.access(memory, os.W_OK) else None
    try:
        with (
            tempfile.TemporaryDirectory(prefix="quicmsg-proof-", ignore_cleanup_errors=True) as ordinary,
            tempfile.TemporaryDirectory(
                prefix="quicmsg-proof-", dir=within, ignore_cleanup_errors=True
            ) as fast,
        ):
            os.environ |= {"TMPDIR": ordinary, SCRATCH: fast}
            tempfile.tempdir = None
            return main()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return INTERRUPTED


def scratch() -> str | None:
    """Where disks are simulated: the command's directory, else memory, else wherever is usual (None)."""
    return os.environ.get(SCRATCH) or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """So many processes. Ctrl-C is the parent's to hear; it kills them, as what they do is of no use then."""
    executor = ProcessPoolExecutor(jobs, initializer=deaf)
    try:
        yield executor
    except BaseException:
        # In Python 3.11 the pool's own thread stumbles over cancelled futures when a worker is gone.
        threading.excepthook = lambda _: None
        for child in multiprocessing.active_children():
            child.kill()
        executor.shutdown(cancel_futures=True)
        raise
    executor.shutdown()


def deaf() -> None:
    """In a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
