"""The scenarios of the QUIC interop runner, with its network parameters and our traffic: people who chat.

Whatever the network does, all that was said is stored, shown once and in order, and ticked: `Room.finish`
checks that. `http3` does not apply (this is not HTTP: its ALPN is refused). `ecn` is not supported: aioquic
sets no marks and counts none, and a peer that does is served without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from aioquic import tls
from aioquic.quic.packet import QuicProtocolVersion
from aioquic.tls import CipherSuite
from certificates import authority
from chatting import Room, assert_smooth
from fuzz.packets import Raw
from quicpair import SERVER, End, World, client_configuration
from transport.talk import Talk

from quicmsg.errors import ErrorCode
from quicmsg.limits import RETRY_ABOVE
from quicmsg.transport import connection as connection_module
from quicmsg.transport.resuming import ClientTickets
from quicmsg.transport.trust import Trust

BURST = 3
"""Datagrams in a row that the interop runner's network loses or damages at most."""
Fate = Callable[[Any, Any, bytes], bool]


def in_bursts(room: Room, rate: float, fate: Callable[[Any, Any, bytes], None] | None = None) -> Fate:
    """A fate for that share of the datagrams, each direction for itself, never more than BURST in a row."""
    row = {True: 0, False: 0}

    def drop(sender: Any, to: Any, data: bytes) -> bool:
        outward = to == SERVER
        if row[outward] >= BURST or room.random.random() >= rate:
            row[outward] = 0
            return False
        row[outward] += 1
        if fate is not None:
            fate(sender, to, data)
        return True

    return drop


def damage(room: Room) -> Callable[[Any, Any, bytes], None]:
    """What arrives has a flipped bit."""

    def flip(sender: Any, to: Any, data: bytes) -> None:
        changed = bytearray(data)
        changed[room.random.randrange(len(data))] ^= 1 << room.random.randrange(8)
        room.world.after(room.world.network.latency, lambda: room.world.arrive(sender, to, bytes(changed)))

    return flip


# ---- handshakes --------------------------------------------------------------------------------


def test_handshake(seed: int) -> None:
    """One round trip for QUIC, and sign-in, Open and the message are in one flight behind it."""
    room = Room(seed, ("ann", "bob"), latency=0.05)
    room.say("ann", "@bob")
    assert room.finish() < 0.5
    assert_smooth(room)


def test_longrtt(seed: int) -> None:
    """750 ms: no red cross, nothing is stored twice, nobody reconnects."""
    room = Room(seed, latency=0.375)
    room.chatter(10)
    room.run_for(10)
    room.finish()
    assert_smooth(room)


def test_chacha20(seed: int) -> None:
    """A client that offers nothing else gets it."""
    only = [CipherSuite.CHACHA20_POLY1305_SHA256]
    room = Room(seed, latency=0.02, configure=lambda settings: setattr(settings, "cipher_suites", only))
    room.chatter(2)
    room.run_for(2)
    room.finish()
    assert_smooth(room)
    for end in room.server.ends:
        assert end.connection.tls.key_schedule.cipher_suite is only[0]


def test_retry(seed: int) -> None:
    """The server wants addresses proved: one round trip more, for everybody."""
    room = Room(seed, latency=0.05, start=False)
    room.server.admission.half_open = RETRY_ABOVE
    retries: list[bytes] = []
    room.world.network.drop = lambda sender, _to, data: bool(
        sender == SERVER and data[0] & 0xF0 == 0xF0 and retries.append(data)
    )
    for person in room.people.values():
        person.dial()
    room.chatter(2)
    room.run_for(2)
    room.finish()
    assert len(retries) == 3
    assert_smooth(room)


@pytest.mark.parametrize("rate", [0.3])
def test_handshakeloss(seed: int, rate: float) -> None:
    """30 % each way, in bursts of up to 3: one connection after the other is made, and says its piece."""
    room = Room(seed, ("ann", "bob"), latency=0.015, start=False)
    room.world.network.drop = in_bursts(room, rate)
    _meet_again_and_again(room)


