"""The bookkeeper with an event loop around it: commands that wait, and who is told.

`bookkeeper.py` has what happens to a message; here are the program's calls, each of which waits until what it
asks for is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeVar

from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.client.journal import (
    Cancelled,
    Journal,
    JournalFile,
    MessageRow,
    MessageState,
    Queue,
    Requeued,
)
from quicmsg.client.tracking import Sent, Tracker
from quicmsg.client.values import ClientEvent, State, StateChanged, fresh_message_id
from quicmsg.errors import ErrorCode, QuicmsgError, RefusedError
from quicmsg.protocol.frames import Entry, Kind
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import Outcome

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Postbox(Bookkeeper):
    """The part of a client that needs no connection.

    Args:
        touched: called when the mailbox has something new to say to the server.
    """

    def __init__(
        self, journal: Journal, mailbox: Mailbox, tracker: Tracker, touched: Callable[[], None]
    ) -> None:
        super().__init__(journal, mailbox, touched)
        self.journal = journal
        self.tracker = tracker
        self.arrived = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._commands: set[asyncio.Task[Any]] = set()

    # ---- the program's side: sending

    async def queue(self, conversation: str, body: bytes, message_id: bytes | None) -> Sent:
        """Put a message into the outbox, on the disk. Raises RefusedError (CONFLICT, LIMIT)."""
        return await self._whole(self._queue(conversation, body, message_id))

    async def resend(self, message_id: bytes) -> Sent:
        """By hand, under the same id: a second copy cannot come of it."""
        return await self._whole(self._resend(message_id))

    async def cancel(self, message_id: bytes) -> None:
        """By hand: take it out of the outbox. It may have been stored already."""
        await self._whole(self._cancel(message_id))

    async def _whole(self, command: Coroutine[Any, Any, T]) -> T:
        # The write happens also if the caller is cancelled (a timeout, say) while it waits for it; what
        # follows must then happen as well, or the message is in the journal's outbox and in nobody's line.
        task = self._loop.create_task(command)
        self._commands.add(task)
        task.add_done_callback(self._commands.discard)
        return await asyncio.shield(task)

    async def _queue(self, conversation: str, body: bytes, message_id: bytes | None) -> Sent:
        is_fresh = message_id is None
        message_id = fresh_message_id() if message_id is None else message_id
        sent = self.tracker.handle(message_id, conversation)
        queue = Queue(message_id, conversation, Kind.TEXT, 0, body, time.time_ns() // 1_000_000)
        known = None
        if is_fresh:
            await self.journal.write(queue)
        else:
            # In one step: of two that give the same id at once, only one must find it new.
            known = await self.journal.write_after(partial(_message, message_id), queue)
        if known is None:
            self.queued(conversation, body, message_id, self._loop.time())
        elif known.state is MessageState.STORED:
            reached = State.STORED if known.seq is None else self.reached(conversation, known.seq)
            self._tell_state(message_id, conversation, reached, known.seq)
        elif message_id in self.mailbox.outbox:
            return await self._resend(message_id)  # it waits here already, perhaps failed or rejected
        # Else it was answered, or cancelled, during the write, and that is what there is to tell.
        return sent

    async def _resend(self, message_id: bytes) -> Sent:
        message = self.mailbox.outbox.get(message_id)
        if message is None:
            raise self._not_here(message_id)
        sent = self.tracker.handle(message_id, message.conversation)
        was_rejected = message.outcome is Outcome.REJECTED
        await self.journal.write(Requeued(message_id))
        self.requeued(message_id, self._loop.time(), was_rejected=was_rejected)
        return sent

    async def _cancel(self, message_id: bytes) -> None:
        if message_id not in self.mailbox.outbox:
            raise self._not_here(message_id)
        await self.journal.write(Cancelled(message_id))
        self.cancelled(message_id, self._loop.time())

    # ---- the program's side: receiving

    async def is_repeated(self, conversation: str, entry: Entry) -> bool:
        """After the server's log was restored: was this shown before, under another seq?"""
        if not self.may_be_repeated(conversation, entry):
            return False
        return await self.journal.read(JournalFile.known, entry.message_id, entry.sender)

    async def read(self, conversation: str, position: int, *, public: bool) -> None:
        """Everything up to `position` was read; waits until what was processed is on the disk."""
        if conversation not in self.mailbox.conversations:
            raise RefusedError(f"no conversation {conversation} is known here", code=ErrorCode.UNKNOWN)
        await self.journal.write()  # what was processed before is written, and the mailbox knows
        write = self.read_up_to(conversation, position, public=public)
        if write is not None:
            await self.journal.write(write)
        self._touched()

    async def settle(self) -> None:
        """Wait until everything that was reported so far is written and told."""
        if self._commands:
            await asyncio.wait(self._commands)
        await self.journal.write()

    # ---- private: what to show

    def _tell(self, event: ClientEvent) -> None:
        self.tracker.emit(event)

    def _tell_state(
        self,
        message_id: bytes,
        conversation: str,
        state: State,
        seq: int | None = None,
        reason: str = "",
        code: int | None = None,
    ) -> None:
        sent = self.tracker.find(message_id)
        if sent is not None:
            sent.change(state, seq, reason, code)
        self.tracker.emit(StateChanged(message_id.hex(), conversation, state, seq, reason))

    def _look_again(self) -> None:
        self.arrived.set()

    def _is_fine(self, error: QuicmsgError | None) -> bool:
        if error is not None and self.failure is None:
            logger.error("! the journal failed: %s", error)
        return super()._is_fine(error)

    def _not_here(self, message_id: bytes) -> RefusedError:
        return RefusedError(
            f"no message {message_id.hex()} is in the outbox (see `outbox`)", code=ErrorCode.UNKNOWN
        )


def _message(message_id: bytes, file: JournalFile) -> MessageRow | None:
    return file.message(message_id)
