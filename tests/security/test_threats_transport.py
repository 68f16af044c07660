"""What a stranger, or a client below its session, can cost the server. In virtual time, over real aioquic.

Bytes, packets and objects are counted; nothing here is timed. `docs/security-tests.md` has the table.
"""

from __future__ import annotations

import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from aioquic.buffer import encode_uint_var
from certificates import authority
from quicpair import SERVER, World, client_configuration, pinned_aioquic
from talk import Talk

from quicmsg.errors import ErrorCode
from quicmsg.limits import (
    BUCKETS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    HANDSHAKE_TIMEOUT,
    HANDSHAKES_BURST,
    HANDSHAKES_PER_SECOND,
    KNOCKS_BURST,
    KNOCKS_PER_SECOND,
    PATH_CHANGES_PER_MINUTE,
    RETRY_ABOVE,
)
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import Connection
from quicmsg.transport.listener import server_configuration
from quicmsg.transport.rates import Buckets, network_of
from quicmsg.transport.trust import Trust


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


def first_flight() -> bytes:
    client = Connection(
        configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
    )
    client.connect(SERVER, 0.0)
    return client.datagrams_to_send(0.0)[0][0]


def another(packet: bytes, number: int) -> bytes:
    """The same first packet for another connection id."""
    return packet[:6] + number.to_bytes(8, "big") + packet[14:]


@pytest.mark.slow
def test_threat_01_spoofed_first_packets_hold_little_memory_and_honest_clients_get_in() -> None:
    """Row 1: 6,000 forged addresses: under 10 MB held (`python -m tests.security --handshakes 100000`), an
    honest client in under 1 s."""
    held, seconds = flood(6_000)
    assert held < 10_000_000, held
    assert seconds < 1.0


def flood(count: int) -> tuple[int, float]:
    """So many first packets; bytes that they hold, and the time that an honest client needs beside them."""
    world = World(1, latency=0.001)
    server = world.serve(lambda _: Talk())
    packet = first_flight()
    world.network.drop = lambda sender, to, data: to[0].startswith("203.")  # nobody is there
    tracemalloc.start()
    for number in range(count):
        host = f"203.{number % 100}.{number // 100 % 250}.7"
        server.receive((host, 666), another(packet, number))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    world.run_for(0.01)
    assert server.admission.half_open == RETRY_ABOVE
    honest = world.dial(Talk())
    seconds = world.run(lambda: honest.is_open, limit=10.0)
    world.run_for(HANDSHAKE_TIMEOUT + 1)
    assert sum(not end.is_over for end in server.ends) == 1
    return held, seconds


def test_threat_02_strangers_get_out_less_than_they_put_in() -> None:
    """Row 2: first packets, unknown versions, unknown connections and junk: never more than three times."""
    world = World(1)
    server = world.serve(lambda _: Talk())
    sent: Counter[str] = Counter()
    answered: Counter[str] = Counter()

    def count(sender: tuple[str, int], to: tuple[str, int], data: bytes) -> bool:
        answered[to[0]] += len(data)
        return True

    world.network.drop = count
    packet = first_flight()
    kinds = {
        "203.0.113.1": lambda number: another(packet, number),
        "203.0.113.2": lambda number: b"\xc0\xfa\xfa\xfa\xfa" + packet[5:],
        "203.0.113.3": lambda number: b"\x40" + number.to_bytes(8, "big") + bytes(40),
        "203.0.113.4": lambda number: bytes([number % 64]) * 1200,
    }
    for number in range(200):
        for host, make in kinds.items():
            data = make(number)
            sent[host] += len(data)
            server.receive((host, 666), data)
        world.run_for(0.05)
        for host in kinds:
            assert answered[host] <= 3 * sent[host]
    world.run_for(HANDSHAKE_TIMEOUT + 1)
    for host in kinds:
        assert answered[host] <= 3 * sent[host]
    assert answered["203.0.113.4"] == 0


