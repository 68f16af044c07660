"""Streams: windows, backpressure, order of service, aborts, and a cost that stays flat."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from quicpair import SERVER, End, Server, World, pinned_aioquic
from talk import Talk

from quicmsg.limits import CONNECTION_WINDOW, STREAM_WINDOW


@pytest.fixture(autouse=True)
def _pinned() -> Iterator[None]:
    with pinned_aioquic(1):
        yield


def connect(world: World, ours: Talk, theirs: Talk) -> tuple[End, Server]:
    server = world.serve(lambda _: theirs)
    client = world.dial(ours)
    world.run(lambda: bool(theirs.channel_binding))
    return client, server


def test_a_slow_consumer_stops_the_sender_of_that_stream_only() -> None:
    """Channel 1 is not consumed: it stops after one window, while channel 2 carries megabytes."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk(consumes=False)
    client, server = connect(world, ours, theirs)
    ours.send(1, bytes(1_000_000))
    client.flush()
    world.run_for(2)
    assert theirs.bytes_heard[1] == STREAM_WINDOW
    for _ in range(60):
        before = theirs.bytes_heard[2]
        ours.send(2, bytes(100_000))
        client.flush()
        world.run_for(0.2)
        theirs.consume(2, theirs.bytes_heard[2] - before)
        server.ends[0].flush()
    world.run_for(1)
    assert theirs.bytes_heard[2] == 6_000_000 > CONNECTION_WINDOW
    assert theirs.bytes_heard[1] == STREAM_WINDOW
    theirs.consume(1, STREAM_WINDOW)
    server.ends[0].flush()
    world.run_for(1)
    assert theirs.bytes_heard[1] == 2 * STREAM_WINDOW, "what was processed is given back"


def test_windows_survive_streams_that_the_peer_resets() -> None:
    """Bytes that were lost and then given up can never be consumed, but the window gets them back."""
    world, ours, theirs = World(1, latency=0.005), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    for channel in range(1, 41):
        world.network.hole(0.1, sender=client.address[0])
        client.connection._loss._cc.congestion_window = 1_000_000  # all of it is sent into the hole
        ours.send(channel, bytes(200_000))
        client.flush()
        world.run_for(0.1)
        client.connection.reset_stream(4 * channel, 9)  # this direction only: the stream stays open
        client.flush()
        world.run_for(0.5)
    assert [channel for channel, _ in theirs.resets] == list(range(1, 41))
    assert sum(theirs.bytes_heard.values()) < 2_000_000
    assert_window_is_whole(server, theirs)


def test_windows_survive_streams_that_nobody_read() -> None:
    """A session may drop a channel with all that came on it; its bytes are not held against the peer."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk(consumes=False)
    client, server = connect(world, ours, theirs)
    for channel in range(1, 41):
        ours.send(channel, bytes(200_000), end=True)
        client.flush()
        world.run_for(0.4)
        theirs.send(channel, b"", reset=9)
        server.ends[0].flush()
        world.run_for(0.1)
    assert sum(theirs.bytes_heard.values()) == 8_000_000 > CONNECTION_WINDOW
    assert_window_is_whole(server, theirs)


def assert_window_is_whole(server: Server, theirs: Talk) -> None:
    limit = server.ends[0].connection._local_max_data
    assert limit.value - limit.used >= CONNECTION_WINDOW // 2
    assert server.ends[0].connection.buffered == 0
    assert theirs.ended == []


@pytest.mark.parametrize("answers", [0, 300_000])
def test_a_window_update_that_is_lost_or_does_not_fit_is_said_again(answers: int) -> None:
    """The session consumes while nothing can reach the peer (packet lost; or no room to send one at all)."""
    world, ours, theirs = World(1, latency=0.01), Talk(), Talk(consumes=False)
    client, server = connect(world, ours, theirs)
    ours.send(1, bytes(2 * STREAM_WINDOW))
    client.flush()
    world.run_for(2)
    assert theirs.bytes_heard[1] == STREAM_WINDOW
    world.network.hole(0.5, sender=SERVER[0])
    theirs.send(1, bytes(answers))
    server.ends[0].flush()
    world.run_for(0.02)
    if answers:
        state = server.ends[0].stats()
        assert state.bytes_in_flight + 50 > state.congestion_window
    theirs.consume(1, STREAM_WINDOW)
    server.ends[0].flush()
    world.run(lambda: theirs.bytes_heard[1] == 2 * STREAM_WINDOW, limit=5)


def test_an_aborted_channel_tells_the_peer_and_takes_nothing_more() -> None:
    """The peer learns the code once; bytes that were under way are thrown away."""
    world, ours, theirs = World(1, latency=0.01), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    ours.send(3, b"x" * 50)
    client.flush()
    world.run_for(0.1)
    theirs.send(3, b"", reset=0x24)
    ours.send(3, b"y" * 50)
    server.ends[0].flush()
    client.flush()
    world.run_for(1)
    assert ours.resets == [(3, 0x24)]
    assert theirs.resets == []
    assert theirs.bytes_heard[3] == 50
    ours.send(3, b"z")  # too late: dropped, and no error
    client.flush()
    world.run_for(1)
    assert theirs.ended == ours.ended == []


def test_ended_channels_are_forgotten_and_new_ones_may_be_opened() -> None:
    """Far more channels than the limit, one after the other; nothing of them stays."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    for channel in range(400):
        ours.send(channel, b"x" * 100, end=True)
        client.flush()
        world.run(lambda channel=channel: channel in theirs.ends)  # type: ignore[misc]
        theirs.send(channel, b"", end=True)
        server.ends[0].flush()
        world.run_for(0.01)
    world.run_for(1)
    assert len(client.connection._streams) == len(server.ends[0].connection._streams) == 0
    assert sorted(ours.ends) == list(range(400))


