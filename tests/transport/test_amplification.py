"""Nobody can make the server send more than three times what came from an address that is not proved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
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
    """The handshake's packets use it up; the close after its timeout would be beyond it. (Found by fuzzing.)"""
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
