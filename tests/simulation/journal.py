"""A client's disk: the real journal file, real group commit, over a disk that takes its time and can crash.

Below SQLite is either plain memory (what was committed survives a killed process, and nothing else does:
cheap), or the disk of `power.py`, where a crash may also fall inside a commit, and a power cut keeps only
what was synced.
"""

from __future__ import annotations

import functools
import sqlite3
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from power import Disk

from quicmsg.client import journal_schema
from quicmsg.client.journal import Outcome, Request, work
from quicmsg.client.journal_file import JournalFile
from quicmsg.client.journal_writes import Cancelled, Processed, Queue, ReadUpTo, Stored, Write
from quicmsg.errors import QuicmsgError
from quicmsg.limits import COMMIT_BATCH_MAX
from simulation.history import History
from simulation.kernel import Kernel
from simulation.scratch import fresh_path, remove_traces

T = TypeVar("T")
Callback = Callable[[QuicmsgError | None], object]
_disks = 0


@dataclass(frozen=True, slots=True)
class OnDisk:
    """What a journal has at the end: (message_id -> is it rejected), (message_id -> seq), ids."""

    outbox: dict[bytes, bool]
    messages: dict[bytes, int | None]
    cancelled: set[bytes]


class Memory(sqlite3.Connection):
    """It outlives the process: closing only rolls back."""

    def close(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")


class Journal:
    """`quicmsg.client.journal.Journal` in simulated time, without its thread. `on_death` is called when a
    crash that was planned (`cut_after`) has happened in a commit."""

    def __init__(
        self, kernel: Kernel, random: Random, history: History, *, name: str, user: str, device: bytes,
        forgetful: bool,
    ) -> None:  # fmt: skip
        self.slowness = 0.004
        self.stall_chance = 0.0
        self.disk: Disk | None = None
        self.file: JournalFile | None = None
        self.on_death: Callable[[], None] = lambda: None
        self._kernel = kernel
        self._random = random
        self._history = history
        self._name = name
        self._user = user
        self._device = device
        self._path = fresh_path(name)
        self._asked: deque[Request] = deque()
        self._batch: list[Request] = []
        self._doubtful: tuple[int, list[Request]] | None = None
        self._life = 0
        self._busy = False
        self._connect: Callable[[Path], Any]
        if forgetful:
            self.disk = forgetful_disk(random)
            self.disk.files = {str(self._path): _disk_template()[0].copy()}
            self.disk.marked = True
            self._connect = self.disk.connect
        else:
            memory = sqlite3.connect(":memory:", isolation_level=None, factory=Memory)
            memory.deserialize(_memory_template())
            self._connect = lambda _path: memory

    # ---- life

    def open(self) -> None:
        """The process starts. It may die in it, if that was planned."""
        self.file = JournalFile(self._path, user=self._user, device=self._device, connect=self._connect)
        if self.disk is not None and self._doubtful is not None:
            number, batch = self._doubtful
            if self.disk.read_mark() == number:
                self._note(batch)
            self._history.note("in doubt", self._name, self.disk.read_mark() == number)
            self._doubtful = None

    def crash(self, *, power: bool) -> None:
        """The process is killed, or the power goes."""
        self._life += 1
        self._asked.clear()
        self._batch.clear()
        self._busy = False
        if self.disk is not None:
            self.disk.cut(kills=not power)
        if self.file is not None:
            self.file.close()
            self.file = None
        if self.disk is not None:
            self.disk.power_on()

    def close(self) -> None:
        """The world ends."""
        if self.file is not None:
            self.file.close()
        if self.disk is not None:
            self.disk.unregister()
        remove_traces(self._path)

    @property
    def is_busy(self) -> bool:
        return self._busy

    # ---- the interface of client.bookkeeper.Recorder

    def post(self, write: Write, callback: Callback | None = None) -> None:
        self._submit(Request((write,), None, lambda _result, error: callback and callback(error)))

    def ask(
        self,
        question: Callable[[JournalFile], T],
        callback: Callable[[T | None, QuicmsgError | None], object],
    ) -> None:
        self._submit(Request((), question, callback))

    def write_after(
        self,
        question: Callable[[JournalFile], T],
        write: Write,
        callback: Callable[[T | None, QuicmsgError | None], object],
    ) -> None:
        """As `Journal.write_after`: the callback gets what the question found right before the write."""
        self._submit(Request((write,), question, callback))

    def flush(self, callback: Callback) -> None:
        """As `Journal.write()`: everything before is durable."""
        self._submit(Request((), None, lambda _result, error: callback(error)))

    # ---- what a test may look at

    def contents(self) -> OnDisk:
        assert self.file is not None
        rows = self.file._all
        outbox = rows("SELECT message_id, state = 'rejected' FROM outbox")
        cancelled = {message_id for (message_id,) in rows("SELECT message_id FROM cancelled")}
        return OnDisk(dict(outbox), dict(rows("SELECT message_id, seq FROM message")), cancelled)

    # ---- private

    def _submit(self, request: Request) -> None:
        self._asked.append(request)
        if not self._busy:
            self._start()

    def _start(self) -> None:
        self._busy = True
        self._batch = [self._asked.popleft() for _ in range(min(len(self._asked), COMMIT_BATCH_MAX))]
        delay = self._random.uniform(0.0005, self.slowness)
        if self.stall_chance and self._random.random() < self.stall_chance:
            delay += self._random.uniform(0.2, 2.0)
        self._kernel.call_later(delay, self._commit, self._life)

    def _commit(self, life: int) -> None:
        if life != self._life:
            return
        assert self.file is not None
        outcomes = work(self.file, self._batch)
        if self.disk is not None and self.disk.dead:
            self._doubtful = self.disk.commits, self._batch
            self._batch = []
            self.on_death()
            return
        self._note([request for request, _, error in outcomes if error is None])
        # Telling takes its time as well: a crash may fall between what is durable and who knows it.
        delay = self._random.uniform(0.0, self.slowness / 4)
        self._kernel.call_later(delay, self._report, life, outcomes)

    def _report(self, life: int, outcomes: list[Outcome]) -> None:
        if life != self._life:
            return
        self._batch = []
        self._busy = False
        for request, result, error in outcomes:
            request.done(result, error)
        if self._asked and not self._busy:
            self._start()

    def _note(self, batch: list[Request]) -> None:
        """It is durable: the checker has to know."""
        for request in batch:
            for write in request.writes:
                match write:
                    case Queue():
                        self._history.note("queued", self._name, write.conversation, write.message_id)
                    case Cancelled():
                        self._history.note("cancelled", self._name, write.message_id)
                    case Stored():
                        self._history.note("kept", self._name, write.message_id)
                    case Processed():
                        place = (write.conversation, write.epoch, write.position)
                        self._history.note("processed", self._name, *place)
                        for entry in write.entries:
                            self._history.note("kept", self._name, entry.message_id)
                    case ReadUpTo() if write.public:
                        self._note_read(write.conversation)

    def _note_read(self, conversation: str) -> None:
        assert self.file is not None
        select = "SELECT epoch, read FROM conversation WHERE name = ?"
        ((epoch, read),) = self.file._all(select, conversation)
        self._history.note("read kept", self._name, conversation, epoch, read)


def forgetful_disk(random: Random, *, synchronous: str = "FULL") -> Disk:
    """A disk of its own name in this process."""
    global _disks
    _disks += 1
    return Disk(f"simulated-{_disks}", random, synchronous=SYNCHRONOUS.get("client", synchronous))


SYNCHRONOUS: dict[str, str] = {}
"""A planted bug sets "client": NORMAL syncs at checkpoints only."""


@functools.cache
def _memory_template() -> bytes:
    """A fresh journal, since making its tables takes longer than most that happens to it."""
    memory = sqlite3.connect(":memory:", isolation_level=None)
    journal_schema.prepare(memory, Path("template"))
    return memory.serialize()


@functools.cache
def _disk_template() -> list[Any]:
    disk = Disk("simulated-template", Random(0))
    connection: Any = disk.connect(Path("template"))
    journal_schema.prepare(connection, Path("template"))
    disk.mark_commits()
    connection.close()
    disk.unregister()
    return [disk.files["template"]]
