"""Strangers cannot flood the log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

from click.testing import CliRunner

from quicmsg.errors import ErrorCode
from quicmsg.limits import STRANGER_LOGS_PER_SECOND
from quicmsg.protocol.codec import encode
from quicmsg.protocol.frames import CONTROL, Authenticate, Hello
from quicmsg.protocol.server import ServerSession
from quicmsg.server.__main__ import serve
from quicmsg.server.hub import Hub
from quicmsg.store import Operation, Result, Store
from quicmsg.store.memory import MemoryStore

T = TypeVar("T")


class Writer:
    """A store's writer that commits at once."""

    full = False

    def __init__(self) -> None:
        self.store: Store = MemoryStore(1)

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        callback(self.store.execute([operation])[0])

    def read(self, function: Callable[[Store], T], callback: Callable[[T], None]) -> None:
        callback(function(self.store))


class Environment:
    """A clock that a test turns, and a log that it reads."""

    def __init__(self) -> None:
        self.time = 1.0
        self.lines: list[tuple[str, dict[str, object]]] = []

    def now(self) -> float:
        return self.time

    def time_ms(self) -> int:
        return 1_000

    def make_code(self) -> str:
        return "code"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return signature.startswith(b"good")

    def log(self, event: str, **fields: object) -> None:
        self.lines.append((event, fields))

    def said(self) -> list[str]:
        """Events since the last call."""
        events = [event for event, _ in self.lines]
        self.lines.clear()
        return events


def connect(hub: Hub, environment: Environment, user: str, signature: bytes) -> ServerSession:
    session = ServerSession(now=environment.time)
    hub.attach(session, lambda: None)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=environment.time)
    said = (
        Hello(1, 1, "test", (), True),
        Authenticate(user, user.encode().ljust(32), signature.ljust(64), "", ""),
    )
    session.receive_data(CONTROL, b"".join(map(encode, said)), False, environment.time)
    hub.pump(session)
    return session


def lose(hub: Hub, session: ServerSession) -> None:
    session.connection_lost(int(ErrorCode.GOING_AWAY), "gone", 1.0)
    hub.pump(session)


def test_refused_sign_ins_and_their_ends_share_a_few_lines_a_second() -> None:
    """The rest is counted, and told with the next line."""
    environment = Environment()
    hub = Hub(Writer(), environment, epoch=1, invite_only=False)
    refused = [connect(hub, environment, "eve", b"bad") for _ in range(1000)]
    for session in refused:
        lose(hub, session)
    said = environment.said()
    assert len(said) == STRANGER_LOGS_PER_SECOND
    assert set(said) <= {"refused", "ended"}
    environment.time += 1
    connect(hub, environment, "eve", b"bad")
    first, second, *_ = environment.said()
    assert (first, second) == (f"and {2000 - STRANGER_LOGS_PER_SECOND} more", "refused")
    assert hub.sessions <= 1


def test_lines_about_users_are_never_left_out() -> None:
    """Also while strangers make all the noise they can."""
    environment = Environment()
    hub = Hub(Writer(), environment, epoch=1, invite_only=False)
    for _ in range(100):
        connect(hub, environment, "eve", b"bad")
    environment.said()
    lose(hub, connect(hub, environment, "ann", b"good"))
    assert environment.said() == ["signed in", "ended"]


def test_the_command_keeps_aioquic_quiet_about_bad_packets() -> None:
    """A warning for each is an invitation; its errors are still shown."""
    library = logging.getLogger("quic")
    before = library.level
    try:
        result = CliRunner().invoke(serve, ["--listen", "nonsense"])
        assert result.exit_code != 0
        assert not library.isEnabledFor(logging.WARNING)
        assert library.isEnabledFor(logging.ERROR)
    finally:
        library.setLevel(before)
