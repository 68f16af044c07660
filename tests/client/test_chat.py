"""The chat in lines: a fake screen on a real server, and one real terminal (a pty)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import select
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cli_processes import Place, server

import quicmsg
from quicmsg.client.chat import Chat
from quicmsg.server import Server
from quicmsg.server.settings import Settings

PATIENCE = 10


class FakeScreen:
    """Types what a test says, and keeps what is shown; colours are words."""

    def __init__(self) -> None:
        self.prompt = ""
        self.shown: list[str] = []
        self._typed: asyncio.Queue[str | None] = asyncio.Queue()
        self._news = asyncio.Event()

    async def line(self) -> str | None:
        return await self._typed.get()

    def show(self, text: str, *, key: object = None) -> None:
        self.shown.append(text)
        self._news.set()

    def coloured(self, text: str, colour: str) -> str:
        return f"<{colour}>{text}"

    def type(self, *texts: str | None) -> None:
        for text in texts:
            self._typed.put_nowait(text)

    async def sees(self, pattern: str) -> str:
        """Wait until a line with this is there; returns it."""
        async with asyncio.timeout(PATIENCE):
            while True:
                self._news.clear()
                found = next((line for line in self.shown if re.search(pattern, line)), None)
                if found is not None:
                    return found
                await self._news.wait()


Open = Callable[[str], contextlib.AbstractAsyncContextManager[quicmsg.Client]]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Open]:
    """A server, and a function that connects a user to it."""
    running = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    where, ca = f"127.0.0.1:{running.addresses[0][1]}", tmp_path / "certs" / "ca.pem"
    yield lambda user: quicmsg.connect(where, user=user, data=tmp_path / user, ca=ca, timeout=PATIENCE)
    await running.stop()


async def test_a_conversation_with_ticks(connect: Open) -> None:
    """What is typed gets its ticks, what comes is shown on one harmless line and counts as read."""
    screen = FakeScreen()
    async with connect("bob") as bob, connect("ann") as ann:
        chatting = asyncio.create_task(Chat(ann, screen, "here").run())
        screen.type("too early", "/to @bob", "hi bob")
        await screen.sees("whom to")
        assert screen.prompt in ("ann> ", "@bob> ")
        await screen.sees(r"<dim>◷ @bob hi bob")
        await screen.sees(r"<dim>✓ @bob 1 hi bob")
        message = await anext(bob.messages())
        assert message.text == "hi bob"
        await bob.read("@ann", message.seq)
        await screen.sees(r"<dim>✓✓ @bob 1 hi bob")
        await screen.sees(r"<bright>✓✓ @bob 1 hi bob")
        sent = await bob.send("@ann", "and \x1b[31myou?\nfake: line")
        await screen.sees(r"@bob bob: and \\x1b\[31myou\?\\nfake: line$")
        await sent.read(PATIENCE)
        screen.type("/quit")
        await chatting


async def test_commands(connect: Open) -> None:
    """Every command does what /help says; a wrong one is said and nothing else happens."""
    screen = FakeScreen()
    async with connect("bob") as bob, connect("ann") as ann:
        chatting = asyncio.create_task(Chat(ann, screen, "here").run())
        screen.type("/create #team bob", "//shrug")
        await screen.sees("<dim>✓ #team 3 /shrug")
        screen.type("/history 5", "/who", "/outbox", "/migrate 127.0.0.2")
        await screen.sees("<dim>#team \\* bob joined")
        await screen.sees("ann: /shrug")
        await screen.sees("<dim>conversations: #team")
        await screen.sees("nothing waits")
        await screen.sees(r"<green>● moved from .* to 127\.0\.0\.2:\d+, stall \d+ ms")
        screen.type("/to @ghost", "boo")
        line = await screen.sees(r"<red>✗ @ghost boo \(.* /cancel [0-9a-f]{32}\)")
        message_id = line[-33:-1]
        assert [row.message_id for row in await ann.outbox()] == [message_id]
        screen.type("/outbox", f"/resend {message_id}", f"/cancel {message_id}")
        await screen.sees(f"{message_id} rejected @ghost boo")
        await screen.sees("<dim>- @ghost boo")
        screen.type(
            "/nonsense", "/to", "/history x", "/cancel 1", "/invite @bob #team", "/leave #team", "/help"
        )
        await screen.sees("there is no /nonsense")
        await screen.sees("/to: something is missing")
        await screen.sees("'1' is not a message id")
        await screen.sees("left #team")
        await screen.sees("/quit")
        assert await ann.outbox() == []
        assert bob.conversations() == ["#team"]
        screen.type(None)
        await chatting


async def test_the_red_line(tmp_path: Path) -> None:
    """A server that goes is said in red at once, one that comes back in green; the message gets its tick."""
    settings = Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs")
    running = await Server.start(settings)
    address = running.addresses[0]
    screen = FakeScreen()
    ca = tmp_path / "certs" / "ca.pem"
    where = f"127.0.0.1:{address[1]}"
    async with quicmsg.connect(where, user="bob", data=tmp_path / "bob", ca=ca):
        pass
    async with quicmsg.connect(where, user="ann", data=tmp_path / "ann", ca=ca, foreground=True) as ann:
        chatting = asyncio.create_task(Chat(ann, screen, "here").run())
        screen.type("/to @bob")
        await running.stop()
        await screen.sees("<red>○ not connected")
        screen.type("later")
        await screen.sees("<dim>◷ @bob later")
        again = Settings((address,), tmp_path / "server", tmp_path / "certs")
        running = await Server.start(again)
        await screen.sees("<green>● connected")
        await screen.sees("<dim>✓ @bob 1 later")
        screen.type("/quit")
        await chatting
    await running.stop()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")
def test_on_a_real_terminal(tmp_path: Path) -> None:
    """No COMMAND: a chat. What is half typed survives a line that arrives; the terminal is left as it was."""
    import pty
    import termios

    with server(tmp_path) as place:
        assert place.run("bob", "whoami").returncode == 0
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = "xterm"
            words = place.words("ann")
            os.execv(words[0], words)
        before = termios.tcgetattr(terminal)
        screen = b""

        def until(wanted: str) -> None:
            nonlocal screen
            end = time.monotonic() + PATIENCE
            while wanted.encode() not in screen:
                assert time.monotonic() < end, screen.decode()
                if select.select([terminal], [], [], 0.1)[0]:
                    screen += os.read(terminal, 65536)

        until("● connected")
        os.write(terminal, b"/to @bob\n")
        until("@bob> ")
        os.write(terminal, b"half a sent")
        until("half a sent")
        screen = b""
        assert place.run("bob", "send", "--to", "@ann", "interrupting").returncode == 0
        until("bob: interrupting\r\n@bob> half a sent")
        os.write(terminal, b"ence\n")
        until("✓\x1b[0m @bob 2 half a sentence")
        assert "half a sentence" in place.run("bob", "listen", "--count", "1").stdout
        screen = b""
        os.write(terminal, b"\x03")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 130
        assert termios.tcgetattr(terminal)[3] == before[3], "echo and line mode are as before"
        os.close(terminal)
        assert Place(place.address, place.ca, place.base).outbox("ann") == []
