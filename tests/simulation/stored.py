"""What survives the server's process: a store, and how its commits behave.

The store is the memory store, where what is executed is durable at once; or the real SQLite store over the
disk of `power.py`, where a crash may fall inside a commit, and a power cut keeps only what was synced. Beside
SQLite the memory store runs along as a reference: both must give the same results.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, field
from random import Random
from typing import Any

from power import Disk as ForgetfulDisk

from quicmsg.protocol.frames import Kind
from quicmsg.store import (
    Append,
    Appended,
    Done,
    GroupChanged,
    OpenConversation,
    Operation,
    Refusal,
    Result,
    RevokeDevice,
    SignedIn,
    Store,
)
from quicmsg.store.memory import MemoryStore
from quicmsg.store.sqlite import SqliteStore
from simulation.history import History
from simulation.scratch import fresh_path, remove_traces


class Disk:
    """How the server's commits behave."""

    def __init__(self) -> None:
        self.commit_max = 0.005
        self.stall_chance = 0.0
        self.queue_max = 10_000
        self.batch_max = 64
        self.mode = "durable"
        """A planted bug: "told early" (answered before the commit), "seen early" (read before it)."""
        self.synchronous = "FULL"
        """A planted bug: NORMAL syncs at checkpoints only."""


@dataclass(slots=True)
class Backup:
    """Everything at one moment."""

    reference: object
    lengths: dict[str, int]
    files: dict[str, Any] = field(default_factory=dict)


class Stored:
    """What survives the server's process."""

    def __init__(self, random: Random, disk: Disk, *, sqlite: bool) -> None:
        self.reference = MemoryStore(1)
        self.store: Store = self.reference
        self.disk: ForgetfulDisk | None = None
        self._settings = disk
        self._path = fresh_path("server")
        self._epoch = 1
        self._snapshots: dict[int, object] = {}
        self._doubtful: tuple[int, list[Operation]] | None = None
        if sqlite:
            self.disk = ForgetfulDisk(f"server {next(_numbers)}", random)
            self.disk.files = {str(self._path): _template()[0].copy()}
            self.disk.marked = True
            self.open()

    @property
    def epoch(self) -> int:
        return self.store.epoch

    def open(self, history: History | None = None) -> None:
        """The process starts: SQLite mends its file. `disk.dead` afterwards: the process died in it."""
        if self.disk is None:
            return
        self.disk.synchronous = self._settings.synchronous
        self.store = SqliteStore(self._path, epoch_source=lambda: self._epoch, connect=self.disk.connect)
        if self._doubtful is not None and history is not None and not self.disk.dead:
            number, batch = self._doubtful
            self._doubtful = None
            survived = self.disk.read_mark() == number
            history.note("in doubt", "server", survived)
            if survived:
                _note(batch, self.reference.execute(batch), self.reference, history)
            self._keep_snapshot(number)
        if self.disk.marked and history is not None and self.disk.read_mark() in self._snapshots:
            # A disk that does not sync (a planted bug) has lost more than what was in doubt.
            self.reference.restore(self._snapshots[self.disk.read_mark()])
            history.note("lost", self.lengths())

    def execute(self, operations: list[Operation], history: History) -> list[Result] | None:
        """Run operations, and note what they did to the logs; None: the process died in it."""
        if self.disk is None:
            results = self.reference.execute(operations)
        else:
            results = self.store.execute(operations)
            if self.disk.dead:
                self._doubtful = self.disk.commits, operations
                return None
            expected = self.reference.execute(operations)
            assert results == expected, f"{operations}: SQLite says {results}, the reference {expected}"
            self._keep_snapshot(self.disk.commits)
        _note(operations, results, self.reference, history)
        return results

    def crash(self, *, power: bool) -> None:
        """Keep what survives; the process is gone."""
        if self.disk is not None:
            self.disk.cut(kills=not power)
            self.close()
            self.disk.power_on()

    def close(self) -> None:
        if self.disk is not None and self.store is not self.reference:
            self.store.close()
            self.store = self.reference

    def end(self) -> None:
        """The world ends."""
        self.close()
        if self.disk is not None:
            self.disk.unregister()
        remove_traces(self._path)

    def back_up(self) -> Backup:
        return Backup(
            self.reference.snapshot(), self.lengths(), {} if self.disk is None else self.disk.copy()
        )

    def restore(self, backup: Backup) -> None:
        """While nothing is open: go back to the backup, with a new epoch."""
        self._epoch += 1
        self.reference.restore(backup.reference)
        self.reference.epoch = self._epoch
        if self.disk is not None:
            self._doubtful = None
            self.disk.files = {name: content.copy() for name, content in backup.files.items()}
            connection = self.disk.connect(self._path)
            connection.execute("DELETE FROM meta WHERE name = 'epoch'")
            connection.close()

    def lengths(self) -> dict[str, int]:
        return {key: len(log) for key, log in self.reference._state.logs.items()}

    def _keep_snapshot(self, number: int) -> None:
        if self._settings.synchronous != "FULL":
            self._snapshots[number] = self.reference.snapshot()


_numbers = itertools.count()


@functools.cache
def _template() -> list[Any]:
    """A fresh store of epoch 1, since making its tables takes longer than most that happens to it."""
    path = fresh_path("template")
    disk = ForgetfulDisk("server template", Random(0))
    store = SqliteStore(path, epoch_source=lambda: 1, connect=disk.connect)
    disk.mark_commits()
    store.close()
    disk.unregister()
    remove_traces(path)
    return [disk.files[str(path)]]


def _note(
    operations: list[Operation], results: list[Result], reference: MemoryStore, history: History
) -> None:
    """What operations did to the logs."""
    for operation, result in zip(operations, results, strict=True):
        if isinstance(operation, Append) and isinstance(result, Appended) and not result.duplicate:
            history.note(
                "committed", operation.conversation, result.seq, operation.message_id, operation.device, 0
            )
        elif isinstance(result, GroupChanged):
            for entry in result.entries:
                history.note(
                    "committed",
                    entry.conversation,
                    entry.seq,
                    entry.message_id,
                    entry.device,
                    int(entry.kind),
                )
                user = entry.sender if entry.kind == Kind.CREATED else entry.body.decode()
                what = "left" if entry.kind == Kind.LEFT else "joined"
                oldest = 1 if len(result.entries) > 1 else entry.seq
                history.note(what, entry.conversation, user, oldest)
        elif isinstance(result, SignedIn) and result.new_device:
            positions = reference._state.positions.items()
            own = {key: at.received for (key, _, device), at in positions if device == result.device}
            history.note("linked", result.user, result.device, own)
        elif isinstance(operation, RevokeDevice) and isinstance(result, Done):
            history.note("revoked", operation.device)
        elif isinstance(operation, OpenConversation) and not isinstance(result, Refusal):
            history.note("opened", operation.conversation)
