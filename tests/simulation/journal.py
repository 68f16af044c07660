"""A client's disk: the writes of the real journal on plain dicts, with a disk that takes its time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

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
    Write,
)
from quicmsg.protocol.frames import Entry
from simulation.history import History
from simulation.kernel import Kernel


@dataclass(slots=True)
class Row:
    """A conversation on the disk."""

    epoch: int = 0
    position: int = 0
    head: int = 0
    oldest: int = 1
    stale: bool = False
    read: int = 0
    read_public: bool = True
    gone: bool = False
    resync: bool = False
    members: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(slots=True)
class Kept:
    """An entry on the disk: shown, or an own message that is stored."""

    conversation: str
    seq: int | None
    own: bool


class JournalState:
    """What is on the disk; `apply` mirrors `quicmsg/client/journal_apply.py`."""

    def __init__(self, name: str, device: bytes, history: History) -> None:
        self.name = name
        self.device = device
        self.epoch = 0
        self.cursor = 0
        self.rows: dict[str, Row] = {}
        self.outbox: dict[bytes, tuple[Queue, bool]] = {}  # message and whether it was rejected
        self.messages: dict[bytes, Kept] = {}
        self.by_seq: dict[str, dict[int, bytes]] = {}
        self.cancelled: dict[bytes, Queue] = {}
        self._history = history

    def row(self, conversation: str) -> Row:
        return self.rows.setdefault(conversation, Row())

    def apply(self, write: Write) -> None:
        match write:
            case Queue():
                self.outbox[write.message_id] = (write, False)
                self._history.note("queued", self.name, write.conversation, write.message_id)
            case Stored():
                self._stored(write)
            case Rejected():
                if write.message_id in self.outbox:
                    self.outbox[write.message_id] = (self.outbox[write.message_id][0], True)
            case Requeued():
                found = self.outbox.get(write.message_id)
                if found is not None and found[1]:
                    del self.outbox[write.message_id]
                    self.outbox[write.message_id] = (found[0], False)
            case Cancelled():
                found = self.outbox.pop(write.message_id, None)
                if found is not None:
                    self.cancelled[write.message_id] = found[0]
                    self._history.note("cancelled", self.name, write.message_id)
            case Processed():
                self._processed(write)
            case ReadUpTo():
                row = self.row(write.conversation)
                row.read = max(row.read, write.position)
                row.read_public = write.public
                if write.public:
                    self._history.note("read kept", self.name, write.conversation, row.epoch, row.read)
            case _:
                self._apply_position(write)

    def owed(self, conversation: str, user: str) -> int:
        """The highest entry from elsewhere that the server has not confirmed as processed."""
        row = self.rows[conversation]
        confirmed = row.members.get(user, (0, 0))[0]
        seqs = self.by_seq.get(conversation, {})
        for seq in range(row.position, confirmed, -1):
            message_id = seqs.get(seq)
            if message_id is not None and not self.messages[message_id].own:
                return seq
        return 0

    def own_between(self, conversation: str, after: int, up_to: int) -> list[tuple[bytes, int]]:
        seqs = self.by_seq.get(conversation, {})
        found = [(seqs[seq], seq) for seq in range(after + 1, up_to + 1) if seq in seqs]
        return [(message_id, seq) for message_id, seq in found if self.messages[message_id].own]

    # ---- private

    def _apply_position(self, write: Write) -> None:
        match write:
            case Positions():
                row = self.row(write.conversation)
                if write.whole:
                    present = {user for user, _, _ in write.members}
                    row.members = {user: at for user, at in row.members.items() if user in present}
                for user, delivered, read in write.members:
                    old = row.members.get(user, (0, 0))
                    row.members[user] = (max(old[0], delivered), max(old[1], read))
            case Conversation():
                row = self.row(write.conversation)
                row.gone = False
                row.epoch = row.epoch or write.epoch
                if row.epoch != write.epoch:
                    row.stale = True
                    return
                row.head, row.oldest = max(row.head, write.head), max(row.oldest, write.oldest)
                row.stale = write.stale
            case Reset():
                self._reset(write)
            case Cursor():
                same = self.epoch == write.epoch
                self.cursor = max(self.cursor, write.cursor) if same else write.cursor
                self.epoch = write.epoch
            case Left():
                row = self.row(write.conversation)
                row.gone = True
                row.members.clear()
            case _:
                raise AssertionError(f"not modelled: {write}")

    def _stored(self, write: Stored) -> None:
        found = self.outbox.get(write.message_id, (None,))[0] or self.cancelled.get(write.message_id)
        if found is None:
            return
        self._keep_one(found.conversation, write.message_id, write.seq, write.epoch, own=True)

    def _processed(self, write: Processed) -> None:
        row = self.row(write.conversation)
        for entry in write.entries:
            self._keep(write.conversation, entry, write.epoch)
        row.epoch = row.epoch or write.epoch
        if row.epoch == write.epoch:
            row.position, row.head = max(row.position, write.position), max(row.head, write.position)

    def _keep(self, conversation: str, entry: Entry, epoch: int) -> None:
        own = entry.message_id in self.outbox or entry.message_id in self.cancelled
        self._keep_one(conversation, entry.message_id, entry.seq, epoch, own=own)

    def _keep_one(self, conversation: str, message_id: bytes, seq: int, epoch: int, *, own: bool) -> None:
        row = self.row(conversation)
        row.epoch = row.epoch or epoch
        self.outbox.pop(message_id, None)
        self.cancelled.pop(message_id, None)
        place = seq if row.epoch == epoch else None
        seqs = self.by_seq.setdefault(conversation, {})
        if place is not None and place in seqs and seqs[place] != message_id:
            place = None
        kept = self.messages.get(message_id)
        if kept is None:
            kept = self.messages[message_id] = Kept(conversation, place, own)
            self._history.note("kept", self.name, conversation, epoch, seq, message_id)
        elif kept.seq is None:
            kept.seq = place
            kept.own = kept.own or own
        if kept.seq is not None:
            seqs[kept.seq] = message_id

    def _reset(self, write: Reset) -> None:
        row = self.row(write.conversation)
        row.epoch, row.position, row.head = write.epoch, write.position, write.position
        row.oldest, row.read, row.stale, row.resync = 1, 0, True, True
        row.members.clear()
        for message_id in self.by_seq.pop(write.conversation, {}).values():
            self.messages[message_id].seq = None


class JournalDisk:
    """Group commit: what was asked while the disk was busy is the next transaction. A crash drops what was
    not committed; what was committed may not have been reported yet."""

    def __init__(self, kernel: Kernel, random: Random, state: JournalState) -> None:
        self.state = state
        self.slowness = 0.004
        self._kernel = kernel
        self._random = random
        self._asked: deque[tuple[tuple[Write, ...], Callable[[], None] | None]] = deque()
        self._batch: list[tuple[tuple[Write, ...], Callable[[], None] | None]] = []
        self._life = 0
        self._busy = False

    def write(self, *writes: Write, done: Callable[[], None] | None = None) -> None:
        """Commit; `done` is called once it is durable. No writes: only wait for those before."""
        self._asked.append((writes, done))
        if not self._busy:
            self._start()

    def crash(self) -> None:
        self._life += 1
        self._asked.clear()
        self._batch.clear()
        self._busy = False

    @property
    def is_busy(self) -> bool:
        return self._busy

    def pending_ids(self) -> set[bytes]:
        """Ids of entries that are on their way to the disk."""
        found = set()
        for writes, _ in (*self._batch, *self._asked):
            for write in writes:
                if isinstance(write, Processed):
                    found.update(entry.message_id for entry in write.entries)
        return found

    # ---- private

    def _start(self) -> None:
        self._busy = True
        self._batch = list(self._asked)
        self._asked.clear()
        self._kernel.call_later(self._random.uniform(0.0005, self.slowness), self._commit, self._life)

    def _commit(self, life: int) -> None:
        if life != self._life:
            return
        for writes, _ in self._batch:
            for write in writes:
                self.state.apply(write)
        self._kernel.call_later(self._random.uniform(0.0, 0.001), self._report, life)

    def _report(self, life: int) -> None:
        if life != self._life:
            return
        batch, self._batch = self._batch, []
        self._busy = False
        for _, done in batch:
            if done is not None:
                done()
        if self._asked and not self._busy:
            self._start()
