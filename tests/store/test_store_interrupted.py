"""What an earlier attempt at putting a copy in place has left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

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