def test_threat_07_forged_paths_are_few_and_do_not_take_the_connection_away() -> None:
    """Row 7: the same client seen from 2,000 addresses within a second: 8 paths kept, 160 challenges at most,
    and the connection lives on at the client's own address."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk()
    server = world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: client.is_open)
    world.run_for(0.5)
    connection = server.ends[0].connection
    forged: Counter[str] = Counter()
    world.network.drop = lambda sender, to, data: to[0].startswith("203.") and not forged.update([to[0]])
    packets = []
    for _ in range(100):
        client.connection.send_ping(1)
        packets += [data for data, _ in client.connection.datagrams_to_send(world.now)]
    # Each authentic packet again from twenty places: the first copy counts, the rest are only heard.
    for number in range(2000):
        server.receive((f"203.{number % 250}.{number // 250}.1", 666), packets[number // 20 % len(packets)])
    assert len(connection._network_paths) <= 8
    world.run_for(2.0)
    assert sum(forged.values()) <= 160
    ours.say(0)
    client.flush()
    world.run(lambda: theirs.total == 1, limit=5.0)
    assert theirs.ended == []


def test_threat_07_a_client_may_move_often_but_not_for_ever() -> None:
    """Row 7: PATH_CHANGES_PER_MINUTE authentic changes end the connection, one less does not."""
    for moves, ends in ((PATH_CHANGES_PER_MINUTE - 1, False), (PATH_CHANGES_PER_MINUTE, True)):
        world, ours, theirs = World(1, latency=0.001), Talk(), Talk()
        server = world.serve(lambda _, theirs=theirs: theirs)
        client = world.dial(ours)
        world.run(lambda client=client: client.is_open)
        world.run_for(0.5)
        for number in range(moves):
            client.rebind(f"10.0.{2 + number % 2}.9")
            ours.say(0)
            client.flush()
            world.run_for(0.1)
        world.run_for(1.0)
        assert server.ends[0].is_over == ends, moves
        if ends:
            assert theirs.ended == [(ErrorCode.LIMIT, "the address changes too often")]


def gate() -> Admission:
    return Admission(server_configuration(*authority().issue()), reset_key=b"reset", retry_key=b"retry")


def test_threat_18_one_address_begins_so_many_handshakes_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 18: the burst, then the rate; another address is served meanwhile, a whole IPv6 /64 is one."""
    one, packet = gate(), first_flight()
    monkeypatch.setattr("quicmsg.transport.admission.RETRY_ABOVE", 10**9)

    def begun(hosts: list[str], count: int, now: float) -> int:
        verdicts = (
            one.decide(another(packet, number), (hosts[number % len(hosts)], number), now)
            for number in range(count)
        )
        return sum(isinstance(verdict, Connection) for verdict in verdicts)

    near = [f"2001:db8:1:2::{number:x}" for number in range(20)]
    assert begun(near, HANDSHAKES_BURST + 50, 1000.0) == HANDSHAKES_BURST
    assert begun(near, 50, 1000.1) == HANDSHAKES_PER_SECOND * 0.1
    assert begun(["2001:db8:1:3::1"], 1, 1000.1) == 1


def test_threat_18_one_address_holds_so_many_connections() -> None:
    """Row 18: at the bound, beyond it, and another address meanwhile."""
    one, packet = gate(), first_flight()
    for number in range(CONNECTIONS_PER_ADDRESS_MAX):
        one.opened(f"2001:db8::{number:x}")
        one.established()
    assert one.decide(packet, ("2001:db8::ffff", 1), 1000.0) is None
    assert isinstance(one.decide(packet, ("2001:db8:0:1::1", 1), 1000.0), Connection)


def test_threat_19_junk_is_dropped_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 19: 100,000 junk datagrams a second from one address: the burst and the rate are looked at, the
    rest is not; another address gets its answer meanwhile."""
    one, parsed = gate(), Counter[str]()
    real = one._reset
    monkeypatch.setattr(one, "_reset", lambda data, now: parsed.update(["x"]) or real(data, now))
    junk = b"\x40" + bytes(50)
    for number in range(100_000):
        one.decide(junk, ("203.0.113.9", 1), 1000.0 + number / 100_000)
    assert parsed["x"] <= KNOCKS_BURST + KNOCKS_PER_SECOND + 1
    parsed.clear()
    one.decide(junk, ("203.0.113.10", 1), 1001.0)
    assert parsed["x"] == 1


def test_threat_19_forged_addresses_push_only_each_other_out() -> None:
    """Row 19: what is remembered about addresses is bounded too."""
    buckets = Buckets(1, 2)
    for number in range(BUCKETS_MAX + 500):
        assert buckets.take(f"203.{number}", 5.0)
    assert len(buckets) == BUCKETS_MAX
    assert network_of("2001:db8::1%eth0") == network_of("2001:db8::2") != network_of("2001:db8:0:1::2")
    assert network_of("192.0.2.1") == "192.0.2.1"


def test_threat_06_an_id_of_the_past_is_forgotten() -> None:
    """Row 6: retiring ids in a loop leaves as many ids as before, and the connection ends with its client."""
    world, theirs = World(1, latency=0.001), Talk()
    server = world.serve(lambda _: theirs)
    client = world.dial(Talk())
    world.run(lambda: client.is_open)
    world.run_for(0.5)
    connection = server.ends[0].connection
    before = len(connection.connection_ids)
    for _ in range(30):
        client.migrate("10.0.5.5")
        world.run_for(0.2)
    assert len(connection.connection_ids) <= before
    assert len(encode_uint_var(before)) == 1
    client.kill()
    world.run_for(61)
    assert server.ends[0].is_over
