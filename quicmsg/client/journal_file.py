"""The journal's file: plain blocking SQLite, one transaction per call, durable on return.

It survives `kill -9` and power loss at any point, belongs to one user on one server, and one process at
a time has it. `journal.py` puts it behind a thread for asyncio.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path

from quicmsg.client import journal_schema, private_files
from quicmsg.client.journal_apply import Applier
from quicmsg.client.journal_reads import JournalReader
from quicmsg.client.journal_writes import Write
from quicmsg.errors import ConfigurationError, RefusedError, StorageError


class JournalFile(JournalReader):
    """One user's journal on one server, used by one thread of one process.

    Args:
        path: the file; it and its directory are made if they are not there, for the owner's eyes only.
        user, device: whose it is: the sender and device of own messages.
        connect: opens the file; a test puts a simulated disk here.

    Raises ConfigurationError (in use, another user's, cannot be opened), StorageError (damaged).
    """

    def __init__(
        self,
        path: Path,
        *,
        user: str,
        device: bytes,
        connect: Callable[[Path], sqlite3.Connection] = journal_schema.connect,
    ) -> None:
        private_files.make_directory(path.parent)
        with contextlib.ExitStack() as undo:
            undo.callback(os.close, _take_lock(path))
            try:
                connection = connect(path)
                undo.callback(connection.close)
                journal_schema.prepare(connection, path)
            except sqlite3.Error as error:
                raise journal_schema.in_words(error, path) from error
            super().__init__(connection, path, user)
            self._claim()
            self._applier = Applier(connection, self, device=device)
            self._places = self._find_places() if connect is journal_schema.connect else None
            self._held = undo.pop_all()
        self._broken: str | None = None

    def close(self) -> None:
        """Close the file and let other processes at it."""
        with contextlib.suppress(sqlite3.Error):
            self._held.close()

    @property
    def outbox_size(self) -> int:
        """Messages in the outbox, rejected ones included; `Queue` is refused at OUTBOX_MAX."""
        return self._applier.outbox_size

    def apply(
        self, writes: Sequence[Write], before: Callable[[int], object] = lambda place: None
    ) -> list[RefusedError | None]:
        """Write all of it as one transaction; durable on return. A refused write changes nothing and does
        not disturb the others; its reason is at its place in the answer. `before(n)` is called in the
        transaction, right before the n-th write: for questions that have their place among the writes.

        Raises StorageError: nothing of it happened, or (after a failed commit) nobody knows. A commit is
        never tried again: the kernel forgets dirty pages after a failed fsync, so that a second attempt
        would report a success that is none. Only a full disk can be cured while the journal is open.
        """
        if self._broken is not None:
            raise StorageError(self._broken)
        size_before = self.outbox_size
        results: list[RefusedError | None]
        committing = False
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            results = []
            for place, write in enumerate(writes):
                before(place)
                results.append(self._applier.apply(write))
            committing = True
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._roll_back(size_before)
            if not isinstance(error, sqlite3.Error):
                raise
            worded = journal_schema.in_words(error, self.path)
            if committing and not journal_schema.is_disk_full(error):
                self._broken = worded.message
            raise StorageError(worded.message) from error
        if self._places is not None and self._find_places() != self._places:
            # What was committed is in files without a name: it would end with this process.
            self._broken = f"{self.path} was removed or replaced: start this program anew"
            raise StorageError(self._broken)
        return results

    # ---- private

    def _find_places(self) -> list[tuple[int, int]]:
        """Which files have the names of ours."""
        found = []
        for path in (self.path, self.path.with_name(f"{self.path.name}-wal")):
            with contextlib.suppress(OSError):
                status = path.stat()
                found.append((status.st_dev, status.st_ino))
        return found

    def _claim(self) -> None:
        """Make it this user's, or see that it is."""
        rows = self._all("SELECT user FROM account")
        if not rows:
            try:
                self._connection.execute("INSERT INTO account (id, user) VALUES (1, ?)", (self.user,))
            except sqlite3.Error as error:
                raise journal_schema.in_words(error, self.path) from error
        elif rows[0][0] != self.user:
            raise ConfigurationError(
                f"{self.path} is the journal of {rows[0][0]}, not of {self.user}: "
                "give --data another directory"
            )

    def _roll_back(self, outbox_size: int) -> None:
        self._applier.outbox_size = outbox_size
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            self._connection.execute("ROLLBACK")


def _take_lock(path: Path) -> int:
    """The lock that keeps a second process out; its file is beside the journal, because closing any other
    descriptor of the journal itself would drop SQLite's own locks on it."""
    lock_path = path.with_name(f"{path.name}.lock")
    try:
        descriptor = private_files.lock(lock_path)
        if descriptor is not None:
            return descriptor
        holder = lock_path.read_text(errors="replace").strip()
    except OSError as error:
        raise private_files.unusable(lock_path, error) from error
    raise ConfigurationError(
        f"another quicmsg client (process {holder or 'unknown'}) uses {path.parent}: "
        "give --data another directory or stop it"
    )
