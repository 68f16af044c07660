"""The interactive chat, in lines: what is typed is sent, what comes appears above the prompt.

Each own message has one line with its tick: clock (on this device), one tick (stored), two ticks (processed
by everybody's device), two bright ticks (read), a red cross (not confirmed; it goes on trying).
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Protocol

from quicmsg.client import cli_text
from quicmsg.client.api import Client
from quicmsg.client.checks import check_address
from quicmsg.client.cli_options import Options
from quicmsg.client.cli_run import note
from quicmsg.client.terminal import Terminal
from quicmsg.client.values import (
    ClientEvent,
    Connection,
    ConnectionChanged,
    ConversationLost,
    MemberChanged,
    Message,
    State,
    StateChanged,
    fresh_message_id,
)
from quicmsg.errors import QuicmsgError
from quicmsg.limits import CHAT_MESSAGES_MAX
from quicmsg.protocol.frames import Kind

HELP = """\
/to @bob, /to #team     talk to them; then just type
/create #team bob ann   make a group         /invite bob [#team]   add somebody
/join #team             join an open group   /leave [#team]        leave
/history [N]            the last N messages  /outbox               what is not stored yet
/resend ID              send it again        /cancel ID            give it up
/migrate [ADDRESS]      go on from another address of this computer
/who                    you, the link, your conversations          /quit  (or Ctrl+D)
//text                  send a text that begins with a slash"""
TICKS = {
    State.QUEUED: ("◷", "dim"),
    State.STORED: ("✓", "dim"),
    State.DELIVERED: ("✓✓", "dim"),
    State.READ: ("✓✓", "bright"),
    State.FAILED: ("✗", "red"),
    State.REJECTED: ("✗", "red"),
    State.CANCELLED: ("-", "dim"),
}


class Screen(Protocol):
    """What the chat needs of a terminal."""

    prompt: str

    async def line(self) -> str | None: ...
    def show(self, text: str, *, key: object = None) -> None: ...
    def coloured(self, text: str, colour: str) -> str: ...


async def chat(options: Options) -> int:
    """Run the chat on this terminal. Returns the exit status."""
    client = await options.connect(timeout=None, foreground=True)
    try:
        with Terminal() as terminal:
            await Chat(client, terminal, options.server).run()
    finally:
        left = 0
        with contextlib.suppress(QuicmsgError):
            left = len(await client.outbox())
        await client.close()
    if left:
        note(f"{left} messages are not stored yet: they are kept (see `outbox`)")
    return 0


