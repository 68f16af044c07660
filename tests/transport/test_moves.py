"""Changes of address and holes in the network, on real QUIC in virtual time."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from quicpair import SERVER, End, World, pinned_aioquic
from talk import Chatter, Talk

from quicmsg.limits import PTO_INTERVAL_MAX

LATENCY = 0.025
RTT = 2 * LATENCY
SLACK = 0.03
"""A tick of the chatter, and an acknowledgement's delay."""


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


@dataclass
class Pair:
    """A client and a server that are connected, and their sessions."""

    world: World
    client: End
    ours: Talk
    server: End
    theirs: Talk

    def chat(self, channels: int, seconds: float, *, both: bool = True) -> None:
        stop = self.world.now + seconds
        Chatter(self.server, self.theirs, channels, 0.02, stop).start(self.world)
        if both:
            Chatter(self.client, self.ours, channels, 0.02, stop).start(self.world)

    def assert_clean(self) -> None:
        assert self.ours.problems == self.theirs.problems == []
        assert self.ours.ended == self.theirs.ended == []


def connect(channels: int = 1, **network: float) -> Pair:
    world = World(3, latency=LATENCY, **network)  # type: ignore[arg-type]
    theirs = Talk()
    server = world.serve(lambda _: theirs)
    ours = Talk()
    client = world.dial(ours)
    world.run(lambda: client.is_open)
    for channel in range(channels):
        ours.say(channel)
    client.flush()
    world.run(lambda: theirs.total == channels)
    return Pair(world, client, ours, server.ends[0], theirs)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [0.0, 0.01, 0.05])
def test_fifty_conversations_move_without_a_scratch(loss: float) -> None:
    """50 channels with 200 messages each way in flight: none lost, doubled or out of order over a move."""
    pair = connect(50)
    pair.world.network.loss = loss
    pair.world.network.duplicate = loss
    for channel in range(50):
        pair.ours.say(channel, 200)
        pair.theirs.say(channel, 200)
    pair.client.flush()
    pair.server.flush()
    pair.world.run_for(0.06)
    assert 0 < pair.theirs.total < 50 * 201, "the move must come in the middle"
    pair.client.migrate("10.0.7.7")
    pair.world.run(lambda: pair.theirs.total == 50 * 201 and pair.ours.total == 50 * 200, limit=120)
    pair.assert_clean()
    assert pair.theirs.moves == pair.ours.moves == ["10.0.7.7:40002"]
    assert pair.server.peer_address == "10.0.7.7:40002"


@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
def test_a_noticed_move_after_a_hole_stalls_two_round_trips_at_most(seconds: float) -> None:
    """The network is dead, then there is a new address: both directions speak again within 2 RTT."""
    pair = connect(20)
    pair.chat(20, seconds + 2)
    pair.world.run_for(0.5)
    pair.world.network.hole(seconds)
    pair.world.run_for(seconds + 0.001)
    back = pair.world.now
    pair.client.migrate("10.0.7.7")
    _assert_live_again(pair, back, 2 * RTT)


@pytest.mark.parametrize("seconds", [0.5, 2.0, 5.0])
@pytest.mark.parametrize("address", ["10.0.7.7", "10.0.1.1", None])
def test_an_unnoticed_hole_stalls_one_probe_more(seconds: float, address: str | None) -> None:
    """Nobody tells the client: its own probes find out that the network is back, wherever it now is."""
    pair = connect(20)
    pair.chat(20, seconds + 3)
    pair.world.run_for(0.5)
    pair.world.network.hole(seconds)
    if address is not None:
        pair.client.rebind(address)
    pair.world.run_for(seconds + 0.001)
    _assert_live_again(pair, pair.world.now, PTO_INTERVAL_MAX + 2 * RTT)


def _assert_live_again(pair: Pair, back: float, bound: float) -> None:
    ours, theirs = dict(pair.ours.heard), dict(pair.theirs.heard)
    for before, session in ((ours, pair.ours), (theirs, pair.theirs)):
        pair.world.run(
            lambda before=before, session=session: session.heard != before,  # type: ignore[misc]
            limit=max(0.0, back + bound + SLACK - pair.world.now),
        )
    pair.world.run_for(8)
    said = pair.ours._said, pair.theirs._said
    assert (dict(pair.theirs.heard), dict(pair.ours.heard)) == tuple(map(dict, said)), "all of it arrives"
    pair.assert_clean()


