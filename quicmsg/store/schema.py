"""The tables of the SQLite store, their numbered versions, and how a connection is made ready.

Rows name users, devices and conversations by small integers. All tables are rowid tables: WITHOUT ROWID
was measured to make a file of 1 KB messages 4.7 times as big as its content (rowid: 1.4 times).
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from quicmsg.errors import ConfigurationError
from quicmsg.limits import (
    STORE_BUSY_TIMEOUT,
    STORE_CHECKPOINT_PAGES,
    STORE_LOG_SIZE_MAX,
    STORE_PAGE_CACHE_SIZE,
)
from quicmsg.store import chain

APPLICATION_ID: Final = 0x514D5347  # "QMSG", so that a file of another program is never written to
ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)
"""What SQLite raises; the second one when the words about a damaged file are damaged themselves."""
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk is full."""
_SHARED_MEMORY_SIZE: Final = 32_768
"""The file that SQLite makes beside each database with a log."""
SQLITE_VERSION_MIN: Final = (3, 35, 0)  # UPDATE FROM (3.33), RETURNING (3.35)


class Rows(Protocol):
    """What a statement gives back."""

    def fetchall(self) -> list[Any]: ...
    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """As much of a DB-API connection as the store uses: a test puts one over a simulated disk here."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Rows: ...
    def close(self) -> None: ...


Step = str | Callable[[Connection], None]

MIGRATIONS: tuple[tuple[Step, ...], ...] = (
    # 1: the first tables
    (
        "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL)",
        "CREATE TABLE user (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE)",
        """CREATE TABLE device (id INTEGER PRIMARY KEY, user INTEGER NOT NULL, key BLOB NOT NULL,
        label TEXT NOT NULL, created_at_ms INTEGER NOT NULL, revoked_at_ms INTEGER, UNIQUE (user, key))""",
        """CREATE TABLE code (id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, kind TEXT NOT NULL,
        user TEXT NOT NULL, expires_at_ms INTEGER NOT NULL, used INTEGER NOT NULL DEFAULT 0)""",
        "CREATE INDEX code_user ON code (user, kind)",
        # `creator` is 0 for a direct conversation. `change` is the number of its latest change: the
        # account feed. A row per member and change would make an append cost what the group is big.
        """CREATE TABLE conversation (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE,
        creator INTEGER NOT NULL, open INTEGER NOT NULL, head INTEGER NOT NULL, change INTEGER NOT NULL)""",
        "CREATE INDEX conversation_change ON conversation (change)",
        # `oldest` is the first seq that the member may see; 0: has left. `read` is public, `own_read` not.
        """CREATE TABLE member (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, user INTEGER NOT NULL,
        oldest INTEGER NOT NULL, received INTEGER NOT NULL, read INTEGER NOT NULL, own_read INTEGER NOT NULL,
        UNIQUE (conversation, user))""",
        "CREATE INDEX member_user ON member (user, conversation) WHERE oldest > 0",
        """CREATE TABLE position (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL,
        device INTEGER NOT NULL, received INTEGER NOT NULL, read INTEGER NOT NULL,
        UNIQUE (conversation, device))""",
        """CREATE TABLE message (id INTEGER PRIMARY KEY, conversation INTEGER NOT NULL, seq INTEGER NOT NULL,
        sender INTEGER NOT NULL, device INTEGER NOT NULL, message_id BLOB NOT NULL, kind INTEGER NOT NULL,
        encoding INTEGER NOT NULL, stored_at_ms INTEGER NOT NULL, body BLOB NOT NULL)""",
        "CREATE UNIQUE INDEX message_place ON message (conversation, seq)",
        # For ever, without a time window: the same id is the same message as long as the message exists.
        "CREATE UNIQUE INDEX message_identity ON message (sender, message_id)",
    ),
    # 2: who was added by others has not chosen it. Of earlier rows it is not known: nobody is charged for
    # them. The index keeps the count short for somebody whom strangers have put into a million groups.
    (
        "ALTER TABLE member ADD COLUMN chosen INTEGER NOT NULL DEFAULT 0",
        "CREATE INDEX member_chosen ON member (user) WHERE chosen = 1",
    ),
    # 3: a chain of hashes over each log, see chain.py
    (
        "ALTER TABLE message ADD COLUMN chain BLOB NOT NULL DEFAULT x''",
        "ALTER TABLE conversation ADD COLUMN chain BLOB NOT NULL DEFAULT x''",
        chain.compute_all,
    ),
)
"""MIGRATIONS[n] makes version n + 1 out of version n. A published one is never edited."""


def connect(path: Path) -> Connection:
    """A connection that leaves transactions to us and may be handed from thread to thread."""
    return sqlite3.connect(
        path, timeout=STORE_BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def is_full(error: Exception) -> bool:
    """Whether it failed for want of room: nothing was committed, and room can be made."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL


