"""The journal on a disk that loses power: what a start has shown is not lost by what comes next."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from quicmsg.client.journal import JournalFile, Queue

power = pytest.importorskip("power", reason="needs apsw, for a disk below SQLite")
WRITES = 12
"""More than a commit has."""


def open_file(path: Path, disk: power.Disk) -> JournalFile:
    return JournalFile(path, user="alice", device=b"d" * 16, connect=disk.connect)


@pytest.mark.parametrize("count", range(1, WRITES))
def test_what_a_killed_process_left_unsynced_is_on_the_disk_once_it_was_shown(
    tmp_path: Path, count: int
) -> None:
    """Killed inside a commit, started, then the power goes: the outbox that the start showed is there."""
    disk = power.Disk(f"journal-{count}", random.Random(count))
    path = tmp_path / "journal.db"
    try:
        file = open_file(path, disk)
        file.apply([Queue(b"1" * 16, "@bob", 0, 0, b"one", 1)])
        disk.cut_after(count, kills=True)
        file.apply([Queue(b"2" * 16, "@bob", 0, 0, b"two", 1)])
        file.close()
        disk.power_on()
        file = open_file(path, disk)
        shown = [row.message_id for row in file.outbox()]
        disk.cut()
        file.close()
        disk.power_on()
        file = open_file(path, disk)
        assert [row.message_id for row in file.outbox()] == shown
        file.close()
    finally:
        disk.unregister()
