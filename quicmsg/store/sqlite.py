"""The embedded store: one SQLite file, durable on return, one process at a time.

A batch of operations is one transaction on one writing connection; reads have a connection of their own,
so that they neither wait for the writer nor hold it up (WAL). Start reading at `schema.py`, then
`sqlite_tables.py` (rows as objects), `sqlite_operations.py` (what each operation does).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quicmsg.errors import ConfigurationError, DamagedError, DiskFullError, StorageError
from quicmsg.limits import STORE_DAMAGES_MAX, STORE_FEED_SCAN_MAX
from quicmsg.store import (
    Change,
    LogEntry,
    OpenConversation,
    Opened,
    Operation,
    Result,
    chain,
    check,
    rules,
    schema,
)
from quicmsg.store.lock import FileLock
from quicmsg.store.sqlite_operations import Operations
from quicmsg.store.sqlite_tables import Tables
from quicmsg.store.witness import RESTORING, Witness, make_directory, sync_directory

logger = logging.getLogger(__name__)

_ENTRIES = """SELECT message.conversation, seq, sender, message.device, message_id, kind, encoding,
    stored_at_ms, body, chain, name, key
    FROM message LEFT JOIN user ON user.id = sender LEFT JOIN device ON device.id = message.device
    WHERE conversation = ? AND seq > ? AND seq < ? ORDER BY seq {direction} LIMIT ?"""
_VISIBLE = """SELECT conversation.id, oldest, head FROM conversation CROSS JOIN user
    CROSS JOIN member ON member.conversation = conversation.id AND member.user = user.id
    WHERE conversation.key = ? AND user.name = ? AND oldest > 0"""
_CHANGES_OF_STORE = """SELECT key, head, change FROM conversation CROSS JOIN member
    ON member.conversation = conversation.id AND member.user = ? AND oldest > 0
    WHERE change > ? ORDER BY change LIMIT ?"""
_CHANGES_OF_USER = """SELECT key, head, change FROM member CROSS JOIN conversation
    ON conversation.id = member.conversation
    WHERE user = ? AND oldest > 0 AND change > ? ORDER BY change LIMIT ?"""


class SqliteStore:
    """A store in one file, for one server process."""

    def __init__(
        self,
        path: Path,
        *,
        epoch_source: Callable[[], int],
        connect: Callable[[Path], schema.Connection] = schema.connect,
    ) -> None:
        """Open the file, or make it; `epoch_source` gives the epoch of a log that has none yet, or that was
        put back from an older copy (see `witness.py`). With a `connect` of one's own there is no witness: a
        real file says nothing about a simulated disk. Raises ConfigurationError, in words for who runs it.
        """
        self._path = path
        self._broken = False
        self._damages: set[tuple[str, int]] = set()
        self._doubts = 0
        self._names = (str(path), f"{path}-wal")
        self._witness = Witness(path) if connect is schema.connect else None
        with _opening(path):
            make_directory(path.parent)
            self._lock = FileLock(path.with_name(path.name + ".lock"), purpose=str(path))
        try:
            with _opening(path):
                if path.with_name(path.name + RESTORING).exists():
                    raise ConfigurationError(
                        f"putting a backup in place of {path} was interrupted: "
                        "run  quicmsg restore FILE  again"
                    )
                if self._witness is not None:
                    self._witness.refuse_emptied()
                _make_private(path)
                self._writer = connect(path)
                if self._witness is not None:
                    self._witness.refuse_without_tables(self._writer)
                schema.prepare(self._writer, path)
                self._check_tail()
                self._tables = Tables(self._writer)
                self.epoch = self._load_epoch(epoch_source)
                self._reader = connect(path)
                schema.prepare_reader(self._reader)
                self._places = self._find_places()
        except BaseException:
            self._broken = True
            self.close()
            raise
        self._operations = Operations(self._tables, self.epoch)

    # ---- operations

    def execute(self, operations: Sequence[Operation]) -> list[Result]:
        """Run the operations as one transaction. Raises DiskFullError: nothing of it happened, and it may
        be tried again. Raises StorageError, and from then on always: after a failed commit nobody knows
        what the disk holds, and asking again may be answered with a lie (an fsync that is repeated succeeds
        without writing). The process has to start anew."""
        if self._broken:
            raise StorageError(f"{self._path} failed before; the server has to be started again")
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            results = [self._operations.run(operation) for operation in operations]
            self._tables.flush()
            self._writer.execute("COMMIT")
        except schema.ERRORS as error:
            if schema.is_full(error):
                self._roll_back()
                raise DiskFullError(f"no room left for {self._path}: make room on that disk") from error
            self._broken = True  # closing the connection rolls back
            raise StorageError(f"cannot write {self._path}: {error}") from error
        except BaseException:
            self._broken = True
            raise
        if self._find_places() != self._places:
            # What was committed is in files without a name: it ends with this process.
            self._broken = True
            raise StorageError(f"{self._path} was removed or replaced while the server ran")
        self._tables.settle()
        if self._witness is not None:
            self._witness.note(self._tables.change)
        for operation, result in zip(operations, results, strict=True):
            if type(result) is Opened and result.reset:
                self._tell_doubt(operation, result)
        return results

    def close(self) -> None:
        """Close the file and let another process have it."""
        if not self._broken and self._witness is not None:
            self._witness.end(self._tables.change)
        for name in ("_reader", "_writer"):
            connection: schema.Connection | None = getattr(self, name, None)
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
        self._lock.release()

    # ---- reading

    def entries(
        self, conversation: str, user: str, *, after: int = 0, before: int | None = None, limit: int
    ) -> list[LogEntry]:
        if limit <= 0 or not (rules.is_conversation(conversation) and rules.is_name(user)):
            return []
        visible = self._read(_VISIBLE, conversation, user)
        if not visible:
            return []
        number, oldest, head = visible[0]
        first = max(after, oldest - 1)
        # One more than is wanted, since a row is checked against the one before it.
        bounds = (number, first - 1, 2**62 if before is None else before, limit + 1)
        try:
            rows = self._read(_ENTRIES.format(direction="ASC" if before is None else "DESC"), *bounds)
        except StorageError as error:
            if not schema.is_damage(error.__cause__):
                raise
            if limit > 1:  # a page of the file is damaged: what is before it may be good
                return self.entries(conversation, user, after=after, before=before, limit=limit // 2)
            damaged = first + 1 if before is None else min(before - 1, head)
            self._tell_damage(conversation, damaged)
            raise DamagedError(conversation, damaged) from error
        rows = rows if before is None else rows[::-1]
        top = max(head, rows[-1][1]) if rows else head
        if before is None:
            return self._whole(conversation, rows, first + 1, min(top, first + limit), newest_first=False)
        top = min(top, before - 1)
        return self._whole(conversation, rows, max(first, top - limit) + 1, top, newest_first=True)

    def changes(self, user: str, *, after: int, limit: int) -> list[Change]:
        """Few changes in the whole store since the cursor: look through those. Else look through the
        user's own conversations. So neither a big store nor a long absence makes it slow."""
        if limit <= 0 or not rules.is_name(user):
            return []
        found = self._read("SELECT id FROM user WHERE name = ?", user)
        if not found:
            return []
        newer = "SELECT count(*) FROM (SELECT 1 FROM conversation WHERE change > ? LIMIT ?)"
        few = self._read(newer, after, STORE_FEED_SCAN_MAX)[0][0] < STORE_FEED_SCAN_MAX
        rows = self._read(_CHANGES_OF_STORE if few else _CHANGES_OF_USER, found[0][0], after, limit)
        return [Change(*row) for row in rows]

    def members(self, conversation: str) -> list[str]:
        if not rules.is_conversation(conversation):
            return []
        sql = """SELECT name FROM conversation JOIN member ON member.conversation = conversation.id
            JOIN user ON user.id = member.user WHERE conversation.key = ? AND oldest > 0 ORDER BY name"""
        return [name for (name,) in self._read(sql, conversation)]

    def devices(self, user: str) -> list[tuple[bytes, str, bool]]:
        if not rules.is_name(user):
            return []
        sql = """SELECT key, label, revoked_at_ms IS NOT NULL FROM user JOIN device ON device.user = user.id
            WHERE name = ? ORDER BY device.id"""
        return [(key, label, bool(revoked)) for key, label, revoked in self._read(sql, user)]

    def head(self) -> int:
        # No counter of its own: the latest change is the latest change of some conversation.
        change: int = self._read("SELECT coalesce(max(change), 0) FROM conversation")[0][0]
        return change

    # ---- private

    def _whole(
        self, conversation: str, rows: list[Any], first: int, last: int, *, newest_first: bool
    ) -> list[LogEntry]:
        """The entries from `first` to `last`, those that are what was written: up to the first damage, or
        from behind the last one. Nothing but damage: DamagedError."""
        by_seq = {row[1]: row for row in rows}
        found: list[LogEntry] = []
        damaged = 0
        for seq in range(first, last + 1):
            row, earlier = by_seq.get(seq), by_seq.get(seq - 1)
            before = chain.beginning(conversation) if seq == 1 else earlier and earlier[9]
            if row is None or before is None or None in row or not chain.holds(before, row[:9], row[9]):
                self._tell_damage(conversation, seq)
                damaged = seq
                if not newest_first:
                    break
                found.clear()
                continue
            _, _, _, _, message_id, kind, encoding, stored_at_ms, body, _, name, key = row
            found.append(
                LogEntry(conversation, seq, message_id, name, key, kind, encoding, body, stored_at_ms)
            )
        if damaged and not found:
            raise DamagedError(conversation, damaged)
        return found

    def _tell_damage(self, conversation: str, seq: int) -> None:
        if (conversation, seq) not in self._damages and len(self._damages) < STORE_DAMAGES_MAX:
            self._damages.add((conversation, seq))
            logger.error("! %s", DamagedError(conversation, seq))

    def _read(self, sql: str, *values: Any) -> list[Any]:
        try:
            return self._reader.execute(sql, values).fetchall()
        except schema.ERRORS as error:
            raise StorageError(f"cannot read {self._path}: {error}") from error

    def _check_tail(self) -> None:
        damage = check.tail(self._writer)
        if damage is not None:
            raise ConfigurationError(
                f"{self._path} is damaged: {damage}; run  quicmsg fsck  to see all of it, and put a backup "
                "in its place:  quicmsg restore FILE"
            )

    def _load_epoch(self, epoch_source: Callable[[], int]) -> int:
        if self._witness is not None:
            return self._witness.begin(self._writer, self._tables.change, epoch_source)
        rows = self._writer.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchall()
        epoch: int = rows[0][0] if rows else epoch_source()
        if not rows:
            self._writer.execute("INSERT INTO meta (name, value) VALUES ('epoch', ?)", (epoch,))
        return epoch

    def _find_places(self) -> tuple[object, ...]:
        """Which files have the names of ours; of a simulated disk there are none."""
        if self._witness is None or sys.platform == "win32":  # there a file in use cannot be removed
            return ()
        return _place(self._names[0]), _place(self._names[1])

    def _roll_back(self) -> None:
        """Nothing was committed: forget what the batch has changed in memory, too."""
        with contextlib.suppress(*schema.ERRORS):  # SQLite may have rolled back by itself
            self._writer.execute("ROLLBACK")
        try:
            self._tables = Tables(self._writer)
        except schema.ERRORS as error:
            self._broken = True
            raise StorageError(f"cannot read {self._path}: {error}") from error
        self._operations = Operations(self._tables, self.epoch)

    def _tell_doubt(self, operation: Operation, result: Opened) -> None:
        """A client has seen more of a log than there is. It is reset (see `OpenConversation`), but others
        may come later, when their positions look possible again. Its word alone begins no new epoch: any
        stranger could make everybody fetch everything as often as he likes."""
        if not isinstance(operation, OpenConversation) or operation.epoch != self.epoch:
            return
        self._doubts += 1
        if self._doubts & (self._doubts - 1) == 0:  # the 1st, 2nd, 4th, 8th ... time
            logger.error(
                "! %s (device %s) has message %d of %s, whose log ends at %d: it lies, or this database was "
                "put back from an older copy. If you did that: stop the server, run  quicmsg new-epoch, and "
                "start it again (doubt %d)",
                operation.user, operation.device.hex(), operation.position, operation.conversation,
                result.head, self._doubts,
            )  # fmt: skip


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Say in words what keeps the file from being opened."""
    try:
        yield
    except OSError as error:
        remedy = "name a data directory that this user may write to"
        if error.errno in schema.NO_ROOM:
            remedy = "make room on that disk"
        raise ConfigurationError(
            f"cannot use {error.filename or path}: {error.strerror}; {remedy}"
        ) from error
    except schema.ERRORS as error:
        if schema.lacks_room(error, path.parent):
            raise ConfigurationError(f"no room left for {path}: make room on that disk") from error
        raise ConfigurationError(
            f"cannot open {path}: {error}; if it is damaged, put a backup in its place, "
            "or name another data directory"
        ) from error


def _place(name: str) -> object:
    """The file of this name, if there is one: it may be another one with the same name."""
    try:
        status = os.stat(name)  # not Path.stat: this is asked after every commit
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _make_private(path: Path) -> None:
    """Make the file, for this user only; SQLite gives its other files the same mode. To be called under
    the lock: closing a file takes away the locks that SQLite holds on it in this process."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    if path.stat().st_mode & 0o077:
        path.chmod(0o600)
    sync_directory(path.parent)
