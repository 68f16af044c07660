"""One flipped bit in a store's file: `quicmsg fsck` finds it, or it changed nothing that was kept."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from given import EPOCH, Given, device

from quicmsg.errors import ConfigurationError
from quicmsg.store import Append, chain, check
from quicmsg.store.sqlite import SqliteStore

FLIPS = 1_000
NOT_COVERED = ("device", "code", "meta")
"""Tables with columns that are in no chain and in no index: labels, times, codes, the number of a start."""


def filled(path: Path) -> list[bytes]:
    """A store with messages of all sizes in several conversations; the bodies."""
    dice = random.Random(5)
    given = Given(SqliteStore(path, epoch_source=lambda: EPOCH), lambda store: store)
    given.users("ann", "bob", "cid")
    names = [given.direct("ann", "bob"), given.direct("ann", "cid"), "#team"]
    given.group("#team", "ann", "bob", "cid")
    bodies = []
    for number in range(90):
        bodies.append(dice.randbytes(dice.choice([8, 40, 300, 300, 9_000])))
        message_id = dice.randbytes(16)
        given.run(Append(dice.choice(names), "ann", device("ann"), message_id, 0, 0, bodies[-1], number))
    for name in names:
        given.move(name, "ann", 20, read=10)
    given.store.close()
    with closing(sqlite3.connect(path)) as connection:
        # One file without a log beside it, so that a copy in memory can be opened.
        connection.execute("PRAGMA journal_mode = DELETE")
    return bodies


def flipped(image: bytes, position: int, bit: int) -> bytes:
    changed = bytearray(image)
    changed[position] ^= 1 << bit
    return bytes(changed)


def damages(image: bytes) -> list[check.Damage]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
        connection.deserialize(image)
        return check.whole(connection, str)


def content(image: bytes) -> dict[str, list[object]]:
    """Every table as it reads."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.text_factory = bytes
        connection.deserialize(image)
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        ]
        return {
            str(n, "utf-8"): connection.execute(f"SELECT * FROM {str(n, 'utf-8')}").fetchall() for n in names
        }


@pytest.mark.slow
def test_every_flipped_bit_in_a_message_is_found(tmp_path: Path) -> None:
    """A thousand places within the bodies, one bit at a time; the check names conversation and number."""
    bodies = filled(tmp_path / "server.db")
    image = (tmp_path / "server.db").read_bytes()
    assert damages(image) == []
    dice = random.Random(1)
    # A long body goes on in other pages: what is in one piece in the file is enough.
    starts = [(image.find(body), len(body)) for body in bodies]
    places = [place for start, size in starts if start >= 0 for place in range(start, start + size)]
    for place in dice.sample(places, FLIPS):
        found = damages(flipped(image, place, dice.randrange(8)))
        assert any(damage.conversation and damage.seq for damage in found), place


@pytest.mark.slow
def test_without_the_chain_flipped_bits_are_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite alone does not see them: the chain is what the test above tests."""
    bodies = filled(tmp_path / "server.db")
    image = (tmp_path / "server.db").read_bytes()
    monkeypatch.setattr(chain, "holds", lambda before, row, found: True)
    assert damages(flipped(image, image.find(bodies[3]) + 5, 3)) == []


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_or_hurts_nothing(tmp_path: Path) -> None:
    """A thousand places in the whole file: found, or everything still reads the same (unused space), or it
    is in one of the few columns that are said not to be covered."""
    filled(tmp_path / "server.db")
    image = (tmp_path / "server.db").read_bytes()
    assert damages(image) == []
    whole, dice, seen = content(image), random.Random(2), Counter[str]()
    for _ in range(FLIPS):
        changed = flipped(image, dice.randrange(len(image)), dice.randrange(8))
        try:
            found = damages(changed)
        except (sqlite3.Error, ConfigurationError):
            seen["not a database any more"] += 1
            continue
        if found:
            seen["found"] += 1
            continue
        now = content(changed)
        assert now.keys() == whole.keys()
        differing = {name for name in whole if now[name] != whole[name]}
        assert differing <= set(NOT_COVERED), differing
        seen["not covered" if differing else "unused space"] += 1
    assert seen["found"] > FLIPS / 2, seen
    assert seen["not covered"] <= FLIPS / 50, seen
    print(dict(seen))  # noqa: T201
