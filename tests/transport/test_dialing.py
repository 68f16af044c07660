"""Making a connection: several addresses, nobody there, ports and addresses that cannot be used."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
from relay import Relay
from stage import Play, Stage, free_port
from talk import Talk

from quicmsg.errors import ConfigurationError, ConnectError, ErrorCode
from quicmsg.limits import FAILED_AFTER
from quicmsg.transport.dialer import _Race
from quicmsg.transport.quic import Trust


def test_a_name_with_a_dead_first_address_is_reached_at_its_second(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts are staggered: what does not answer is not waited for."""

    async def both(_host: str, port: int, _local: str | None) -> list[tuple[str, int]]:
        return [("127.0.0.3", port), ("127.0.0.1", port)]

    async def scene(stage: Stage) -> None:
        port = await stage.serve()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.3", port))
            ours = Talk()
            link = await stage.dial(port, ours, "server.example")
        assert link.peer_address == f"127.0.0.1:{port}"
        assert ours.ended == []

    monkeypatch.setattr("quicmsg.transport.dialer._resolve", both)
    play(scene)


def test_of_two_addresses_that_both_answer_one_is_used(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is connected once; the slower attempt is closed."""

    async def both(_host: str, port: int, _local: str | None) -> list[tuple[str, int]]:
        return [("127.0.0.1", port), ("127.0.0.2", port)]

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(("0.0.0.0", 0)), ours, "server.example")
        ours.say(0)
        link.flush()
        await stage.until(lambda: sum(session.total for session in stage.sessions) == 1)
        await stage.until(lambda: len(stage.listener.links) == 1 and not stage.listener._half_open)
        assert ours.problems == ours.ended == []

    monkeypatch.setattr("quicmsg.transport.dialer._resolve", both)
    monkeypatch.setattr("quicmsg.transport.dialer.ADDRESS_STAGGER", 0.0)
    play(scene)


def test_a_handshake_that_was_forgotten_is_begun_anew(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is killed in the middle of a handshake and comes back: nothing on this handshake is ever
    answered again, but a second one is."""

    async def scene(stage: Stage) -> None:
        relay = Relay(("127.0.0.1", await stage.serve()))
        relay.passes = lambda client, data, to_server: client != next(iter(relay.flows), None)
        ours = Talk()
        link = await stage.dial(await relay.start(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        assert (ours.ended, len(relay.flows)) == ([], 2)
        link.close(ErrorCode.NO_ERROR, "")
        await relay.close()

    monkeypatch.setattr("quicmsg.transport.dialer.HANDSHAKE_AGAIN", 0.05)
    play(scene)


def test_every_handshake_that_is_not_answered_is_begun_anew(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first address swallows everything; the server behind the second one was killed in the middle of
    its handshake. That an attempt elsewhere failed meanwhile hurries nothing."""

    async def scene(stage: Stage) -> None:
        relay = Relay(("127.0.0.1", await stage.serve()))
        relay.passes = lambda client, data, to_server: client != next(iter(relay.flows), None)
        port = await relay.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))

            async def three(*_: object) -> list[tuple[str, int]]:
                return [deaf.getsockname(), ("127.0.0.1", port), ("127.0.0.1", free_port())]

            monkeypatch.setattr("quicmsg.transport.dialer._resolve", three)
            begun = asyncio.get_running_loop().time()
            link = await stage.dial(port, Talk(), timeout=3.0)
            assert asyncio.get_running_loop().time() - begun >= 0.1
            assert len(relay.flows) == 2
            link.close(ErrorCode.NO_ERROR, "")
            await relay.close()

    monkeypatch.setattr("quicmsg.transport.dialer.ADDRESS_STAGGER", 0.0)
    monkeypatch.setattr("quicmsg.transport.dialer.HANDSHAKE_AGAIN", 0.1)
    play(scene)


def test_the_first_handshake_to_finish_wins() -> None:
    """Also when two finish in the same turn of the loop."""

    async def main() -> None:
        ours: Any = Talk()
        race = _Race(ours, lambda _: None, "localhost", Trust(), None, None)
        first, second = object(), object()
        assert race._claim(first) is ours  # type: ignore[arg-type]
        assert race._claim(second) is None  # type: ignore[arg-type]
        assert race.winner is first

    asyncio.run(main())


def test_nothing_listens(play: Play) -> None:
    """A port that nobody has: said at once, in words."""

    async def scene(stage: Stage) -> None:
        with pytest.raises(
            ConnectError, match=r"nothing answers at 127\.0\.0\.1:\d+ over UDP.*is the server"
        ):
            await stage.dial(free_port(), Talk(), timeout=FAILED_AFTER)

    play(scene)


def test_nothing_answers(play: Play) -> None:
    """A host that swallows packets: said when the time is over, and the session was told nothing."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectError, match="nothing answers"):
                await stage.dial(deaf.getsockname()[1], ours, timeout=0.3)
        assert (ours.channel_binding, ours.ended) == (b"", [])

    play(scene)


def test_a_cancelled_dial_leaves_nothing(play: Play) -> None:
    """Somebody presses Ctrl-C while it connects."""

    async def scene(stage: Stage) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stage.dial(deaf.getsockname()[1], Talk())

    play(scene)


def test_a_port_that_is_taken(play: Play) -> None:
    """Named, with the remedy."""

    async def scene(stage: Stage) -> None:
        port = await stage.serve()
        other = Stage(stage.files)
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} is in use.*another port"):
            await other.serve(("127.0.0.1", port))
        with pytest.raises(ConfigurationError, match="not an address of this computer"):
            await other.serve(("192.0.2.1", 0))

    play(scene)


def test_a_local_address_that_does_not_exist(play: Play) -> None:
    """At dialling and at moving; after a refused move the connection goes on from where it was."""

    async def scene(stage: Stage) -> None:
        port, ours = await stage.serve(), Talk()
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 cannot be used"):
            await stage.dial(port, Talk(), local_address="192.0.2.1")
        with pytest.raises(ConfigurationError, match="one is IPv4 and the other IPv6"):
            await stage.dial(port, Talk(), local_address="::1")
        link = await stage.dial(port, ours, local_address="127.0.0.9")
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 cannot be used"):
            link.migrate("192.0.2.1")
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert ours.moves == []
        assert ours.observed.startswith("127.0.0.9:")

    play(scene)