class Chat:
    """A client and a screen."""

    def __init__(self, client: Client, screen: Screen, server: str) -> None:
        self._client = client
        self._screen = screen
        self._server = server
        self._to = ""
        self._address = ""
        self._own: OrderedDict[str, str] = OrderedDict()
        self._unread: dict[str, int] = {}
        self._events = client.events()
        self._commands: dict[str, Callable[[list[str]], Awaitable[None]]] = {
            "/help": self._help,
            "/to": self._talk_to,
            "/create": self._create,
            "/invite": self._invite,
            "/join": self._join,
            "/leave": self._leave,
            "/history": self._history,
            "/outbox": self._outbox,
            "/resend": self._resend,
            "/cancel": self._cancel,
            "/migrate": self._migrate,
            "/who": self._who,
        }

    async def run(self) -> None:
        """Until /quit or the end of input. Raises what ended the client (SignInError ...)."""
        self._screen.show(f"{self._client.user} on {self._server}. /to @somebody, then type; /help; /quit")
        self._set_prompt()
        tasks = [asyncio.create_task(one()) for one in (self._type, self._hear, self._watch)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    # ---- private: what is typed

    async def _type(self) -> None:
        while (line := await self._screen.line()) is not None:
            text = line.strip()
            if text in ("/quit", "/exit", "/q"):
                return
            if not text:
                continue
            try:
                await self._carry_out(text)
            except QuicmsgError as error:
                self._say(error.message, "red")

    async def _carry_out(self, text: str) -> None:
        if text.startswith("/") and not text.startswith("//"):
            try:
                word, *arguments = shlex.split(text, posix=False)
            except ValueError:
                word, *arguments = text.split()
            command = self._commands.get(word)
            if command is None:
                self._say(f"there is no {word}: /help says what there is", "red")
                return
            try:
                await command(arguments)
            except (IndexError, ValueError):
                self._say(f"{word}: something is missing or too much; see /help", "red")
        elif not self._to:
            self._say("whom to? /to @bob or /to #team first", "red")
        else:
            await self._send(text.removeprefix("/") if text.startswith("//") else text)

    async def _send(self, text: str) -> None:
        message_id = fresh_message_id().hex()
        self._own[message_id] = text  # before the first event about it
        if len(self._own) > CHAT_MESSAGES_MAX:
            self._own.popitem(last=False)
        await self._client.queue(self._to, text, message_id=message_id)

    async def _help(self, _: list[str]) -> None:
        for line in HELP.splitlines():
            self._screen.show(line)

    async def _talk_to(self, arguments: list[str]) -> None:
        check_address(arguments[0])
        self._to = arguments[0]
        self._set_prompt()
        await self._mark_read(self._to)

    async def _create(self, arguments: list[str]) -> None:
        group, *members = arguments
        await self._client.create(group, [name.lstrip("@") for name in members])
        await self._talk_to([group])

    async def _invite(self, arguments: list[str]) -> None:
        user, *group = arguments
        await self._client.invite(self._group(group), user.lstrip("@"))

    async def _join(self, arguments: list[str]) -> None:
        await self._client.join(arguments[0])
        await self._talk_to(arguments[:1])

    async def _leave(self, arguments: list[str]) -> None:
        group = self._group(arguments)
        await self._client.leave(group)
        self._say(f"left {group}")
        if group == self._to:
            self._to = ""
            self._set_prompt()

    async def _history(self, arguments: list[str]) -> None:
        limit = int(arguments[0]) if arguments else 20
        check_address(self._to)
        for message in await self._client.history(self._to, limit=max(1, limit)):
            self._screen.show(cli_text.message_line(message))

    async def _outbox(self, _: list[str]) -> None:
        rows = await self._client.outbox()
        for row in rows:
            self._screen.show(cli_text.outbox_line(row))
        if not rows:
            self._say("nothing waits: the server has all of it")

    async def _resend(self, arguments: list[str]) -> None:
        await self._client.resend(arguments[0])

    async def _cancel(self, arguments: list[str]) -> None:
        await self._client.cancel(arguments[0])

    async def _migrate(self, arguments: list[str]) -> None:
        self._client.migrate(arguments[0] if arguments else None)

    async def _who(self, _: list[str]) -> None:
        client = self._client
        seen = f"seen at {client.observed_address}" if client.is_up else "not connected"
        self._say(f"{client.user} on {self._server}, device {client.device}, {seen}")
        self._say("conversations: " + (" ".join(client.conversations()) or "none yet"))

    def _group(self, arguments: list[str]) -> str:
        return arguments[0] if arguments else self._to

    # ---- private: what comes

    async def _hear(self) -> None:
        messages = self._client.messages()
        async for message in messages:
            self._show_message(message)
            messages.acknowledge()
            if message.conversation == self._to:
                await self._mark_read(message.conversation)

    def _show_message(self, message: Message) -> None:
        if message.kind == Kind.TEXT:
            self._unread[message.conversation] = message.seq
            self._screen.show(cli_text.message_line(message))

    async def _mark_read(self, conversation: str) -> None:
        """What is on the screen, of the conversation that is talked to, counts as read."""
        seq = self._unread.pop(conversation, None)
        if seq is not None:
            await self._client.read(conversation, seq)

    async def _watch(self) -> None:
        async for event in self._events:
            self._show_event(event)

    def _show_event(self, event: ClientEvent) -> None:
        match event:
            case StateChanged():
                self._show_tick(event.message_id, event.conversation, event.state, event.seq, event.reason)
            case ConnectionChanged():
                self._show_link(event)
            case MemberChanged(conversation, _, user, change):
                self._say(f"{conversation} * {user} {change}")
            case ConversationLost(conversation, reason):
                self._say(f"{conversation}: {reason}", "red")
            case _:
                pass

    def _show_tick(
        self, message_id: str, conversation: str, state: State, seq: int | None, reason: str
    ) -> None:
        tick, colour = TICKS[state]
        mark = self._screen.coloured(tick, colour)
        text = cli_text.harmless(self._own.get(message_id, "an earlier message"))
        place = f" {seq}" if seq is not None else ""
        trouble = f" ({cli_text.harmless(reason)}; /resend or /cancel {message_id})" if reason else ""
        self._screen.show(f"{mark} {conversation}{place} {text}{trouble}", key=message_id)

    def _show_link(self, event: ConnectionChanged) -> None:
        match event.state:
            case Connection.UP:
                self._say(f"● connected, seen at {event.observed_address}", "green")
            case Connection.MOVED:
                came = f"from {self._address} to {event.observed_address}"
                self._say(f"● moved {came}, stall {event.stall_ms:.0f} ms", "green")
            case Connection.DOWN:
                self._say(f"○ not connected: {event.reason or 'the connection ended'}", "red")
        self._address = event.observed_address or self._address

    # ---- private

    def _say(self, text: str, colour: str = "dim") -> None:
        self._screen.show(self._screen.coloured(cli_text.harmless(text), colour))

    def _set_prompt(self) -> None:
        self._screen.prompt = f"{self._to or self._client.user}> "
