"""`quicmsg fsck`, `backup`, `restore` and `new-epoch`, as an operator meets them."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quicmsg.errors import ConfigurationError
from quicmsg.server import upkeep
from quicmsg.server.__main__ import invite
from quicmsg.store import Append, OpenConversation, SignIn, rules
from quicmsg.store.sqlite import SqliteStore

KEY = b"k" * 32


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A stopped server's data: five messages that ann wrote to herself."""
    store = SqliteStore(tmp_path / "data" / "quicmsg.db", epoch_source=lambda: 7)
    device = rules.device_id(KEY)
    store.execute(
        [SignIn("ann", KEY, "", "", False, 1), OpenConversation("@ann:ann", "ann", device, 0, 0, 1)]
    )
    store.execute(
        [Append("@ann:ann", "ann", device, bytes([n]) * 16, 0, 0, b"secret words", n) for n in range(5)]
    )
    store.close()
    return tmp_path / "data"


def run(command: str, *words: object) -> Result:
    return CliRunner().invoke(getattr(upkeep, command), [str(word) for word in words])


def damage(data: Path, sql: str) -> None:
    with closing(sqlite3.connect(data / "quicmsg.db", isolation_level=None)) as connection:
        connection.execute(sql)


def test_fsck_of_good_data(data: Path) -> None:
    """What it looks at, and that nothing is wrong; exit status 0."""
    done = run("fsck", "--data", data)
    assert done.exit_code == 0
    assert done.stdout == f"{data}/quicmsg.db: nothing is damaged\n"
    assert "= the logs (5 messages)" in done.stderr


def test_fsck_of_damaged_data(data: Path, tmp_path: Path) -> None:
    """Each message by conversation and number, never its words; what to do; exit status 1. Also by URL."""
    damage(data, "UPDATE message SET body = x'00' WHERE seq = 3")
    for words in (("--data", data), ("--store", f"sqlite:{data}/quicmsg.db")):
        done = run("fsck", *words)
        assert done.exit_code == 1
        assert (
            done.stdout == "damaged: @ann:ann message 3: it is not what was written (its hash does not fit)\n"
        )
        assert "(quicmsg restore FILE)" in done.stderr
        assert "--accept" in done.stderr
        assert "secret" not in done.output
    assert run("backup", tmp_path / "b", "--data", data).exit_code == 1


def test_damage_can_be_accepted_when_there_is_no_backup(data: Path) -> None:
    """A server that would not start does, and gives out what is there; a message that is gone stays damage,
    and one that is none any more is not accepted."""
    damage(data, "UPDATE message SET body = cast('other words' AS BLOB) WHERE seq = 3")
    with pytest.raises(ConfigurationError, match="damaged"):
        SqliteStore(data / "quicmsg.db", epoch_source=lambda: 7)
    done = run("fsck", "--accept", "--data", data)
    assert (done.exit_code, "0 damages are left" in done.stdout) == (0, True)
    store = SqliteStore(data / "quicmsg.db", epoch_source=lambda: 7)
    assert store.entries("@ann:ann", "ann", limit=9)[2].body == b"other words"
    store.close()
    damage(data, "DELETE FROM message WHERE seq = 3")
    done = run("fsck", "--accept", "--data", data)
    assert (done.exit_code, "1 damages are left" in done.stdout) == (1, True)
    damage(data, "UPDATE message SET body = 'text' WHERE seq = 2")
    assert "no message any more" in run("fsck", "--accept", "--data", data).stderr


def test_what_would_be_refused_is_not_offered(data: Path) -> None:
    """Damaged pages cannot be accepted: nothing that is read from them can be relied on."""
    with (data / "quicmsg.db").open("r+b") as file:
        for page in range(2, file.seek(0, 2) // 4096):
            file.seek(page * 4096)
            file.write(b"\xff" * 64)
    done = run("fsck", "--data", data)
    assert (done.exit_code, "(quicmsg restore FILE)" in done.stderr) == (1, True)
    assert "--accept" not in done.output
    assert "It cannot be accepted" in done.stderr


def test_a_code_is_made_for_a_server_only(data: Path, tmp_path: Path) -> None:
    """A directory that is spelled wrong gets no database, and nobody a code that no server knows."""
    for make in (False, True):
        wrong = tmp_path / "daat"
        if make:
            wrong.mkdir()
            (wrong / "quicmsg.db").touch()
        done = CliRunner().invoke(invite, ["--data", str(wrong)])
        assert (done.exit_code, done.stdout) == (1, "")
        assert re.search(r"^quicmsg: .*daat/quicmsg\.db(: name the server's --data| is empty)", done.stderr)
        assert wrong.exists() == make
    done = CliRunner().invoke(invite, ["--data", str(data)])
    assert re.fullmatch(r"[a-z2-7-]{19}\n", done.stdout)


def test_fsck_of_much_damage_is_short(data: Path) -> None:
    """A person reads twenty lines, not a thousand."""
    with closing(sqlite3.connect(data / "quicmsg.db", isolation_level=None)) as connection:
        connection.executemany("INSERT INTO user (name) VALUES (?)", [(f"X{n}",) for n in range(30)])
    done = run("fsck", "--data", data)
    assert done.stdout.count("damaged: ") == 20
    assert "... 30 in all" in done.stdout


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    """One line and exit status 1; nothing is made."""
    for words in (("fsck",), ("backup", tmp_path / "b"), ("restore", tmp_path / "b"), ("new_epoch",)):
        (tmp_path / "data").mkdir(exist_ok=True)
        done = run(words[0], *words[1:], "--data", tmp_path / "data")
        assert done.exit_code == 1, words
        assert "\nquicmsg: there is no " in "\n" + done.stderr
    assert sorted(file.name for file in (tmp_path / "data").glob("*.db")) == []


def test_from_backup_to_restore(data: Path, tmp_path: Path) -> None:
    """Each step says what it did; after the restore fsck is content, and a start begins a new epoch."""
    assert run("backup", tmp_path / "b", "--data", data).stdout == f"{tmp_path}/b: a checked backup\n"
    damage(data, "UPDATE message SET body = x'00' WHERE seq = 3")
    done = run("restore", tmp_path / "b", "--data", data)
    assert done.exit_code == 0
    assert f"restored from {tmp_path}/b; what was there is now {data}/quicmsg.db.before-" in done.stdout
    assert run("fsck", "--data", data).exit_code == 0
    store = SqliteStore(data / "quicmsg.db", epoch_source=lambda: 8)
    assert store.epoch == 8
    store.close()
    assert "the next start begins a new epoch" in run("new_epoch", "--data", data).stdout
    store = SqliteStore(data / "quicmsg.db", epoch_source=lambda: 9)
    assert store.epoch == 9
    store.close()