def test_channels_may_be_used_in_any_order() -> None:
    """A session that first writes to a high channel can still use the lower ones."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk()
    client, _ = connect(world, ours, theirs)
    for channel in (7, 3, 9, 0, 1):
        ours.say(channel)
        client.flush()
        world.run_for(0.05)
    assert set(theirs.heard) == {7, 3, 9, 0, 1}
    assert theirs.problems == []


def test_control_overtakes_bulk() -> None:
    """Channel 0 does not wait behind the turns of fifty busy channels."""
    world, ours, theirs = World(1, latency=0.02), Talk(), Talk()
    client, _ = connect(world, ours, theirs)
    for channel in range(1, 51):
        ours.send(channel, bytes(50_000))
    client.flush()
    world.run_for(0.05)
    for _ in range(5):
        ours.say(0)
        client.flush()
        said = theirs.heard[0] + 1
        assert world.run(lambda said=said: theirs.heard[0] == said) < 0.07  # type: ignore[misc]
    assert sum(theirs.bytes_heard.values()) < 2_000_000


def test_the_last_words_are_heard_before_a_close() -> None:
    """A session that says something and then closes has been heard, also over a lossy network."""
    for seed in range(10):
        with pinned_aioquic(seed):
            world, ours, theirs = World(seed, latency=0.02), Talk(), Talk()
            client, _ = connect(world, ours, theirs)
            world.network.loss = 0.3
            ours.say(0, 100)
            ours.closing = (0x31, "good bye")
            client.flush()
            world.run(lambda ours=ours: bool(ours.ended))  # type: ignore[misc]
            assert theirs.heard[0] == 100
            assert ours.ended == [(0x31, "good bye")]


def operations_per_message(channels: int) -> float:
    """How many streams aioquic looks at for one message, over both ends."""
    world, ours, theirs = World(1, latency=0.001), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    for channel in range(channels):
        ours.say(channel)
    client.flush()
    world.run(lambda: theirs.total == channels)
    world.run_for(1)
    looked_at = 0
    for connection in (client.connection, server.ends[0].connection):

        def count(builder, path, now, connection=connection, write=connection._write_application):  # type: ignore
            nonlocal looked_at
            looked_at += len(connection._streams.values()) + len(connection._streams_queue)
            write(builder, path, now)

        connection._write_application = count  # type: ignore[method-assign]
    for _ in range(50):
        ours.say(0)
        client.flush()
        world.run_for(0.1)
    assert theirs.heard[0] == 51
    return looked_at / 50


def test_the_cost_of_a_message_does_not_grow_with_open_streams() -> None:
    """Stock aioquic looks at every open stream for every packet."""
    few, many = operations_per_message(1), operations_per_message(120)
    assert many <= few + 1


def test_both_ends_export_the_same_key_and_each_connection_another() -> None:
    """RFC 8446 section 7.5: what a sign-in can be bound to."""
    world, ours, theirs = World(1), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    assert ours.channel_binding == theirs.channel_binding
    assert len(ours.channel_binding) == 32
    ends = client.connection, server.ends[0].connection
    for label, context, length in ((b"EXPORTER-a", b"", 16), (b"EXPORTER-a", b"x", 64), (b"b", b"", 32)):
        keys = {end.export_keying_material(label, context, length) for end in ends}
        assert len(keys) == 1
        assert len(keys.pop()) == length
    other = Talk()
    second = world.dial(other, host="10.0.2.2")
    world.run(lambda: second.is_open)
    assert other.channel_binding != ours.channel_binding


def test_a_restarted_server_is_noticed_with_the_first_packet() -> None:
    """Stateless reset: one round trip instead of the idle timeout of a minute; also after a move."""
    world, ours, theirs = World(1, latency=0.02), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    world.run_for(1)
    client.migrate("10.0.7.7")
    world.run_for(1)
    server.restart()
    ours.say(0)
    client.flush()
    assert world.run(lambda: bool(ours.ended)) < 0.05
    assert ours.ended == [(0x31, "the server does not know this connection any more: it was restarted")]


def test_a_forged_reset_is_ignored() -> None:
    """Without the token nobody can end a connection."""
    world, ours, theirs = World(1, latency=0.02), Talk(), Talk()
    client, _ = connect(world, ours, theirs)
    draw = random.Random(1)
    for size in (20, 21, 30, 43, 1200):
        client.receive(("10.0.0.1", 4433), b"\x4a" + draw.randbytes(size - 1))
    ours.say(0)
    client.flush()
    world.run(lambda: theirs.heard[0] == 1)
    assert ours.ended == []


def test_acknowledgements_ride_on_data() -> None:
    """A conversation of question and answer costs one packet per message, not two."""
    world, ours, theirs = World(1, latency=0.01), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    world.run_for(1)
    before = client.stats().packets_sent + server.ends[0].stats().packets_sent
    for _ in range(100):
        ours.say(0)
        client.flush()
        world.run_for(0.0101)
        theirs.say(0)
        server.ends[0].flush()
        world.run_for(0.0101)
    packets = client.stats().packets_sent + server.ends[0].stats().packets_sent - before
    assert packets <= 210


def test_a_client_that_opens_no_channel_can_be_told_why_it_is_dropped() -> None:
    """The server's last words are for a channel that nobody opened: they are dropped: no fault."""
    world, ours, theirs = World(1), Talk(), Talk()
    client, server = connect(world, ours, theirs)
    theirs.send(0, b"no sign-in in time")
    theirs.closing = (8, "no sign-in in time")
    server.ends[0].flush()
    world.run(lambda: client.is_over)
    assert client.end == (8, "no sign-in in time")
