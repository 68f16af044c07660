"""Moves and crashes over loopback, with real processes and real sockets; nothing here needs root."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from roaming import Chat, chat

from quicmsg.demo.account import Account, check_files, key_of, take_account
from quicmsg.demo.processes import PeerProcess

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def assert_clean(account: Account) -> None:
    """0 lost, 0 doubled, 0 out of order, no message shown as failed, and all counts agree."""
    numbers = (account.lost, account.doubled, account.disordered, account.failed)
    assert (numbers, account.problems) == ((0, 0, 0, 0), [])


def assert_same_connections(both: Chat, moves: int) -> None:
    """Nobody signed in again, nobody was shown as down, the server logged every move."""
    log = both.server.log()
    assert log.count(" signed in ") == 2, log
    assert [peer.counts["connection down"] for peer in both.peers] == [0, 0]
    assert log.count(" moved user=") == moves, log


def moved_to(peer: PeerProcess) -> list[str]:
    """The observed addresses of every move that the server confirmed."""
    return [event["observed_address"] for event in peer.events if event.get("state") == "moved"]


async def test_fifty_conversations_move_with_messages_in_flight(tmp_path: Path) -> None:
    """An IP change among 200 messages in flight each way: none lost, doubled, out of order or failed."""
    async with chat(tmp_path) as both:
        async with both.filled(200):
            both.alice.tell("migrate", address="127.0.0.2")
            await both.wait(lambda: both.alice.counts["migrating"] == 1, "she began to move")
        await both.wait(lambda: both.alice.counts["connection moved"] == 1, "alice was told")
        account = await both.finish()
    moved_at = next(event["at"] for event in both.alice.events if event["event"] == "migrating")
    for user in ("alice", "bob"):
        assert len(account.in_flight_at(moved_at, user)) >= 200, "the move must come in the middle"
    assert_clean(account)
    assert_same_connections(both, moves=1)
    (address,) = moved_to(both.alice)
    assert address.startswith("127.0.0.2:")
    assert f"new={address}" in both.server.log()


@pytest.mark.parametrize("in_haste", [False, True])
async def test_ten_moves_in_a_row(tmp_path: Path, in_haste: bool) -> None:
    """Ten addresses one after the other, with traffic both ways; in haste more moves are under way at once
    than there are spare connection ids."""
    async with chat(tmp_path, conversations=10) as both:
        async with both.talking(0.01):
            for number in range(2, 12):
                both.alice.tell("migrate", address=f"127.0.0.{number}")
                if not in_haste:
                    await both.wait(lambda moves=number - 1: len(moved_to(both.alice)) == moves, "it moved")  # type: ignore[misc]
            await both.wait(lambda: any("127.0.0.11:" in to for to in moved_to(both.alice)), "the last move")
        account = await both.finish()
    assert_clean(account)
    assert_same_connections(both, moves=len(moved_to(both.alice)))
    assert in_haste or len(moved_to(both.alice)) == 10


async def test_a_listener_moves_and_hears_what_is_sent_afterwards(tmp_path: Path) -> None:
    """Bob only listens: his client speaks first after the move, so that the server finds him at once."""
    async with chat(tmp_path, conversations=5) as both:
        both.bob.tell("migrate", address="127.0.0.2")
        await both.wait(lambda: both.bob.counts["connection moved"] == 1, "bob was told of his move")
        both.burst(50, both.alice)
        account = await both.finish()
    assert_clean(account)
    assert_same_connections(both, moves=1)
    slowest = max(life.delivered - life.queued for life in account.lives if life.delivered is not None)
    assert slowest < 1.5, "nothing had to wait for a heartbeat"


async def test_a_wildcard_server_answers_from_the_address_that_was_used(tmp_path: Path) -> None:
    """Bound to 0.0.0.0: alice uses 127.0.0.3, bob 127.0.0.4, and hears from it, also after a move."""
    async with chat(
        tmp_path,
        conversations=5,
        listen="0.0.0.0:0",
        names=["127.0.0.3", "127.0.0.4"],
        reach="127.0.0.3",
        bobs_reach="127.0.0.4",
    ) as both:
        both.burst(50)
        for peer in both.peers:
            peer.tell("migrate", address="127.0.0.2")
        await both.wait(lambda: all(peer.counts["connection moved"] for peer in both.peers), "both were told")
        account = await both.finish()
    assert_clean(account)
    assert_same_connections(both, moves=2)


async def test_a_killed_server_comes_back_and_nothing_is_lost(tmp_path: Path) -> None:
    """kill -9 of the server with messages in flight, a restart on the same data: clients notice it from the
    first answer (a stateless reset) and come back; nothing is lost, doubled or failed."""
    async with chat(tmp_path, conversations=20) as both:
        epoch = epoch_of(both)
        both.burst(200)
        async with both.talking(0.02):
            await both.wait(lambda: min(map(both.arrived, both.peers)) > 40, "some of it arrived")
            before = [peer.counts["connection up"] for peer in both.peers]
            both.server.kill()
            await both.server.wait()
            await both.server.start()
            ready = asyncio.get_running_loop().time()
            await both.wait(
                lambda: all(p.counts["connection up"] > n for p, n in zip(both.peers, before, strict=True)),
                "both are connected again",
            )
            away = asyncio.get_running_loop().time() - ready
        account = await both.finish()
    assert_clean(account)
    assert away < 2.0, "neither an idle timeout nor a long back-off"
    assert epoch_of(both) == epoch


async def test_a_killed_client_comes_back_and_its_outbox_is_sent_once(tmp_path: Path) -> None:
    """kill -9 of a client with messages in flight: all that it had queued is stored, once and in order, and
    all that bob sent is in its journal once."""
    async with chat(tmp_path, conversations=20) as both:
        alice, bob = both.alice, both.bob
        both.burst(300)
        await both.wait(lambda: min(map(both.arrived, both.peers)) > 60, "some of it arrived")
        alice.kill()
        await alice.wait()
        shown = len(printed(alice))
        await alice.start()
        both.burst(20)  # behind everything that waits, in each conversation
        for peer in both.peers:
            await both.wait(lambda peer=peer: has_ticks(peer, peer.told[-20:]), "everything got through")  # type: ignore[misc]
        await both.stop()
    account = take_account(both.peers)
    queued = {(life.conversation, life.text) for life in account.lives if life.sender == "alice"}
    log = log_of(both, "alice")
    assert set(log) >= queued, "what was in the outbox was stored"
    assert len(set(log)) == len(log), "nothing was stored twice"
    numbers = {told[1]: number for number, told in enumerate(alice.told)}
    for conversation in {name for name, _ in log}:
        order = [numbers[text] for name, text in log if name == conversation]
        assert order == sorted(order), "in the order in which it was sent"
    assert sorted(printed(bob)) == sorted(log), "bob got each of them once"
    # What was shown and not yet acknowledged is shown again after the crash; nothing ever otherwise.
    for part in (printed(alice)[:shown], printed(alice)[shown:]):
        assert len(part) == len(set(part))
    assert len(set(printed(alice))) == len(bob.told)
    assert not [
        text for text in check_files(account, both.server.database, [alice, bob]) if "journal" in text
    ]
    assert account.failed == 0


def has_ticks(peer: PeerProcess, told: list[tuple[str, str]]) -> bool:
    """Whether all of these were delivered, as far as their sender knows."""
    texts = {text for _, text in told}
    ids = {e["message_id"] for e in peer.events if e["event"] == "queued" and e["text"] in texts}
    delivered = {e["message_id"] for e in peer.events if e.get("state") == "delivered"}
    return len(ids) == len(told) and ids <= delivered


def printed(peer: PeerProcess) -> list[tuple[str, str]]:
    """Conversation and text of what a program was given, in its order."""
    messages = [event for event in peer.events if event["event"] == "message"]
    return [(key_of(event["conversation"], peer.user), event["text"]) for event in messages]


def log_of(both: Chat, sender: str) -> list[tuple[str, str]]:
    """Conversation and text of this sender's messages on the server, in the log's order."""
    with closing(sqlite3.connect(both.server.database)) as database:
        return database.execute(
            """SELECT c.key, CAST(m.body AS TEXT) FROM message m JOIN conversation c ON c.id = m.conversation
            JOIN user u ON u.id = m.sender WHERE u.name = ? AND m.kind = 0 ORDER BY c.key, m.seq""",
            (sender,),
        ).fetchall()


def epoch_of(both: Chat) -> int:
    with closing(sqlite3.connect(both.server.database)) as database:
        (epoch,) = database.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchone()
    return int(epoch)
