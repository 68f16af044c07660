"""A crash between processing and Ack costs nobody a tick: the next start knows what is owed."""

from __future__ import annotations

from pathlib import Path

from quicmsg.client.journal import JournalFile, Positions, Processed, Queue, Stored
from quicmsg.protocol.frames import Entry

ME, BOB = b"d" * 16, b"b" * 16


def entry(seq: int, sender: str, device: bytes) -> Entry:
    return Entry(seq, bytes([seq]) * 16, sender, device, 0, 0, b"text", 1)


def owed(path: Path) -> int:
    file = JournalFile(path, user="alice", device=ME)
    (row,) = file.load().conversations
    file.close()
    return row.owed


def test_processed_but_unconfirmed_position_is_owed_after_a_restart(tmp_path: Path) -> None:
    """Bob's message is processed, the Ack never left: it is told at the next start."""
    path = tmp_path / "journal.db"
    file = JournalFile(path, user="alice", device=ME)
    file.apply([Processed("@bob", 2, (entry(1, "bob", BOB), entry(2, "bob", BOB)), 7)])
    file.apply([Positions("@bob", (("alice", 1, 0), ("bob", 0, 0)))])
    file.close()
    assert owed(path) == 2


def test_own_messages_owe_nothing(tmp_path: Path) -> None:
    """Nobody waits for a receipt of what this device sent itself: no channel is opened for it."""
    path = tmp_path / "journal.db"
    file = JournalFile(path, user="alice", device=ME)
    file.apply([Queue(bytes([1]) * 16, "@bob", 0, 0, b"text", 1)])
    file.apply([Stored(bytes([1]) * 16, 1, 1, 7), Processed("@bob", 1, (), 7)])
    file.close()
    assert owed(path) == 0
