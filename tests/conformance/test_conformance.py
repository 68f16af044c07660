"""The real server passes every check of the conformance client, and a server with a planted bug does not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.slow

SERVE = "from quicmsg.server.__main__ import serve; serve()"


@dataclass(frozen=True)
class Running:
    address: str
    ca: Path


@contextmanager
def running_server(directory: Path, *options: str, program: str = SERVE) -> Iterator[Running]:
    """A server process of its own, on a free port."""
    certs = directory / "certs"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "--listen", "127.0.0.1:0", "--data", directory / "data",
         "--certs", certs, *options],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        ready = process.stdout.readline()
        addresses = [word for word in ready.split() if word.startswith("127.0.0.1:")]
        if not addresses:
            process.kill()
            pytest.fail(f"the server is not ready: {ready}{process.communicate()[1]}")
        yield Running(addresses[0], certs / "ca.pem")
    finally:
        process.terminate()
        process.communicate(timeout=20)


def conformance(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quicmsg.conformance", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=55,
    )  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_the_real_server_keeps_every_rule(server: Running) -> None:
    """Checked by a client that shares no code with it."""
    run = conformance(server.address, "--ca", server.ca, "--json")
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines, run.stderr
    *checks, summary = lines
    assert [
        f"{check['rule']} {check['promise']}: {check['problem']}" for check in checks if not check["ok"]
    ] == []
    assert summary == {"event": "summary", "checks": len(checks), "failed": 0}
    assert run.returncode == 0


@pytest.mark.parametrize(
    ("rule", "bug"),
    [
        ("M18", "channels.Covered.skip = lambda self, seq: None"),
        ("M19", "channels.ServerChannel.room = lambda self: 64"),
        ("M23", "session.ServerSession._handle_open = forget_names(session.ServerSession._handle_open)"),
        ("M25", "session.ServerSession._check_position = lambda *_: None"),
        ("M33", "session.ServerSession._handle_sign_in = deaf(session.ServerSession._handle_sign_in)"),
        ("M41", "server_conversations.frames.SERVER_KINDS = frozenset()"),
        ("M42", "resuming.ServerTickets.take = lambda self, name: self._tickets.get(name)"),
        ("M42", "resuming.ResumingConnection._update_traffic_key = QuicConnection._update_traffic_key"),
        ("M8", "signin_everybody()"),
    ],
)
def test_a_planted_bug_is_found(rule: str, bug: str, tmp_path: Path) -> None:
    """A check that no bug can fail checks nothing."""
    with running_server(tmp_path, program=f"{PLANTING}\n{bug}\n{SERVE}") as running:
        run = conformance(running.address, "--ca", running.ca, "--only", rule)
    assert "FAILED" in run.stdout, run.stdout + run.stderr
    assert run.returncode == 1


PLANTING = """
from aioquic.quic.connection import QuicConnection
from quicmsg.protocol import channels, frames, server as session, server_conversations
from quicmsg.transport import resuming

def forget_names(handle_open):
    def planted(self, channel, frame):
        self._by_name.clear()
        handle_open(self, channel, frame)
    return planted

def deaf(handle):
    def planted(self, frame):
        if not isinstance(frame, frames.Ping):
            handle(self, frame)
    return planted

def signin_everybody():
    import quicmsg.server as server
    for one in vars(server).values():
        if isinstance(one, type) and "verify" in vars(one):
            one.verify = lambda *_: True
"""


# ---- exit status -------------------------------------------------------------------------------


def test_a_server_that_is_not_there_is_status_5() -> None:
    """Cannot connect, in one line."""
    run = conformance("127.0.0.1:9")
    assert (run.returncode, run.stdout) == (5, "")
    assert len(run.stderr.splitlines()) == 1


def test_a_certificate_that_nobody_vouches_for_is_status_7(server: Running) -> None:
    """Without --ca only public authorities count."""
    run = conformance(server.address)
    assert run.returncode == 7
    assert "--ca" in run.stderr


def test_a_server_for_invited_users_is_status_6(tmp_path: Path) -> None:
    """The checks need new names; the message says so."""
    with running_server(tmp_path, "--invite-only") as running:
        run = conformance(running.address, "--ca", running.ca)
    assert run.returncode == 6
    assert "new names" in run.stderr


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["127.0.0.1:0"], ["127.0.0.1:1", "--only", "M0"]])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    """As with every command."""
    assert conformance(*arguments).returncode == 2
