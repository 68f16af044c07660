"""What one session may have waiting at the store is bounded, whatever it does with its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quicmsg import limits
from quicmsg.protocol import frames
from quicmsg.protocol.codec import encode
from quicmsg.protocol.frames import CONTROL
from quicmsg.protocol.server import ServerSession
from quicmsg.server.hub import Hub
from quicmsg.store import Operation, SignIn
from quicmsg.store.memory import MemoryStore

KEY = bytes(32)


class StuckWriter:
    """Answers sign-ins and nothing else; keeps what waits."""

    full = False

    def __init__(self, store: MemoryStore) -> None:
        self.store = store
        self.waiting: list[object] = []

    def submit(self, operation: Operation, callback: Callable[[Any], None]) -> None:
        if isinstance(operation, SignIn):
            callback(self.store.execute([operation])[0])
        else:
            self.waiting.append(operation)

    def read(self, function: Callable[..., Any], callback: Callable[[Any], None]) -> None:
        self.waiting.append(function)


class Environment:
    def now(self) -> float:
        return 1.0

    def time_ms(self) -> int:
        return 1

    def make_code(self) -> str:
        return "code"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return True

    def log(self, event: str, **fields: object) -> None:
        pass


def test_a_reset_channel_gives_back_its_window_but_not_its_place_in_the_queue() -> None:
    """Open and RESET, 10,000 times, while the disk stands still: at most OPERATIONS_MAX wait."""
    writer = StuckWriter(MemoryStore(7))
    hub = Hub(writer, Environment(), epoch=7, invite_only=False)  # type: ignore[arg-type]
    session = ServerSession(now=0.0)
    hub.attach(session, lambda: None)
    session.connected(channel_binding=bytes(32), observed_address="127.0.0.1:1", now=0.0)
    hello = encode(frames.Hello(1, 1, "test", (), False))
    session.receive_data(
        CONTROL, hello + encode(frames.Authenticate("eve", KEY, bytes(64), "", "")), False, 0.0
    )
    hub.pump(session)
    for number in range(1, 10_001):
        session.receive_data(number, encode(frames.Open("#group", 0, 0, 0)), False, 1.0)
        session.receive_reset(number, 0, 1.0)
        hub.pump(session)
    assert len(writer.waiting) == limits.OPERATIONS_MAX
