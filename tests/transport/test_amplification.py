"""Nobody can make the server send more than three times what came from an address that is not proved."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest
from fuzz.datagrams import Client, staged
from quicpair import SERVER, World, client_configuration, pinned_aioquic
from talk import Talk

from quicmsg.limits import HANDSHAKE_TIMEOUT
from quicmsg.transport.connection import Connection
from quicmsg.transport.trust import Trust

VICTIM = ("10.9.9.9", 999)


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


def gave(world: World) -> list[int]:
    """Sizes of what the victim gets from now on."""
    sizes: list[int] = []

    def watch(_sender: tuple[str, int], to: tuple[str, int], data: bytes) -> bool:
        if to == VICTIM:
            sizes.append(len(data))
        return to == VICTIM

    world.network.drop = watch
    return sizes


def test_a_spoofed_first_packet_gets_no_farewell_beyond_its_share() -> None:
    """The handshake's packets use it up; the close after its timeout would be beyond it."""
    world = World(1)
    server = world.serve(lambda _: Talk())
    client = Connection(configuration=client_configuration(), trust=Trust(fingerprint="00"))
    client.connect(SERVER, world.now)
    sizes = gave(world)
    first_flight = client.datagrams_to_send(world.now)[0][0]
    world.arrive(VICTIM, SERVER, first_flight)
    world.run_for(HANDSHAKE_TIMEOUT + 1)
    assert server.ends[0].is_over
    assert 0 < sum(sizes) <= 3 * len(first_flight)


def test_a_spoofed_move_gets_no_farewell_beyond_its_share() -> None:
    """A client's small packet in somebody else's name, and then the session ends. (Found by fuzzing.)"""
    world = World(1)
    theirs, ours = Talk(), Talk()
    server = world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: theirs.channel_binding != b"")
    world.run_for(1)
    ours.send(0, b"x")
    client._pump(world.now)
    ((packet, _),) = client.connection.datagrams_to_send(world.now)
    sizes = gave(world)
    world.arrive(VICTIM, SERVER, packet)
    server.ends[0].close(
        5, "a reason of some length, so that it does not fit into three times a small packet" * 2
    )
    world.run_for(1)
    assert sum(sizes) <= 3 * len(packet)


def test_a_close_is_not_repeated_to_an_unproved_address() -> None:
    """Each small packet in somebody else's name would get the whole close again. (Found by fuzzing.)"""
    world = World(1)
    theirs, ours = Talk(), Talk()
    server = world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: theirs.channel_binding != b"")
    world.run_for(1)
    ours.send(0, bytes(500))
    client._pump(world.now)
    ((packet, _),) = client.connection.datagrams_to_send(world.now)
    sizes = gave(world)
    world.arrive(VICTIM, SERVER, packet)
    world.run_for(0.01)
    server.ends[0].close(5, "why" * 80)
    world.run_for(0.01)
    before = len(sizes)
    for _ in range(8):
        world.arrive(VICTIM, SERVER, packet[:30])
    world.run_for(1)
    assert sum(sizes) <= 3 * (len(packet) + 8 * 30)
    assert all(size < 30 for size in sizes[before:]), "resets at most, smaller than what they answer"


def test_the_endpoint_repeats_no_close_to_an_unproved_address() -> None:
    """The same on the real listener and endpoint."""
    with staged(Random(1)) as stage:
        client = Client(stage.loop, ("10.0.2.2", 2))
        stage.talk(client, until=lambda: bool(stage.sessions) and client.coupling.session is not None)
        stage.loop.run_for(1)
        client.session.send(0, bytes(500))
        packet = client.turn(stage.loop.now)[0]
        stage.socket.deliver((packet, VICTIM))
        stage.listener.links[0].close(5, "why" * 80)
        for _ in range(8):
            stage.socket.deliver((packet[:30], VICTIM))
        sizes = [len(data) for data, address in stage.socket.sent if address == VICTIM]
        assert sum(240 < size < 400 for size in sizes) == 1, "the close, once"


def test_a_proved_address_hears_the_close() -> None:
    """The rule holds back nothing else."""
    world = World(1)
    theirs, ours = Talk(), Talk()
    server = world.serve(lambda _: theirs)
    world.dial(ours)
    world.run(lambda: theirs.channel_binding != b"")
    world.run_for(1)
    server.ends[0].close(5, "why")
    world.run(lambda: ours.ended == [(5, "why")], limit=0.1)
