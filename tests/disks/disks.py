"""A server process on a disk of its own: a few megabytes of memory in a mount namespace, or a failing one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import quicmsg

SIZE = "4m"


def _may_mount() -> bool:
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("unshare") is None:
        return False
    command = ["unshare", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not _may_mount(), reason="needs root and mount namespaces")


@dataclass
class Process:
    """A server, its words, and its disk as the test sees it."""

    process: asyncio.subprocess.Process
    port: int
    said: list[str]
    disk: Path
    reading: asyncio.Task[None]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def says(self, pattern: str) -> str:
        """Wait until a line of its log has this."""
        async with asyncio.timeout(40):
            while True:
                for line in self.said:
                    if re.search(pattern, line):
                        return line
                await asyncio.sleep(0.02)

    async def ends(self, timeout: float = 40) -> int:  # noqa: ASYNC109
        """Its exit status; it has written no traceback."""
        async with asyncio.timeout(timeout):
            status = await self.process.wait()
            await self.reading
        assert not any("Traceback" in line for line in self.said), "".join(self.said)
        return status

    async def stop(self) -> int:
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        return await self.ends()

    # ---- its disk

    def fill(self) -> None:
        """Not a byte is free."""
        with (self.disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
            while True:
                filler.write(bytes(4096))

    def make_room(self) -> None:
        (self.disk / "filler").unlink()


def server_words(base: Path, data: Path, port: int = 0) -> list[str]:
    """The end of a server's command line."""
    return ["--listen", f"127.0.0.1:{port}", "--data", str(data), "--certs", str(base / "certs")]


def on_mount(base: Path, options: str, command: Sequence[str]) -> list[str]:
    """The command with a small disk of its own at base/disk."""
    script = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", "sh", "-c", script, "sh", options, str(base / "disk"), *command]


@contextlib.asynccontextmanager
async def running(base: Path, command: Sequence[str], disk: Callable[[int], Path]) -> AsyncIterator[Process]:
    """Start a server and wait until it is ready; `disk` finds its disk by its process id."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=base
    )
    assert process.stdout is not None
    assert process.stderr is not None
    said: list[str] = []
    stderr = process.stderr

    async def read() -> None:
        async for line in stderr:
            said.append(line.decode())  # noqa: PERF401 - as they come

    reading = asyncio.create_task(read())
    try:
        ready = (await process.stdout.readline()).decode()
        assert ready, "".join(said)
        port = int(ready.split()[3].rpartition(":")[2])
        yield Process(process, port, said, disk(process.pid), reading)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@contextlib.asynccontextmanager
async def small_disk(base: Path) -> AsyncIterator[Process]:
    """A server whose data directory is on a disk of SIZE."""
    (base / "disk").mkdir(exist_ok=True)
    server = [sys.executable, "-m", "quicmsg.server", *server_words(base, base / "disk" / "data")]
    command = on_mount(base, f"size={SIZE}", server)
    async with running(base, command, lambda pid: Path(f"/proc/{pid}/root{base}/disk")) as process:
        yield process


def refused(base: Path, command: Sequence[str], **more: object) -> str:
    """What a server says that cannot start: one line, exit status 1."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=40, cwd=base, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 1, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("quicmsg: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout == ""
    return lines[0]


@contextlib.asynccontextmanager
async def people(base: Path, address: str) -> AsyncIterator[tuple[quicmsg.Client, quicmsg.Client]]:
    """Alice and Bob, with disks that are well."""
    ca = base / "certs" / "ca.pem"
    async with (
        quicmsg.connect(address, user="alice", data=base / "alice", ca=ca, foreground=True) as alice,
        quicmsg.connect(address, user="bob", data=base / "bob", ca=ca, foreground=True) as bob,
    ):
        yield alice, bob


async def state(events: quicmsg.Events, message_id: str, *wanted: quicmsg.State) -> quicmsg.State:
    """Wait until a message is in one of these states."""
    async with asyncio.timeout(45):
        async for event in events:
            ours = isinstance(event, quicmsg.StateChanged) and event.message_id == message_id
            if ours and event.state in wanted:
                return event.state
    raise AssertionError("the events ended")
