"""What the commands of the line client do, one coroutine each; they end by returning or by an exception."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from typing import Any

from quicmsg.client import cli_text
from quicmsg.client.api import Client
from quicmsg.client.cli_options import Options
from quicmsg.client.cli_run import TIMED_OUT, CommandError, note
from quicmsg.client.cli_stdio import STDIN, LineWriter
from quicmsg.client.inbox import Messages
from quicmsg.client.tracking import Events, Sent
from quicmsg.client.values import Connection, ConnectionChanged, Message, State, Synced
from quicmsg.errors import ConfigurationError, ConnectError, ErrorCode, QuicmsgError, RefusedError
from quicmsg.limits import BODY_SIZE_MAX, CLOSE_TIMEOUT, CONNECT_PATIENCE, LINK_CODE_LIFETIME
from quicmsg.protocol.frames import Kind


class Answer:
    """Where a command's answer goes: to stdout, for people or as JSON."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._writer = LineWriter()

    async def give(self, value: dict[str, Any], text: str) -> None:
        """One line, written when this returns."""
        line = cli_text.encode(value) if self.as_json else cli_text.harmless(text).encode()
        await self._writer.write(line)


# ---- sending


def text_of(argument: str) -> str:
    """The text to send: the argument, or for `-` what stdin says. Raises ConfigurationError, RefusedError."""
    if argument != "-":
        return argument
    collected = bytearray()
    try:
        while len(collected) <= BODY_SIZE_MAX + 1 and (data := os.read(STDIN, BODY_SIZE_MAX + 2)):
            collected += data
        text = collected.decode()
    except OSError as error:
        raise ConfigurationError(f"stdin cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        if len(collected) <= BODY_SIZE_MAX + 1:
            raise RefusedError("what stdin says is not UTF-8 text: nothing was sent") from error
        text = collected.decode("utf-8", "replace")  # too long anyhow: the size is what will be told
    return text.removesuffix("\n")


async def send(
    options: Options, answer: Answer, to: str, text: str, until: str, seconds: float | None
) -> None:
    """Queue first, then connect: nothing that was handed over gets lost."""
    async with options.connect(timeout=None) as client:
        sent = await client.queue(to, text)
        await _wait_and_tell(client, answer, sent, until, seconds)


async def resend(
    options: Options, answer: Answer, message_id: str, until: str, seconds: float | None
) -> None:
    """Again, under the same id; for one that was stored in the meantime there is nothing to do."""
    async with options.connect(timeout=None) as client:
        try:
            sent = await client.resend(message_id)
        except RefusedError:
            state = await client.state(message_id)
            if state not in (State.STORED, State.DELIVERED, State.READ) or until != State.STORED:
                raise
            plain = message_id.replace("-", "").lower()
            await answer.give({"message_id": plain, "state": state.value}, f"{state.value} {plain}")
            return
        await _wait_and_tell(client, answer, sent, until, seconds)


async def _wait_and_tell(
    client: Client, answer: Answer, sent: Sent, until: str, seconds: float | None
) -> None:
    kept = f"The message {sent.message_id} is kept in the outbox"
    was_up = False
    try:
        async with asyncio.timeout(seconds):
            await client.wait_up(CONNECT_PATIENCE)
            was_up = True
            await {"stored": sent.stored, "delivered": sent.delivered, "read": sent.read}[until]()
    except TimeoutError as error:
        if not was_up:
            text = f"no connection within {seconds:g} s. {kept}, and sent by the next command that connects"
            raise _about(sent, ConnectError(text)) from error
        what = (
            f"{kept}, and sent by the next command that connects"
            if sent.seq is None
            else (f"The message {sent.message_id} is {sent.state.value} (seq {sent.seq})")
        )
        raise CommandError(
            f"not {until} within {seconds:g} s. {what}",
            exit_status=TIMED_OUT, code=ErrorCode.TIMEOUT, message_id=sent.message_id,
        ) from error  # fmt: skip
    except QuicmsgError as error:
        raise _about(sent, error, "" if was_up else f". {kept}, and sent once that is cured") from error
    except asyncio.CancelledError:
        if sent.seq is None:
            note(f"interrupted. {kept}")
        raise
    value = {
        "message_id": sent.message_id,
        "conversation": sent.conversation,
        "state": sent.state.value,
        "seq": sent.seq,
    }
    await answer.give(value, f"{sent.state.value} {sent.conversation} {sent.seq} {sent.message_id}")


def _about(sent: Sent, error: QuicmsgError, more: str = "") -> CommandError:
    return CommandError(
        error.message + (more[1:] if error.message[-1:] in ".?!" else more),
        exit_status=error.exit_status, code=error.code, message_id=sent.message_id,
    )  # fmt: skip


# ---- receiving


async def listen(
    options: Options, answer: Answer, count: int | None, mark_read: bool, seconds: float | None
) -> None:
    """Print, then acknowledge."""
    printed = 0
    async with options.connect(foreground=True) as client, _link_notes(client):
        messages = client.messages()
        try:
            async with asyncio.timeout(seconds):
                async for message in messages:
                    await finished(_show(client, answer, messages, message, mark_read))
                    printed += message.kind == Kind.TEXT
                    if printed == count:
                        return
        except TimeoutError as error:
            wanted = "" if count is None else f" of {count}"
            noun = "message" if (count or printed) == 1 else "messages"
            raise CommandError(
                f"{printed}{wanted} {noun} came within {seconds:g} s",
                exit_status=TIMED_OUT, code=ErrorCode.TIMEOUT,
            ) from error  # fmt: skip


async def _show(
    client: Client, answer: Answer, messages: Messages, message: Message, mark_read: bool
) -> None:
    if message.kind == Kind.TEXT:
        await answer.give(cli_text.message_object(message), cli_text.message_line(message))
    messages.acknowledge()
    if mark_read:
        await client.read(message.conversation, message.seq)


async def finished(step: Coroutine[Any, Any, None]) -> None:
    """Await a step that must not be cut in two: a line that was written must also be acknowledged, or it
    is written again. Cancelled, it is finished first, within a bound: the reader may be stuck."""
    task = asyncio.ensure_future(step)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await task
        raise


@contextlib.asynccontextmanager
async def _link_notes(client: Client) -> Any:
    """Say on stderr when the link is lost, found again, or moved."""
    events = client.events()
    task = asyncio.create_task(_tell_link(events))
    try:
        yield
    finally:
        task.cancel()


async def _tell_link(events: Events) -> None:
    async for event in events:
        match event:
            case ConnectionChanged(Connection.DOWN):
                note(f"the connection is down ({event.reason}); trying again")
            case ConnectionChanged(Connection.UP):
                note("connected again")
            case ConnectionChanged(Connection.MOVED):
                note(f"moved to {event.observed_address}, stall {event.stall_ms:.0f} ms")
            case _:
                pass


async def history(
    options: Options, answer: Answer, conversation: str, limit: int, before: int | None
) -> None:
    """From the server; without one, what this device has, and the reason as the error."""
    async with options.connect(timeout=None) as client:
        failure: ConnectError | None = None
        try:
            await client.wait_up(CONNECT_PATIENCE)
        except ConnectError as error:
            failure = error
        for message in await client.history(conversation, before=before, limit=limit):
            await answer.give(cli_text.message_object(message), cli_text.message_line(message))
        if failure is not None:
            raise ConnectError(f"{failure.message}. This is what this device has") from failure


# ---- groups, and about oneself


async def ask(
    options: Options,
    answer: Answer,
    group: str,
    done: str,
    request: Callable[[Client], Coroutine[Any, Any, None]],
) -> None:
    """Ask the server for a change of a group."""
    async with options.connect() as client:
        await request(client)
        await answer.give({"conversation": group, "done": done}, f"{done} {group}")


async def conversations(options: Options, answer: Answer) -> None:
    """As the server says now."""
    async with options.connect(timeout=None) as client:
        events = client.events()
        await client.wait_up(CONNECT_PATIENCE)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_PATIENCE):
                while not isinstance(await anext(events), Synced):
                    pass
        for name in client.conversations():
            await answer.give({"conversation": name}, name)


async def whoami(options: Options, answer: Answer) -> None:
    """What the server takes us for."""
    async with options.connect() as client:
        seen, server = client.observed_address, options.server
        value = {"user": client.user, "device": client.device, "server": server, "observed_address": seen}
        await answer.give(value, f"{client.user} on {server}, device {client.device}, seen at {seen}")


async def link(options: Options, answer: Answer) -> None:
    """A code for another device."""
    async with options.connect() as client:
        code = await client.link_code()
        await answer.give({"code": code, "lifetime_s": LINK_CODE_LIFETIME}, code)
