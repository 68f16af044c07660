"""Upgrades and restores that did not come to their end."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from given import Given

from quicmsg.errors import ConfigurationError, StorageError
from quicmsg.store import backup
from quicmsg.store.sqlite import SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "server.db"


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: 7)


def test_a_failed_attempt_makes_no_half_of_a_store_whole(path: Path, tmp_path: Path) -> None:
    """A restore was killed between taking the old files away and putting the new one there; then it is tried
    with a file that is none. The server does not start on what is left, before or after."""
    store = open_store(path)
    backup.backup(path, tmp_path / "backup.db", str)
    store.close()
    path.with_name("server.db.restoring").touch()
    (tmp_path / "none.db").write_bytes(b"no database" * 1000)
    with pytest.raises((ConfigurationError, StorageError)):
        backup.restore(tmp_path / "none.db", path, str)
    with pytest.raises(ConfigurationError, match="was interrupted"):
        open_store(path)
    backup.restore(tmp_path / "backup.db", path, str)
    open_store(path).close()


def test_an_older_file_with_an_impossible_row_is_refused_in_words(path: Path, tmp_path: Path) -> None:
    """It cannot be given its hashes: server and restore say its place, and nothing is changed."""
    given = Given(open_store(path), lambda store: store)
    given.users("ann", "bob")
    given.direct("ann", "bob")
    given.say("@ann:bob", "ann", "hi")
    given.store.close()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "ALTER TABLE message DROP COLUMN chain; ALTER TABLE conversation DROP COLUMN chain;"
            "PRAGMA user_version = 2; UPDATE message SET device = 'what?'"
        )
    damaged = r"message 1 of @ann:bob is no message any more: put a backup"
    with pytest.raises(StorageError, match=damaged):
        open_store(path)
    with pytest.raises(StorageError, match=damaged):
        backup.restore(path, tmp_path / "server.db", str)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (2,)
    assert not (tmp_path / "server.db").exists()
