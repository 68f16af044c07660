"""`docker compose up`, really run on a Docker engine: the server a stranger gets, used from both sides.

It takes a minute or more and needs root, so it runs only when QUICMSG_TEST_COMPOSE=1 asks for it, as .ci/run
does. The tool that it drives makes a local stand-in for the base image, brings up a copy of the project, and
cleans up.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOL = Path(os.environ.get("QUICMSG_COMPOSE_VERIFY", ROOT.parent / "shared" / "tools" / "compose-verify.sh"))
TOOL_TIMEOUT = 660
"""Seconds; with nothing cached it was 134, on this machine's like, without what the tool must fetch first."""

CLIENT = "$COMPOSE run --rm -T client"
CHECKS = {
    "the health check is a real handshake, and fails where no server is": """
        $COMPOSE exec -T server quicmsg health --server 127.0.0.1:4433 --ca /certs/ca.pem
        if $COMPOSE exec -T server quicmsg health --server 127.0.0.1:4434 --ca /certs/ca.pem; then exit 1; fi
    """,
    "nobody is root, has a capability, or writes outside the volumes": """
        $COMPOSE exec -T server sh -ec '
            test "$(id -u)" = 10001
            grep -q "^CapEff:[[:space:]]*0*$" /proc/1/status
            grep -q "^NoNewPrivs:[[:space:]]*1$" /proc/1/status
            if touch /home/x 2>/dev/null; then exit 1; fi
            grep -q " / [^ ]* ro[, ]" /proc/mounts
            touch /data/x
            rm /data/x'
    """,
    "keys are for the server alone": """
        $COMPOSE exec -T server sh -ec 'test "$(stat -c %a /certs/*.key | sort -u)" = 600'
        $COMPOSE run --rm -T --entrypoint cat client /certs/ca.pem >/dev/null
        if $COMPOSE run --rm -T --entrypoint cat client /certs/server.key; then exit 1; fi
    """,
    "two people talk from containers": f"""
        {CLIENT} --user bob whoami
        {CLIENT} --user ann send --to @bob --until stored "hello from a container"
        {CLIENT} --user bob listen --json --count 1 | grep "hello from a container"
    """,
    "a client on the host reaches it with the copied CA": """
        $COMPOSE cp server:/certs/ca.pem "$HOST_STATE/ca.pem"
        "$HOST_PYTHON" -m quicmsg.client --server "127.0.0.1:$QUICMSG_PORT" --ca "$HOST_STATE/ca.pem" \
            --data "$HOST_STATE" --user carol send --to @bob --until stored "hello from the host"
    """,
    "messages and CA outlive the container": f"""
        $COMPOSE exec -T server cat /certs/ca.pem >"$HOST_STATE/before.pem"
        $COMPOSE up -d --no-build --wait --force-recreate server
        $COMPOSE exec -T server cat /certs/ca.pem | cmp - "$HOST_STATE/before.pem"
        {CLIENT} --user bob history @ann --json | grep "hello from a container"
    """,
}
"""Promise: the script that shows it, run by bash in the copy, where $COMPOSE is the whole compose command."""


def free_udp_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def reason_to_skip() -> str | None:
    if os.environ.get("QUICMSG_TEST_COMPOSE") != "1":
        return "takes minutes: QUICMSG_TEST_COMPOSE=1 asks for it"
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "needs root"
    if not TOOL.exists():
        return "needs the tool compose-verify.sh: QUICMSG_COMPOSE_VERIFY names it"
    missing = [name for name in ("docker", "dockerd") if shutil.which(name) is None]
    return f"needs Docker: no {missing[0]} here" if missing else None


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(TOOL_TIMEOUT + 60)
def test_compose_brings_up_a_server_that_people_can_use(tmp_path: Path) -> None:
    """One command gives a healthy, locked-down server; clients in containers and on the host talk through it;
    it stops in time when told to, and loses nothing when its container is replaced."""
    reason = reason_to_skip()
    if reason is not None:
        pytest.skip(reason)
    command = [str(TOOL), str(ROOT), "--services", "server", "--timeout", str(TOOL_TIMEOUT)]
    settings = {
        "QUICMSG_PORT": str(free_udp_port()),
        "HOST_STATE": str(tmp_path),
        "HOST_PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
    }
    for name, value in settings.items():
        command += ["--env", f"{name}={value}"]
    for promise, script in CHECKS.items():
        command += ["--check", f"# {promise}\nset -e -o pipefail\n{script}"]
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TOOL_TIMEOUT + 30,
        check=False,
    )
    if not re.search(r"\] engine \d", done.stdout):
        pytest.skip(f"no Docker engine could be started here: {done.stdout[-300:]}")
    assert done.returncode == 0, done.stdout
    assert re.search(r"server-1 exit=0 ", done.stdout), done.stdout
