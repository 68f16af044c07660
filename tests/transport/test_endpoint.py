"""The endpoint on real loopback sockets, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import contextlib
import logging
import random
import socket
from typing import Any

import pytest
from stage import Play, Relay, Stage
from talk import Talk

from quicmsg.errors import ErrorCode


def test_a_client_changes_its_address_in_the_middle(play: Play) -> None:
    """127.0.0.1 to 127.0.0.2 with 20 busy conversations both ways: nothing lost, doubled or reordered."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        theirs, server = stage.sessions[0], stage.listener.links[0]
        for number in range(40):
            for channel in range(20):
                ours.say(channel)
                if number > 0:
                    theirs.say(channel)
            link.flush()
            if number > 0:
                server.flush()
            if number == 20:
                link.migrate("127.0.0.2")
            await stage.until(lambda number=number: theirs.heard[19] > number)  # type: ignore[misc]
        await stage.until(lambda: theirs.total == 20 * 40 and ours.total == 20 * 39)
        await stage.until(lambda: len(theirs.moves) == 1)
        assert ours.problems == theirs.problems == []
        assert link.local_address.startswith("127.0.0.2:")
        assert theirs.moves == ours.moves == [link.local_address] == [server.peer_address]
        assert link.stats().migrations == server.stats().migrations == 1
        assert ours.channel_binding == theirs.channel_binding

    play(scene)


def test_many_moves_leave_few_connection_ids(play: Play) -> None:
    """Retired ids are forgotten; there are always spare ones for the next move."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        for number in range(12):
            link.migrate(f"127.0.0.{number + 2}")
            ours.say(0)
            link.flush()
            await stage.until(lambda number=number: stage.sessions[0].total == number + 1)  # type: ignore[misc]
        await stage.until(lambda: stage.sessions[0].moves[-1:] == ours.moves[-1:])
        assert len(stage.listener._endpoint._routes) <= 9

    play(scene)


def test_what_is_under_way_to_the_old_address_is_still_read(play: Play) -> None:
    """The server's last packet before the move, and then the server is gone: it is heard all the same."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        stage.sessions[0].say(0)
        stage.listener.links[0].flush()
        stage.listener._endpoint.flush_now()
        stage.listener._endpoint.close()
        link.migrate("127.0.0.2")
        await stage.until(lambda: ours.total == 1)

    play(scene)


def test_answers_leave_from_where_the_client_was_last_heard(play: Play) -> None:
    """A client behind a NAT whose other side changes: its packets arrive at another of our addresses, and
    answers from the old one would not get through."""

    async def scene(stage: Stage) -> None:
        port = await stage.serve(("0.0.0.0", 0))
        with contextlib.closing(Relay(port)) as relay:
            ours = Talk()
            link = await stage.dial(relay.port, ours)
            relay.target = "127.0.0.2"
            ours.say(0)
            link.flush()
            await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
            stage.sessions[0].say(0)
            stage.listener.links[0].flush()
            await stage.until(lambda: ours.total == 1)
            assert stage.listener.links[0].local_address == f"127.0.0.2:{port}"

    play(scene)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_wildcard_server_answers_from_the_address_that_was_used(play: Play, host: str) -> None:
    """The kernel would choose another source address, and the client would drop the answers."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(("0.0.0.0", 0)), ours, host)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert link.peer_address == stage.listener.links[0].local_address
        assert link.peer_address.startswith(host + ":")

    play(scene)


@pytest.mark.parametrize("bound", ["::1", "::"])
def test_ipv6(play: Play, bound: str) -> None:
    """The same over IPv6, also on a wildcard bind, and over a move to another port."""
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("this computer has no IPv6 loopback address")

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve((bound, 0)), ours, "::1", server_name="::1")
        link.migrate(None)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].moves != [])
        assert stage.sessions[0].moves == [link.local_address]
        assert link.local_address.startswith("[::1]:")

    play(scene)


def _has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


def test_garbage_disturbs_nobody(play: Play) -> None:
    """Random datagrams, and mutated real ones, beside a connection that goes on."""

    async def scene(stage: Stage) -> None:
        port, ours = await stage.serve(), Talk()
        link = await stage.dial(port, ours)
        draw = random.Random(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for size in range(1, 1400, 7):
                sender.sendto(draw.randbytes(size), ("127.0.0.1", port))
                sender.sendto(b"\xc3\0\0\0\x01\x08" + draw.randbytes(1194), ("127.0.0.1", port))
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert len(stage.sessions) == 1

    play(scene)


def test_an_exception_in_one_session_closes_that_connection_only(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the peer is told; others do not notice."""

    class Broken(Talk):
        def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
            raise ZeroDivisionError

    async def scene(stage: Stage) -> None:
        port, good, bad = await stage.serve(), Talk(), Talk()
        link = await stage.dial(port, good)
        await stage.until(lambda: len(stage.sessions) == 1)
        stage.make_session = lambda _: stage.sessions.append(Broken()) or stage.sessions[-1]  # type: ignore[func-returns-value]
        broken = await stage.dial(port, bad)
        bad.say(0)
        broken.flush()
        await stage.until(lambda: bool(bad.ended))
        good.say(0)
        link.flush()
        await stage.until(lambda: stage.sessions[0].total == 1)
        assert bad.ended == [(ErrorCode.INTERNAL, "internal error")]
        assert stage.sessions[1].ended == [(ErrorCode.INTERNAL, "internal error")]
        assert len(stage.listener._endpoint._peers) == len(stage.listener.links) == 1
        assert good.ended == []

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert "ZeroDivisionError" in caplog.text


def test_a_server_that_stops_says_so(play: Play) -> None:
    """Clients learn the reason, not only silence; later packets are answered by the kernel with an error."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        await stage.listener.close()
        await link.wait_closed()
        assert ours.ended == [(ErrorCode.GOING_AWAY, "the server stops")]
        assert not link.is_open

    play(scene)


def test_errors_of_the_socket_are_reported(play: Play) -> None:
    """A server that vanished: the kernel knows it from ICMP, and the link passes it on."""

    async def scene(stage: Stage) -> None:
        ours, errors = Talk(), []
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        stage.listener._endpoint.close()  # as if the process had been killed
        link.on_send_error = lambda error: (errors.append(error), stage.activity())  # type: ignore[func-returns-value]
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(errors))
        assert errors[0].errno == 111  # ECONNREFUSED
        assert link.is_open

    play(scene)


def test_a_megabyte_each_way(play: Play) -> None:
    """Batches, segmentation offload and windows together, on a real socket."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        ours.say(0, 10_000)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 10_000)
        stage.sessions[0].say(0, 10_000)
        stage.listener.links[0].flush()
        await stage.until(lambda: ours.total == 10_000)
        assert ours.problems == stage.sessions[0].problems == []

    play(scene)


def test_a_close_that_was_not_heard_is_said_again(play: Play) -> None:
    """The server's farewell was lost: the client's next packet is answered with it, not with silence."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        server = stage.listener.links[0]
        real = server.peer.socket

        class Deaf:
            def send(self, *_: Any) -> None:
                server.peer.socket = real

        server.peer.socket = Deaf()  # type: ignore[assignment]
        stage.sessions[0].closing = (ErrorCode.REPLACED, "elsewhere")
        server.flush()
        await stage.until(lambda: stage.sessions[0].ended != [])
        assert ours.ended == []
        ours.say(0)
        link.flush()
        await stage.until(lambda: ours.ended != [])
        assert ours.ended == [(ErrorCode.REPLACED, "elsewhere")]

    play(scene)
