"""When nothing is answered: red within seconds, another connection races, the red cross at 12 s heals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from relay import Relay

import quicmsg
from quicmsg import Connection, ConnectionChanged, State, StateChanged
from quicmsg.server import Server
from quicmsg.server.settings import Settings

pytestmark = pytest.mark.slow


@pytest.fixture
async def path(tmp_path: Path) -> AsyncIterator[tuple[Relay, Callable[..., quicmsg.client.Connecting]]]:
    """A relay, and a function that connects a user through it."""
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    relay = Relay(server.addresses[0])
    port = await relay.start()

    def connect(user: str, *, direct: bool = False) -> quicmsg.client.Connecting:
        where = f"127.0.0.1:{server.addresses[0][1] if direct else port}"
        ca = tmp_path / "certs" / "ca.pem"
        return quicmsg.connect(where, user=user, data=tmp_path / user, ca=ca, foreground=True)

    yield relay, connect
    await relay.close()
    await server.stop()


async def received(client: quicmsg.Client, count: int) -> list[str]:
    consumer = client.messages()
    found = []
    for _ in range(count):
        found.append((await anext(consumer)).text)
        consumer.acknowledge()
    return found


def states_of(events: quicmsg.Events) -> tuple[list[Connection], list[State]]:
    """What was said of the link, and of messages."""
    link, messages = [], []
    while (event := events.get_nowait()) is not None:
        if isinstance(event, ConnectionChanged):
            link.append(event.state)
        if isinstance(event, StateChanged):
            messages.append(event.state)
    return link, messages


async def test_a_second_connection_races_and_takes_over(
    path: tuple[Relay, Callable[..., quicmsg.client.Connecting]],
) -> None:
    """The old connection is dead on every path, a new one gets through: nothing fails, nothing is doubled."""
    relay, connect = path
    async with connect("alice") as alice, connect("bob", direct=True) as bob:
        await alice.send("@bob", "before")
        events = alice.events()
        relay.block_old_connections()
        sent = await alice.queue("@bob", "through the second")
        await sent.stored(timeout=11)
        link, messages = states_of(events)
        assert link == [Connection.DOWN, Connection.UP]
        assert messages == [State.QUEUED, State.STORED], "never shown as failed"
        await alice.send("@bob", "after")
        assert await received(bob, 3) == ["before", "through the second", "after"]


async def test_a_silent_hole_of_five_seconds_is_survived_on_the_same_connection(
    path: tuple[Relay, Callable[..., quicmsg.client.Connecting]],
) -> None:
    """Red, then green again; the message was never shown as failed; quick once the network is back."""
    relay, connect = path
    async with connect("alice") as alice, connect("bob", direct=True) as bob:
        await alice.send("@bob", "before")
        events = alice.events()
        relay.block_everything()
        loop = asyncio.get_running_loop()
        back: asyncio.Future[float] = loop.create_future()

        def unblock() -> None:
            relay.unblock()
            back.set_result(loop.time())

        loop.call_later(5.0, unblock)
        sent = await alice.queue("@bob", "in the hole")
        await sent.stored(timeout=11)
        assert loop.time() - await back < 2.0
        link, messages = states_of(events)
        assert link[0] is Connection.DOWN
        assert link[-1] in (Connection.UP, Connection.MOVED)
        assert messages == [State.QUEUED, State.STORED]
        assert await received(bob, 2) == ["before", "in the hole"]


async def test_the_red_cross_comes_at_twelve_seconds_and_heals(
    path: tuple[Relay, Callable[..., quicmsg.client.Connecting]],
) -> None:
    """Nothing at all gets through: shown as failed, kept, and stored by itself when the network is back."""
    relay, connect = path
    async with connect("alice") as alice, connect("bob", direct=True) as bob:
        await alice.send("@bob", "before")
        relay.block_everything()
        loop = asyncio.get_running_loop()
        started = loop.time()
        with pytest.raises(quicmsg.DeliveryError, match="outbox"):
            await alice.send("@bob", "cut off")
        assert 11.5 < loop.time() - started < 14
        (row,) = await alice.outbox()
        assert row.state is State.FAILED
        relay.unblock()
        assert await received(bob, 2) == ["before", "cut off"]
        assert await alice.outbox() == []
        assert await alice.state(row.message_id) in (State.STORED, State.DELIVERED)
