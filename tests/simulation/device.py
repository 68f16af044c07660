"""A client of a world: the real mailbox and sessions, and what their shell does, in simulated time.

It mirrors `quicmsg/client/postbox.py` and `connector.py`, and keeps to the order that is the guarantee there:
a message enters the mailbox once its row is durable; it is shown as stored once that is durable; an entry is
acknowledged once the program has processed it and that is durable.
"""

from __future__ import annotations

from random import Random

from quicmsg import limits
from quicmsg.client.journal_writes import (
    Cancelled,
    Conversation,
    Cursor,
    Left,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Rejected,
    Requeued,
    Reset,
    Stored,
)
from quicmsg.protocol import events
from quicmsg.protocol.client import Request
from quicmsg.protocol.conversation import Conversation as Known
from quicmsg.protocol.frames import Entry, Kind
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import OutboxMessage, Outcome
from simulation.connected import Connected
from simulation.history import History
from simulation.journal import JournalDisk, JournalState
from simulation.kernel import Kernel, Timer
from simulation.network import Network


class Device(Connected):
    """One device of a user: its disk, its process, its place in the network.

    Attributes:
        thinking: seconds that the program needs for one message; `reads`: the chance that it reads it.
    """

    def __init__(
        self, user: str, number: int, kernel: Kernel, network: Network, random: Random, history: History
    ) -> None:
        super().__init__(user, number, kernel, network, random, history)
        self.state = JournalState(self.name, self.device, history)
        self.disk = JournalDisk(kernel, random, self.state)
        self.thinking = 0.001
        self.reads = 0.0
        self.reads_publicly = True
        self._outbox_timer: Timer | None = None
        self._cancelled: set[bytes] = set()
        self._busy = False

    # ---- life

    def start(self) -> None:
        self.running = True
        self._life += 1
        self.mailbox = Mailbox(self.user, self.device)
        self._load()
        self._history.note("started", self.name)
        self._drain()
        self._connect()
        self._think()

    def crash(self) -> None:
        """kill -9: what is not on the disk is gone."""
        if not self.running:
            return
        self._history.note("crashed", self.name)
        self.running = False
        self._life += 1
        self.disk.crash()
        self._drop_links()
        self._cancelled.clear()
        self._busy = False
        if self._outbox_timer is not None:
            self._outbox_timer.cancel()
            self._outbox_timer = None

    # ---- what a person does

    def send(self, conversation: str, body: bytes, message_id: bytes) -> None:
        life = self._life

        def durable() -> None:
            if life == self._life and message_id not in self.mailbox.outbox:
                now = self._kernel.now
                self.mailbox.submit(OutboxMessage(message_id, conversation, Kind.TEXT, 0, body, now), now)
                self._touched()

        self.disk.write(Queue(message_id, conversation, Kind.TEXT, 0, body, 1), done=durable)

    def resend(self, message_id: bytes) -> None:
        life = self._life

        def durable() -> None:
            if life == self._life:
                self.mailbox.resend(message_id, self._kernel.now)
                self._history.note("resent", self.name, message_id)
                self._touched()

        message = self.mailbox.outbox.get(message_id)
        if message is not None:
            written = message.outcome is not Outcome.REJECTED and message.channel is not None
            self.disk.write(Requeued(message_id), done=durable)
            if written:
                self._race()

    def cancel(self, message_id: bytes) -> None:
        life = self._life

        def durable() -> None:
            if life == self._life and message_id in self.mailbox.outbox:
                self.mailbox.outbox.cancel(message_id, self._kernel.now)
                self._cancelled.add(message_id)
                self._touched()

        if message_id in self.mailbox.outbox:
            self.disk.write(Cancelled(message_id), done=durable)

    def read(self, conversation: str, seq: int, *, public: bool = True) -> None:
        life = self._life

        def processed_is_durable() -> None:
            if life == self._life:
                reached = self.mailbox.read(conversation, seq, public=public)
                if public:
                    epoch = self.mailbox.conversations[conversation].epoch
                    self._history.note("read", self.name, conversation, epoch, reached)
                self.disk.write(ReadUpTo(conversation, reached, public), done=self._touched)

        if conversation in self.mailbox.conversations:
            self.disk.write(done=processed_is_durable)

    def request(self, make: type[Request], *arguments: object) -> None:
        """Ask on channel 0, if there is a connection."""
        if self.session is not None and self.is_up:
            self.session.request(make(self._random.getrandbits(62), *arguments))
            self._touched()

    # ---- private: the disk

    def _load(self) -> None:
        state, mailbox = self.state, self.mailbox
        mailbox.epoch, mailbox.cursor = state.epoch, state.cursor
        mailbox.account_head = state.cursor
        for name, row in sorted(state.rows.items()):
            known = Known(
                name, epoch=row.epoch, position=row.position, head=row.head, oldest=row.oldest,
                stale=row.stale, owed=self._owed(name), read=row.read, read_public=row.read_public,
            )  # fmt: skip
            known.members.update(row.members)
            if row.gone:
                # Left; but should it come back, its epoch and position must be known.
                known.head, known.stale, known.owed = row.position, False, 0
                known.read = 0
            if row.resync:
                known.resync_until = limits.SEQ_MAX
            known.told, known.read_told = known.members.get(self.user, (0, 0))
            mailbox.restore(known)
        now = self._kernel.now
        for queue, rejected in state.outbox.values():
            outcome = Outcome.REJECTED if rejected else Outcome.QUEUED
            mailbox.submit(
                OutboxMessage(
                    queue.message_id, queue.conversation, queue.kind, 0, queue.body, now, outcome
                ),
                now,
            )  # fmt: skip

    def _owed(self, conversation: str) -> int:
        return self.state.owed(conversation, self.user)

    # ---- private: the mailbox

    def _touched(self) -> None:
        if not self.running:
            return
        if self.session is not None and self.link is not None:
            self.session.service(self._kernel.now)
            self.on_input(self.link)
            if self.link is not None:
                self._network.touch(self.link.client)
        self._drain()

    def _drain(self) -> None:
        while (event := self.mailbox.next_event()) is not None:
            self._handle(event)
        self._arm()

    def _handle(self, event: events.Event) -> None:
        match event:
            case events.EntriesArrived():
                self._kernel.call_later(0.0, self._think)
            case events.MessageStored():
                self._stored(event)
            case events.MessageRejected():
                self.disk.write(
                    Rejected(event.message_id, event.code, event.text), done=lambda: self._rejected(event)
                )
            case events.MessageFailed():
                self._history.note("failed", self.name, event.message_id)
            case events.PositionsChanged():
                self._positions(event)
            case events.ConversationChanged():
                self.disk.write(
                    Conversation(event.conversation, event.epoch, event.head, event.oldest, event.stale)
                )
            case events.ConversationReset():
                self._history.note("reset", self.name, event.conversation, event.epoch, event.position)
                self.disk.write(Reset(event.conversation, event.epoch, event.position))
            case events.ConversationRefused():
                self.disk.write(Left(event.conversation))
            case events.CursorMoved():
                self.disk.write(Cursor(event.epoch, event.cursor))
            case _:
                raise AssertionError(f"a mailbox reported {event}")

    def _rejected(self, event: events.MessageRejected) -> None:
        self._history.note("rejected", self.name, event.conversation, event.message_id, event.text)

    def _stored(self, event: events.MessageStored) -> None:
        epoch = self.mailbox.conversations[event.conversation].epoch

        def durable() -> None:
            if event.known or event.message_id in self._cancelled:
                self._cancelled.discard(event.message_id)
                self._history.note(
                    "stored", self.name, event.conversation, epoch, event.seq, event.message_id
                )

        self.disk.write(Stored(event.message_id, event.seq, event.stored_at_ms, epoch), done=durable)
        entries = () if event.entry is None else (event.entry,)
        self.disk.write(Processed(event.conversation, event.position, entries, epoch))

    def _positions(self, event: events.PositionsChanged) -> None:
        members = tuple((m.user, m.delivered, m.read) for m in event.members)
        self.disk.write(Positions(event.conversation, members, event.whole))
        epoch = self.mailbox.conversations[event.conversation].epoch
        for state, after, up_to in (
            ("delivered", event.delivered_from, event.delivered_to),
            ("read", event.read_from, event.read_to),
        ):
            if up_to > after:
                self._tick(event.conversation, epoch, state, after, up_to)

    def _tick(self, conversation: str, epoch: int, state: str, after: int, up_to: int) -> None:
        def written() -> None:
            row = self.state.rows.get(conversation)
            if row is None or row.epoch != epoch:
                return
            for message_id, seq in self.state.own_between(conversation, after, up_to):
                self._history.note("tick", self.name, conversation, epoch, seq, message_id, state)

        self.disk.write(done=written)

    def _arm(self) -> None:
        due = self.mailbox.outbox.get_timer()
        timer = self._outbox_timer
        if timer is not None:
            if due is not None and timer.when <= due and timer.function is not None:
                return
            timer.cancel()
            self._outbox_timer = None
        if due is not None and self.running:
            self._outbox_timer = self._kernel.call_at(due, self._escalate)

    def _escalate(self) -> None:
        self._outbox_timer = None
        steps = self.mailbox.escalate(self._kernel.now)
        if steps and self.session is not None:
            self._history.note("escalated", self.name, sorted(step.value for step in steps))
            self.session.doubt(steps, self._kernel.now)
        self._touched()

    # ---- private: the program

    def _think(self) -> None:
        """Take the next entry, if the program is free; show it; be done with it after a while."""
        while self.running and not self._busy and (item := self.mailbox.take()) is not None:
            name, entry = item
            epoch = self.mailbox.conversations[name].epoch
            if entry.kind != Kind.TEXT:
                self._processed(name, entry, epoch)
            elif self._is_repeated(name, entry):
                self._history.note("repeated", self.name, name, epoch, entry.seq, entry.message_id)
                self._processed(name, entry, epoch)
            else:
                self._history.note("shown", self.name, name, epoch, entry.seq, entry.message_id, entry.body)
                self._busy = True
                thinking = self._random.uniform(0.0, self.thinking)
                self._kernel.call_later(thinking, self._done, self._life, name, entry, epoch)

    def _is_repeated(self, name: str, entry: Entry) -> bool:
        if entry.seq > self.mailbox.conversations[name].resync_until:
            return False
        return entry.message_id in self.state.messages or entry.message_id in self.disk.pending_ids()

    def _done(self, life: int, name: str, entry: Entry, epoch: int) -> None:
        if life != self._life:
            return
        self._busy = False
        self._processed(name, entry, epoch)
        if self._random.random() < self.reads:
            self.read(name, entry.seq, public=self.reads_publicly)
        self._think()

    def _processed(self, name: str, entry: Entry, taken_epoch: int) -> None:
        life = self._life
        position = self.mailbox.position_after(name, entry.seq)
        # The epoch under which it was taken: what was restored since gives this seq to another entry.
        epoch = taken_epoch

        def durable() -> None:
            if life == self._life:
                self.mailbox.processed(name, position, epoch)
                self._touched()

        self.disk.write(Processed(name, position, (entry,), epoch), done=durable)
