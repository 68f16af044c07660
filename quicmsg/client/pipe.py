"""`pipe`: the client for programs in any language. Operations come as JSON lines on stdin and are carried out
in their order; what happens leaves as JSON lines on stdout. docs/line-client.md has all of them.

Four tasks: one carries out operations, one prints messages (and acknowledges each once its line is written),
one prints events, one counts what is unanswered. A program that does not read stdout holds up the
acknowledgements and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

from quicmsg import limits
from quicmsg.client.api import Client
from quicmsg.client.cli_commands import finished
from quicmsg.client.cli_options import Options
from quicmsg.client.cli_run import error_object
from quicmsg.client.cli_stdio import LineReader, LineWriter, OutputClosedError
from quicmsg.client.cli_text import encode, event_object, message_object
from quicmsg.client.pipe_operations import (
    Cancel,
    Close,
    Create,
    History,
    Invite,
    Join,
    Leave,
    Migrate,
    Operation,
    Read,
    Resend,
    Send,
    parse,
    ref_of,
)
from quicmsg.client.values import ClientEvent, State, StateChanged, fresh_message_id, parse_message_id
from quicmsg.errors import ProtocolError, QuicmsgError
from quicmsg.protocol.frames import Kind


async def pipe(options: Options) -> int:
    """Run until stdin ends, `close` comes, or the server turns out not to be for us. Returns the status."""
    writer = LineWriter()
    try:
        client = await options.connect(timeout=None, foreground=True)
    except QuicmsgError as error:
        await writer.write(encode({"event": "error"} | error_object(error)))
        return error.exit_status
    try:
        return await Pipe(client, LineReader(size_max=limits.PIPE_LINE_SIZE_MAX), writer).run()
    finally:
        await client.close()


class Pipe:
    """A client between two streams of JSON lines."""

    def __init__(self, client: Client, lines: AsyncIterator[bytes | None], writer: LineWriter) -> None:
        self._client = client
        self._lines = lines
        self._writer = writer
        self._shown_events = client.events()
        self._counted_events = client.events()
        self._refs: OrderedDict[str, Any] = OrderedDict()
        self._unanswered: set[str] = set()
        self._progress = asyncio.Event()
        self._queueing: set[asyncio.Task[None]] = set()
        self._room = asyncio.Semaphore(limits.PIPE_QUEUEING_MAX)
        self._close_ref: Any = None
        self._ending = False

    async def run(self) -> int:
        """Until the input is over and everything sent is answered, or something ends the client."""
        for row in await self._client.outbox():
            if row.state is State.QUEUED:
                self._unanswered.add(row.message_id)
        printing = asyncio.create_task(self._print_events())
        showing = asyncio.create_task(self._print_messages())
        counting = asyncio.create_task(self._count())
        working = asyncio.create_task(self._work())
        error: QuicmsgError | None = None
        try:
            await _first(working, showing, printing)
        except QuicmsgError as raised:
            error = raised
        finally:
            await _cancelled(working, showing, *self._queueing)
            await self._client.close()  # ends the events: those that are left are printed
            self._ending = True
            with contextlib.suppress(TimeoutError, OutputClosedError):
                await printing
            await _cancelled(counting)
        with contextlib.suppress(TimeoutError):
            if error is not None:
                await self._say({"event": "error"} | error_object(error))
            elif self._close_ref is not None:
                await self._done("close", self._close_ref)
        return 0 if error is None else error.exit_status

    # ---- private: in

    async def _work(self) -> None:
        async for line in self._lines:
            if line is not None and not line.strip():
                continue
            try:
                operation = _parse(line)
            except ProtocolError as error:
                await self._error(error, ref_of(line))
                continue
            if isinstance(operation, Send):
                await self._start_sending(operation)
                continue
            # What was sent before is in the outbox before anything else is done.
            await asyncio.gather(*self._queueing)
            if isinstance(operation, Close):
                self._close_ref = operation.ref
                break
            try:
                await self._carry_out(operation)
            except QuicmsgError as error:
                await self._error(error, operation.ref)
        await asyncio.gather(*self._queueing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.FAILED_AFTER):
                await self._answered(0)

    async def _start_sending(self, operation: Send) -> None:
        """Several at a time, because each waits for the disk; they keep their order, because each does the
        same things: whoever begins first is first in the journal's line."""
        await self._answered(limits.PIPE_UNANSWERED_MAX - 1)
        await self._room.acquire()
        task = asyncio.create_task(self._send(operation))
        self._queueing.add(task)
        task.add_done_callback(self._queueing.discard)

    async def _send(self, operation: Send) -> None:
        try:
            made = fresh_message_id() if operation.id is None else parse_message_id(operation.id)
            self._remember(made.hex(), operation.ref)
            await self._client.queue(operation.to, operation.text, message_id=made.hex())
        except QuicmsgError as error:
            await self._error(error, operation.ref)
        finally:
            self._room.release()

    async def _carry_out(self, operation: Operation) -> None:
        client = self._client
        match operation:
            case Read(conversation, seq):
                await client.read(conversation, seq)
            case Migrate(address):
                client.migrate(address)
            case Create(conversation, members, is_open):
                await client.create(conversation, members, open=is_open)
            case Invite(conversation, user):
                await client.invite(conversation, user)
            case Join(conversation):
                await client.join(conversation)
            case Leave(conversation):
                await client.leave(conversation)
            case Resend(message_id):
                self._remember(parse_message_id(message_id).hex(), operation.ref)
                await client.resend(message_id)
                return
            case Cancel(message_id):
                self._remember(parse_message_id(message_id).hex(), operation.ref)
                await client.cancel(message_id)
                return
            case History(conversation, before, limit):
                found = await client.history(conversation, before=before, limit=limit)
                answer = {"event": "history", "conversation": conversation}
                await self._say(_with_ref(answer | {"messages": _texts(found)}, operation.ref))
                return
            case _:
                raise AssertionError(f"{operation} is carried out elsewhere")
        await self._done(type(operation).__name__.lower(), operation.ref)

    # ---- private: out

    async def _print_messages(self) -> None:
        messages = self._client.messages()
        async for message in messages:
            if message.kind == Kind.TEXT:
                await finished(self._show(encode(message_object(message)), messages.acknowledge))

    async def _show(self, line: bytes, acknowledge: Any) -> None:
        await self._writer.write(line)
        acknowledge()

    async def _print_events(self) -> None:
        async for event in self._shown_events:
            batch = [self._line(event)]
            while len(batch) < limits.PIPE_BATCH_MAX and (more := self._shown_events.get_nowait()):
                batch.append(self._line(more))
            # At the end a reader that has stopped reading is not waited for.
            async with asyncio.timeout(limits.CLOSE_TIMEOUT if self._ending else None):
                await self._writer.write(*batch)

    def _line(self, event: ClientEvent) -> bytes:
        found = event_object(event)
        if isinstance(event, StateChanged):
            found = _with_ref(found, self._refs.get(event.message_id))
            if event.state in (State.READ, State.CANCELLED):
                self._refs.pop(event.message_id, None)
        return encode(found)

    async def _done(self, operation: str, ref: Any) -> None:
        await self._say(_with_ref({"event": "done", "op": operation}, ref))

    async def _error(self, error: QuicmsgError, ref: Any) -> None:
        await self._say(_with_ref({"event": "error"} | error_object(error), ref))

    async def _say(self, value: dict[str, Any]) -> None:
        async with asyncio.timeout(limits.CLOSE_TIMEOUT if self._ending else None):
            await self._writer.write(encode(value))

    # ---- private: what is unanswered

    async def _count(self) -> None:
        async for event in self._counted_events:
            self._count_one(event)

    def _count_one(self, event: ClientEvent) -> None:
        if isinstance(event, StateChanged):
            if event.state is State.QUEUED:
                self._unanswered.add(event.message_id)
            else:
                self._unanswered.discard(event.message_id)
                self._progress.set()

    async def _answered(self, at_most: int) -> None:
        """Wait until no more than this many messages are without an answer."""
        while (event := self._counted_events.get_nowait()) is not None:
            self._count_one(event)  # what was queued just now counts, too
        while len(self._unanswered) > at_most:
            self._progress.clear()
            await self._progress.wait()

    def _remember(self, message_id: str, ref: Any) -> None:
        if ref is not None:
            self._refs[message_id] = ref
            self._refs.move_to_end(message_id)
            if len(self._refs) > limits.PIPE_REFS_MAX:
                self._refs.popitem(last=False)


def _parse(line: bytes | None) -> Operation:
    if line is None:
        raise ProtocolError(f"a line of more than {limits.PIPE_LINE_SIZE_MAX} bytes: it was skipped")
    return parse(line)


def _with_ref(value: dict[str, Any], ref: Any) -> dict[str, Any]:
    return value if ref is None else value | {"ref": ref}


def _texts(messages: list[Any]) -> list[dict[str, Any]]:
    return [message_object(message) for message in messages]


async def _first(*tasks: asyncio.Task[None]) -> None:
    """Wait until one of them is over; raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def _cancelled(*tasks: asyncio.Task[None]) -> None:
    """Cancel them, and wait until they are over; what they raised was told, or is not worth telling now."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
