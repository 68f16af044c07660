"""The processes of the demo and of the tests over real networks, as their parent sees them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import quicmsg
from quicmsg.client.identity import state_directory
from quicmsg.errors import ConnectError

START_TIMEOUT = 20.0
"""A busy machine needs some seconds to import everything."""
STOP_TIMEOUT = 8.0
"""After it a process is killed: longer than the server's own drain."""
_PACKAGE = str(Path(quicmsg.__file__).resolve().parent.parent)
"""So that children find quicmsg also where it is not installed."""
_READY = re.compile(r"ready on ([^ ,]+)")


async def until(
    processes: Sequence[Process], condition: Callable[[], bool], what: str, seconds: float
) -> None:
    """Wait for lines of these processes that make the condition true. Raises ConnectError in words when one
    of them ends, or the time is up."""
    news = asyncio.Event()
    for process in processes:
        process.listeners.add(news)
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                for process in processes:
                    if process.has_ended:
                        raise ConnectError(f"{process.name} ended before {what}: {process.last_words()}")
                await news.wait()
                news.clear()
    except TimeoutError as error:
        words = "; ".join(f"{process.name}: {process.last_words()}" for process in processes)
        raise ConnectError(f"{what}: not within {seconds:g} s ({words})") from error
    finally:
        for process in processes:
            process.listeners.discard(news)


class Process:
    """A child process whose stdout is read line by line; stderr goes to a file.

    Args:
        name: for error texts; also the name of the log file.
        command: module of quicmsg and its arguments.
        directory: where the log goes.
        inside: put before the command, e.g. to enter a network namespace.
    """

    def __init__(self, name: str, command: Sequence[str], directory: Path, inside: Sequence[str]) -> None:
        self.name = name
        self.log_file = directory / f"{name}.log"
        self.command = [*inside, sys.executable, "-m", *command]
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self.has_ended = False
        self.listeners: set[asyncio.Event] = set()
        """Set at each line, and at the end."""

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process is not None
        return self._process.pid

    def log(self) -> str:
        """What it wrote on stderr so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def last_words(self) -> str:
        """The end of its log, for error texts."""
        lines = self.log().strip().splitlines()
        return lines[-1] if lines else "(it said nothing)"

    async def spawn(self) -> None:
        """Start it; a second call after it ended starts it again."""
        path = os.pathsep.join(filter(None, [_PACKAGE, os.environ.get("PYTHONPATH")]))
        self.has_ended = False
        with self.log_file.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl+C is for the parent, which ends its children in order
            )
        self._reader = asyncio.get_running_loop().create_task(self._read())

    async def until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait for lines that make the condition true. Raises ConnectError in words when none do."""
        await until([self], condition, what, seconds)

    def kill(self) -> None:
        """End it as a power failure would."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def wait(self) -> None:
        """Wait for its end and for its last line."""
        if self._process is not None and self._reader is not None:
            await self._process.wait()
            await self._reader

    async def stop(self) -> None:
        """End it politely. Raises ConnectError when it has to be killed, or did not end well."""
        assert self._process is not None
        self.ask_to_end(self._process)
        try:
            async with asyncio.timeout(STOP_TIMEOUT):
                await self.wait()
        except TimeoutError as error:
            raise ConnectError(f"{self.name} did not end within {STOP_TIMEOUT:g} s") from error
        finally:
            self.kill()
            await self._process.wait()
        if self._process.returncode != 0:
            raise ConnectError(
                f"{self.name} ended with status {self._process.returncode}: {self.last_words()}"
            )

    def ask_to_end(self, process: asyncio.subprocess.Process) -> None:
        """The polite way."""
        with contextlib.suppress(ProcessLookupError):
            process.terminate()

    def take(self, line: str) -> None:
        """One line of its stdout."""
        raise AssertionError("each kind of process says something else")

    # ---- private

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            if line.endswith(b"\n"):  # else it was killed while it wrote
                self.take(line.decode())
                self._announce()
        self.has_ended = True
        self._announce()

    def _announce(self) -> None:
        for listener in self.listeners:
            listener.set()


class ServerProcess(Process):
    """`python -m quicmsg.server` with everything in one directory."""

    def __init__(
        self,
        directory: Path,
        *,
        listen: str = "127.0.0.1:0",
        names: Sequence[str] = (),
        inside: Sequence[str] = (),
    ) -> None:
        self.data = directory / "server"
        self.address = ""
        """HOST:PORT where it listens; after a restart the same."""
        certs = directory / "certs"
        self.ca = certs / "ca.pem"
        flags = ["--data", str(self.data), "--certs", str(certs)]
        flags += [flag for name in names for flag in ("--name", name)]
        flags += ["--listen", listen]
        self._is_ready = False
        super().__init__("server", ["quicmsg.server", *flags], directory, inside)

    @property
    def database(self) -> Path:
        """Its store's file."""
        return self.data / "quicmsg.db"

    async def start(self) -> None:
        """Return when it is ready."""
        self.command[-1] = self.address or self.command[-1]
        self._is_ready = False
        await self.spawn()
        await self.until(lambda: self._is_ready, "it was ready", START_TIMEOUT)

    def take(self, line: str) -> None:
        """See Process."""
        if found := _READY.search(line):
            self.address = found[1]
            self._is_ready = True


class PeerProcess(Process):
    """`peer.py` for one user."""

    def __init__(
        self,
        user: str,
        server: str,
        ca: Path,
        directory: Path,
        *,
        inside: Sequence[str] = (),
        foreground: bool = False,
    ) -> None:
        self.user = user
        self.data = directory / user
        self.events: list[dict[str, Any]] = []
        """Every line that it told, in order."""
        self.counts: Counter[str] = Counter()
        """How many of each event; "state stored": how many messages were in that state at some time."""
        self.told: list[tuple[str, str]] = []
        """Conversation and text of everything that it was told to send, in order."""
        self._seen: set[tuple[str, str]] = set()
        self._server = server
        command = ["quicmsg.demo.peer", "--server", server, "--user", user, "--data", str(self.data)]
        flags = ["--foreground"] if foreground else []
        super().__init__(user, [*command, "--ca", str(ca), *flags], directory, inside)

    @property
    def journal(self) -> Path:
        """Its journal's file."""
        return state_directory(self.data, self._server, self.user) / "journal.db"

    async def start(self) -> None:
        """Return when it is connected."""
        ready = self.counts["ready"]
        await self.spawn()
        await self.until(lambda: self.counts["ready"] > ready, "it was connected", START_TIMEOUT)

    def tell(self, op: str, **fields: Any) -> None:
        """Hand it an operation; do not wait."""
        assert self._process is not None
        assert self._process.stdin is not None
        if op == "send":
            self.told.append((fields["conversation"], fields["text"]))
        self._process.stdin.write(json.dumps({"op": op, **fields}).encode() + b"\n")

    def ask_to_end(self, process: asyncio.subprocess.Process) -> None:
        """The end of its stdin."""
        assert process.stdin is not None
        process.stdin.close()

    def take(self, line: str) -> None:
        """See Process."""
        event = json.loads(line)
        self.events.append(event)
        kind = event["event"]
        if kind == "state":
            # A client that was away may be told the same state by two receipts.
            key = (event["message_id"], event["state"])
            self.counts[f"state {event['state']}"] += key not in self._seen
            self._seen.add(key)
        else:
            self.counts[f"connection {event['state']}" if kind == "connection" else kind] += 1
