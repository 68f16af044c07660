"""A server that gets more than it can process: everybody's turn comes round, who sends most loses first."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quicmsg.limits import RECEIVE_AHEAD, RECEIVE_BATCH, RECEIVE_WAITING_MAX
from quicmsg.transport.endpoint import Endpoint, Peer
from quicmsg.transport.fairness import FairQueue

FLOOD = 4 * RECEIVE_WAITING_MAX
SERVER, SOMEBODY = ("127.0.0.1", 4433), ("127.0.0.2", 1)


def test_keys_take_turns() -> None:
    """One that has much does not go before one that has little."""
    queue: FairQueue[str, str] = FairQueue(100)
    for item in ("a1", "a2", "a3", "b1", "c1", "b2"):
        assert queue.push(item[0], item)
    assert [queue.pop() for _ in range(len(queue))] == ["a1", "b1", "c1", "a2", "b2", "a3"]


def test_who_has_more_than_a_share_loses_first() -> None:
    """The queue is full of one sender's; another's still gets in, up to an equal share."""
    queue: FairQueue[str, int] = FairQueue(10)
    assert [queue.push("loud", n) for n in range(12)] == [True] * 10 + [False] * 2
    assert [queue.push("quiet", n) for n in range(6)] == [True] * 5 + [False]
    assert len(queue) == 15


def test_many_that_come_one_after_the_other_stay_within_the_bound() -> None:
    """Each newcomer finds the queue full of others' shares: it gets one place, and no share of its own."""
    queue: FairQueue[int, int] = FairQueue(10)
    for key in range(50):
        for item in range(10):
            queue.push(key, item)
    assert len(queue) <= 2 * 10 + 50


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=400))
def test_order_and_bound_hold_for_any_use(steps: list[tuple[str, bool]]) -> None:
    """Of each key first in, first out; never more than twice the size; the length is right."""
    queue: FairQueue[str, tuple[str, int]] = FairQueue(16)
    expected: dict[str, list[int]] = {}
    for number, (key, is_push) in enumerate(steps):
        if is_push:
            if queue.push(key, (key, number)):
                expected.setdefault(key, []).append(number)
        elif len(queue):
            got_key, got = queue.pop()
            assert got == expected[got_key].pop(0)
        assert len(queue) == sum(map(len, expected.values())) <= 32 + 5


class FakeSocket:
    """Gives what has arrived, a batch at a time."""

    def __init__(self, arrivals: list[bytes]) -> None:
        self.arrivals = arrivals
        self.address = SERVER

    def receive(self) -> list[tuple[bytes, Any, bytes]]:
        batch, self.arrivals = self.arrivals[:RECEIVE_BATCH], self.arrivals[RECEIVE_BATCH:]
        return [(data, SOMEBODY, b"") for data in batch]


class FakeConnection:
    """Counts what it is given."""

    has_ended = False
    ids_version = 0
    packets_received = 0

    def __init__(self, connection_id: bytes, journal: list[bytes]) -> None:
        self.connection_ids = [connection_id]
        self._journal = journal

    def receive_datagram(self, data: bytes, _sender: Any, _now: float) -> None:
        self._journal.append(self.connection_ids[0])

    def get_peer_address(self) -> Any:
        return SOMEBODY

    def datagrams_to_send(self, _now: float) -> list[Any]:
        return []

    def get_timer(self) -> None:
        return None


class FakeRider:
    def pump(self, now: float) -> None:
        pass

    def get_timer(self) -> None:
        return None


async def test_threat_18_a_flood_of_one_connection_does_not_delay_another() -> None:
    """Row 18: behind 16,384 datagrams of one connection, and as much junk, comes one of another: it is
    processed as soon as it is read, while most of the flood is dropped unprocessed."""
    journal: list[bytes] = []
    strangers: list[bytes] = []

    def stranger(data: bytes, *_: Any) -> None:
        journal.append(b"strange!")
        strangers.append(data)

    endpoint = Endpoint(stranger, follows_path=True)
    for name in (b"floodfld", b"honesthn"):
        endpoint.attach(Peer(FakeConnection(name, journal), FakeRider(), None))  # type: ignore[arg-type]
    flood = [b"\x40floodfld" + bytes(20), b"\x40junkjunk" + bytes(20)] * FLOOD
    socket = FakeSocket([*flood, b"\x40honesthn" + bytes(20)])
    endpoint._sockets.add(socket)  # type: ignore[arg-type]
    while socket.arrivals or endpoint._waiting:
        if socket.arrivals:
            endpoint._readable(socket)  # type: ignore[arg-type]
        await asyncio.sleep(0)
    endpoint._sockets.clear()
    endpoint.close()
    at = journal.index(b"honesthn")
    processed_while_read = len(flood) / (RECEIVE_AHEAD * RECEIVE_BATCH) * RECEIVE_BATCH
    assert at <= processed_while_read + 2 * RECEIVE_BATCH, "its turn came at once"
    assert len(journal) < len(flood) / 2, "most of the flood was dropped"
    assert abs(journal.count(b"floodfld") - len(strangers)) <= RECEIVE_BATCH, "both had the same share"


async def test_a_little_is_processed_at_once() -> None:
    """What one turn can process does not wait for a later one."""
    journal: list[bytes] = []
    endpoint = Endpoint(lambda *_: None, follows_path=True)
    endpoint.attach(Peer(FakeConnection(b"honesthn", journal), FakeRider(), None))  # type: ignore[arg-type]
    socket = FakeSocket([b"\x40honesthn" + bytes(20)] * (RECEIVE_BATCH - 1))
    endpoint._sockets.add(socket)  # type: ignore[arg-type]
    endpoint._readable(socket)  # type: ignore[arg-type]
    assert len(journal) == RECEIVE_BATCH - 1
    endpoint._sockets.clear()
    endpoint.close()
