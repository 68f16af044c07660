"""Questions to the server: how many at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import quicmsg
from quicmsg.limits import REQUESTS_MAX
from quicmsg.protocol import events as protocol_events
from quicmsg.server import Server
from quicmsg.server.settings import Settings


async def test_as_many_requests_as_allowed_do_not_end_the_connection(tmp_path: Path) -> None:
    """The server's bound counts the session's own Sync: the client stays below it, refuses what is more, and
    is not thrown out (it would ask all of them again on the next connection, and be thrown out again)."""
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    where, ca = f"127.0.0.1:{server.addresses[0][1]}", tmp_path / "certs" / "ca.pem"
    async with quicmsg.connect(where, user="alice", data=tmp_path / "a", ca=ca) as client:
        events = client.events()
        # At once: the Sync that follows the welcome is not answered yet.
        answers = await asyncio.gather(
            *(client.create(f"#room{number}") for number in range(REQUESTS_MAX + 1)), return_exceptions=True
        )
        refused = [answer for answer in answers if answer is not None]
        assert [type(answer) for answer in refused] == [quicmsg.RefusedError] * 2
        while (event := events.get_nowait()) is not None:
            assert not isinstance(event, quicmsg.ConnectionChanged), "the connection lives on"
    await server.stop()


async def test_request_made_while_the_link_is_silent_is_asked_on_it(tmp_path: Path) -> None:
    """The same connection is heard again, and answers: there is no new one that would be asked."""
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    where, ca = f"127.0.0.1:{server.addresses[0][1]}", tmp_path / "certs" / "ca.pem"
    async with quicmsg.connect(where, user="alice", data=tmp_path / "a", ca=ca) as client:
        connector = client._connector
        assert connector.link is not None
        connector._about_link(connector.link, protocol_events.LinkSilent())
        assert not client.is_up
        async with asyncio.timeout(5):
            await client.create("#room")
    await server.stop()
