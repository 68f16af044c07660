"""An honest user beside hostile ones: says numbered messages, acknowledges, and checks what it is told."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from server.hubrig import Rig, Wire

from quicmsg.protocol import frames

_PEER: Final = {"alice": "@bob", "bob": "@alice"}


class Honest:
    """A user on frames alone; `problems` are raised where they are seen."""

    def __init__(self, rig: Rig, user: str) -> None:
        self.user = user
        self.wire = Wire(rig, user, 0, "")
        self.said: list[tuple[str, bytes, bytes]] = []
        self.got: dict[str, dict[int, tuple[str, bytes]]] = defaultdict(dict)
        self.acked: dict[str, int] = defaultdict(int)
        self._channels: dict[str, int] = {}
        self._waiting: dict[str, list[frames.Send]] = defaultdict(list)
        self._unanswered: dict[str, int] = defaultdict(int)
        self._seen = 0

    def open(self, name: str) -> None:
        number = self._channels[name] = len(self._channels) + 1
        self.wire.open(number, name)

    def say(self, name: str, secret: bytes) -> None:
        name = _PEER[self.user] if name == "peer" else name
        body = (secret if name == "#secret" else b"honest") + b" %d" % len(self.said)
        message_id = f"{self.user} {len(self.said)}".encode().ljust(16, b".")
        self.said.append((name, message_id, body))
        self.wire.send(self._channels[name], frames.Send(message_id, 0, 0, body))

    def tick(self) -> None:
        """Time has passed: it lives."""
        self.wire.send(0, frames.Ping(1))
        due = self.wire.session.get_timer()
        if due is not None and due <= self.wire.rig.time:
            self.wire.session.handle_timer(self.wire.rig.time)
            self.wire.rig.hub.pump(self.wire.session)

    def work(self) -> bool:
        """Read what came and acknowledge it; whether there was anything."""
        self.wire.heard(frames.Deliver)
        self.wire.session.backlog_changed(0, self.wire.rig.time)
        self.wire.rig.hub.pump(self.wire.session)
        names = {number: name for name, number in self._channels.items()}
        fresh, self._seen = self.wire.frames[self._seen :], len(self.wire.frames)
        for channel, frame in fresh:
            match frame:
                case frames.Deliver():
                    self._take(names[channel], frame.seq, (frame.sender, frame.message_id))
                case frames.Accepted():
                    self._take(names[channel], frame.seq, (self.user, frame.message_id))
                case frames.Refused() | frames.Rejected() | frames.Close() | frames.Failed():
                    raise AssertionError(f"{self.user} was told {frame}")
        for name, number in self._channels.items():
            position = self.acked[name]
            while position + 1 in self.got[name]:
                position += 1
            if position > self.acked[name]:
                self.acked[name] = position
                self.wire.send(number, frames.Ack(position))
        return any(not isinstance(frame, frames.Ping | frames.Pong) for _, frame in fresh)

    def check(self, others: list[Honest]) -> None:
        """All it said is stored, all there is came once and in order, and receipts are true."""
        assert self.wire.is_up, f"{self.user} was thrown out"
        state = self.wire.rig.store._state
        for name, number in self._channels.items():
            key = name if name[0] == "#" else "@alice:bob"
            log = {e.seq: (e.sender, e.message_id) for e in state.logs.get(key, [])}
            assert self.got[name] == log, f"{self.user} {name}"
            mine = [message_id for where, message_id, _ in self.said if where == name]
            ours = {(self.user, message_id) for message_id in mine}
            order = [what[1] for _, what in sorted(self.got[name].items()) if what in ours]
            assert order == mine, f"{self.user} said {mine} in {name}, and it is stored as {order}"
            for channel, frame in self.wire.frames:
                if channel == number and isinstance(frame, frames.Receipt):
                    self._check_receipt(name, frame, others)

    def leave(self) -> None:
        self.wire.session.connection_lost(0, "", self.wire.rig.time)
        self.wire.rig.hub.pump(self.wire.session)

    # ---- private

    def _check_receipt(self, name: str, receipt: frames.Receipt, others: list[Honest]) -> None:
        for other in others:
            there = _PEER[other.user] if name[0] == "@" else name
            for member in receipt.members:
                if member.user == other.user:
                    assert member.delivered <= other.acked[there], "delivered before it was processed"

    def _take(self, name: str, seq: int, what: tuple[str, bytes]) -> None:
        assert seq not in self.got[name], f"{self.user} got {seq} of {name} twice"
        self.got[name][seq] = what
