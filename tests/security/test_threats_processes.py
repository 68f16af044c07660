"""Threats that only whole processes show: what a server says on stderr when it says all it can (row 20), what
its files are to others (row 23), and who gets a connection at all (row 26)."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from certificates import authority, write
from cli_processes import LIMIT, Place, environment
from quicpair import SERVER, World, client_configuration, pinned_aioquic
from talk import Talk

import quicmsg
from quicmsg.server import Server
from quicmsg.server.conversations import Conversations
from quicmsg.server.settings import Settings
from quicmsg.transport.connection import Connection
from quicmsg.transport.listener import server_configuration
from quicmsg.transport.trust import Trust

BODY = "canary-in-a-body"
EVIL = "canary\x1b[2J\x9b2J\r\nE forged line"


class LoudServer:
    """A server process with -vv, whose every word is kept."""

    def __init__(self, base: Path) -> None:
        self._words = [
            *(sys.executable, "-X", "dev", "-W", "ignore", "-m", "quicmsg.server", "--listen", "127.0.0.1:0"),
            *("--data", str(base / "server"), "--certs", str(base / "certs"), "--invite-only", "-vv"),
        ]
        self.log = base / "server.log"
        self._base = base

    def __enter__(self) -> LoudServer:
        self._file = self.log.open("wb")
        self._process = subprocess.Popen(
            self._words, stdout=subprocess.PIPE, stderr=self._file, text=True,
            env=environment(PYTHONASYNCIODEBUG="0"),
        )  # fmt: skip
        assert self._process.stdout is not None
        address = self._process.stdout.readline().split()[3]
        self.place = Place(address, self._base / "certs" / "ca.pem", self._base)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(LIMIT)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._file.close()

    def invite(self) -> str:
        """The code that it printed for its operator, which is the one line where a code belongs."""
        return re.findall(r"invite code for one new user: (\S+)", self.log.read_text())[0]


@pytest.mark.slow
def test_threat_20_logs_have_no_content_no_keys_and_no_forged_lines(tmp_path: Path) -> None:
    """Row 20: a real server and real clients, all at -vv: bodies, signatures, keys and codes are on no line
    but the operator's own, and nobody writes a line or a colour into the log."""
    with LoudServer(tmp_path) as server:
        place, code = server.place, server.invite()
        first = place.run("ann", "-vv", "whoami", QUICMSG_CODE=code)
        assert first.returncode == 0, first.stderr
        link = place.run("ann", "-vv", "link").stdout.split()
        sent = place.run("ann", "-vv", "send", "--to", "@ann", "--until", "stored", BODY + EVIL)
        assert sent.returncode == 0, sent.stderr
        refused = place.run("mal", "-vv", "whoami", QUICMSG_CODE="canary-of-a-code")
        assert refused.returncode == 6, refused.stderr
        forged = place.run("ann", "-vv", "create", "#team", "nobody-there")
        heard = place.run("ann", "-vv", "history", "@ann")
        assert BODY in heard.stdout
    log = server.log.read_text()
    assert "signed in" in log, "it does say something"
    operators = f"invite code for one new user: {code}\n"
    secrets = [code, BODY, "canary", *link[-1:], *_keys(tmp_path)]
    words = {
        "the server's log": log.replace(operators, ""),
        "the clients' stderr": "".join(done.stderr for done in (first, sent, refused, forged, heard)),
    }
    for place_name, text in words.items():
        for secret in secrets:
            assert secret not in text, f"{secret!r} is in {place_name}"
        # Every character of it, but for the ends of lines, is one that a terminal only shows.
        assert all(c.isprintable() for c in text.replace("\n", "")), place_name
        assert not re.search(r"^E forged", text, re.MULTILINE)


def _keys(base: Path) -> list[str]:
    """The private keys of server and client, as they might be printed."""
    found = []
    for path in [*base.rglob("*.key"), *base.rglob("key*")]:
        if path.is_file() and path.stat().st_size < 4000:
            data = path.read_bytes()
            found.append(data.hex()[:40])
            found.append(repr(data)[2:42])
            found += [line for line in data.decode("latin-1").splitlines() if len(line) > 40][:1]
    assert found
    return found


