"""The chain of hashes over each log: written with every message, brought to older files, checked by reads."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from given import EPOCH, Given

from quicmsg.store import chain
from quicmsg.store.sqlite import SqliteStore


def open_store(path: Path) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: EPOCH)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.db"


@pytest.fixture
def given(path: Path) -> Iterator[Given]:
    given = Given(open_store(path), lambda store: store)
    given.users("ann", "bob", "cid")
    given.direct("ann", "bob")
    given.group("#team", "ann", "bob", "cid")
    for number in range(20):
        given.say("@ann:bob", "ann", f"direct {number}")
        given.say("#team", "bob", f"group {number}")
    yield given
    given.store.close()


def links(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT conversation, seq, chain FROM message ORDER BY 1, 2").fetchall()
        return rows + connection.execute("SELECT id, head, chain FROM conversation ORDER BY 1").fetchall()


def change(path: Path, sql: str, *values: object) -> None:
    """Write past the store, as a disk does that gives back something else."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(sql, values)


def test_every_row_is_chained_to_the_one_before(path: Path, given: Given) -> None:
    """Each link is the hash of the row and of the link before it; the conversation has the last one."""
    given.store.close()
    with closing(sqlite3.connect(path)) as connection:
        for number, key, last in connection.execute("SELECT id, key, chain FROM conversation").fetchall():
            before = chain.beginning(key)
            for row, found in chain.walk(connection, number):
                assert chain.holds(before, row, found)
                assert len(found) == chain.CHAIN_SIZE
                before = found
            assert before == last


def test_an_older_file_gets_the_chain_that_it_would_have(
    path: Path, given: Given, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of the second schema is chained at its first start, in steps that are told, and goes on."""
    monkeypatch.setattr(chain, "STORE_WALK_ROWS", 7)
    monkeypatch.setattr(chain, "STORE_WALK_REPORT_ROWS", 15)
    given.store.close()
    before = links(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "ALTER TABLE message DROP COLUMN chain; ALTER TABLE conversation DROP COLUMN chain;"
            "PRAGMA user_version = 2"
        )
    with caplog.at_level(logging.WARNING, "quicmsg.store"):
        given.store = open_store(path)
    assert links(path) == before
    assert [record.getMessage() for record in caplog.records] == [
        "= chaining the log: 15 of 43 messages",
        "= chaining the log: 30 of 43 messages",
    ]
    given.say("#team", "cid", "goes on")
    given.store.close()
    given.store = open_store(path)
    assert given.texts("#team", "ann")[-1] == "goes on"
