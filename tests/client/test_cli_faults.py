"""Faults of the client library that the line client brought to light, each with the promise it broke."""

from __future__ import annotations

from pathlib import Path

import pytest

import quicmsg
from quicmsg import Connection, ConnectionChanged, State
from quicmsg.server import Server
from quicmsg.server.settings import Settings

ID = "01a1fb1b72f17b74856af3dfe2a10de8"


async def start(base: Path, port: int = 0) -> Server:
    return await Server.start(Settings((("127.0.0.1", port),), base / "server", base / "certs"))


def connect(server: Server, base: Path, user: str) -> quicmsg.client.Connecting:
    where = f"127.0.0.1:{server.addresses[0][1]}"
    return quicmsg.connect(where, user=user, data=base / user, ca=base / "certs" / "ca.pem")


async def test_a_rejected_message_that_is_sent_again_under_its_id_is_sent(tmp_path: Path) -> None:
    """It was told "queued", and waited in the outbox for ever."""
    server = await start(tmp_path)
    async with connect(server, tmp_path, "ann") as ann:
        with pytest.raises(quicmsg.RefusedError):
            await ann.send("@bob", "too early", message_id=ID)
        async with connect(server, tmp_path, "bob"):
            sent = await ann.send("@bob", "too early", message_id=ID)
            assert (sent.state, sent.seq) == (State.STORED, 1)
        with pytest.raises(quicmsg.RefusedError, match="another message"):
            await ann.send("@bob", "something else", message_id=ID)
    await server.stop()


async def test_an_address_that_cannot_be_had_does_not_end_the_client(tmp_path: Path) -> None:
    """`migrate` to a wrong address is refused, and the next connection comes from wherever it can."""
    server = await start(tmp_path)
    async with connect(server, tmp_path, "ann") as ann:
        with pytest.raises(quicmsg.ConfigurationError):
            ann.migrate("192.0.2.77")
        events = ann.events()
        await server.stop()
        async for event in events:
            if isinstance(event, ConnectionChanged) and event.state is Connection.DOWN:
                break
        with pytest.raises(quicmsg.ConnectError):
            ann.migrate("192.0.2.77")  # not connected: nobody can tell yet
        server = await start(tmp_path, server.addresses[0][1])
        async for event in events:
            if isinstance(event, ConnectionChanged):
                assert event.state is Connection.UP
                break
    await server.stop()