def test_loss_right_after_a_hole_does_not_meet_a_timer_grown_in_the_hole() -> None:
    """What is resent at the end of a long hole is lost too: the next try comes soon, not seconds later."""
    pair = connect(5)
    pair.chat(5, 5.2, both=False)
    pair.world.run_for(0.5)
    pair.world.network.hole(5)
    pair.world.run_for(5.001)
    pair.ours.say(0)
    pair.client.flush()
    pair.world.network.hole(0.05, sender=SERVER[0])
    heard = pair.ours.total
    pair.world.run(lambda: pair.ours.total > heard, limit=0.5)


def test_a_silent_client_is_found_at_its_new_address_when_it_speaks() -> None:
    """Only the server talks; the moved client's first padded packet lets it go on at full speed."""
    pair = connect(10)
    pair.chat(10, 3, both=False)
    pair.world.run_for(1)
    pair.ours.longest_silence = 0.0
    pair.client.migrate("10.0.7.7")
    pair.world.run_for(3)
    assert pair.ours.longest_silence < RTT + SLACK
    assert dict(pair.ours.heard) == dict(pair.theirs._said)
    pair.assert_clean()


def test_a_lost_path_response_does_not_strand_the_server() -> None:
    """The answer to the challenge is lost, the challenge is acknowledged, and the client falls silent: the
    server asks again, instead of going back to the dead address and talking to nobody."""
    pair = connect()
    from_new_address: list[bytes] = []

    def drop(sender: tuple[str, int], to: tuple[str, int], data: bytes) -> bool:
        if sender[0] == "10.0.7.7":
            from_new_address.append(data)
        return sender[0] == "10.0.7.7" and len(from_new_address) == 2  # 1: the probe, 2: the answer

    pair.world.network.drop = drop
    pair.client.migrate("10.0.7.7")
    pair.world.run(lambda: len(from_new_address) == 2)
    pair.theirs.say(0)  # its acknowledgement will also acknowledge the challenge
    pair.server.flush()
    pair.world.run_for(1.0)
    assert pair.theirs.moves == ["10.0.7.7:40002"]
    pair.theirs.say(0)
    pair.server.flush()
    pair.world.run(lambda: pair.ours.heard[0] == 2, limit=LATENCY + 0.001)


def test_a_stolen_packet_from_elsewhere_costs_a_pause_and_no_more() -> None:
    """Somebody sends a copy of a client's packet from another address, faster than the client itself: the
    server looks there, gets no answer, and comes back with everything that was sent into the void."""
    pair = connect(5)
    pair.chat(5, 3, both=False)
    pair.world.run_for(1)
    world, real = pair.world, pair.client.address
    stolen: list[bytes] = []

    def steal(sender: tuple[str, int], to: tuple[str, int], data: bytes) -> bool:
        if sender != real or stolen:
            return False
        stolen.append(data)
        world.after(0.001, lambda: world.arrive(("10.6.6.6", 666), to, data))
        return True

    pair.world.network.drop = steal
    pair.ours.longest_silence = 0.0
    pair.world.run_for(4)
    assert stolen
    assert pair.theirs.moves == []
    assert pair.ours.longest_silence < 0.6 + RTT + SLACK
    assert dict(pair.ours.heard) == dict(pair.theirs._said)
    pair.assert_clean()


def test_a_new_port_keeps_what_is_known_of_the_path_and_a_new_address_does_not() -> None:
    """RFC 9000 section 9.4: congestion window and RTT start anew with another IP address only."""
    pair = connect()
    pair.theirs.say(0, 2000)
    pair.server.flush()
    pair.world.run(lambda: pair.ours.heard[0] == 2000)
    window = pair.server.stats().congestion_window
    assert window > 20_000
    pair.client.rebind()
    pair.ours.say(0)
    pair.client.flush()
    pair.world.run(lambda: len(pair.theirs.moves) == 1)
    assert pair.server.stats().congestion_window >= window
    pair.client.rebind("10.0.7.7")
    pair.ours.say(0)
    pair.client.flush()
    pair.world.run(lambda: len(pair.theirs.moves) == 2)
    assert pair.server.stats().congestion_window < window
    pair.ours.say(0, 2000)
    pair.client.flush()
    pair.world.run(lambda: pair.theirs.heard[0] == 2003)
    assert pair.client.stats().congestion_window > 20_000
    pair.client.migrate("10.0.7.8")
    assert pair.client.stats().congestion_window == 10 * 1200
    assert pair.client.stats().rtt_s == 0


