"""Commands and options: all of them documented, quick to start, and the health check honest."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import certificates
import click
import pytest

from quicmsg import health
from quicmsg.__main__ import program
from quicmsg.client.cli import client
from quicmsg.client.cli_options import Options
from quicmsg.client.identity import Pins
from quicmsg.config import default_ca_file
from quicmsg.errors import ConnectError
from quicmsg.transport.quic import listen

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = (ROOT / "docs" / "line-client.md").read_text()
README = (ROOT / "README.md").read_text()


def commands() -> Iterator[tuple[str, click.Command]]:
    for group in (program, client):
        context = click.Context(group)
        yield str(group.name), group
        for name in group.list_commands(context):
            found = group.get_command(context, name)
            assert found is not None
            yield name, found


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: str(getattr(value, "name", value))
)
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    """A flag that no page names is not found: docs/line-client.md, or the README for the server."""
    where = (
        README + DOCUMENTED if command.callback and "server" in command.callback.__module__ else DOCUMENTED
    )
    assert re.search(rf"\b{name}\b", where), f"the command {name}"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            for flag in parameter.opts:
                assert re.search(rf"(?<![\w-]){re.escape(flag)}\b", where), f"{name} {flag}"


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: str(getattr(value, "name", value))
)
def test_no_command_uses_a_name_twice(name: str, command: click.Command) -> None:
    """An argument that is called like a shared option would take its value."""
    names = [parameter.name for parameter in command.params]
    assert len(names) == len(set(names)), name


def quicmsg(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "quicmsg", *words], capture_output=True, text=True, timeout=30, check=False
    )


def test_the_version_does_not_wait_for_the_quic_stack() -> None:
    """`version` and `--help` of the client import neither aioquic nor cryptography."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['quicmsg', *sys.argv[2:]]\n"
        "try: runpy.run_module('quicmsg' + {sub!r}, run_name='__main__')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {{'aioquic', 'cryptography', 'sqlite3', 'asyncio'}} & set(sys.modules)\n"
        "assert heavy <= {{'asyncio'}}, heavy\n"
    )
    for sub, word in (("", "version"), (".client", "--help"), (".client", "send")):
        words = [word] if word != "send" else ["send", "--help"]
        done = subprocess.run(
            [sys.executable, "-c", code.format(sub=sub), "-", *words],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_no_command_is_a_usage_error() -> None:
    """Exit status 2, one line."""
    done = quicmsg()
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A running server: its address and its CA."""
    base = tmp_path_factory.mktemp("health")
    process = subprocess.Popen(
        [sys.executable, "-m", "quicmsg", "serve", "--listen", "127.0.0.1:0",
         "--data", str(base / "data"), "--certs", str(base / "certs")],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        yield process.stdout.readline().split()[3], base / "certs" / "ca.pem"
        process.terminate()


@pytest.mark.slow
def test_a_healthy_server_is_healthy_and_nothing_is_left_behind(
    server: tuple[str, Path], tmp_path: Path
) -> None:
    """Handshake, certificate and an answer: 0 and one line. No key, no pin, no user."""
    address, ca = server
    done = subprocess.run(
        [sys.executable, "-m", "quicmsg", "health", "--server", address, "--ca", str(ca)],
        capture_output=True, text=True, cwd=tmp_path, timeout=30, check=False,
        env={"HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"healthy: {address}, handshake ")
    assert list(tmp_path.iterdir()) == []


def test_a_ca_file_that_lies_about_counts_only_for_this_computer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens to be in the current directory must not decide whom to trust elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert default_ca_file("localhost") is None
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "ca.pem").touch()
    assert default_ca_file("localhost") == default_ca_file("127.0.0.2") == Path("certs/ca.pem")
    assert default_ca_file("example.org") is default_ca_file("192.0.2.1") is None
    assert Options(server="127.0.0.1:4433", data=tmp_path).ca_file() == Path("certs/ca.pem")
    Pins(tmp_path).pin("127.0.0.1", 4433, "ab" * 32)
    assert Options(server="127.0.0.1:4433", data=tmp_path).ca_file() is None, "what was pinned goes first"


@pytest.mark.slow
def test_the_ca_of_a_server_started_here_is_the_default(server: tuple[str, Path]) -> None:
    """certs/ca.pem of the current directory counts for a server on this computer, for health and client."""
    address, ca = server
    for words in (("health",), ("client", "--data", str(ca.parent.parent / "c"), "--user", "ann", "whoami")):
        done = subprocess.run(
            [sys.executable, "-m", "quicmsg", *words, "--server", address],
            capture_output=True, text=True, cwd=ca.parent.parent, timeout=30, check=False,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, ""), words


@pytest.mark.slow
def test_what_is_not_well_is_said_within_five_seconds(server: tuple[str, Path]) -> None:
    """A wrong CA, a closed port, and a port that never answers: 1 and one line, in time."""
    address, ca = server
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        quiet = f"127.0.0.1:{silent.getsockname()[1]}"
        began = time.monotonic()
        cases = (
            ("--server", quiet, "--ca", str(ca)),
            ("--server", "127.0.0.1:1", "--ca", str(ca)),
            ("--server", address),
        )
        for words in cases:
            done = quicmsg("health", *words)
            assert (done.returncode, done.stdout) == (1, ""), words
            assert done.stderr.startswith("quicmsg: ")
            assert done.stderr.count("\n") == 1, done.stderr
            if words is cases[0]:
                assert time.monotonic() - began < 5


async def test_a_handshake_without_an_answer_is_not_healthy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process may hang behind a kernel and a QUIC stack that still say hello."""
    files = certificates.write(tmp_path)
    monkeypatch.setattr(health, "HEALTH_TIMEOUT", 0.5)
    listener = await listen(
        [("127.0.0.1", 0)],
        certificate_file=files.certificate,
        private_key_file=files.key,
        make_session=lambda _address: health.Probe(),  # asks, and never answers
        on_activity=lambda _link: None,
        reset_key=b"r" * 32,
        retry_key=b"R" * 32,
    )
    with pytest.raises(ConnectError, match="does not answer"):
        await health.check(f"127.0.0.1:{listener.addresses[0][1]}", files.ca)
    await listener.close()


@pytest.mark.slow
def test_a_server_that_cannot_start_says_why_in_one_line(server: tuple[str, Path], tmp_path: Path) -> None:
    """Port taken, data directory in use or of no use, a bad address: 1 or 2, one line, no traceback."""
    address, ca = server
    (tmp_path / "file").touch()
    certs = ("--certs", str(ca.parent))
    fine = ("--data", str(tmp_path / "data"))
    for words, said in (
        (("--listen", address, *fine, *certs), address),
        (("--listen", "127.0.0.1:0", "--data", str(ca.parent.parent / "data"), *certs), "another"),
        (("--listen", "127.0.0.1:0", "--data", str(tmp_path / "file" / "data"), *certs), "file"),
        (("--listen", "nowhere:nothing", *fine, *certs), "nowhere:nothing"),
        (("--listen", "127.0.0.1:0", "--store", "floppy:a", *fine, *certs), "floppy"),
        (("--frobnicate",), "frobnicate"),
    ):
        done = quicmsg("serve", *words)
        assert done.returncode in (1, 2), words
        assert said in done.stderr, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("quicmsg: "), done.stderr
        assert "Traceback" not in done.stderr
