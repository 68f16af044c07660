"""What a hostile peer can cost: each known attack on stock aioquic 1.7.2 as a tripwire."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicPacketBuilderStop
from certificates import authority
from quicpair import SERVER, End, Server, World, client_configuration, pinned_aioquic
from talk import Talk

from quicmsg.limits import (
    CONNECTION_WINDOW,
    CRYPTO_SIZE_MAX,
    HALF_OPEN_MAX,
    HANDSHAKE_TIMEOUT,
    RETRY_ABOVE,
    STREAM_WINDOW,
    UNKNOWN_REPLIES_BURST,
)
from quicmsg.transport.connection import Connection
from quicmsg.transport.trust import Trust

NEW_STREAM_DATA = 0x0E  # STREAM with offset and length


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


class RawClient(Connection):
    """A client that also sends whatever frames it is given."""

    raw: list[tuple[int, bytes]]

    def __init__(self) -> None:
        self.raw = []
        super().__init__(
            configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
        )

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        if self.raw and crypto.send.is_valid():
            self._loss._cc.congestion_window = 10**9
            builder.max_flight_bytes = 10**9
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            while self.raw and builder.remaining_flight_space > len(self.raw[0][1]) + 8:
                kind, payload = self.raw.pop(0)
                builder.start_frame(kind, capacity=len(payload) + 4).push_bytes(payload)
            if self.raw:
                raise QuicPacketBuilderStop
        super()._write_application(builder, network_path, now)


def stream_frame(stream_id: int, offset: int, data: bytes) -> tuple[int, bytes]:
    head = b"".join(map(encode_uint_var, (stream_id, offset, len(data))))
    return NEW_STREAM_DATA, head + data


def hostile(world: World) -> tuple[Server, RawClient, End, Talk]:
    theirs = Talk(consumes=False)
    server = world.serve(lambda _: theirs)
    client = RawClient()
    end = world.join(client, Talk())
    world.run(lambda: theirs.channel_binding != b"")
    return server, client, end, theirs


def fire(world: World, client: RawClient, end: End, frames: list[tuple[int, bytes]]) -> None:
    client.raw += frames
    while client.raw and not end.is_over:
        end.flush()
        world.run_for(0.001)
    world.run_for(0.2)


def test_window_inflation_is_refused() -> None:
    """W1: a byte at the end of the window, again and again, made stock aioquic hold gigabytes."""
    world = World(1, latency=0.001)
    server, client, end, theirs = hostile(world)
    theirs.consumes = True
    tracemalloc.start()
    window = STREAM_WINDOW
    for number in range(12):
        # One honest byte each time, so that the session consumes and the stream's window is looked at.
        fire(world, client, end, [stream_frame(0, number, b"x"), stream_frame(0, window - 1, b"x")])
        window *= 2
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2_000_000
    assert "transport error 0x3" in theirs.ended[0][1]  # FLOW_CONTROL_ERROR
    assert server.ends[0].is_over


def test_a_deaf_session_takes_one_window_of_a_stream_and_no_more() -> None:
    """What is not consumed is not replaced: the peer is blocked, the connection lives."""
    world = World(1, latency=0.001)
    _, client, end, theirs = hostile(world)
    client.write(0, bytes(400_000), False)
    end.flush()
    world.run_for(5)
    assert theirs.bytes_heard[0] == STREAM_WINDOW
    for channel in range(1, 25):
        client.write(4 * channel, bytes(STREAM_WINDOW), False)
        end.flush()
        world.run_for(0.5)
    assert sum(theirs.bytes_heard.values()) == CONNECTION_WINDOW
    assert theirs.ended == []


def test_streams_full_of_holes_end_the_connection_quickly() -> None:
    """W2: one byte at every other offset cost 29 s of CPU for 435 packets."""
    world = World(1, latency=0.001)
    _, client, end, theirs = hostile(world)
    start = time.process_time()
    fire(world, client, end, [stream_frame(0, 2 * number + 1, b"x") for number in range(2000)])
    assert time.process_time() - start < 1.0
    assert "too many gaps" in theirs.ended[0][1]


def test_endless_handshake_data_ends_the_connection() -> None:
    """W3: a ClientHello that claims 16 MB cost 24 s of CPU before anybody was authenticated."""
    world = World(1, latency=0.001)
    server = world.serve(lambda _: Talk())
    crypto, target = CryptoPair(), b"12345678"
    crypto.setup_initial(cid=target, is_client=True, version=1)
    number, offset, start = 0, 0, time.process_time()
    while offset < 1_000_000:
        builder = QuicPacketBuilder(
            host_cid=b"attacker",
            peer_cid=target,
            version=1,
            is_client=True,
            max_datagram_size=1200,
            packet_number=number,
        )
        builder.start_packet(QuicPacketType.INITIAL, crypto)
        data = (b"\x01\xff\xff\xfb" if offset == 0 else b"").ljust(1000, b"\0")
        frame = encode_uint_var(offset) + encode_uint_var(len(data)) + data
        builder.start_frame(0x06, capacity=len(frame)).push_bytes(frame)
        (datagram,), _ = builder.flush()
        server.receive(("10.6.6.6", 666), datagram)
        world.run_for(0.0005)
        number, offset = number + 1, offset + 1000
    assert time.process_time() - start < 2.0
    connection = server.ends[0].connection
    assert connection._crypto_streams[tls.Epoch.INITIAL].receiver.highest_offset <= CRYPTO_SIZE_MAX
    assert server.ends[0].is_over


def test_retiring_ids_that_were_never_sent_harms_nobody() -> None:
    """W4: made stock's server raise in its callback and keep the connection for ever."""
    world = World(1, latency=0.001)
    theirs = Talk()
    server = world.serve(lambda _: theirs)
    client = RawClient()
    client.raw = [(0x19, encode_uint_var(number)) for number in range(1, 8)]
    end = world.join(client, Talk())
    world.run_for(0.5)
    fire(world, client, end, [(0x19, encode_uint_var(number)) for number in range(1, 8)])
    world.run_for(61)
    assert server.ends[0].is_over
    assert theirs.ended


