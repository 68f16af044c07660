"""Store and journal on a disk that loses power at any write: what was acknowledged is there afterwards.

More of them, with counts: `python -m tests.power_cuts --cuts 100000`.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from pathlib import Path

import pytest

power = pytest.importorskip("power", reason="needs apsw, for a disk below SQLite")
import power_cuts  # noqa: E402

from quicmsg.errors import QuicmsgError  # noqa: E402

PARTS = 8
CUTS = 1_000
"""Over all parts, which run side by side; of one part its share."""


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_power_cuts_lose_and_double_nothing_that_was_acknowledged(part: int) -> None:
    """Five lives a seed, cut at random writes, of the store and of the journal: a thousand cuts in all."""
    counted: Counter[str] = Counter()
    for seed in count(part * 1_000):
        counted += power_cuts.run_seeds([seed])
        if counted["cuts"] >= CUTS / PARTS:
            break
    assert counted["acknowledged"] > 10 * counted["cuts"]
    assert counted["kills"] > 0


def fails(life: type[power_cuts.Life], directory: Path, synchronous: str = "FULL") -> bool:
    for seed in range(12):
        try:
            life(directory, seed, synchronous).run()
        except (AssertionError, QuicmsgError):
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("life", [power_cuts.StoreLife, power_cuts.JournalLife])
def test_a_log_that_is_not_synced_would_be_noticed(life: type[power_cuts.Life], tmp_path: Path) -> None:
    """The same with synchronous=NORMAL loses acknowledged messages: the disk is cruel enough."""
    assert fails(life, tmp_path, "NORMAL")


@pytest.mark.slow
@pytest.mark.parametrize("life", [power_cuts.StoreLife, power_cuts.JournalLife])
def test_a_directory_that_is_not_synced_would_be_noticed(
    life: type[power_cuts.Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file whose name is lost with the power is lost, however often it was synced itself."""
    monkeypatch.setattr(power.Disk, "sync_directory", lambda disk: None)
    assert fails(life, tmp_path)


@pytest.mark.slow
def test_an_acknowledgement_before_the_commit_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so is a batch of which a half is kept."""
    cut = power_cuts.StoreLife.check

    def check(life: power_cuts.StoreLife) -> None:
        life.before = life.reference.snapshot()
        cut(life)

    monkeypatch.setattr(power_cuts.StoreLife, "check", check)
    assert fails(power_cuts.StoreLife, tmp_path)
