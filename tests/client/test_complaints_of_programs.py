"""T16, T19 and T24 of the complaints about other messengers: see tests/test_peers_complaints.py."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

import quicmsg
from quicmsg import limits
from quicmsg.client import roamer
from quicmsg.client.connector import Connector
from quicmsg.client.network import ClockReading
from quicmsg.client.roamer import Roamer
from quicmsg.errors import ErrorCode
from quicmsg.protocol.session import SessionState
from quicmsg.server import Server
from quicmsg.server.settings import Settings

ASLEEP = 600.0


async def test_t16_after_a_sleep_the_clocks_start_anew_and_the_link_moves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T16: ten minutes with the lid closed are nobody's silence; the link is tried at once, on a new path."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    restarted: list[float] = []
    moves: list[str | None] = []

    def readings() -> Iterator[ClockReading]:
        yield ClockReading(1000.0, 1000.0)
        while True:
            yield ClockReading(1001.0 + ASLEEP, 1001.0)

    def move(address: str | None) -> None:
        moves.append(address)
        woken.set()

    clocks = readings()
    monkeypatch.setattr(roamer, "read_clocks", lambda: next(clocks))
    monkeypatch.setattr(roamer, "current_source_address", lambda host, port: "10.0.0.2")
    monkeypatch.setattr(limits, "SLEEP_CHECK_INTERVAL", 0.01)
    monkeypatch.setattr(limits, "REBIND_INTERVAL", 0.0)
    outbox = SimpleNamespace(conversations=list, restart_clocks=restarted.append)
    session = SimpleNamespace(
        state=SessionState.UP,
        mailbox=SimpleNamespace(outbox=outbox),
        heartbeat=SimpleNamespace(misses=0, silent_since=loop.time()),
    )
    link = SimpleNamespace(peer_address="192.0.2.7:4433", migrate=move, on_send_error=None)
    watching = Roamer(lambda: (link, session), lambda: None, None)  # type: ignore[arg-type, return-value]
    watching.start()
    watching.connected(link)  # type: ignore[arg-type]
    try:
        async with asyncio.timeout(5):
            await woken.wait()
    finally:
        watching.close()
    assert len(restarted) == 1
    assert moves[0] is None


@pytest.mark.slow
@pytest.mark.parametrize("body", [b"\xff\xfe\x80 not a text", b"\x00\x1b[2J\x1b]0;owned\x07", b""])
async def test_t19_a_poisonous_message_stops_nobody(tmp_path: Path, body: bytes) -> None:
    """T19: what cannot be read as text is shown as well as it can be, once, and what follows comes too."""
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    where = f"127.0.0.1:{server.addresses[0][1]}"
    ca = tmp_path / "certs" / "ca.pem"
    try:
        async with (
            quicmsg.connect(where, user="bob", data=tmp_path / "bob", ca=ca) as bob,
            quicmsg.connect(where, user="alice", data=tmp_path / "alice", ca=ca) as alice,
        ):
            poison = await alice._postbox.queue("@bob", body, None)
            last = await alice.queue("@bob", "and this?")
            consumer = bob.messages()
            async with asyncio.timeout(10):
                found = [(await anext(consumer)).text for _ in range(2)]
                consumer.acknowledge()
                await last.delivered(timeout=5)
            assert found == [body.decode("utf-8", "replace"), "and this?"]
            assert poison.state is quicmsg.State.DELIVERED
    finally:
        await server.stop()


async def test_t24_clients_of_a_server_that_stops_come_back_spread_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """T24: all hear of it at the same moment; they wait up to RECONNECT_SPREAD, each its own time."""
    random.seed(1)
    first = await _pauses(ErrorCode.GOING_AWAY, clients=300)
    tenths = [0] * 10
    for pause in first:
        assert 0 <= pause <= limits.RECONNECT_SPREAD
        tenths[min(9, int(pause / limits.RECONNECT_SPREAD * 10))] += 1
    assert max(tenths) <= 2 * 300 / 10
    assert min(tenths) > 0
    assert max(await _pauses(ErrorCode.UNREACHABLE, clients=50)) <= limits.RECONNECT_MIN


async def _pauses(ended_with: ErrorCode, *, clients: int) -> list[float]:
    """How long so many clients wait when a connection that they had ends."""
    pauses: list[float] = []
    for _ in range(clients):
        one = SimpleNamespace(_closing=False, _ended_code=ended_with)

        async def connect(*, early: bool) -> object:
            return object()

        async def while_connected(link: object) -> None:
            pass

        async def pause(seconds: float, one: SimpleNamespace = one) -> None:
            pauses.append(seconds)
            one._closing = True

        one._connect, one._while_connected, one._pause = connect, while_connected, pause
        await Connector._run(one)  # type: ignore[arg-type]
    return pauses