@pytest.mark.parametrize("stream_id", [1, 2, 3, 4 * 128])
def test_only_the_client_opens_streams_and_only_so_many(stream_id: int) -> None:
    """Server-initiated, unidirectional and the 129th stream are refused."""
    world = World(1, latency=0.001)
    server, client, end, theirs = hostile(world)
    assert server.ends[0].connection._remote_max_streams_bidi == 0, "what the client allows the server"
    fire(world, client, end, [stream_frame(stream_id, 0, b"x")])
    assert theirs.ended
    assert theirs.bytes_heard == {}


def test_strangers_get_few_and_small_answers() -> None:
    """W11: never more out than in, nothing for small packets of unknown versions, and a bounded rate."""
    world = World(1)
    server = world.serve(lambda _: Talk())
    out: list[bytes] = []
    world.network.drop = lambda sender, to, data: out.append(data) or True  # type: ignore[func-returns-value]
    unknown_version = b"\xc0\xfa\xfa\xfa\xfa\x08" + b"d" * 8 + b"\x08" + b"s" * 8 + b"\0" * 30
    server.receive(("10.6.6.6", 1), unknown_version)
    assert out == []
    big = unknown_version.ljust(1200, b"\0")
    version_negotiation = b"\xc0\0\0\0\0\x08" + b"d" * 8 + b"\x08" + b"s" * 8
    server.receive(("10.6.6.6", 1), version_negotiation.ljust(1200, b"\0"))
    assert out == [], "two servers must not answer each other for ever"
    for garbage in (b"\x40", b"\x40" * 20, b"\xff" * 1200, b"\x00" * 40):
        server.receive(("10.6.6.6", 1), garbage)
    assert out == []
    for _ in range(1000):
        server.receive(("10.6.6.6", 1), big)
        server.receive(("10.6.6.6", 1), b"\x40" + b"u" * 60)
    assert 0 < len(out) <= UNKNOWN_REPLIES_BURST + 10
    assert max(len(answer) for answer in out) < 60
    assert server.ends == []


def test_a_flood_of_handshakes_turns_on_retry_and_honest_clients_still_get_in() -> None:
    """W5: spoofed first packets cost memory only up to a bound, and stop doing so after the deadline."""
    world = World(1, latency=0.001)
    server = world.serve(lambda _: Talk())
    first_flight = _first_flight()
    for number in range(3 * RETRY_ABOVE):
        packet = bytearray(first_flight)
        packet[6:14] = number.to_bytes(8, "big")  # other connection ids: none of them can be decrypted
        server.receive((f"10.6.{number % 250}.6", 666), bytes(packet))
    world.run_for(0.1)
    assert server.admission.half_open == RETRY_ABOVE < HALF_OPEN_MAX
    honest = world.dial(Talk())
    assert world.run(lambda: honest.is_open, limit=1.0) < 0.01
    world.run_for(HANDSHAKE_TIMEOUT + 1)
    assert sum(not end.is_over for end in server.ends) == 1


def _first_flight() -> bytes:
    client = RawClient()
    client.connect(SERVER, 0.0)
    return client.datagrams_to_send(0.0)[0][0]


def test_a_slow_reader_is_closed() -> None:
    """W9: what one peer does not take cannot fill our memory."""
    world = World(1, latency=0.001)
    ours = Talk(consumes=False)
    theirs = Talk()
    server = world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: client.is_open)
    ours.say(0)
    client.flush()
    world.run(lambda: theirs.total == 1)
    for _ in range(60):
        theirs.send(0, bytes(100_000))
        server.ends[0].flush()
        world.run_for(0.1)
    assert theirs.ended
    assert theirs.ended[0][1] == "too much is unacknowledged"


def test_the_text_of_a_close_cannot_harm_a_terminal() -> None:
    """What a peer gives as reason is shown without its control characters, and not at any length."""
    world = World(1, latency=0.001)
    _, client, end, theirs = hostile(world)
    client.close(error_code=5, reason_phrase="evil\x1b[2J\n" + "x" * 900)
    end.flush()
    world.run_for(0.1)
    code, text = theirs.ended[0]
    assert code == 5
    assert text.isprintable()
    assert len(text) <= 256
