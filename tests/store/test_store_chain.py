"""The chain of hashes over each log: written with every message, brought to older files, checked by reads."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from given import EPOCH, Given

from quicmsg.errors import ConfigurationError, DamagedError
from quicmsg.store import chain, check
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


# ---- reads -------------------------------------------------------------------------------------

BODY = "UPDATE message SET body = cast('changed' AS BLOB) WHERE seq = ? AND conversation = 1"


def test_a_damaged_entry_is_never_given_out(
    path: Path, given: Given, caplog: pytest.LogCaptureFixture
) -> None:
    """What is before it, and what is behind it, is; the damage is told once, others do not notice."""
    change(path, BODY, 5)
    for _ in range(2):
        assert given.texts("@ann:bob", "ann", limit=9) == [f"direct {n}" for n in range(4)]
        assert given.texts("@ann:bob", "bob", before=9, limit=9) == [f"direct {n}" for n in range(5, 8)]
        assert given.texts("@ann:bob", "bob", after=5) == [f"direct {n}" for n in range(5, 20)]
        for bounds in ({"after": 4}, {"before": 6}, {"after": 4, "before": 6}):
            with pytest.raises(DamagedError, match=r"message 5 of @ann:bob is damaged.*quicmsg restore"):
                given.entries("@ann:bob", "ann", **bounds)
    assert len(given.texts("#team", "ann")) == 23
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE message SET body = 'text' WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET stored_at_ms = 0.5 WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET device = 77 WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET sender = 3 WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET chain = x'00' WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET chain = 7 WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET conversation = 9 WHERE seq = 5 AND conversation = 1",
        "UPDATE message SET seq = 500 WHERE seq = 5 AND conversation = 1",
        "DELETE FROM message WHERE seq = 5 AND conversation = 1",
    ],
)
def test_whatever_is_wrong_with_a_row_is_noticed(path: Path, given: Given, damage: str) -> None:
    """Another type, another sender, a row that is gone: a reader stops before it, a check names it."""
    change(path, damage)
    assert given.texts("@ann:bob", "ann", limit=9) == [f"direct {n}" for n in range(4)]
    with pytest.raises(DamagedError):
        given.entries("@ann:bob", "ann", after=4)
    with check.reading(path) as connection:
        assert any("@ann:bob message 5: " in str(found) for found in check.whole(connection, str))


def test_a_damaged_page_hurts_its_messages_only(
    path: Path, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot read them: that is damage too, and no reason to end the server for everybody."""
    for number in range(30):
        given.say("@ann:bob", "ann", f"long {number} " + "x" * 2_000)
    given.say("#team", "ann", "last")
    given.store.close()
    with path.open("r+b") as file:
        place = file.read().index(b"long 15 ")
        file.seek(place // 4096 * 4096)
        file.write(b"\xff" * 8)
    monkeypatch.setattr(check, "STORE_TAIL_ROWS", 1)
    given.store = open_store(path)
    read = 0
    with contextlib.suppress(DamagedError):
        while page := given.entries("@ann:bob", "bob", after=read, limit=16):
            read += len(page)
    with pytest.raises(DamagedError, match=rf"message {read + 1} of @ann:bob is damaged"):
        given.entries("@ann:bob", "bob", after=read)
    assert 30 <= read <= 35, read
    assert given.texts("@ann:bob", "bob", before=51, limit=4)[-1].startswith("long 29 ")
    with pytest.raises(DamagedError):
        given.entries("@ann:bob", "bob", before=37, limit=16)
    assert len(given.texts("#team", "bob")) == 24


def test_a_lost_end_of_a_log_is_damage(path: Path, given: Given) -> None:
    """The head says how many there must be."""
    change(path, "DELETE FROM message WHERE seq > 18 AND conversation = 1")
    assert len(given.texts("@ann:bob", "ann")) == 18
    with pytest.raises(DamagedError, match="message 19"):
        given.entries("@ann:bob", "ann", after=18)
    with check.reading(path) as connection:
        found = [str(damage) for damage in check.whole(connection, str)]
    assert found[0] == "@ann:bob message 19: the log ends at 18, and should at 20"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE message SET device = 3 WHERE seq = 5", "its sender's device is unknown"),
        ("UPDATE member SET user = 99 WHERE id = 1", "a member that is no user"),
        ("UPDATE member SET received = 999 WHERE id = 2", "@ann:bob: a member's position is impossible"),
        ("UPDATE member SET read = 3, own_read = 2, received = 9", "a member's position is impossible"),
        ("INSERT INTO position VALUES (77, 1, 2, 4, 5)", "@ann:bob: a device's position is impossible"),
        ("INSERT INTO position VALUES (77, 1, 3, 4, 4)", "@ann:bob: a device's position is impossible"),
        ("UPDATE conversation SET change = 9", "its change number is impossible"),
        ("UPDATE device SET key = x'00' WHERE id = 2", "an impossible key"),
        ("INSERT INTO code VALUES (7, x'00', 'invite', '', 5, 0)", "a one-time code that cannot be"),
        ("UPDATE meta SET value = -5 WHERE name = 'epoch'", "the epoch of the log"),
        ("UPDATE user SET name = 'B' WHERE id = 2", "a user with the impossible name 'B'"),
        ("UPDATE conversation SET key = '@ann:cid' WHERE id = 1", "@ann:cid: its members are not the two"),
        ("UPDATE conversation SET key = 'x' WHERE id = 1", "a conversation with the impossible name 'x'"),
        ("UPDATE conversation SET chain = x'00' WHERE id = 1", "hash is not that of its newest message"),
        ("UPDATE conversation SET id = 99 WHERE id = 1", "it belongs to no conversation"),
    ],
)
def test_rows_that_make_no_sense_together_are_found(
    path: Path, given: Given, damage: str, words: str
) -> None:
    """Also where no hash is kept: the check says what is wrong, and of a whole file nothing."""
    given.move("#team", "bob", 5)
    given.move("@ann:bob", "ann", 5)
    with check.reading(path) as connection:
        assert check.whole(connection, str) == []
    change(path, damage)
    with check.reading(path) as connection:
        found = [str(damage) for damage in check.whole(connection, str)]
    assert any(words in line for line in found), found


def test_members_see_the_same_with_the_check_as_without(path: Path, given: Given) -> None:
    """The row that is read for its hash only is not one more entry, whatever the bounds are."""
    given.users("dan")
    given.member("#team", "ann", "invite", "dan")
    given.say("#team", "dan", "24")
    reference = {"ann": range(1, 26), "dan": range(24, 26)}
    for user, seqs in reference.items():
        for after in range(27):
            for before in (None, *range(1, 28)):
                for limit in (1, 3, 50):
                    bounds = {"after": after, "limit": limit} | ({} if before is None else {"before": before})
                    wanted = [seq for seq in seqs if after < seq < (before or 99)]
                    wanted = wanted[:limit] if before is None else wanted[-limit:]
                    assert [entry.seq for entry in given.entries("#team", user, **bounds)] == wanted


def test_damage_among_the_newest_messages_keeps_a_server_from_starting(
    path: Path, given: Given, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Said with conversation, number and remedy; older damage is for `fsck` and for whoever reads it."""
    given.store.close()
    change(path, BODY, 5)
    with pytest.raises(ConfigurationError, match=r"damaged: @ann:bob message 5: .*quicmsg restore FILE"):
        open_store(path)
    monkeypatch.setattr(check, "STORE_TAIL_ROWS", 20)
    open_store(path).close()
