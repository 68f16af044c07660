"""Threat row 24: what the container may do, as its files say it (`tests/test_compose.py`: on an engine)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_compose import CHECKS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
DOCKERFILE = (ROOT / "Dockerfile").read_text()
BASE = COMPOSE.split("x-base: &base", 1)[1].split("\n\n", 1)[0]


@pytest.mark.parametrize(
    "line",
    [
        "read_only: true",
        'tmpfs: ["/tmp:size=16m"]',
        "cap_drop: [ALL]",
        'security_opt: ["no-new-privileges:true"]',
        "pids_limit: 64",
        "mem_limit: 512m",
        "max-size: 10m",
    ],
)
def test_threat_24_every_service_is_locked_down(line: str) -> None:
    """Row 24: all services share the base, and the base says it."""
    assert line in BASE
    services = COMPOSE.split("\nservices:\n", 1)[1].split("\nvolumes:", 1)[0]
    names = re.findall(r"^  (\w+):$", services, re.MULTILINE)
    assert len(names) == services.count("<<: *base") == 2


def test_threat_24_nothing_is_given_back() -> None:
    """Row 24: no privilege, capability, host network, host path or second port; the server is user 10001."""
    for word in (
        "privileged",
        "cap_add",
        "network_mode",
        "pid:",
        "devices:",
        "docker.sock",
        "/etc",
        "env_file",
    ):
        assert word not in COMPOSE.replace("no-new-privileges", ""), word
    assert re.findall(r"ports: \[(.*)\]", COMPOSE) == ['"${QUICMSG_PORT:-4433}:4433/udp"']
    volumes = re.findall(r"volumes: \[(.*)\]", COMPOSE)
    assert all(re.fullmatch(r"\w+:/\w+(:ro)?", name.strip('" ')) for v in volumes for name in v.split(","))
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001:10001"]
    assert re.findall(r"^EXPOSE (\S+)$", DOCKERFILE, re.MULTILINE) == ["4433/udp"]
    assert 'user: "10002:10002"' in COMPOSE, "who chats cannot read the server's keys"


def test_threat_24_the_engine_test_looks_at_the_same() -> None:
    """Row 24: inside, on a real engine: the user, capabilities, privileges, and where it can write."""
    (script,) = (text for name, text in CHECKS.items() if "nobody is root" in name)
    for proof in ("id -u", "CapEff", "NoNewPrivs", "touch /home/x", " ro[, ]", "touch /data/x"):
        assert proof in script
