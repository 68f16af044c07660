"""The long proofs, each for so many minutes: `python -m tests.nightly [--minutes 20] [--jobs 2] [PART ...]`.

Every part is a command of its own, which can be run alone; here they run side by side, each in one process,
with its output in a file. A line a minute says how far they are. Exit status 1 if any part found something.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
GRACE = 600.0
"""Seconds beyond its minutes after which a part counts as stuck."""
STOP_TIMEOUT = 10.0
PARTS: dict[str, list[str]] = {
    "streams": ["tests.simulation", "--tier", "streams", "--jobs", "1", "--minutes"],
    "quic": ["tests.simulation", "--tier", "quic", "--jobs", "1", "--minutes"],
    "shell": ["tests.simulation", "--tier", "shell", "--jobs", "1", "--minutes"],
    "kills": ["tests.kills", "--minutes"],
    "power": ["tests.power_cuts", "--minutes"],
    "security": ["tests.security", "--minutes"],
    "fuzz-codec": ["tests.fuzz", "codec", "--minutes"],
    "fuzz-frames": ["tests.fuzz", "frames", "--minutes"],
    "fuzz-quic": ["tests.fuzz", "quic", "--minutes"],
    "fuzz-datagrams": ["tests.fuzz", "datagrams", "--minutes"],
    "fuzz-amplification": ["tests.fuzz", "amplification", "--minutes"],
    "model": ["tests.simulation.model", "--messages", "3", "--faults", "2"],
}
"""Name: module and arguments; `--minutes` gets its number, the model ends by itself."""


@dataclass
class Run:
    """A part that is under way."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    file: IO[bytes]
    began: float

    def last_line(self) -> str:
        lines = self.output.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "(nothing yet)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--minutes", type=positive, default=20.0, help="of each part (default 20)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="parts side by side")
    parser.add_argument("--output", type=Path, help="directory for what the parts print")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.parts if name not in PARTS]
    if unknown:
        parser.error(f"no such part: {', '.join(unknown)}; there are {', '.join(PARTS)}")
    output = arguments.output or Path(tempfile.mkdtemp(prefix="quicmsg-nightly-"))
    output.mkdir(parents=True, exist_ok=True)
    say(f"output of the parts: {output}")
    return Night(arguments.parts or list(PARTS), arguments.minutes, arguments.jobs, output).run()


def positive(text: str) -> float:
    """A number of minutes above zero."""
    number = float(text)
    if not 0 < number < 100_000:
        raise argparse.ArgumentTypeError(f"{text} is not a number of minutes above 0")
    return number


class Night:
    """All parts, so many at a time."""

    def __init__(self, parts: list[str], minutes: float, jobs: int, output: Path) -> None:
        self.waiting = parts
        self.minutes = minutes
        self.jobs = jobs
        self.output = output
        self.running: list[Run] = []
        self.results: list[tuple[str, int, float, str]] = []

    def run(self) -> int:
        """Run them; 0 if all of them found nothing."""
        told = time.monotonic()
        try:
            while self.waiting or self.running:
                while self.waiting and len(self.running) < self.jobs:
                    self._start(self.waiting.pop(0))
                time.sleep(0.5)
                for run in list(self.running):
                    self._look_at(run)
                if time.monotonic() - told > 60:
                    told = time.monotonic()
                    for run in self.running:
                        say(f"... {run.name}, {(told - run.began) / 60:.0f} min: {run.last_line()}")
        finally:
            for run in self.running:
                end(run.process)
                run.file.close()
        return self._sum_up()

    # ---- private

    def _start(self, name: str) -> None:
        command = [sys.executable, "-m", *PARTS[name]]
        if command[-1] == "--minutes":
            command.append(f"{self.minutes:g}")
        path = self.output / f"{name}.txt"
        file = path.open("wb")
        # A group of its own: a part has workers and servers, and all of them end with it.
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        say(f"{name}: python -m {' '.join(command[2:])}")
        self.running.append(Run(name, process, path, file, time.monotonic()))

    def _look_at(self, run: Run) -> None:
        status, took = run.process.poll(), time.monotonic() - run.began
        if status is None and took < self.minutes * 60 + GRACE:
            return
        if status is None:
            end(run.process)
            status = 124
        run.file.close()
        self.running.remove(run)
        self.results.append((run.name, status, took, run.last_line()))
        say(f"{run.name}: {'ok' if status == 0 else f'FAILED with status {status}'}: {run.last_line()}")

    def _sum_up(self) -> int:
        say("")
        for name, status, took, line in self.results:
            say(f"{'ok  ' if status == 0 else 'FAIL'} {name:15} {took / 60:5.1f} min  {line}")
        failed = [name for name, status, _, _ in self.results if status != 0]
        say(f"{len(self.results)} parts, {len(failed)} failed" + (f": {', '.join(failed)}" if failed else ""))
        return 1 if failed or self.waiting or self.running else 0


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask the part to stop as Ctrl-C does, so that it cleans up; what is left of its group is killed."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        process.send_signal(signal.SIGINT)
        process.wait(STOP_TIMEOUT)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201 - this is a program


def stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