def test_each_move_uses_a_connection_id_of_its_own() -> None:
    """Two paths cannot be linked by an observer: the id on the new path was never seen on the old one."""
    pair = connect()
    seen: dict[str, set[bytes]] = {}

    def watch(sender: tuple[str, int], to: tuple[str, int], data: bytes) -> bool:
        if to == SERVER:
            seen.setdefault(sender[0], set()).add(data[1:9])
        return False

    pair.world.network.drop = watch
    for number in range(4):
        pair.client.migrate(f"10.0.8.{number}")
        pair.ours.say(0)
        pair.world.run_for(0.5)
    assert len(seen) == 4
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    pair.assert_clean()


def test_moving_too_often_ends_the_connection() -> None:
    """A peer that switches addresses for ever is not served for ever."""
    pair = connect()
    for number in range(130):
        pair.client.rebind(f"10.0.8.{number}")
        pair.ours.say(0)
        pair.client.flush()
        pair.world.run_for(0.1)
    assert pair.theirs.ended[0][1] == "the address changes too often"


def test_the_same_seed_gives_the_same_packets() -> None:
    """A failing run can be had again."""

    def run() -> str:
        with pinned_aioquic(5):
            pair = connect(10, loss=0.05, jitter=0.01, duplicate=0.02)
            pair.chat(10, 1)
            pair.world.run_for(0.5)
            pair.client.migrate("10.0.7.7")
            pair.world.run_for(3)
            pair.assert_clean()
            return pair.world.hash

    assert run() == run()


@pytest.mark.parametrize("seed", [*range(12), 1845, 2322, 2484, 3698])
def test_any_mix_of_trouble_ends_well(seed: int) -> None:
    """Loss, duplicates, reordering, holes, noticed and unnoticed moves: what is said
    arrives once and in order, and nothing is left over. The late seeds once stranded the server."""
    mix_of_trouble(seed)


def mix_of_trouble(seed: int) -> None:
    draw = random.Random(seed)
    with pinned_aioquic(seed):
        world = World(
            seed,
            latency=draw.choice([0.001, 0.02, 0.1]),
            jitter=draw.choice([0.0, 0.002, 0.03]),
            loss=draw.choice([0.0, 0.02, 0.15]),
            duplicate=draw.choice([0.0, 0.1]),
        )
        sessions: list[Talk] = []
        server = world.serve(lambda _: sessions.append(Talk()) or sessions[-1])  # type: ignore[func-returns-value]
        ours = Talk()
        client = world.dial(ours)
        world.run(lambda: len(sessions) == 1)
        theirs, channels = sessions[0], draw.choice([1, 5, 40])
        for channel in range(channels):
            ours.say(channel)
        for _ in range(60):
            _trouble(draw, world, client)
            for _ in range(draw.randrange(20)):
                ours.say(draw.randrange(channels))
            for channel in list(theirs.heard):
                theirs.say(channel, draw.randrange(3))
            client.flush()
            server.ends[0].flush()
            world.run_for(draw.choice([0.0, 0.005, 0.1]))
        world.network.loss = 0.0
        world.run_for(PTO_INTERVAL_MAX)
        ours.say(0)
        client.flush()
        world.run(
            lambda: dict(theirs.heard) == dict(ours._said) and dict(ours.heard) == dict(theirs._said),
            limit=90,
        )
        assert ours.problems == theirs.problems == ours.ended == theirs.ended == []
        world.run_for(2)
        assert client.connection.buffered == server.ends[0].connection.buffered == 0


def _trouble(draw: random.Random, world: World, client: End) -> None:
    kind = draw.random()
    if kind < 0.08:
        client.migrate(f"10.0.7.{draw.randrange(250)}")
    elif kind < 0.14:
        client.rebind(draw.choice([None, f"10.0.8.{draw.randrange(250)}"]))
    elif kind < 0.2:
        where = draw.choice([{}, {"sender": SERVER[0]}, {"to": SERVER[0]}])
        world.network.hole(draw.choice([0.05, 0.5, 3.0]), **where)
