"""The journal's tables, how an older file is brought forward, and SQLite's errors in words.

Rowid tables on purpose: WITHOUT ROWID made the file 4.7 times the raw size at bodies of 1 KB (measured).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from quicmsg.client import private_files
from quicmsg.errors import ConfigurationError, QuicmsgError, StorageError
from quicmsg.limits import JOURNAL_CHECK_SIZE_MAX

MIGRATIONS: Final[tuple[Sequence[str], ...]] = (
    (
        """CREATE TABLE account (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            user TEXT NOT NULL,
            epoch INTEGER NOT NULL DEFAULT 0,
            cursor INTEGER NOT NULL DEFAULT 0)""",
        # AUTOINCREMENT: a place in the order is never given twice, also not after the last row was deleted
        # and the program restarted.
        """CREATE TABLE outbox (
            place INTEGER PRIMARY KEY AUTOINCREMENT,
            message_id BLOB NOT NULL UNIQUE,
            conversation TEXT NOT NULL,
            kind INTEGER NOT NULL,
            encoding INTEGER NOT NULL,
            body BLOB NOT NULL,
            queued_at_ms INTEGER NOT NULL,
            state TEXT NOT NULL DEFAULT 'queued',
            code INTEGER NOT NULL DEFAULT 0,
            text TEXT NOT NULL DEFAULT '')""",
        """CREATE TABLE cancelled (
            message_id BLOB PRIMARY KEY,
            conversation TEXT NOT NULL,
            kind INTEGER NOT NULL,
            encoding INTEGER NOT NULL,
            body BLOB NOT NULL,
            queued_at_ms INTEGER NOT NULL)""",
        # seq NULL: the message is known, its place in the (restored) log is not.
        """CREATE TABLE message (
            id INTEGER PRIMARY KEY,
            conversation TEXT NOT NULL,
            seq INTEGER,
            message_id BLOB NOT NULL,
            sender TEXT NOT NULL,
            device BLOB NOT NULL,
            kind INTEGER NOT NULL,
            encoding INTEGER NOT NULL,
            body BLOB NOT NULL,
            stored_at_ms INTEGER NOT NULL,
            own INTEGER NOT NULL DEFAULT 0)""",
        "CREATE UNIQUE INDEX message_by_seq ON message (conversation, seq)",
        "CREATE UNIQUE INDEX message_by_id ON message (message_id, sender)",
        "CREATE INDEX message_own ON message (conversation, seq) WHERE own = 1",
        """CREATE TABLE conversation (
            name TEXT PRIMARY KEY,
            epoch INTEGER NOT NULL DEFAULT 0,
            position INTEGER NOT NULL DEFAULT 0,
            read INTEGER NOT NULL DEFAULT 0,
            read_public INTEGER NOT NULL DEFAULT 1,
            head INTEGER NOT NULL DEFAULT 0,
            oldest INTEGER NOT NULL DEFAULT 1,
            stale INTEGER NOT NULL DEFAULT 1,
            gone INTEGER NOT NULL DEFAULT 0)""",
        """CREATE TABLE member (
            conversation TEXT NOT NULL,
            user TEXT NOT NULL,
            delivered INTEGER NOT NULL,
            read INTEGER NOT NULL,
            PRIMARY KEY (conversation, user))""",
    ),
    # 2: how far own messages were ticked. Of older rows it is computed, as it was before.
    (
        "ALTER TABLE conversation ADD COLUMN delivered_mark INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE conversation ADD COLUMN read_mark INTEGER NOT NULL DEFAULT 0",
    ),
)
"""MIGRATIONS[n] brings a file of version n to version n + 1. Never edit one that was released: append."""


def connect(path: Path) -> sqlite3.Connection:
    """A connection to the file, which is made here, for its owner only, if need be.

    Raises ConfigurationError, sqlite3.Error.
    """
    try:
        # SQLite would make it with the umask's mode; its -wal and -shm files take the mode of this one.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        if private_files.others_may_read(path):
            path.chmod(0o600)
    except OSError as error:
        raise private_files.unusable(path, error) from error
    return sqlite3.connect(path, isolation_level=None)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make a fresh connection durable, look for damage, and bring the file to the schema of this program.

    Raises ConfigurationError, StorageError, sqlite3.Error.
    """
    _make_durable(connection)
    _check(connection, path)
    _migrate(connection, path)


def is_disk_full(error: sqlite3.Error) -> bool:
    """The one failure after which the same connection may be trusted: nothing was written, and room can be
    made."""
    return _primary_code(error) == sqlite3.SQLITE_FULL


def in_words(error: sqlite3.Error, path: Path) -> QuicmsgError:
    """The error for a person: what is wrong with which file, and what to do."""
    match _primary_code(error):
        case sqlite3.SQLITE_FULL:
            return StorageError(f"no room left for {path}: make room on that disk, then try again")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return _damaged(path, str(error))
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return ConfigurationError(
                f"{path} cannot be opened for writing ({error}): check owner and permissions of the file and "
                "its directory, or give --data another directory"
            )
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return ConfigurationError(f"another program holds {path} locked: stop it and try again")
        case _:
            return StorageError(f"{path}: {error}")


def _make_durable(connection: sqlite3.Connection) -> None:
    if not private_files.HAS_LOCKS:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # NORMAL loses 3 to 6 % of acknowledged messages on power loss (measured); FULL lost none.
    connection.execute("PRAGMA synchronous = FULL")
    # What a process wrote and was killed before it could sync is read as committed now: it has to be on the
    # disk before anybody is told of it, or a power cut takes it again.
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _check(connection: sqlite3.Connection, path: Path) -> None:
    """Find torn or mixed-up pages before anything is built on them. A flipped bit within a text is not
    found: the server has the same text, with a hash (see store/chain.py)."""
    pages = connection.execute("PRAGMA page_count").fetchall()[0][0]
    if pages * connection.execute("PRAGMA page_size").fetchall()[0][0] <= JOURNAL_CHECK_SIZE_MAX:
        found = connection.execute("PRAGMA quick_check(1)").fetchall()[0][0]
        if found != "ok":
            raise _damaged(path, " ".join(found.split()))


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(
        f"{path} is damaged ({why}): restore it from a backup, or move it and its -wal file away "
        "to start anew; the server sends what it has, messages not sent yet are only in that file"
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the schema to this program's version, in one transaction."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    newest = len(MIGRATIONS)
    if version > newest:
        raise ConfigurationError(
            f"{path} was written by a newer quicmsg (journal version {version}, this program knows "
            f"{newest}): update this program, or give --data another directory"
        )
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ConfigurationError(f"{path} is the database of another program: give --data another directory")
    if version == newest:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in (statement for step in MIGRATIONS[version:] for statement in step):
        connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {newest}")
    connection.execute("COMMIT")


def _primary_code(error: sqlite3.Error) -> int:
    # Absent on errors that the sqlite3 module itself makes (a closed connection, another thread).
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF
