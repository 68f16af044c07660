"""First the server is killed, then the power goes: what was answered in between is there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from given import EPOCH, device, key

from quicmsg.store import Append, Appended, OpenConversation, SignIn
from quicmsg.store.sqlite import SqliteStore

power = pytest.importorskip("power", reason="needs apsw, for a disk below SQLite")
WRITES = 14
"""More than a commit has."""


def open_store(path: Path, disk: power.Disk) -> SqliteStore:
    return SqliteStore(path, epoch_source=lambda: EPOCH, connect=disk.connect)


@pytest.mark.parametrize("count", range(1, WRITES))
def test_repetition_is_answered_only_for_what_is_on_the_disk(tmp_path: Path, count: int) -> None:
    """A commit was written and not synced when the process was killed. The next one reads it, and the client
    that sends again is told "stored" without any further write: so the start has to make it durable."""
    disk = power.Disk(f"store-{count}", random.Random(count))
    path = tmp_path / "server.db"
    append = Append("@ann:bob", "ann", device("ann"), b"m" * 16, 0, 0, b"text", 1)
    try:
        store = open_store(path, disk)
        store.execute([SignIn(user, key(user), "", "", False, 1) for user in ("ann", "bob")])
        store.execute([OpenConversation("@ann:bob", "ann", device("ann"), EPOCH, 0, 1)])
        disk.cut_after(count, kills=True)
        store.execute([append])
        store.close()
        disk.power_on()
        store = open_store(path, disk)
        (first,) = store.execute([append])
        disk.cut()
        store.close()
        disk.power_on()
        store = open_store(path, disk)
        (second,) = store.execute([append])
        store.close()
        assert isinstance(first, Appended)
        assert isinstance(second, Appended)
        assert second.duplicate, "it was acknowledged, and is lost"
    finally:
        disk.unregister()
