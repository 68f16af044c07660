"""The SQLite store on a disk that loses power at any write: what was acknowledged is there afterwards.

More seeds: `QUICMSG_POWER_SEEDS=2000 python -m pytest tests/store/test_store_power.py`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from given import EPOCH, device, everything, key

from quicmsg.store import (
    Append,
    ChangeMember,
    CreateGroup,
    MovePosition,
    OpenConversation,
    Operation,
    SignIn,
    memory,
)
from quicmsg.store.sqlite import SqliteStore

power = pytest.importorskip("power", reason="needs apsw, for a disk below SQLite")

SEEDS = int(os.environ.get("QUICMSG_POWER_SEEDS", "30"))
LIVES = 5
USERS = ("ann", "bob", "cid")
CONVERSATIONS = ("@ann:bob", "#team")


def operation(rng: random.Random, number: int) -> Operation:
    user = rng.choice(USERS)
    conversation = rng.choice(CONVERSATIONS)
    request_id = number.to_bytes(16, "big")
    match rng.choice("SOGJAAAAMM"):
        case "S":
            return SignIn(user, key(user), rng.choice("xy"), "", False, number)
        case "O":
            return OpenConversation(conversation, user, device(user), EPOCH, rng.randrange(9), number)
        case "G":
            return CreateGroup("#team", user, device(user), USERS, True, number, request_id)
        case "J":
            change = rng.choice(["join", "leave"])
            return ChangeMember("#team", user, device(user), user, change, number, request_id)
        case "M":
            read = rng.randrange(99)
            return MovePosition(conversation, user, device(user), rng.randrange(99), read, True)
    body = rng.randbytes(rng.choice([0, 10, 600, 5000]))
    return Append(conversation, user, device(user), request_id, 0, 0, body, number)


class Life:
    """Several lives of a server on one disk, beside a reference that knows what was acknowledged."""

    def __init__(self, path: Path, seed: int, synchronous: str) -> None:
        self.path = path
        self.rng = random.Random(seed)
        self.disk = power.Disk(f"power-{seed}-{synchronous}", self.rng, synchronous=synchronous)
        self.reference = memory.MemoryStore(EPOCH)
        self.number = 0
        self.acknowledged = 0

    def live(self) -> bool:
        """Serve until the power goes; whether, afterwards, nothing acknowledged is missing."""
        self.disk.cut_after(self.rng.choice([5, 40, 200]) + self.rng.randrange(200))
        before = self.reference.snapshot()
        store = self.open()
        while not self.disk.dead:
            before = self.reference.snapshot()
            batch = [operation(self.rng, self.number + n) for n in range(self.rng.choice([1, 3, 20]))]
            self.number += len(batch)
            assert store.execute(batch) == self.reference.execute(batch)
            # Returned before the power went: acknowledged. Else the batch may be there or not, as a whole.
            if not self.disk.dead:
                self.acknowledged += len(batch)
        store.close()
        self.disk.power_on()
        return self.is_whole(before)

    def is_whole(self, without_last: object) -> bool:
        store = self.open()
        check = store._writer.execute("PRAGMA integrity_check").fetchall()
        assert check == [("ok",)], check
        found = list(everything(store, USERS, CONVERSATIONS))
        store.close()
        if found == list(everything(self.reference, USERS, CONVERSATIONS)):
            return True
        self.reference.restore(without_last)
        return found == list(everything(self.reference, USERS, CONVERSATIONS))

    def open(self) -> SqliteStore:
        return SqliteStore(self.path, epoch_source=lambda: EPOCH, connect=self.disk.connect)


def survives(path: Path, seed: int, synchronous: str = "FULL") -> bool:
    life = Life(path, seed, synchronous)
    try:
        return all(life.live() for _ in range(LIVES)) and life.acknowledged > 0
    finally:
        life.disk.unregister()


@pytest.mark.slow
def test_power_cuts_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    """Each seed has five lives, cut at a random write; every read then answers as it must."""
    for seed in range(SEEDS):
        assert survives(tmp_path / f"{seed}.db", seed), f"seed {seed}"


@pytest.mark.slow
def test_this_test_would_notice(tmp_path: Path) -> None:
    """The same with synchronous=NORMAL loses acknowledged messages: the disk above is cruel enough."""
    assert not all(survives(tmp_path / f"{seed}.db", seed, "NORMAL") for seed in range(5))