def test_handshakecorruption(seed: int) -> None:
    """30 % have a flipped bit: the same."""
    room = Room(seed, ("ann", "bob"), latency=0.015, start=False)
    room.world.network.drop = in_bursts(room, 0.3, damage(room))
    _meet_again_and_again(room)


def _meet_again_and_again(room: Room) -> None:
    ann, bob = room.people.values()
    bob.dial()
    for _ in range(8):
        if ann.end is None:
            ann.dial()
        room.say("ann", "@bob")
        room.finish(limit=90)
        assert ann.end is not None
        ann.end.close(ErrorCode.NO_ERROR, "that was all")
        room.run_for(1.0)
    assert ann.connections >= 8


def test_amplificationlimit(seed: int) -> None:
    """A certificate above three times the first flight, and the client's packets 2 to 7 are lost."""
    room = Room(seed, ("ann", "bob"), latency=0.02, start=False)
    names = tuple(f"{number:02}.a-rather-long-name-of-this-very-server.example.org" for number in range(90))
    room.server._chain, room.server._key = authority().issue(("localhost", *names))
    room.server.restart()
    sent = dict.fromkeys(("10.0.1.1", "10.0.1.2"), 0)

    def drop(sender: Any, to: Any, data: bytes) -> bool:
        if to != SERVER:
            return False
        sent[sender[0]] += 1
        return 2 <= sent[sender[0]] <= 7

    room.world.network.drop = drop
    for person in room.people.values():
        person.dial()
    room.say("ann", "@bob", 3)
    room.finish()
    assert min(sent.values()) > 7
    assert not room.people["ann"].failed


def test_v2(seed: int) -> None:
    """QUIC version 2: chosen from the start, or by a server that prefers nothing of its own."""
    v1, v2 = QuicProtocolVersion.VERSION_1, QuicProtocolVersion.VERSION_2

    def only_v2(settings: Any) -> None:
        settings.supported_versions, settings.original_version = [v2, v1], (v2 if seed == 1 else v1)

    room = Room(seed, latency=0.02, configure=only_v2)
    room.chatter(2)
    room.run_for(2)
    room.finish()
    assert_smooth(room)
    assert {end.connection._version for end in room.server.ends} == {v2}


def test_versionnegotiation(seed: int) -> None:
    """A client that begins with a version of the future is told which there are, and takes one."""

    def future(settings: Any) -> None:
        settings.supported_versions = [0x1A2A3A4A, QuicProtocolVersion.VERSION_1]

    room = Room(seed, latency=0.02, configure=future)
    room.say("ann", "@bob")
    room.finish()
    assert_smooth(room)


def test_resumption(seed: int) -> None:
    """The second connection begins with a ticket of the first, and signs in as any other does."""
    room = Room(seed, ("ann", "bob"), latency=0.02, start=False)
    ann = room.people["ann"]
    ann.tickets = ClientTickets()
    early = _watch_early_data(room)
    room.people["bob"].dial()
    for turn in range(3):
        end = ann.dial() if ann.end is None else ann.end
        room.say("ann", "@bob")
        room.finish()
        assert end.connection.is_resumed == (turn > 0)
        room.run_for(0.2)
        end.close(ErrorCode.NO_ERROR, "that was all")
        room.world.run(lambda: ann.end is None, limit=1.0)
    assert early == []


def test_zerortt(seed: int) -> None:
    """Off, on purpose: a resumed client says nothing before the handshake is complete."""
    test_resumption(seed)


def _watch_early_data(room: Room) -> list[bytes]:
    """0-RTT packets: long headers of that type."""
    found: list[bytes] = []

    def drop(_sender: Any, to: Any, data: bytes) -> bool:
        if to == SERVER and data[0] & 0xF0 == 0xD0:
            found.append(data)
        return False

    room.world.network.drop = drop
    return found


