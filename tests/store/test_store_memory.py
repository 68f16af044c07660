"""The memory store keeps the contract, and its snapshots are what a simulated disk needs."""

from __future__ import annotations

import copy

import contract
import pytest
from given import EPOCH, Given

from quicmsg.store import Store
from quicmsg.store.memory import MemoryStore


def reopen(store: Store) -> Store:
    assert isinstance(store, MemoryStore)
    other = MemoryStore(store.epoch)
    other.restore(store.snapshot())
    store.close()
    return other


@pytest.fixture
def given() -> Given:
    return Given(MemoryStore(EPOCH), reopen)


class TestLog(contract.LogContract):
    pass


class TestPosition(contract.PositionContract):
    pass


class TestFeed(contract.FeedContract):
    pass


class TestGroup(contract.GroupContract):
    pass


class TestAccount(contract.AccountContract):
    pass


class TestDurable(contract.DurableContract):
    pass


def test_a_snapshot_brings_back_what_was_and_stays_usable(given: Given) -> None:
    """A crash drops what came after it, as often as one likes; a deep copy is independent."""
    given.users("ann", "bob")
    direct = given.direct("ann", "bob")
    given.group("#team", "ann", open=True)
    given.say(direct, "ann", "kept")
    store = given.store
    assert isinstance(store, MemoryStore)
    snapshot, twin = store.snapshot(), copy.deepcopy(store)
    for _ in range(2):
        assert given.say(direct, "ann", "dropped").seq == 2
        given.move(direct, "bob", 2, read=2)
        given.member("#team", "bob", "join")
        store.restore(snapshot)
        assert given.texts(direct, "bob") == ["kept"]
        assert given.open(direct, "ann").members[1].received == 0
        assert store.members("#team") == ["ann"]
    assert twin.head() == store.head() == 3
