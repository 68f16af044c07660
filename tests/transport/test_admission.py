"""Who is let in, and how strangers and the departed are answered."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from aioquic.buffer import Buffer
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from certificates import authority
from quicpair import SERVER, World, client_configuration, pinned_aioquic
from talk import Talk

from quicmsg.errors import ConfigurationError, ErrorCode
from quicmsg.transport import address_text, admission, connection, selftest
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import Connection
from quicmsg.transport.listener import server_configuration
from quicmsg.transport.rates import Bucket
from quicmsg.transport.trust import Trust


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


def gate() -> Admission:
    return Admission(server_configuration(*authority().issue()), reset_key=b"reset", retry_key=b"retry")


def knock(token: bytes = b"") -> bytes:
    client = Connection(
        configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
    )
    client._peer_token = token
    client.connect(SERVER, 0.0)
    return client.datagrams_to_send(0.0)[0][0]


def test_one_address_gets_so_many_connections_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others still get in; what ends or moves away makes room."""
    monkeypatch.setattr(admission, "CONNECTIONS_PER_ADDRESS_MAX", 3)
    one = gate()
    for _ in range(3):
        assert isinstance(one.decide(knock(), ("10.0.0.9", 1), 0.0), Connection)
        one.opened("10.0.0.9")
        one.established()
    assert one.decide(knock(), ("10.0.0.9", 1), 0.0) is None
    assert isinstance(one.decide(knock(), ("10.0.0.8", 1), 0.0), Connection)
    one.moved("10.0.0.9", "10.0.0.7")
    assert isinstance(one.decide(knock(), ("10.0.0.9", 1), 0.0), Connection)
    for host in ("10.0.0.7", "10.0.0.9", "10.0.0.9"):
        one.closed(host, was_half_open=False)
    assert (one.total, one.half_open, dict(one._per_network)) == (0, 0, {})


@pytest.mark.parametrize(("name", "count"), [("HALF_OPEN_MAX", "half_open"), ("CONNECTIONS_MAX", "total")])
def test_all_together_are_bounded(monkeypatch: pytest.MonkeyPatch, name: str, count: str) -> None:
    """Beyond the bound nothing is allocated."""
    monkeypatch.setattr(admission, name, 1)
    one = gate()
    one.opened("10.0.0.1")
    assert getattr(one, count) == 1
    assert one.decide(knock(), ("10.0.0.2", 1), 0.0) is None


def test_a_retry_token_is_good_for_its_address_and_for_every_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key is shared: another process, or the same after a restart, believes it too; others do not."""
    monkeypatch.setattr(admission, "RETRY_ABOVE", 0)
    answer = gate().decide(knock(), ("10.0.0.2", 1), 0.0)
    assert isinstance(answer, bytes)
    header = pull_quic_header(Buffer(data=answer), host_cid_length=8)
    assert header.packet_type is QuicPacketType.RETRY
    second = bytearray(knock(header.token))
    second[6:14] = header.source_cid
    assert isinstance(gate().decide(bytes(second), ("10.0.0.2", 1), 0.0), Connection)
    assert gate().decide(bytes(second), ("10.0.0.3", 1), 0.0) is None
    other = Admission(gate().configuration, reset_key=b"reset", retry_key=b"another")
    assert other.decide(bytes(second), ("10.0.0.2", 1), 0.0) is None


def test_a_bucket_refills_and_does_not_overflow() -> None:
    """So many at once, then the rate, and never more than the burst."""
    bucket = Bucket(10, 5)
    assert sum(bucket.take(100.0) for _ in range(9)) == 5
    assert [bucket.take(100.15), bucket.take(100.15)] == [True, False]
    assert sum(bucket.take(1000.0) for _ in range(9)) == 5


def test_an_idle_handshake_ends_at_its_deadline() -> None:
    """A client that says nothing after its first packet is not held for the idle timeout."""
    world = World(1)
    server = world.serve(lambda _: Talk())
    server.receive(("10.6.6.6", 666), knock())
    world.run_for(9.9)
    assert not server.ends[0].is_over
    world.run_for(0.2)
    assert server.ends[0].is_over


def test_the_idle_timeout_is_told_in_words() -> None:
    """Nobody answers for a minute."""
    world, ours = World(1), Talk()
    server = world.serve(lambda _: Talk())
    client = world.dial(ours)
    world.run(lambda: client.is_open)
    world.run_for(1)
    server.stop()
    world.owners[SERVER] = lambda sender, data: None
    world.run_for(61)
    assert ours.ended == [(ErrorCode.UNREACHABLE, "nothing was heard for too long")]


def test_keys_are_renewed_on_a_long_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over moves and loss; nobody notices."""
    monkeypatch.setattr(connection, "KEY_UPDATE_PACKETS", 150)
    world, ours, theirs = World(2, latency=0.01), Talk(), Talk()
    world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: client.is_open)
    world.network.loss = 0.05
    secrets = {client.connection._cryptos[_ONE_RTT].send.secret}
    for number in range(500):
        ours.say(0)
        client.flush()
        if number % 100 == 99:
            client.migrate(f"10.0.7.{number}")
        world.run_for(0.03)
        secrets.add(client.connection._cryptos[_ONE_RTT].send.secret)
    world.network.loss = 0.0
    world.run(lambda: theirs.heard[0] == 500)
    assert len(secrets) >= 4
    assert theirs.problems == ours.ended == []


_ONE_RTT = connection._ONE_RTT


@pytest.mark.parametrize("name", ["_write_application", "_write_stream_limits"])
def test_an_aioquic_that_does_not_fit_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A missing private name, another version, a behaviour that changed: said at start, not felt later."""
    selftest.check_aioquic.__wrapped__()
    with monkeypatch.context() as patch:
        patch.delattr(selftest.upstream.QuicConnection, name)
        with pytest.raises(ConfigurationError, match=f"QuicConnection.{name} is missing.*install aioquic"):
            selftest.check_aioquic.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr("aioquic.__version__", "1.9.0")
        with pytest.raises(ConfigurationError, match=r"aioquic 1\.9\.0 does not fit"):
            selftest.check_aioquic.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "migrate", lambda self, now: None)
        with pytest.raises(ConfigurationError, match="the first packet of a move is not padded"):
            selftest.check_aioquic.__wrapped__()
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "write", lambda self, *_: self.no_such_name)
        with pytest.raises(ConfigurationError, match="two ends in memory fail with AttributeError"):
            selftest.check_aioquic.__wrapped__()


def test_addresses_as_text() -> None:
    """As people write them."""
    assert address_text(("127.0.0.1", 4433)) == "127.0.0.1:4433"
    assert address_text(("::1", 4433, 0, 0)) == "[::1]:4433"
    assert address_text(("::ffff:10.0.0.1", 1, 0, 0)) == "10.0.0.1:1"