@pytest.mark.slow
async def test_threat_20_the_traceback_of_a_bug_has_no_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 20: a bug of ours on the way of a message closes that connection and is logged, without the
    message; another client is served."""
    stumbled = asyncio.Event()
    caplog.set_level(logging.DEBUG)
    real = Conversations.submit

    def stumble(self: Conversations, peer: Any, event: Any) -> None:
        if event.body.startswith(BODY.encode()):
            stumbled.set()
            raise RuntimeError("a planted bug")
        real(self, peer, event)

    monkeypatch.setattr(Conversations, "submit", stumble)
    server = await Server.start(Settings((("127.0.0.1", 0),), tmp_path / "server", tmp_path / "certs"))
    address, ca = f"127.0.0.1:{server.addresses[0][1]}", tmp_path / "certs" / "ca.pem"
    async with (
        quicmsg.connect(address, user="ann", data=tmp_path / "ann", ca=ca) as ann,
        quicmsg.connect(address, user="bob", data=tmp_path / "bob", ca=ca) as bob,
    ):
        await ann.queue("@ann", BODY)
        async with asyncio.timeout(20):
            await stumbled.wait()
            await bob.send("@bob", "fine")
    await server.stop()
    assert "Traceback" in caplog.text
    assert "a planted bug" in caplog.text
    assert BODY not in caplog.text


@pytest.mark.slow
def test_threat_23_files_are_for_their_owner(tmp_path: Path) -> None:
    """Row 23: whatever a server and a client make is 0600 or 0700, but for what must be read by others: the
    certificates. Under a umask that hides nothing."""
    old = os.umask(0)
    try:
        with LoudServer(tmp_path) as server:
            done = server.place.run("ann", "send", "--to", "@ann", "x", QUICMSG_CODE=server.invite())
            assert done.returncode == 0, done.stderr
            seen = 0
            for root in (tmp_path / "server", tmp_path / "certs", tmp_path / "ann"):
                for path in root.rglob("*"):
                    mode = stat.S_IMODE(path.stat().st_mode)
                    public = path.suffix == ".pem"
                    assert mode & 0o077 == (0o044 if public else 0), (path, oct(mode))
                    seen += 1
            for root in ("server", "ann"):
                assert stat.S_IMODE((tmp_path / root).stat().st_mode) == 0o700
            assert seen >= 8
    finally:
        os.umask(old)


@pytest.mark.parametrize("wrong", ["alpn", "name", "ca"])
def test_threat_26_a_connection_that_is_not_ours_is_not_made(wrong: str) -> None:
    """Row 26: another protocol, another name, another authority (expired and the rest: tests/transport and
    tests/test_certs.py): no session is made on either side."""
    with pinned_aioquic(1):
        world = World(1, latency=0.001)
        theirs, ours = Talk(), Talk()
        world.serve(lambda _: theirs)
        configuration = client_configuration()
        trust = Trust(fingerprint=authority().fingerprint)
        if wrong == "alpn":
            configuration.alpn_protocols = ["h3"]
        elif wrong == "name":
            configuration.server_name = "example.org"
        else:
            trust = Trust(fingerprint="00" * 32)
        end = world.join(Connection(configuration=configuration, trust=trust), ours)
        world.run_for(15)
        assert end.is_over
        assert not theirs.channel_binding
        assert not ours.channel_binding


def test_threat_26_tls_below_1_3_and_no_alpn_are_refused(tmp_path: Path) -> None:
    """Row 26: QUIC has no older TLS; a client that names no protocol at all is refused as well."""
    files = write(tmp_path)
    client = QuicConnection(configuration=QuicConfiguration(server_name="localhost", cafile=str(files.ca)))
    server = QuicConnection(
        configuration=server_configuration(files.certificate.read_bytes(), files.key.read_bytes()),
        original_destination_connection_id=client.original_destination_connection_id,
    )
    client.connect(SERVER, now=0.0)
    for _ in range(4):
        for data, _to in client.datagrams_to_send(now=0.0):
            server.receive_datagram(data, ("192.0.2.1", 1), now=0.0)
        for data, _to in server.datagrams_to_send(now=0.0):
            client.receive_datagram(data, SERVER, now=0.0)
    assert not server._handshake_complete
    assert server._close_event is not None
