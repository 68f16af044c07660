"""A client that comes back resumes, whatever the reason; what it resumes with never touches a disk."""

from __future__ import annotations

from pathlib import Path

import pytest

import quicmsg
from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.server import Server
from quicmsg.server.settings import Settings


async def start(base: Path, port: int = 0) -> Server:
    return await Server.start(Settings((("127.0.0.1", port),), base / "server", base / "certs"))


def connect(server: Server, base: Path, name: str = "bob") -> quicmsg.client.Connecting:
    where = f"127.0.0.1:{server.addresses[0][1]}"
    return quicmsg.connect(where, user=name, data=base / name, ca=server.certificate.ca_file)


def is_resumed(client: quicmsg.Client) -> bool:
    link = client._connector.link
    assert link is not None
    return link.peer.connection.is_resumed


async def up_again(events: quicmsg.client.tracking.Events) -> None:
    """Wait until the link was down, and is up."""
    down = False
    async for event in events:
        if isinstance(event, quicmsg.ConnectionChanged):
            down = down or event.state is quicmsg.Connection.DOWN
            if down and event.state is quicmsg.Connection.UP:
                return


async def heard(client: quicmsg.Client, text: str) -> None:
    """Something was stored over the present connection: all that the handshake brings has come before it."""
    await client.send("@bob", text)


def contents(directory: Path) -> list[bytes]:
    found = [path.read_bytes() for path in directory.rglob("*") if path.is_file()]
    assert found
    return found


@pytest.mark.slow
async def test_a_lost_connection_and_a_race_resume_and_a_restarted_server_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Signing in is the same each time; a restarted server knows no ticket, and that costs nothing."""
    monkeypatch.setattr(limits, "RECONNECT_SPREAD", 0.01)
    server = await start(tmp_path)
    async with connect(server, tmp_path) as bob:
        assert not is_resumed(bob)
        await heard(bob, "one")
        events = bob.events()
        server.listener.links[0].close(ErrorCode.NO_ERROR, "lost")
        await up_again(events)
        assert is_resumed(bob)
        await heard(bob, "two")
        bob._connector.race()
        assert bob._connector._race is not None
        await bob._connector._race
        assert is_resumed(bob)
        await heard(bob, "three")
        await server.stop()
        server = await start(tmp_path, server.addresses[0][1])
        await up_again(events)
        assert not is_resumed(bob)
        await heard(bob, "four")
    await server.stop()


async def test_a_scout_does_not_spend_the_ticket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It only knocks: the connection that then signs in is the one that resumes."""
    monkeypatch.setattr(limits, "RACE_HANDICAP", 0.0)
    server = await start(tmp_path)
    async with connect(server, tmp_path) as bob:
        await heard(bob, "one")
        before = bob._connector._tickets._newest
        assert before is not None
        await bob._connector._scout()
        assert bob._connector._tickets._newest is before
        await bob._connector._connect(early=False)
        assert is_resumed(bob)
    await server.stop()


async def test_a_ticket_never_touches_a_disk(tmp_path: Path) -> None:
    """Its secret also stands for the server: a copy of the client's directory must not make one."""
    server = await start(tmp_path)
    async with connect(server, tmp_path) as bob:
        await heard(bob, "one")
        newest = bob._connector._tickets._newest
        assert newest is not None
        secret, name = newest.ticket.resumption_secret, newest.ticket.ticket
        assert repr(secret) not in repr(newest)
    await server.stop()
    for content in contents(tmp_path):
        assert secret not in content
        assert name not in content
        assert secret.hex().encode() not in content
