"""Between mailbox and journal: what happened is written down, then told. No asyncio, no clock.

The order is the guarantee: a message enters the mailbox's outbox after its row is on the disk; it is shown as
stored after that is on the disk; an entry is acknowledged after the program has processed it and that is on
the disk. `Postbox` puts an event loop around it, the simulation a disk that crashes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeVar

from quicmsg.client.journal_file import JournalFile
from quicmsg.client.journal_writes import (
    Conversation,
    ConversationRow,
    Cursor,
    Left,
    MessageState,
    Positions,
    Processed,
    ReadUpTo,
    Rejected,
    Reset,
    Snapshot,
    Stored,
    Write,
)
from quicmsg.client.values import (
    ClientEvent,
    ConversationLost,
    MemberChanged,
    ReceiptChanged,
    State,
    Synced,
)
from quicmsg.errors import ErrorCode, QuicmsgError
from quicmsg.limits import CANCELLED_MAX, SEQ_MAX
from quicmsg.protocol import events
from quicmsg.protocol.conversation import Conversation as Known
from quicmsg.protocol.frames import Entry, Kind
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import OutboxMessage, Outcome

T = TypeVar("T")
CHANGES = {Kind.CREATED: "created", Kind.JOINED: "joined", Kind.LEFT: "left"}


class Recorder(Protocol):
    """The journal, as far as it is needed here: everything is done and answered in the order of asking."""

    def post(self, write: Write, callback: Callable[[QuicmsgError | None], object] | None = None) -> None:
        """Commit; `callback` gets None once it is durable, else the error."""
        ...

    def ask(
        self,
        question: Callable[[JournalFile], T],
        callback: Callable[[T | None, QuicmsgError | None], object],
    ) -> None:
        """Ask a question; the answer has everything that was written before."""
        ...


class Bookkeeper:
    """What a client does that needs neither a connection nor an event loop. Subclasses are told what to show.

    Args:
        touched: called when the mailbox has something new to say to the server.
    """

    def __init__(self, recorder: Recorder, mailbox: Mailbox, touched: Callable[[], None]) -> None:
        self.mailbox = mailbox
        self.failure: QuicmsgError | None = None
        self._recorder = recorder
        self._touched = touched
        # Conversations of which an entry is with a consumer, and the epoch of the log that it came from.
        self._out: dict[str, int] = {}
        self._cancelled: dict[bytes, None] = {}  # as an ordered set

    # ---- for subclasses: what to show

    def _tell(self, event: ClientEvent) -> None:
        """Something that a program may want to know."""
        raise AssertionError("a subclass knows whom to tell")

    def _tell_state(
        self,
        message_id: bytes,
        conversation: str,
        state: State,
        seq: int | None = None,
        reason: str = "",
        code: int | None = None,
    ) -> None:
        """A message of ours is in another state."""
        raise AssertionError("a subclass knows whom to tell")

    def _look_again(self) -> None:
        """There may be something to take, or a failure to see."""

    # ---- construct

    def load(self, snapshot: Snapshot, now: float) -> None:
        """Fill the mailbox with what the journal had."""
        mailbox = self.mailbox
        mailbox.epoch, mailbox.cursor = snapshot.epoch, snapshot.cursor
        mailbox.account_head = snapshot.cursor
        for row in snapshot.conversations:
            mailbox.restore(_known(row, mailbox.user))
        for row_ in snapshot.outbox:
            outcome = Outcome.REJECTED if row_.state is MessageState.REJECTED else Outcome.QUEUED
            mailbox.submit(
                OutboxMessage(
                    row_.message_id, row_.conversation, row_.kind, row_.encoding, row_.body, now, outcome
                ),
                now,
            )

    def reached(self, conversation: str, seq: int) -> State:
        """How far a message of ours that is stored as `seq` has come."""
        known = self.mailbox.conversations.get(conversation)
        if known is not None and seq <= known.read_mark:
            return State.READ
        return State.DELIVERED if known is not None and seq <= known.delivered_mark else State.STORED

    # ---- the program's side: its command is on the disk

    def queued(self, conversation: str, body: bytes, message_id: bytes, now: float) -> None:
        """The row is in the journal's outbox: into the line. It must not be in the mailbox's outbox."""
        self.mailbox.submit(OutboxMessage(message_id, conversation, Kind.TEXT, 0, body, now), now)
        self._tell_state(message_id, conversation, State.QUEUED)
        self._touched()

    def requeued(self, message_id: bytes, now: float, *, was_rejected: bool) -> bool:
        """Its row is to be sent again; `was_rejected`: when that was asked for. False: it was answered,
        cancelled or rejected during the write; then that is what there is to tell."""
        found = self.mailbox.outbox.get(message_id)
        if found is not None and found.outcome is Outcome.REJECTED and not was_rejected:
            return False  # which is in the journal behind what was asked for, and holds after a crash
        message = self.mailbox.resend(message_id, now)
        if message is None:
            return False
        self._tell_state(message_id, message.conversation, State.QUEUED)
        self._touched()
        return True

    def cancelled(self, message_id: bytes, now: float) -> bool:
        """Its row is out of the journal's outbox. False: it was answered during the write."""
        message = self.mailbox.outbox.cancel(message_id, now)
        if message is None:
            return False
        self._cancelled[message_id] = None
        if len(self._cancelled) > CANCELLED_MAX:
            del self._cancelled[next(iter(self._cancelled))]
        self._tell_state(message_id, message.conversation, State.CANCELLED)
        return True

    # ---- the program's side: receiving

    def read_up_to(self, conversation: str, position: int, *, public: bool) -> ReadUpTo | None:
        """What was processed before is on the disk; returns what is to be written about the reading. (Who
        reads in private, and then something older publicly, has made nothing public by it.)"""
        known = self.mailbox.conversations[conversation]
        before = known.read
        if self.mailbox.read(conversation, position, public=public) == before:
            return None
        return ReadUpTo(conversation, known.read, known.read_public)

    def take(self, conversation: str | None = None) -> tuple[str, Entry] | None:
        """The next entry that the program should see; what is not for it is processed here.

        Until it is `processed` or `put_back`, nobody gets another of its conversation: a position is all that
        is kept, and the later entry's would pass over the earlier one.
        """
        while (item := self.mailbox.take(conversation, skip=self._out)) is not None:
            name, entry = item
            if entry.kind == Kind.TEXT or entry.kind not in CHANGES:
                self._out[name] = self.mailbox.conversations[name].epoch
                return item
            self._tell_change(name, entry)
            self.processed(name, entry)
        return None

    def put_back(self, conversation: str, entry: Entry) -> None:
        """It was taken, but not processed: it comes again."""
        found = self.mailbox.conversations[conversation]
        # Of a log that was replaced, or forgotten so far, since: the server tells what is there now.
        if self._out.pop(conversation) == found.epoch and found.taken == entry.seq:
            self.mailbox.put_back(conversation, entry)
        self._look_again()

    def may_be_repeated(self, conversation: str, entry: Entry) -> bool:
        """After the server's log was restored: must the journal be asked whether it knows this entry?"""
        return entry.seq <= self.mailbox.conversations[conversation].resync_until

    def processed(self, conversation: str, entry: Entry) -> None:
        """The program is done with it: write that down, then acknowledge."""
        position = self.mailbox.position_after(conversation, entry.seq)
        epoch = self._out.pop(conversation, self.mailbox.conversations[conversation].epoch)
        self._look_again()

        def durable(error: QuicmsgError | None) -> None:
            if self._is_fine(error):
                self.mailbox.processed(conversation, position, epoch)
                self._touched()

        self._recorder.post(Processed(conversation, position, (entry,), epoch), durable)

    # ---- what happened

    def drain(self) -> None:
        """Handle what the mailbox reports."""
        while (event := self.mailbox.next_event()) is not None:
            self._handle(event)

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.EntriesArrived():
                self._look_again()
            case events.MessageStored():
                self._stored(event)
            case events.MessageRejected():
                self._rejected(event)
            case events.MessageFailed():
                reason = "not confirmed in time"
                self._tell_state(
                    event.message_id, event.conversation, State.FAILED, None, reason, ErrorCode.TIMEOUT
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
                self._tell(ConversationLost(event.conversation, event.text))
            case events.CursorMoved():
                self._post(Cursor(event.epoch, event.cursor))
                if event.whole:
                    self._tell(Synced())
            case _:
                raise AssertionError(f"a mailbox reported {event}")

    def _rejected(self, event: events.MessageRejected) -> None:
        def durable(error: QuicmsgError | None) -> None:
            # Told only now: else a crash could send what was called refused for good.
            if self._is_fine(error):
                self._tell_state(
                    event.message_id, event.conversation, State.REJECTED, None, event.text, event.code
                )

        self._recorder.post(Rejected(event.message_id, event.code, event.text), durable)

    def _stored(self, event: events.MessageStored) -> None:
        epoch = self.mailbox.conversations[event.conversation].epoch

        def durable(error: QuicmsgError | None) -> None:
            late = event.message_id in self._cancelled
            if self._is_fine(error) and (event.known or late):
                self._cancelled.pop(event.message_id, None)
                self._tell_state(event.message_id, event.conversation, State.STORED, event.seq)

        def kept(error: QuicmsgError | None) -> None:
            if self._is_fine(error):
                self.mailbox.own_kept(event.conversation, event.position, epoch)
                self._touched()

        self._recorder.post(Stored(event.message_id, event.seq, event.stored_at_ms, epoch), durable)
        entries = () if event.entry is None else (event.entry,)
        processed = Processed(event.conversation, event.position, entries, epoch)
        self._recorder.post(processed, kept)
        if event.entry is not None and event.entry.kind in CHANGES:
            self._tell_change(event.conversation, event.entry)

    def _positions(self, event: events.PositionsChanged) -> None:
        members = tuple((m.user, m.delivered, m.read) for m in event.members)
        self._post(Positions(event.conversation, members, event.whole, event.delivered_to, event.read_to))
        for member in event.members:
            if member.user != self.mailbox.user:
                self._tell(ReceiptChanged(event.conversation, member.user, member.delivered, member.read))
        for state, after, up_to in (
            (State.DELIVERED, event.delivered_from, event.delivered_to),
            (State.READ, event.read_from, event.read_to),
        ):
            if up_to > after:
                self._recorder.ask(
                    partial(_own_between, event.conversation, after, up_to),
                    partial(self._tick, event.conversation, state),
                )

    def _tick(
        self,
        conversation: str,
        state: State,
        own: list[tuple[bytes, int]] | None,
        error: QuicmsgError | None,
    ) -> None:
        """Positions into ticks of single messages; in order, since the journal answers in order."""
        if self._is_fine(error):
            for message_id, seq in own or ():
                self._tell_state(message_id, conversation, state, seq)

    # ---- private

    def _tell_change(self, conversation: str, entry: Entry) -> None:
        user = entry.body.decode("utf-8", "replace") or entry.sender
        self._tell(MemberChanged(conversation, entry.seq, user, CHANGES[Kind(entry.kind)]))

    def _post(self, write: Write) -> None:
        self._recorder.post(write, self._is_fine)

    def _is_fine(self, error: QuicmsgError | None) -> bool:
        """A journal that cannot be written ends the client: nothing may be promised any more."""
        if error is None:
            return True
        if self.failure is None:
            self.failure = error
            self._look_again()
            self._touched()
        return False


def _known(row: ConversationRow, user: str) -> Known:
    """A conversation as the journal had it."""
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
        resync_until=SEQ_MAX if row.resync else 0,
        delivered_mark=row.delivered_mark,
        read_mark=row.read_mark,
        own=set(row.own),
    )
    known.members.update((name, (delivered, read)) for name, delivered, read in row.members)
    known.told, known.read_told = known.members.get(user, (0, 0))
    if row.gone:
        # Nobody is to be told or asked anything; but should it come back, its epoch and position are known.
        known.head, known.stale, known.lost = row.position, False, True
        known.read_told = known.read
    return known


def _own_between(conversation: str, after: int, up_to: int, file: JournalFile) -> list[tuple[bytes, int]]:
    return file.own_between(conversation, after, up_to)
