"""Random Acks and Reads of a member against a hub: invariant I4 of the facts, checked after each."""

from __future__ import annotations

import random

from hubrig import Rig, Wire, message

from quicmsg import limits
from quicmsg.protocol import frames
from quicmsg.protocol.codec import encode

USERS = ("ann", "bob", "eve")
KEYS = {"#team": "#team", "@ann": "@ann:eve"}
ENTRIES = 10_000


class ReceiptForger:
    """Eve, on two devices, claims positions of all kinds in two conversations that go on growing.

    Attributes:
        problems: what must not be; empty in the end.
        refused, moved: claims that cost eve her channel, and claims that were true and counted.
    """

    def __init__(self, seed: int) -> None:
        self.problems: list[str] = []
        self.refused = 0
        self.moved = 0
        self._random = random.Random(seed)
        self._rig = Rig()
        self._ann = self._rig.connect("ann")
        self._rig.connect("bob")
        first = self._rig.connect("eve")
        first.ask(0, frames.Link(1))
        self._eves = [first, self._rig.connect("eve", 1, code="CODE")]
        self._ann.ask(0, frames.Create(1, "#team", ("bob", "eve"), False))
        self._ann.open(1, "#team")
        self._ann.open(2, "@eve")
        self._said = 0
        self._next_channel = 10
        self._open: dict[tuple[int, str], int] = {}

    def run(self, claims: int) -> None:
        """So many claims; then look at `problems`."""
        before = self._positions()
        for number in range(claims):
            if self._said < ENTRIES and number % 20 == 0:
                self._grow()
            self._claim()
            after = self._positions()
            self._compare(before, after)
            before = after

    # ---- private

    def _grow(self) -> None:
        self._said += 1
        for channel in (1, 2):
            self._ann.ask(channel, message(self._said * 10 + channel))
        self._taken(self._ann)

    def _claim(self) -> None:
        self._rig.time += 0.01  # so that eve can pay for it
        index = self._random.randrange(2)
        wire, name = self._eves[index], self._random.choice(list(KEYS))
        channel = self._channel(index, name)
        covered = wire.session._channels[channel].covered.value  # type: ignore[attr-defined]
        position = self._position(covered)
        claim: frames.Frame = frames.Ack(position)
        if self._random.random() < 0.5:
            claim = frames.Read(position, self._random.random() < 0.5)
        wire.session.receive_data(channel, encode(claim), False, self._rig.time)
        self._rig.hub.pump(wire.session)
        self._rig.writer.run()
        self._taken(wire)
        if channel not in wire.session._channels:
            del self._open[index, name]
            self.refused += 1
            if position <= covered:
                self.problems.append(f"{claim} was refused, though {covered} had been sent")
        elif position > covered:
            self.problems.append(f"{claim} was taken, though only {covered} had been sent")

    def _position(self, covered: int) -> int:
        chance = self._random.random()
        if chance < 0.6:
            return self._random.randint(0, covered)
        if chance < 0.9:
            return covered + self._random.choice((0, 1, 2, 64, 65))
        return self._random.choice((limits.SEQ_MAX, 2**32, 2**31 - 1, covered * 2 + 1))

    def _channel(self, index: int, name: str) -> int:
        number = self._open.get((index, name))
        if number is None:
            number = self._open[index, name] = self._next_channel
            self._next_channel += 1
            wire: Wire = self._eves[index]
            position = self._device_position(wire, name)
            wire.ask(number, frames.Open(name, 7 if position else 0, position, position))
            self._taken(wire)
        return number

    def _taken(self, wire: Wire) -> None:
        """Everything that was said to this client has arrived."""
        wire.session.data_to_send()
        wire.session.take_consumed()
        wire.session.backlog_changed(0, self._rig.time)
        self._rig.hub.pump(wire.session)
        self._rig.writer.run()

    def _device_position(self, wire: Wire, name: str) -> int:
        found = self._rig.store._state.positions.get((KEYS[name], "eve", wire.device))
        return found.received if found else 0

    def _positions(self) -> dict[tuple[str, str], tuple[int, int, int]]:
        members = self._rig.store._state.members
        return {
            (key, user): (member.received, member.read, member.own_read)
            for key in KEYS.values()
            for user, member in members.get(key, {}).items()
        }

    def _compare(
        self, before: dict[tuple[str, str], tuple[int, int, int]],
        after: dict[tuple[str, str], tuple[int, int, int]],
    ) -> None:  # fmt: skip
        for place, old in before.items():
            new = after[place]
            if new == old:
                continue
            key, user = place
            if user == "eve":
                self.moved += 1
            elif user != "ann":
                self.problems.append(f"{user}'s position in {key} went from {old} to {new}")
            if any(late < early for early, late in zip(old, new, strict=True)):
                self.problems.append(f"{user} went back in {key}: {old} to {new}")
            if new[1] > new[0] or new[0] > len(self._rig.store._state.logs[key]):
                self.problems.append(f"{user} in {key}: {new} cannot be")
