"""kill -9 of the server, again and again, with messages on their way: what was called stored is stored."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from pathlib import Path

import pytest

import quicmsg
from quicmsg.store.sqlite import SqliteStore

KILLS = 8
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


async def start_server(base: Path, port: int) -> tuple[asyncio.subprocess.Process, int]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "quicmsg.server", "--listen", f"127.0.0.1:{port}",
        "--data", str(base / "server"), "--certs", str(base / "certs"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    ready = (await process.stdout.readline()).decode()
    return process, int(ready.split()[3].rpartition(":")[2])


async def test_nothing_stored_is_lost_and_nothing_is_doubled_over_kills(tmp_path: Path) -> None:
    """One sender, one recipient, a server that dies at random moments: seqs are 1..n, each message once, in
    the order in which it was sent; every seq that was told is the one in the log."""
    process, port = await start_server(tmp_path, 0)
    where, ca = f"127.0.0.1:{port}", tmp_path / "certs" / "ca.pem"
    told: dict[str, int] = {}
    received: list[tuple[int, str]] = []
    sent: list[quicmsg.Sent] = []
    dice = random.Random(7)

    async with (
        quicmsg.connect(where, user="alice", data=tmp_path / "alice", ca=ca, foreground=True) as alice,
        quicmsg.connect(where, user="bob", data=tmp_path / "bob", ca=ca, foreground=True) as bob,
    ):
        finished, progress = asyncio.Event(), asyncio.Event()

        async def send() -> None:
            while not finished.is_set():
                sent.append(await alice.queue("@bob", str(len(sent))))

        async def note(events: quicmsg.Events) -> None:
            async for event in events:
                if isinstance(event, quicmsg.StateChanged) and event.state is quicmsg.State.STORED:
                    assert told.setdefault(event.message_id, event.seq or 0) == event.seq
                    progress.set()

        async def listen() -> None:
            async for message in bob.messages():
                received.append((message.seq, message.text))  # noqa: PERF401 - it is cancelled in the end

        noting, listening = asyncio.create_task(note(alice.events())), asyncio.create_task(listen())
        sending = asyncio.create_task(send())
        for _ in range(KILLS):
            goal = len(told) + dice.randint(1, 150)
            while len(told) < goal:
                progress.clear()
                await progress.wait()
            process.send_signal(signal.SIGKILL)
            await process.wait()
            process, _ = await start_server(tmp_path, port)
        finished.set()
        await sending
        await sent[-1].delivered(timeout=60)
        listening.cancel()
        noting.cancel()
    process.terminate()
    assert await process.wait() == 0

    assert received == [(number + 1, str(number)) for number in range(len(sent))]
    store = SqliteStore(tmp_path / "server" / "quicmsg.db", epoch_source=lambda: 1)
    log = store.entries("@alice:bob", "alice", limit=len(sent) + 1)
    store.close()
    assert [(entry.seq, entry.body.decode()) for entry in log] == received
    seqs = {entry.message_id.hex(): entry.seq for entry in log}
    assert all(seqs[message_id] == seq for message_id, seq in told.items())
