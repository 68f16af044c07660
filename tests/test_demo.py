"""The demo as its user meets it, and the account that it gives: a lie in any of the sources is found."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quicmsg.demo.account import Account, check_files, take_account
from quicmsg.demo.processes import PeerProcess

ROOT = Path(__file__).resolve().parent.parent


def start_demo(directory: Path) -> subprocess.Popen[str]:
    temporary = directory / "tmp"
    temporary.mkdir()
    return subprocess.Popen(
        [sys.executable, "-m", "quicmsg.demo"],
        cwd=directory,
        env={**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def processes_in(directory: Path) -> list[str]:
    """Command lines of living processes that were given something in this directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(directory) in command:
            found.append(command)
    return found


@pytest.mark.slow
def test_the_demo_shows_that_every_message_arrived_once_in_order(tmp_path: Path) -> None:
    """One command: a move with messages in flight, an account of each, status 0, and nothing left behind."""
    demo = start_demo(tmp_path)
    said, _ = demo.communicate(timeout=50)
    assert demo.returncode == 0, said
    assert re.search(r"^\d+ messages: 0 lost, 0 doubled, 0 out of order, 0 shown as failed$", said, re.M)
    assert "moved user=alice old=127.0.0.1:" in said
    assert "\x1b" not in said, "no colours into a file"
    in_flight = said.partition("In flight")[2].partition("The move:")[0]
    for sender in ("alice", "bob"):
        for conversation in ("direct", "#music", "#plans", "#trip", "#work"):
            assert any(line.split()[:2] == [conversation, sender] for line in in_flight.splitlines()), said
    assert "never" not in said
    assert not list((tmp_path / "tmp").iterdir())
    assert not processes_in(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl+C while everything runs: status 130, no process, no file."""
    demo = start_demo(tmp_path)
    assert demo.stdout is not None
    for line in demo.stdout:
        if "both send" in line:
            break
    assert processes_in(tmp_path)
    demo.send_signal(number)
    said, _ = demo.communicate(timeout=20)
    assert demo.returncode == 130, said
    assert "Traceback" not in said
    assert not list((tmp_path / "tmp").iterdir())
    deadline = time.monotonic() + 5
    while processes_in(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)  # the kernel removes a killed process when its parent, or init, has taken note
    assert not processes_in(tmp_path)


# ---- the account ----------------------------------------------------------------------------------

Lines = list[dict[str, Any]]


def pair(tmp_path: Path) -> tuple[PeerProcess, PeerProcess]:
    """Alice told bob "a-1" and "a-2", and everything went well."""
    alice = PeerProcess("alice", "127.0.0.1:1", tmp_path, tmp_path)
    bob = PeerProcess("bob", "127.0.0.1:1", tmp_path, tmp_path)
    for seq in (1, 2):
        message_id, text = f"{seq:032x}", f"a-{seq}"
        alice.told.append(("@bob", text))
        fields = {"message_id": message_id, "seq": seq, "text": text, "at": float(seq)}
        alice.events.append({"event": "queued", "conversation": "@bob", **fields})
        for state in ("stored", "delivered", "read"):
            alice.events.append({"event": "state", "state": state, "conversation": "@bob", **fields})
        bob.events.append(
            {"event": "message", "conversation": "@alice", "sender": "alice", **fields, "at": seq + 0.5}
        )
    return alice, bob


def test_a_good_account_is_clean(tmp_path: Path) -> None:
    """What is complete and in order has no problems, and says when things happened."""
    alice, bob = pair(tmp_path)
    account = take_account([alice, bob])
    assert account.is_clean
    assert [life.text for life in account.in_flight_at(1.2, "alice")] == ["a-1"]
    assert account.first_after("bob", 1.6) == pytest.approx(0.9)
    assert account.longest_wait("bob", 0.0, 9.0) == pytest.approx(0.5), "waits count from the sending on"


def lose(alice: Lines, bob: Lines) -> None:
    del bob[1]


def double(alice: Lines, bob: Lines) -> None:
    bob.append(bob[0])


def swap(alice: Lines, bob: Lines) -> None:
    bob.reverse()


def swap_in_the_log(alice: Lines, bob: Lines) -> None:
    """Both places in the log are the wrong way round: only the sender's order can tell."""
    bob[0], bob[1] = {**bob[1], "seq": 1}, {**bob[0], "seq": 2}
    for line in alice:
        line["seq"] = 3 - line["seq"]


def fail(alice: Lines, bob: Lines) -> None:
    alice.insert(1, {**alice[1], "state": "failed"})


def invent(alice: Lines, bob: Lines) -> None:
    bob.append({**bob[1], "message_id": "f" * 32, "seq": 3})


def change_text(alice: Lines, bob: Lines) -> None:
    bob[0]["text"] = "something else"


def never_stored(alice: Lines, bob: Lines) -> None:
    del alice[1]


def never_delivered(alice: Lines, bob: Lines) -> None:
    del alice[2]


def never_queued(alice: Lines, bob: Lines) -> None:
    del alice[4:]
    del bob[1]


@pytest.mark.parametrize(
    "lie",
    [
        lose,
        double,
        swap,
        swap_in_the_log,
        fail,
        invent,
        change_text,
        never_stored,
        never_delivered,
        never_queued,
    ],
)
def test_an_account_finds_what_went_wrong(tmp_path: Path, lie: Callable[[Lines, Lines], None]) -> None:
    """Lost, doubled, out of order, failed, invented, changed, without a tick: none passes as clean."""
    alice, bob = pair(tmp_path)
    lie(alice.events, bob.events)
    assert not take_account([alice, bob]).is_clean


def write_files(tmp_path: Path, account: Account, peers: tuple[PeerProcess, ...]) -> Path:
    """A server's database and both journals, as far as the count looks at them."""
    database = tmp_path / "quicmsg.db"
    rows = [(life.seq, bytes.fromhex(life.message_id), life.text.encode()) for life in account.lives]
    with sqlite3.connect(database) as server:
        server.executescript(
            """CREATE TABLE user (id INTEGER, name TEXT); INSERT INTO user VALUES (1, 'alice');
            CREATE TABLE conversation (id INTEGER, key TEXT);
            INSERT INTO conversation VALUES (1, '@alice:bob');
            CREATE TABLE message (seq, message_id, body, sender DEFAULT 1, conversation DEFAULT 1,
            kind DEFAULT 0)"""
        )
        server.executemany("INSERT INTO message (seq, message_id, body) VALUES (?, ?, ?)", rows)
    server.close()
    for peer in peers:
        peer.journal.parent.mkdir(parents=True)
        other = "@bob" if peer.user == "alice" else "@alice"
        with sqlite3.connect(peer.journal) as journal:
            journal.executescript(
                f"""CREATE TABLE message (seq, message_id, body, sender DEFAULT 'alice', kind DEFAULT 0,
                conversation DEFAULT '{other}'); CREATE TABLE outbox (message_id)"""
            )
            journal.executemany("INSERT INTO message (seq, message_id, body) VALUES (?, ?, ?)", rows)
        journal.close()
    return database


@pytest.mark.parametrize(
    ("where", "sql"),
    [
        ("server", "DELETE FROM message WHERE seq = 2"),
        ("server", "INSERT INTO message SELECT 3, message_id, body, 1, 1, 0 FROM message WHERE seq = 1"),
        ("server", "UPDATE message SET seq = seq + 1"),
        ("server", "UPDATE message SET body = CAST('else' AS BLOB) WHERE seq = 2"),
        ("alice", "DELETE FROM message WHERE seq = 1"),
        ("bob", "UPDATE message SET seq = 3 - seq"),
        ("bob", "UPDATE message SET message_id = zeroblob(16) WHERE seq = 2"),
        ("alice", "INSERT INTO outbox VALUES (x'00')"),
    ],
)
def test_the_files_are_counted_independently(tmp_path: Path, where: str, sql: str) -> None:
    """A difference between the server's log, a journal and what the programs printed is found."""
    peers = pair(tmp_path)
    account = take_account(peers)
    database = write_files(tmp_path, account, peers)
    assert check_files(account, database, peers) == []
    path = database if where == "server" else peers[where == "bob"].journal
    with sqlite3.connect(path) as connection:
        connection.execute(sql)
    connection.close()
    assert check_files(account, database, peers) != []
