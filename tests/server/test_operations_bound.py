"""What one session may have waiting at the store is bounded, whatever it does with its channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hubrig import Rig, Wire

from quicmsg import limits
from quicmsg.errors import ErrorCode
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


class Impatient(Wire):
    """A client that gives up before the store does anything."""

    def settle(self) -> None:
        pass

    def give_up(self) -> None:
        self.rig.time += limits.SIGN_IN_TIMEOUT + 1
        self.session.handle_timer(self.rig.time)
        self.rig.hub.pump(self.session)


def test_sign_ins_that_nobody_waits_for_any_more_are_forgotten() -> None:
    """A full disk is waited for, for hours perhaps, and clients come back every few seconds: what waits is
    what is connected, also of those whose address changed meanwhile. Then who is there is let in."""
    rig = Rig()
    rig.writer.full = True
    for number in range(100):
        client = Impatient(rig, "ann", number, "")
        client.session.path_changed("192.0.2.77:7", rig.time)
        client.give_up()
    stays = Impatient(rig, "bob", 0, "")
    submitter = rig.hub._submitter
    assert (rig.hub.sessions, submitter._size) == (1, sum(submitter._sizes.values()))
    assert [len(line) for line in submitter._held.values()] == [1]
    rig.writer.full = False
    rig.hub.room()
    rig.writer.run()
    assert stays.is_up
    assert (submitter._size, submitter._sizes, submitter._held, submitter._strangers) == (0, {}, {}, {})
    assert not rig.store.devices("ann")


def test_one_session_after_the_other_opens_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a slow disk a device signs in, opens as much as one session may, goes away and comes back: what it
    left behind still waits. Beyond its share it is told to come back later; somebody else opens at once."""
    monkeypatch.setattr("quicmsg.server.submitter.STORE_FLIGHT_MAX", 4)
    monkeypatch.setattr("quicmsg.server.submitter.HELD_SIZE_MAX", 300_000)
    rig = Rig()
    ann = rig.connect("ann")
    for _ in range(20):
        eve = Impatient(rig, "eve", 0, "")
        while not eve.is_up:
            operation, answer = rig.writer.operations.popleft()
            answer(rig.store.execute([operation])[0])
        for channel in range(1, 129):
            eve.send(channel, frames.Open(f"#room{channel}", 0, 0, 0))
        eve.session.close(now=rig.time)
        rig.hub.pump(eve.session)
    assert rig.hub._submitter._size <= 400_000
    assert {refused.code for refused in eve.heard(frames.Refused)} <= {ErrorCode.BUSY}
    ann.send(1, frames.Open("@ann", 0, 0, 0))
    for _ in range(6):
        operation, answer = rig.writer.operations.popleft()
        answer(rig.store.execute([operation])[0])
    assert ann.heard(frames.Opened)
    rig.writer.run()
    assert rig.hub._submitter._size == 0