def lacks_room(error: Exception, directory: Path) -> bool:
    """Whether it failed for want of room when a file was opened: SQLite has no word of its own for that
    when it cannot make the small files beside the database."""
    if is_full(error):
        return True
    if getattr(error, "sqlite_errorcode", 0) & 0xFF not in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN):
        return False
    try:
        if shutil.disk_usage(directory).free < _SHARED_MEMORY_SIZE:
            return True
        names = os.statvfs(directory) if hasattr(os, "statvfs") else None
    except OSError:
        return False
    return names is not None and names.f_files > 0 and names.f_favail == 0


def is_damage(error: BaseException | None) -> bool:
    """Whether it failed at what is on the disk, and not at the disk: other questions may be answered."""
    damaged = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT
    return damaged or isinstance(error, UnicodeDecodeError)


def prepare(connection: Connection, path: Path) -> None:
    """Make the writing connection ready: settings, then the newest tables. Raises ConfigurationError."""
    if sqlite3.sqlite_version_info < SQLITE_VERSION_MIN:
        raise ConfigurationError(
            f"SQLite {sqlite3.sqlite_version} is too old; quicmsg needs "
            f"{'.'.join(map(str, SQLITE_VERSION_MIN))}: use a newer Python"
        )
    refuse_others(connection, path)
    mode = _value(connection, "PRAGMA journal_mode = WAL")
    if mode != "wal":
        raise ConfigurationError(f"{path}: SQLite's WAL needs a local disk (it answers {mode!r})")
    # FULL: the commit is on the disk when it returns. NORMAL loses 3 to 6 % of the acknowledged
    # messages when power fails, and with group commit it is hardly faster.
    connection.execute("PRAGMA synchronous = FULL")
    # What a process wrote and was killed before it could sync is read as committed now, and may be answered
    # for without another write: it has to be on the disk first, or a power cut takes what was acknowledged.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    connection.execute(f"PRAGMA wal_autocheckpoint = {STORE_CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {STORE_LOG_SIZE_MAX}")
    connection.execute(f"PRAGMA cache_size = {-STORE_PAGE_CACHE_SIZE // 1024}")
    _migrate(connection)


def prepare_reader(connection: Connection) -> None:
    """Make the reading connection ready: it sees what is committed, and cannot write."""
    connection.execute(f"PRAGMA cache_size = {-STORE_PAGE_CACHE_SIZE // 1024}")
    connection.execute("PRAGMA query_only = 1")


def refuse_others(connection: Connection, path: Path) -> None:
    """Raise ConfigurationError for a file of another program, or of a newer quicmsg."""
    found = version(connection)
    if found > len(MIGRATIONS):
        raise ConfigurationError(
            f"{path} was written by a newer quicmsg (schema {found}, this one knows {len(MIGRATIONS)}): "
            "start that version, or name another data directory"
        )
    owner = _value(connection, "PRAGMA application_id")
    if owner != APPLICATION_ID and not is_empty(connection):
        raise ConfigurationError(f"{path} is a database of another program: name another data directory")


def is_empty(connection: Connection) -> bool:
    """Whether nothing was ever put into the file, or all of it was taken away."""
    return not _value(connection, "SELECT count(*) FROM sqlite_master")


def version(connection: Connection) -> int:
    """How many MIGRATIONS the file has had."""
    found: int = _value(connection, "PRAGMA user_version")
    return found


def _migrate(connection: Connection) -> None:
    if version(connection) == len(MIGRATIONS):
        return
    # One transaction for all steps: a crash in between leaves the old version, whole.
    connection.execute("BEGIN IMMEDIATE")
    for steps in MIGRATIONS[version(connection) :]:
        for step in steps:
            if isinstance(step, str):
                connection.execute(step)
            else:
                step(connection)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")


def _value(connection: Connection, sql: str) -> Any:
    return connection.execute(sql).fetchall()[0][0]
