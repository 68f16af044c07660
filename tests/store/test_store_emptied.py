"""A database that is gone, or emptied, is never replaced by an empty service in silence."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from given import Given

from quicmsg.errors import ConfigurationError
from quicmsg.store import backup, check
from quicmsg.store.sqlite import SqliteStore


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: 7)


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    os.truncate(path, 0)


def take_its_log(path: Path) -> None:
    """A young store's content is all in the log; this is the file without it."""
    for file in path.parent.glob(f"{path.name}*"):
        if file.name.endswith((".db", "-wal", "-shm")):
            file.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert path.stat().st_size


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The database of a stopped server, with a user."""
    path = tmp_path / "data" / "server.db"
    given = Given(open_store(path), lambda _: open_store(path))
    given.users("ann")
    given.store.close()
    return path


def files(path: Path) -> dict[str, bytes]:
    ours = (file for file in path.parent.iterdir() if not file.name.endswith(".lock"))
    return {file.name: file.read_bytes() for file in ours}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lose", "witness"), [(remove, None), (remove, b""), (empty, None), (empty, b"{"), (take_its_log, None)]
)
def test_no_server_begins_anew_where_one_has_been(
    path: Path, lose: Callable[[Path], None], witness: bytes | None
) -> None:
    """Else everybody's name would be free for anybody. Nothing is made or removed, and both ways out work."""
    copy = path.with_name("copy.db")
    backup.backup(path, copy, str)
    lose(path)
    if lose is not take_its_log:
        path.with_name("server.db-wal").write_bytes(b"what may be left")
    if witness is not None:
        path.with_name("server.db.witness").write_bytes(witness)
    before = files(path)
    for _ in range(2):
        with pytest.raises(
            ConfigurationError, match=r"server\.db is (gone|empty), .*restore FILE"
        ) as refused:
            open_store(path)
        assert f"remove {path}.witness, too" in str(refused.value)
        assert files(path) == before
    backup.restore(copy, path, str)
    store = open_store(path)
    assert store.devices("ann")
    store.close()
    lose(path)
    path.with_name("server.db.witness").unlink()
    store = open_store(path)
    assert not store.devices("ann")
    store.close()


def test_an_empty_file_without_a_witness_is_a_new_one(tmp_path: Path) -> None:
    """A first start that was killed early, or a file that somebody prepared."""
    (tmp_path / "server.db").touch()
    open_store(tmp_path / "server.db").close()
    assert (tmp_path / "server.db").stat().st_size
    assert (tmp_path / "server.db.witness").exists()


@pytest.mark.parametrize("lose", [empty, take_its_log])
def test_commands_name_an_empty_file_and_do_not_fill_it(
    path: Path, lose: Callable[[Path], None], tmp_path: Path
) -> None:
    """None of them advises to start the server, and none makes tables, which a start would take."""
    lose(path)
    before = path.read_bytes()

    def fsck() -> None:
        with check.reading(path):
            raise AssertionError

    for command in (
        fsck,
        lambda: backup.begin_epoch(path),
        lambda: backup.backup(path, tmp_path / "copy.db", str),
    ):
        with pytest.raises(ConfigurationError, match=r"server\.db is empty: .*restore FILE"):
            command()
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("copy.db*"))
