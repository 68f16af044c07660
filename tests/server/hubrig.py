"""A hub with a store that commits when it is told to, and clients that are nothing but frames."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import device_of
from quicmsg.server.hub import Hub
from quicmsg.store import Operation, Result, Store
from quicmsg.store.memory import MemoryStore

F = TypeVar("F", bound=frames.Frame)


class ManualWriter:
    """Operations and reads wait here until `run`."""

    def __init__(self, store: MemoryStore) -> None:
        self.full = False
        self.operations: deque[tuple[Operation, Callable[[Result], None]]] = deque()
        self.reads: deque[tuple[Callable[[Store], Any], Callable[[Any], None]]] = deque()
        self._store = store

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        self.operations.append((operation, callback))

    def read(self, function: Callable[[Store], Any], callback: Callable[[Any], None]) -> None:
        self.reads.append((function, callback))

    def run(self) -> None:
        while self.operations or self.reads:
            if self.operations:
                operation, callback = self.operations.popleft()
                callback(self._store.execute([operation])[0])
            else:
                function, answer = self.reads.popleft()
                answer(function(self._store))


class Rig:
    """The hub, its store, its clock, and what it logged."""

    def __init__(self, *, invite_only: bool = False) -> None:
        self.store = MemoryStore(7)
        self.writer = ManualWriter(self.store)
        self.logged: list[tuple[str, dict[str, object]]] = []
        self.time = 0.0
        self.hub = Hub(self.writer, self, epoch=7, invite_only=invite_only)

    def connect(self, user: str, number: int = 0, code: str = "") -> Wire:
        """A client that has signed in (or was refused)."""
        return Wire(self, user, number, code)

    # ---- the hub's environment

    def now(self) -> float:
        return self.time

    def time_ms(self) -> int:
        return 1_000 + int(self.time * 1000)

    def make_code(self) -> str:
        return "CODE"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return signature == b"s" * 64

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))


class Wire:
    """A client as the hub meets it: frames in, frames out."""

    def __init__(self, rig: Rig, user: str, number: int, code: str, signature: bytes = b"s" * 64) -> None:
        self.rig = rig
        self.key = f"{user}{number}".encode().ljust(32, b".")
        self.device = device_of(self.key)
        self.session = ServerSession(now=rig.time)
        self.frames: list[tuple[int, frames.Frame]] = []
        self.ended: set[int] = set()
        self._readers: dict[int, FrameReader] = {}
        rig.hub.attach(self.session, lambda: None)
        self.session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=rig.time)
        hello = frames.Hello(1, 1, "test", (), False)
        self.send(0, hello, frames.Authenticate(user, self.key, signature, "label", code))
        self.settle()

    @property
    def is_up(self) -> bool:
        return self.session.state is SessionState.UP

    def send(self, channel: int, *said: frames.Frame, end: bool = False) -> None:
        """Say it, without waiting for the store."""
        data = b"".join(encode(frame) for frame in said)
        self.session.receive_data(channel, data, end, self.rig.time)
        self.rig.hub.pump(self.session)

    def settle(self) -> None:
        """Let the store do everything that waits."""
        self.rig.writer.run()

    def ask(self, channel: int, *said: frames.Frame) -> None:
        """Say it, and let the store do everything that waits."""
        self.send(channel, *said)
        self.settle()

    def open(self, channel: int, conversation: str, position: int = 0, *, epoch: int = 7) -> None:
        self.ask(channel, frames.Open(conversation, epoch if position else 0, position, position))

    def heard(self, kind: type[F], channel: int | None = None) -> list[F]:
        """Every frame of this kind so far (on this channel)."""
        for item in self.session.data_to_send():
            reader = self._readers.setdefault(item.channel, FrameReader(control=item.channel == 0))
            reader.feed(item.data)
            while (frame := reader.next_frame()) is not None:
                self.frames.append((item.channel, frame))
            if item.end or item.reset is not None:
                self.ended.add(item.channel)
        return [f for number, f in self.frames if isinstance(f, kind) and channel in (None, number)]


def message(number: int, text: str = "text") -> frames.Send:
    return frames.Send(number.to_bytes(16, "big"), 0, 0, text.encode())
