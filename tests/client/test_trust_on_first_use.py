"""Whom a client believes without a CA file, at first and ever after; what a fault in connecting leaves."""

from __future__ import annotations

import json
from pathlib import Path

import certifi
import pytest

import quicmsg
from quicmsg.client.connector import Connector
from quicmsg.client.identity import PUBLIC, Pins
from quicmsg.client.target import Target
from quicmsg.protocol.client import ClientSession
from quicmsg.server import Server
from quicmsg.server.settings import Settings
from quicmsg.transport.quic import Link, Trust


async def start(base: Path, certificates: str, port: int = 0) -> Server:
    return await Server.start(Settings((("127.0.0.1", port),), base / certificates, base / certificates))


def address(server: Server) -> str:
    return f"127.0.0.1:{server.addresses[0][1]}"


async def test_server_of_a_public_authority_needs_one_ever_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody in between with an authority of one's own is no first contact: nothing is announced or sent."""
    server = await start(tmp_path, "public")
    monkeypatch.setattr(certifi, "where", lambda: str(tmp_path / "public" / "ca.pem"))
    told: list[str] = []
    for _ in range(2):
        async with quicmsg.connect(address(server), user="alice", data=tmp_path / "a", announce=told.append):
            pass
    pins = tmp_path / "a" / "pins.json"
    assert list(json.loads(pins.read_text()).values()) == [PUBLIC]
    await server.stop()
    impostor = await start(tmp_path, "other", server.addresses[0][1])
    with pytest.raises(
        quicmsg.CertificateError, match=r"public authority.*line 2 of .*pins\.json"
    ) as refused:
        await quicmsg.connect(address(server), user="alice", data=tmp_path / "a", announce=told.append)
    assert (refused.value.fingerprint, told) == ("", [])
    await impostor.stop()


@pytest.mark.parametrize("refused", [False, True])
async def test_unknown_authority_is_shown_and_pinned_before_anything_is_sent(
    tmp_path: Path, refused: bool
) -> None:
    """The second dial finds it done; if the certificate is no good all the same, the pin is taken back."""
    pins, told, seen = Pins(tmp_path), list[str](), list[tuple[Trust, list[str], str | None]]()

    async def dial(trust: Trust) -> Link:
        seen.append((trust, list(told), pins.get("a.example", 1)))
        if trust.fingerprint is None:
            raise quicmsg.CertificateError("unknown", fingerprint="ab" * 32)
        raise quicmsg.CertificateError("for another name") if refused else quicmsg.ConnectError("no answer")

    with pytest.raises(quicmsg.CertificateError if refused else quicmsg.ConnectError):
        await Target("a.example", 1, None, pins, told.append).dial(dial)
    assert seen[1] == (Trust(fingerprint="ab" * 32), ["ab" * 32], "ab" * 32)
    assert pins.get("a.example", 1) == (None if refused else "ab" * 32)


async def test_certificate_that_no_pin_would_cure_is_refused_as_it_is(tmp_path: Path) -> None:
    """For another name, or expired: there is nothing to announce."""
    told: list[str] = []

    async def dial(_trust: Trust) -> Link:
        assert not told
        raise quicmsg.CertificateError("expired")

    with pytest.raises(quicmsg.CertificateError, match="expired"):
        await Target("a.example", 1, None, Pins(tmp_path), told.append).dial(dial)
    assert told == []


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example"])
async def test_name_that_cannot_be_one_is_said_in_words(tmp_path: Path, host: str) -> None:
    """The name system cannot even be asked for it."""
    with pytest.raises(quicmsg.ConnectError, match="cannot be a host name"):
        await quicmsg.connect(f"{host}:1", user="alice", data=tmp_path, timeout=0.2)


async def test_fault_in_connecting_ends_the_client_in_words_and_closes_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task dies in silence, and the same directory can be opened again."""

    async def fail(_self: Connector, _session: ClientSession) -> Link:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Connector, "_dial", fail)
        with pytest.raises(quicmsg.QuicmsgError, match="planted"):
            await quicmsg.connect("127.0.0.1:1", user="alice", data=tmp_path / "a", timeout=5)
    server = await start(tmp_path, "certs")
    ca = tmp_path / "certs" / "ca.pem"
    async with quicmsg.connect(address(server), user="bob", data=tmp_path / "b", ca=ca) as bob:
        events = bob.events()
        monkeypatch.setattr(Connector, "_dial", fail)
        bob._connector.race()
        with pytest.raises(quicmsg.QuicmsgError, match="planted"):
            await anext(bob.messages())
        assert not bob.is_up
        seen = iter(events.get_nowait, None)
        assert [event.state for event in seen if isinstance(event, quicmsg.ConnectionChanged)] == [
            quicmsg.Connection.DOWN
        ]
    await server.stop()
