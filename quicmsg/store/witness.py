"""Was the database put back from an older copy? A small file beside it remembers how far it had come.

A log that went back gives numbers a second time. A client that had seen the first ones would take the new
ones for old, and never show them. So such a log begins a new *epoch*: clients trust no position of another
one, and fetch again. Some things show that a file is older than what was here:

- `quicmsg backup` marks its copies, and `quicmsg restore` what it puts in place;
- the witness has the number of the last start, and the highest change number that was seen on the disk: a
  copy made by other means before that has lower ones;
- a database that is gone, or empty, beside its witness is lost: no server begins anew in its place, since
  that would hand out the names of everybody as if nobody had them;
- a directory that was copied back together with its witness cannot be noticed here. A client may say so:
  see `SqliteStore`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from quicmsg.errors import ConfigurationError
from quicmsg.limits import STORE_WITNESS_INTERVAL
from quicmsg.store import schema
from quicmsg.store.schema import Connection

logger = logging.getLogger(__name__)
MARK: Final = "INSERT INTO meta (name, value) VALUES ('backup', 1) ON CONFLICT DO NOTHING"
"""Makes the next start of this file begin a new epoch."""
RESTORING: Final = ".restoring"
"""What the name of a file that is about to replace the database ends in."""


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a database had come: which one it is, how often it was started, its highest change."""

    store: int
    starts: int
    change: int


class Witness:
    """Keeps `<database>.witness`. It may lag behind the database, and is never ahead of it."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._path = database.with_name(database.name + ".witness")
        self._seen: Seen | None = None
        self._next_write = 0.0

    def refuse_emptied(self) -> None:
        """To be asked before anything opens the database, since SQLite removes the log beside an empty file,
        and the log may be all that is left. Raises ConfigurationError."""
        if self._path.exists() and not (self._database.exists() and self._database.stat().st_size):
            raise self._lost("empty" if self._database.exists() else "gone")

    def refuse_without_tables(self, connection: Connection) -> None:
        """The same of a file whose content was in the log that is gone. Raises ConfigurationError."""
        if self._path.exists() and schema.is_empty(connection):
            raise self._lost("empty")

    def begin(self, connection: Connection, change: int, epoch_source: Callable[[], int]) -> int:
        """A server starts on the database, whose highest change is this: answers the epoch of its log.
        Raises OSError, sqlite3.Error."""
        meta: dict[str, int] = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        reason = self._why_older(meta, change)
        epoch = meta.get("epoch", 0)
        if reason or not epoch:
            epoch = _another(epoch, epoch_source)
        seen = self._read()
        starts = max(meta.get("starts", 0), seen.starts if seen is not None else 0) + 1
        self._seen = Seen(meta.get("store") or secrets.randbits(62) + 1, starts, change)
        connection.execute("BEGIN IMMEDIATE")
        for name, value in (("epoch", epoch), ("store", self._seen.store), ("starts", starts)):
            connection.execute(
                "INSERT INTO meta (name, value) VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = excluded.value",
                (name, value),
            )
        connection.execute("DELETE FROM meta WHERE name = 'backup'")
        connection.execute("COMMIT")
        # Only now: the witness must never know of more than the database has.
        self._write(self._seen)
        if reason:
            logger.warning("= a new epoch begins, clients fetch again: %s", reason)
        return epoch

    def note(self, change: int) -> None:
        """The database has durably come so far. Written down every so often."""
        now = time.monotonic()
        if now >= self._next_write and self._seen is not None and change > self._seen.change:
            self._next_write = now + STORE_WITNESS_INTERVAL
            self.end(change)

    def end(self, change: int) -> None:
        """The database has durably come so far. Written down now; a disk that does not take it makes the
        witness weaker, and nothing else."""
        if self._seen is None:
            return
        self._seen = Seen(self._seen.store, self._seen.starts, change)
        try:
            self._write(self._seen)
        except OSError as error:
            logger.warning("! cannot write %s: %s", self._path, error.strerror or error)

    # ---- private

    def _lost(self, what: str) -> ConfigurationError:
        return ConfigurationError(
            f"{self._database} is {what}, and {self._path.name} beside it says that a server has stored "
            "messages there: put a backup in its place (quicmsg restore FILE). Only to begin anew on "
            f"purpose, without its users and messages, remove {self._path}, too"
        )

    def _why_older(self, meta: dict[str, int], change: int) -> str:
        seen = self._read()
        if "backup" in meta:
            return "this database is a backup that was put in place"
        if seen is None:
            return ""
        if meta.get("store", 0) != seen.store:
            return "this database is not the one that was here before"
        if meta.get("starts", 0) < seen.starts:
            return f"this database was copied before start {seen.starts}, which it does not know of"
        if change < seen.change:
            return f"this database ends at change {change}, and had come to {seen.change}"
        return ""

    def _read(self) -> Seen | None:
        try:
            said = json.loads(self._path.read_text())
            return Seen(int(said["store"]), int(said["starts"]), int(said["change"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _write(self, seen: Seen) -> None:
        fresh = self._path.with_name(self._path.name + ".new")
        with contextlib.suppress(FileNotFoundError):
            fresh.unlink()
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(asdict(seen)) + "\n")
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._path)
        sync_directory(self._path.parent)


def sync_directory(directory: Path) -> None:
    """What is safe on the disk helps nobody when its name is not. (Windows has no such call.)"""
    if hasattr(os, "O_DIRECTORY"):
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def make_directory(directory: Path) -> None:
    """Make it, for this user only; one that is there stays as it is (it may hold other things)."""
    if directory.is_dir():
        return
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(directory.parent)


def _another(epoch: int, source: Callable[[], int]) -> int:
    drawn = source()
    return drawn if drawn != epoch else drawn + 1
