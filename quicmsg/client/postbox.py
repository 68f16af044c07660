"""Mailbox, journal and program brought together: what happened is written down, then told.

The order is the guarantee: a message enters the mailbox's outbox after its row is on the disk; it is
shown as stored after that is on the disk; an entry is acknowledged after the program has processed it
and that is on the disk.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from quicmsg.client.journal import (
    Cancelled,
    Conversation,
    Cursor,
    Journal,
    JournalFile,
    Left,
    MessageState,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Rejected,
    Requeued,
    Reset,
    Snapshot,
    Stored,
    Write,
)
from quicmsg.client.tracking import Sent, Tracker
from quicmsg.client.values import (
    ConversationLost,
    MemberChanged,
    ReceiptChanged,
    State,
    StateChanged,
    Synced,
    fresh_message_id,
)
from quicmsg.errors import ErrorCode, QuicmsgError, RefusedError
from quicmsg.protocol import events
from quicmsg.protocol.conversation import Conversation as Known
from quicmsg.protocol.frames import Entry, Kind
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import OutboxMessage, Outcome

logger = logging.getLogger(__name__)
T = TypeVar("T")
_CHANGES = {Kind.CREATED: "created", Kind.JOINED: "joined", Kind.LEFT: "left"}


class Postbox:
    """The part of a client that needs no connection.

    Args:
        touched: called when the mailbox has something new to say to the server.
    """

    def __init__(
        self, journal: Journal, mailbox: Mailbox, tracker: Tracker, touched: Callable[[], None]
    ) -> None:
        self.mailbox = mailbox
        self.journal = journal
        self.tracker = tracker
        self.arrived = asyncio.Event()
        self.failure: QuicmsgError | None = None
        self._touched = touched
        # Conversations of which an entry is with a consumer, and the epoch of the log that it came from.
        self._out: dict[str, int] = {}
        self._loop = asyncio.get_running_loop()
        self._cancelled: set[bytes] = set()
        self._commands: set[asyncio.Task[Any]] = set()
        self._ticks: deque[events.PositionsChanged] = deque()
        self._ticking: asyncio.Task[None] | None = None

    def load(self, snapshot: Snapshot) -> None:
        """Fill the mailbox with what the journal had."""
        self.mailbox.epoch, self.mailbox.cursor = snapshot.epoch, snapshot.cursor
        self.mailbox.account_head = snapshot.cursor
        for row in snapshot.conversations:
            known = Known(
                row.name,
                epoch=row.epoch,
                position=row.position,
                head=row.head,
                oldest=row.oldest,
                stale=row.stale,
                owed=row.owed,
                read=row.read,
                read_public=row.read_public,
            )
            for user, delivered, read in row.members:
                known.members[user] = (delivered, read)
            own = known.members.get(self.mailbox.user, (0, 0))
            known.told, known.read_told = own
            self.mailbox.restore(known)
        now = self._loop.time()
        for row_ in snapshot.outbox:
            outcome = Outcome.REJECTED if row_.state is MessageState.REJECTED else Outcome.QUEUED
            self.mailbox.submit(
                OutboxMessage(
                    row_.message_id, row_.conversation, row_.kind, row_.encoding, row_.body, now, outcome
                ),
                now,
            )

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
        if message_id is None:
            message_id = fresh_message_id()
        else:
            known = await self.journal.read(JournalFile.message, message_id)
            if known is not None and known.state is MessageState.STORED:
                if (known.conversation, known.body) != (conversation, body):
                    raise RefusedError(
                        f"the id {message_id.hex()} belongs to another message", code=ErrorCode.CONFLICT
                    )
                sent = self.tracker.handle(message_id, conversation)
                self._state(message_id, conversation, State.STORED, known.seq)
                return sent
        sent = self.tracker.handle(message_id, conversation)
        await self.journal.write(
            Queue(message_id, conversation, Kind.TEXT, 0, body, time.time_ns() // 1_000_000)
        )
        if message_id in self.mailbox.outbox:
            return await self._resend(message_id)  # it waits here already, perhaps failed or rejected
        now = self._loop.time()
        self.mailbox.submit(OutboxMessage(message_id, conversation, Kind.TEXT, 0, body, now), now)
        self._state(message_id, conversation, State.QUEUED)
        self._touched()
        return sent

    async def _resend(self, message_id: bytes) -> Sent:
        message = self.mailbox.outbox.get(message_id)
        if message is None:
            raise self._not_here(message_id)
        sent = self.tracker.handle(message_id, message.conversation)
        await self.journal.write(Requeued(message_id))
        # It may have been answered, or cancelled, during the write: then that is what there is to tell.
        if self.mailbox.resend(message_id, self._loop.time()) is not None:
            self._state(message_id, message.conversation, State.QUEUED)
            self._touched()
        return sent

    async def _cancel(self, message_id: bytes) -> None:
        message = self.mailbox.outbox.get(message_id)
        if message is None:
            raise self._not_here(message_id)
        await self.journal.write(Cancelled(message_id))
        if self.mailbox.outbox.cancel(message_id, self._loop.time()) is not None:
            self._cancelled.add(message_id)
            self._state(message_id, message.conversation, State.CANCELLED)

    # ---- the program's side: receiving

    def take(self, conversation: str | None) -> tuple[str, Entry] | None:
        """The next entry that the program should see; what is not for it is processed here.

        Until it is `processed` or `put_back`, nobody gets another of its conversation: a position is all that
        is kept, and the later entry's would pass over the earlier one.
        """
        while (item := self.mailbox.take(conversation, skip=self._out)) is not None:
            name, entry = item
            if entry.kind == Kind.TEXT or entry.kind not in _CHANGES:
                self._out[name] = self.mailbox.conversations[name].epoch
                return item
            user = entry.body.decode("utf-8", "replace") or entry.sender
            change = _CHANGES[Kind(entry.kind)]
            self.tracker.emit(MemberChanged(name, entry.seq, user, change))
            self.processed(name, entry)
        return None

    def put_back(self, conversation: str, entry: Entry) -> None:
        """It was taken, but not processed: it comes again."""
        found = self.mailbox.conversations[conversation]
        # Of a log that was replaced, or forgotten so far, since: the server tells what is there now.
        if self._out.pop(conversation) == found.epoch and found.taken == entry.seq:
            self.mailbox.put_back(conversation, entry)
        self.arrived.set()

    async def is_repeated(self, conversation: str, entry: Entry) -> bool:
        """After the server's log was restored: was this shown before, under another seq?"""
        if entry.seq > self.mailbox.conversations[conversation].resync_until:
            return False
        return await self.journal.read(JournalFile.known, entry.message_id, entry.sender)

    def processed(self, conversation: str, entry: Entry) -> None:
        """The program is done with it: write that down, then acknowledge."""
        position = self.mailbox.position_after(conversation, entry.seq)
        epoch = self._out.pop(conversation, self.mailbox.conversations[conversation].epoch)
        self.arrived.set()

        def durable(error: QuicmsgError | None) -> None:
            if self._is_fine(error):
                self.mailbox.processed(conversation, position, epoch)
                self._touched()

        self.journal.post(Processed(conversation, position, (entry,), epoch), durable)

    async def read(self, conversation: str, position: int, *, public: bool) -> None:
        """Everything up to `position` was read; waits until what was processed is on the disk."""
        if conversation not in self.mailbox.conversations:
            raise RefusedError(f"no conversation {conversation} is known here", code=ErrorCode.UNKNOWN)
        await self.journal.write()  # what was processed before is written, and the mailbox knows
        reached = self.mailbox.read(conversation, position, public=public)
        await self.journal.write(ReadUpTo(conversation, reached, public))
        self._touched()

    # ---- what happened

    def drain(self) -> None:
        """Handle what the mailbox reports."""
        while (event := self.mailbox.next_event()) is not None:
            self._handle(event)

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.EntriesArrived():
                self.arrived.set()
            case events.MessageStored():
                self._stored(event)
            case events.MessageRejected():
                self._rejected(event)
            case events.MessageFailed():
                self._state(
                    event.message_id,
                    event.conversation,
                    State.FAILED,
                    None,
                    "not confirmed in time",
                    ErrorCode.TIMEOUT,
                )
            case events.PositionsChanged():
                self._positions(event)
            case events.ConversationChanged():
                self._post(
                    Conversation(event.conversation, event.epoch, event.head, event.oldest, event.stale)
                )
            case events.ConversationReset():
                self._post(Reset(event.conversation, event.epoch, event.position))
            case events.ConversationRefused():
                self._post(Left(event.conversation))
                self.tracker.emit(ConversationLost(event.conversation, event.text))
            case events.CursorMoved():
                self._post(Cursor(event.epoch, event.cursor))
                if event.whole:
                    self.tracker.emit(Synced())
            case _:
                raise AssertionError(f"a mailbox reported {event}")

    def _rejected(self, event: events.MessageRejected) -> None:
        def durable(error: QuicmsgError | None) -> None:
            # Told only now: else a crash could send what was called refused for good.
            if self._is_fine(error):
                self._state(
                    event.message_id, event.conversation, State.REJECTED, None, event.text, event.code
                )

        self.journal.post(Rejected(event.message_id, event.code, event.text), durable)

    def _stored(self, event: events.MessageStored) -> None:
        epoch = self.mailbox.conversations[event.conversation].epoch

        def durable(error: QuicmsgError | None) -> None:
            late = event.message_id in self._cancelled
            if self._is_fine(error) and (event.known or late):
                self._cancelled.discard(event.message_id)
                self._state(event.message_id, event.conversation, State.STORED, event.seq)

        self.journal.post(Stored(event.message_id, event.seq, event.stored_at_ms, epoch), durable)
        entries = () if event.entry is None else (event.entry,)
        self._post(Processed(event.conversation, event.position, entries, epoch))
        if event.entry is not None and event.entry.kind in _CHANGES:
            user = event.entry.body.decode("utf-8", "replace") or event.entry.sender
            change = _CHANGES[Kind(event.entry.kind)]
            self.tracker.emit(MemberChanged(event.conversation, event.seq, user, change))

    def _positions(self, event: events.PositionsChanged) -> None:
        members = tuple((m.user, m.delivered, m.read) for m in event.members)
        self._post(Positions(event.conversation, members, event.whole))
        for member in event.members:
            if member.user != self.mailbox.user:
                self.tracker.emit(
                    ReceiptChanged(event.conversation, member.user, member.delivered, member.read)
                )
        if event.delivered_to > event.delivered_from or event.read_to > event.read_from:
            self._ticks.append(event)
            if self._ticking is None or self._ticking.done():
                self._ticking = self._loop.create_task(self._tick())

    async def _tick(self) -> None:
        """Positions into ticks of single messages; in order, since the journal answers in order."""
        while self._ticks:
            event = self._ticks.popleft()
            for state, after, up_to in (
                (State.DELIVERED, event.delivered_from, event.delivered_to),
                (State.READ, event.read_from, event.read_to),
            ):
                if up_to > after:
                    rows = await self.journal.read(JournalFile.own_between, event.conversation, after, up_to)
                    for message_id, seq in rows:
                        self._state(message_id, event.conversation, state, seq)

    async def settle(self) -> None:
        """Wait until everything that was reported so far is written and told."""
        if self._commands:
            await asyncio.wait(self._commands)
        await self.journal.write()
        if self._ticking is not None:
            await self._ticking

    # ---- private

    def _state(
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

    def _post(self, write: Write) -> None:
        self.journal.post(write, self._is_fine)

    def _is_fine(self, error: QuicmsgError | None) -> bool:
        """A journal that cannot be written ends the client: nothing may be promised any more."""
        if error is None:
            return True
        if self.failure is None:
            logger.error("! the journal failed: %s", error)
            self.failure = error
            self.arrived.set()
            self._touched()
        return False

    def _not_here(self, message_id: bytes) -> RefusedError:
        return RefusedError(
            f"no message {message_id.hex()} is in the outbox (see `outbox`)", code=ErrorCode.UNKNOWN
        )
