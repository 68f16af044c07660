"""Names, keys, codes and certificates: who may come in, and whom a client believes."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import quicmsg
from quicmsg import ErrorCode
from quicmsg.server import Server
from quicmsg.server.settings import Settings


@pytest.fixture
async def server(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """A server; invite-only when the test is parametrized so."""
    invite_only = getattr(request, "param", False)
    settings = Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs", invite_only=invite_only)
    server = await Server.start(settings)
    yield server
    await server.stop()


def address(server: Server) -> str:
    return f"127.0.0.1:{server.addresses[0][1]}"


def client(server: Server, user: str, data: Path, **options: str) -> quicmsg.client.Connecting:
    ca = server.certificate.ca_file
    return quicmsg.connect(address(server), user=user, data=data, ca=ca, **options)  # type: ignore[arg-type]


async def test_a_name_belongs_to_the_first_key_that_uses_it(server: Server, tmp_path: Path) -> None:
    """Another key is told so, and what to do; the owner comes back without any code."""
    async with client(server, "alice", tmp_path / "one"):
        pass
    with pytest.raises(quicmsg.SignInError, match="link") as taken:
        await client(server, "alice", tmp_path / "two")
    assert taken.value.code is ErrorCode.NAME_TAKEN
    async with client(server, "alice", tmp_path / "one") as alice:
        assert alice.is_up


async def test_a_link_code_works_once_and_the_device_stays(server: Server, tmp_path: Path) -> None:
    """The second device needs the code for its first sign-in only; a third cannot use it again."""
    async with client(server, "alice", tmp_path / "one") as alice:
        code = await alice.link_code()
    async with client(server, "alice", tmp_path / "two", code=code) as second:
        assert second.device != alice.device
    async with client(server, "alice", tmp_path / "two"):
        pass
    with pytest.raises(quicmsg.SignInError) as used:
        await client(server, "alice", tmp_path / "three", code=code)
    assert used.value.code is ErrorCode.CODE_INVALID


@pytest.mark.parametrize("server", [True], indirect=True)
async def test_an_invite_only_server_takes_new_names_with_a_code(server: Server, tmp_path: Path) -> None:
    """Without a code: refused. With one: once."""
    with pytest.raises(quicmsg.SignInError) as needed:
        await client(server, "alice", tmp_path / "alice")
    assert needed.value.code is ErrorCode.INVITE_NEEDED
    invite = await server.make_invite()
    async with client(server, "alice", tmp_path / "alice", code=invite):
        pass
    with pytest.raises(quicmsg.SignInError) as used:
        await client(server, "bob", tmp_path / "bob", code=invite)
    assert used.value.code is ErrorCode.CODE_INVALID


async def test_unknown_authority_is_shown_and_pinned_and_a_later_change_is_an_error(
    server: Server, tmp_path: Path
) -> None:
    """Trust on first use, as SSH does; there is no switch that turns checking off."""
    told: list[str] = []
    where = address(server)
    async with quicmsg.connect(where, user="alice", data=tmp_path / "alice", announce=told.append):
        pass
    assert told == [server.certificate.fingerprint]
    async with quicmsg.connect(where, user="alice", data=tmp_path / "alice", announce=told.append):
        pass
    assert len(told) == 1, "known by now"
    await server.stop()
    shutil.rmtree(tmp_path / "certs")
    other = await Server.start(Settings((server.addresses[0],), tmp_path / "other", tmp_path / "certs"))
    with pytest.raises(quicmsg.CertificateError, match="pinned"):
        await quicmsg.connect(where, user="alice", data=tmp_path / "alice", announce=told.append)
    assert len(told) == 1
    await other.stop()


async def test_wrong_authority_is_refused_whatever_was_pinned(server: Server, tmp_path: Path) -> None:
    """A CA file is the last word."""
    other = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "other", tmp_path / "certs2"))
    with pytest.raises(quicmsg.CertificateError, match="authority"):
        await quicmsg.connect(
            address(server), user="alice", data=tmp_path / "alice", ca=other.certificate.ca_file
        )
    await other.stop()


async def test_a_newer_session_of_a_device_replaces_the_older(server: Server, tmp_path: Path) -> None:
    """A copied data directory is the same device: the older client is told, and does not fight."""
    async with client(server, "alice", tmp_path / "one") as first:
        events = first.events()
        shutil.copytree(tmp_path / "one", tmp_path / "copy", ignore=shutil.ignore_patterns("*.lock"))
        async with client(server, "alice", tmp_path / "copy"):
            async for event in events:
                if isinstance(event, quicmsg.ConnectionChanged):
                    assert event.state is quicmsg.Connection.DOWN
                    assert "again" in event.reason
                    break
