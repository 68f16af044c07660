"""The three programs that get killed: a server, one who sends all the time, one who reads all the time.

What each was told it says at once, a line each, straight into its pipe: whatever was said before the kill
counts, and the driver holds the disks to it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kills.points import Trap, arm_client, arm_server

import quicmsg
from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.server.__main__ import serve
from quicmsg.store.writer import Writer

IN_FLIGHT_MAX = 100
EARLY = 0.1
"""Seconds by which a planted bug is ahead of the commit: long, so that it shows on a busy machine too."""
NEVER = Trap("never", 0)


def run(order: dict[str, Any]) -> None:
    """Be the program that the order names; returns when it was told to stop."""
    trap = Trap(*order["trap"]) if order.get("trap") else NEVER
    if order.get("bug"):
        BUGS[order["bug"]]()
    base = Path(order["base"])
    if order["program"] == "server":
        logging.basicConfig(level=logging.WARNING)  # else each sign-in after each kill is a line
        arm_server(trap)
        serve.main(
            ["--listen", f"127.0.0.1:{order['port']}", "--data", str(base / "server"),
             "--certs", str(base / "certs")],
            standalone_mode=False,
        )  # fmt: skip
        return
    arm_client(trap)
    where = f"127.0.0.1:{order['port']}"
    program = send if order["program"] == "alice" else functools.partial(receive, trap=trap)
    asyncio.run(program(where, base, order["life"]))


def say(*words: object) -> None:
    """Into the pipe, unbuffered: a killed process takes nothing that it has said with it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def send(where: str, base: Path, life: int) -> None:
    """Send numbered messages as fast as a window of open ones allows, until SIGUSR1; go on until SIGTERM."""
    enough, stop = _signals()
    unanswered: set[str] = set()
    changed = asyncio.Event()
    async with _connect(where, base, "alice") as client:
        listening = asyncio.create_task(_tell(client.events(), unanswered, changed))
        say("ready")
        number = life * 1_000_000
        while not enough.is_set():
            if len(unanswered) >= IN_FLIGHT_MAX:
                changed.clear()
                await changed.wait()
                continue
            number += 1
            sent = await client.queue("@bob", str(number))
            unanswered.add(sent.message_id)
            say("queued", sent.message_id, number)
        while await client.outbox():
            changed.clear()
            await changed.wait()
        say("empty")
        await stop.wait()
        listening.cancel()


async def _tell(events: quicmsg.Events, unanswered: set[str], changed: asyncio.Event) -> None:
    async for event in events:
        if isinstance(event, quicmsg.StateChanged) and event.state in ("stored", "delivered"):
            unanswered.discard(event.message_id)
            changed.set()
            say(event.state.value, event.message_id, event.seq)


async def receive(where: str, base: Path, life: int, *, trap: Trap) -> None:
    """Take every message, say so, ask for the next; until SIGTERM."""
    _, stop = _signals()
    async with _connect(where, base, "bob") as client:
        say("ready")

        async def read() -> None:
            async for message in client.messages():
                say("shown", message.message_id, message.seq, message.text)
                trap.at("shown")

        reading = asyncio.create_task(read())
        with contextlib.suppress(quicmsg.ConnectError):
            await client.wait_up()
            say("up")
        await stop.wait()
        reading.cancel()


def _connect(where: str, base: Path, user: str) -> Any:
    return quicmsg.connect(
        where, user=user, data=base / user, ca=base / "certs" / "ca.pem", foreground=True, timeout=None
    )


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    loop, enough, stop = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    loop.add_signal_handler(signal.SIGUSR1, enough.set)
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    return enough, stop


# ---- planted bugs


def answer_before_commit() -> None:
    """The server answers when the statements have run, and commits a little later."""

    def early(self: Any, batch: Any) -> None:
        store = self._store
        store._writer.execute("BEGIN IMMEDIATE")
        results = [store._operations.run(operation) for operation, _ in batch]
        store._tables.flush()
        self._answer([callback for _, callback in batch], results)
        time.sleep(EARLY)
        store._writer.execute("COMMIT")
        store._tables.settle()

    Writer._commit = early  # type: ignore[method-assign]


def acknowledge_before_commit() -> None:
    """The recipient acknowledges, and hands it to its journal a little later."""
    processed = Bookkeeper.processed

    def early(self: Any, conversation: str, entry: Any) -> None:
        position = self.mailbox.position_after(conversation, entry.seq)
        self.mailbox.processed(conversation, position, self.mailbox.conversations[conversation].epoch)
        self._touched()
        asyncio.get_running_loop().call_later(EARLY * 5, processed, self, conversation, entry)

    Bookkeeper.processed = early  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    "answer before commit": answer_before_commit,
    "acknowledge before commit": acknowledge_before_commit,
}