@pytest.mark.parametrize("protocols", [["h3"], ["h3", "hq-interop"]])
def test_http3(seed: int, protocols: list[str]) -> None:
    """Does not apply: who speaks HTTP/3 is told that this is something else."""
    world = World(seed)
    world.serve(lambda _: Talk())
    settings = client_configuration()
    settings.alpn_protocols = protocols
    connection = connection_module.Connection(
        configuration=settings, trust=Trust(fingerprint=authority().fingerprint)
    )
    end = world.join(connection, Talk())
    world.run(lambda: end.is_over, limit=5.0)
    assert end.end is not None
    assert connection.end is not None
    assert connection.end.error_code == 0x178 or end.end[0] == ErrorCode.GOING_AWAY


# ---- transfers ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_transfer(seed: int) -> None:
    """Big messages in both directions, in three conversations at once."""
    room = Room(seed, latency=0.015)
    for user, conversation, size in (("ann", "@bob", 16384), ("bob", "@ann", 9000), ("cleo", "#g0", 2000)):
        room.say(user, conversation, 40, size)
    room.finish()
    assert_smooth(room)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_multiplexing(seed: int) -> None:
    """2,000 messages over 90 conversations; with loss in one of the seeds."""
    room = Room(seed, ("ann", "bob"), groups=90, latency=0.015, loss=0.01 if seed == 2 else 0.0)
    for number in range(2000):
        room.say("ann" if number % 3 else "bob", f"#g{number % 90}")
    room.finish()
    assert_smooth(room)


@pytest.mark.slow
def test_transferloss(seed: int) -> None:
    """2 % each way."""
    _transfer(seed, lambda room: in_bursts(room, 0.02))


@pytest.mark.slow
def test_transfercorruption(seed: int) -> None:
    """2 % have a flipped bit."""
    _transfer(seed, lambda room: in_bursts(room, 0.02, damage(room)))


def _transfer(seed: int, fate: Callable[[Room], Fate]) -> None:
    room = Room(seed, latency=0.015)
    room.world.network.drop = fate(room)
    room.chatter(4, rate=20.0)
    room.say("ann", "@bob", 30, 8000)
    room.run_for(4)
    room.finish()
    assert not any(person.failed for person in room.people.values())


@pytest.mark.slow
def test_blackhole(seed: int) -> None:
    """5 s on, 2 s off, again and again: the connections live on."""
    room = Room(seed, latency=0.015)
    room.chatter(28)
    for _ in range(4):
        room.run_for(5)
        room.world.network.hole(2)
        room.run_for(2)
    room.finish(limit=10)
    assert_smooth(room)


def test_keyupdate(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are renewed in the middle of the conversation, again and again."""
    monkeypatch.setattr(connection_module, "KEY_UPDATE_PACKETS", 60)
    phases: set[int] = set()
    room = Room(seed, latency=0.015, loss=0.02)
    for person in room.people.values():
        assert person.end is not None
        person.end.connection._keys_until = 60

    def watch(_end: End) -> None:
        for end in room.server.ends:
            phases.update({end.connection._cryptos[tls.Epoch.ONE_RTT].recv.key_phase} if end.is_open else ())

    for tick in range(100):
        room.world.after(tick / 20, lambda: watch(room.server.ends[0]) if room.server.ends else None)
    room.chatter(5, rate=30.0)
    room.run_for(5)
    room.finish()
    assert_smooth(room)
    assert phases == {0, 1}


def test_ecn(seed: int) -> None:
    """Not supported: a peer that counts marks, and says so in its ACKs, is served without them."""
    world = World(seed)
    theirs, ours = Talk(), Talk()
    world.serve(lambda _: theirs)
    connection = Raw(configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint))
    end = world.join(connection, ours)
    world.run(lambda: theirs.channel_binding != b"")
    connection.raw += [(0x03, bytes((0, 0, 0, 0, 5, 0, 1)))] * 3  # ACK of packet 0, with counts of marks
    ours.say(0, 50)
    end.flush()
    world.run(lambda: theirs.total == 50)
    assert theirs.problems == theirs.ended == []
