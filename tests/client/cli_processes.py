"""A real server process and real client processes, for the tests of the line client."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicmsg.protocol import events
from quicmsg.protocol.server import ServerSession
from quicmsg.transport.quic import Link, listen

CLIENT = (sys.executable, "-m", "quicmsg.client")
LIMIT = 40
"""Seconds after which a process counts as stuck."""


def environment(**more: str) -> dict[str, str]:
    """As it is for the tests, without variables that would set the client's options."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("QUICMSG_")}
    return plain | {"COVERAGE_PROCESS_START": ""} | more


@dataclass(frozen=True)
class Place:
    """Where a server is, and where its clients keep their things."""

    address: str
    ca: Path
    base: Path

    def words(self, user: str, *words: str, ca: Path | None = None) -> list[str]:
        """The command line of a client."""
        given = ["--server", self.address, "--ca", str(ca or self.ca), "--data", str(self.base / user)]
        return [*CLIENT, *given, "--user", user, *words]

    def run(
        self, user: str, *words: str, ca: Path | None = None, stdin: str | bytes = b"", **more: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a client to its end."""
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            self.words(user, *words, ca=ca),
            input=data, capture_output=True, timeout=LIMIT, env=environment(**more), check=False,
        )  # fmt: skip
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def start(self, user: str, *words: str) -> subprocess.Popen[str]:
        """Start a client with pipes all around."""
        return subprocess.Popen(
            self.words(user, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip

    def outbox(self, user: str) -> list[dict[str, Any]]:
        """What this user's outbox has."""
        return lines(self.run(user, "outbox", "--json").stdout)


def lines(output: str) -> list[dict[str, Any]]:
    """JSON lines."""
    return [json.loads(line) for line in output.splitlines()]


def one_line(text: str) -> str:
    """The one line that an error is; a traceback would be more."""
    assert text.count("\n") == 1, text
    assert text.startswith("quicmsg: "), text
    return text


@contextlib.contextmanager
def server(base: Path, *words: str, address: str = "127.0.0.1:0") -> Iterator[Place]:
    """A server process on a port of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "quicmsg.server", "--listen", address,
         "--data", str(base / "server"), "--certs", str(base / "certs"), *words],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment(),
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield Place(process.stdout.readline().split()[3], base / "certs" / "ca.pem", base)
    finally:
        process.terminate()
        process.wait(LIMIT)
        process.stdout.close()


@contextlib.contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """End it in any case."""
    with process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.asynccontextmanager
async def mute_server(base: Path, certificate: Path, key: Path, ca: Path) -> AsyncIterator[Place]:
    """A server in this process that welcomes everybody, and then never answers anything."""
    loop = asyncio.get_running_loop()

    def on_activity(link: Link) -> None:
        session = link.session
        assert isinstance(session, ServerSession)
        while (event := session.next_event()) is not None:
            if isinstance(event, events.SignInRequested):
                session.welcome(
                    user=event.user, device=event.public_key[:16], epoch=1, account_head=0,
                    time_ms=int(time.time() * 1000), now=loop.time(),
                )  # fmt: skip

    listener = await listen(
        [("127.0.0.1", 0)],
        certificate_file=certificate,
        private_key_file=key,
        make_session=lambda _address: ServerSession(now=loop.time()),
        on_activity=on_activity,
        reset_key=b"r" * 32,
        retry_key=b"R" * 32,
    )
    try:
        yield Place(f"127.0.0.1:{listener.addresses[0][1]}", ca, base)
    finally:
        await listener.close()
