"""A session for the transport's tests: numbered messages on channels, checked for order as they arrive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from quicmsg.transport import Outgoing

SIZE = 100


class Talk:
    """Says numbered messages and records what it hears; `problems` stays empty when nothing went wrong."""

    def __init__(self, *, consumes: bool = True, pings: tuple[float, ...] = ()) -> None:
        self.consumes = consumes
        self.channel_binding = b""
        self.observed = ""
        self.heard: dict[int, int] = defaultdict(int)
        """Messages per channel."""
        self.last_heard_at = 0.0
        self.longest_silence = 0.0
        self.moves: list[str] = []
        self.resets: list[tuple[int, int]] = []
        self.ended: list[tuple[int, str]] = []
        self.ends: list[int] = []
        self.problems: list[str] = []
        self.bytes_heard: dict[int, int] = defaultdict(int)
        self.on_timer: Callable[[float], None] | None = None
        self.timer: float | None = None
        self.closing: tuple[int, str] | None = None
        self._said: dict[int, int] = defaultdict(int)
        self._partial: dict[int, bytes] = defaultdict(bytes)
        self._out: list[Outgoing] = []
        self._consumed: list[tuple[int, int]] = []

    # ---- for tests

    def say(self, channel: int, count: int = 1) -> None:
        for _ in range(count):
            number = self._said[channel]
            self._said[channel] += 1
            self.send(channel, number.to_bytes(4, "big") + bytes([channel % 256]) * (SIZE - 4))

    def send(self, channel: int, data: bytes, *, end: bool = False, reset: int | None = None) -> None:
        self._out.append(Outgoing(channel, data, end, reset))

    def consume(self, channel: int, size: int) -> None:
        self._consumed.append((channel, size))

    @property
    def total(self) -> int:
        return sum(self.heard.values())

    # ---- Pumped

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        if self.channel_binding:
            self.problems.append("connected twice")
        self.channel_binding, self.observed, self.last_heard_at = channel_binding, observed_address, now

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        self.bytes_heard[channel] += len(data)
        if self.consumes:
            self.consume(channel, len(data))
        self.longest_silence = max(self.longest_silence, now - self.last_heard_at)
        self.last_heard_at = now
        self._partial[channel] += data
        while len(self._partial[channel]) >= SIZE:
            message, self._partial[channel] = self._partial[channel][:SIZE], self._partial[channel][SIZE:]
            number = int.from_bytes(message[:4], "big")
            if number != self.heard[channel] or message[4:] != bytes([channel % 256]) * (SIZE - 4):
                self.problems.append(f"channel {channel}: {number} where {self.heard[channel]} was due")
            self.heard[channel] = number + 1
        if end:
            self.ends.append(channel)

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        self.resets.append((channel, code))

    def path_changed(self, observed_address: str, now: float) -> None:
        self.moves.append(observed_address)

    def connection_lost(self, code: int, text: str, now: float) -> None:
        if self.ended:
            self.problems.append("lost twice")
        self.ended.append((code, text))

    def get_timer(self) -> float | None:
        return self.timer

    def handle_timer(self, now: float) -> None:
        self.timer = None
        if self.on_timer is not None:
            self.on_timer(now)

    def data_to_send(self) -> list[Outgoing]:
        out, self._out = self._out, []
        return out

    def take_consumed(self) -> list[tuple[int, int]]:
        consumed, self._consumed = self._consumed, []
        return consumed

    def backlog_changed(self, size: int, now: float) -> bool:
        """See Pumped."""
        return False

    def take_close(self) -> tuple[int, str] | None:
        closing, self.closing = self.closing, None
        return closing


@dataclass
class Chatter:
    """Makes a session say something on each of its channels at every tick, while it is on."""

    end: object
    session: Talk
    channels: int
    tick: float
    stop_at: float

    def start(self, world: object) -> None:
        self._step(world)

    def _step(self, world: object) -> None:
        if world.now >= self.stop_at:  # type: ignore[attr-defined]
            return
        for channel in range(self.channels):
            self.session.say(channel)
        self.end.flush()  # type: ignore[attr-defined]
        world.after(self.tick, lambda: self._step(world))  # type: ignore[attr-defined]
