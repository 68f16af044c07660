"""Hostile clients against sessions, hub and store, while honest ones talk.

Nothing may be raised, what one session holds stays bounded, every byte of flow control is given back, the
honest users are served, the log keeps its contract, and what is private reaches nobody.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Final
from unittest import mock

from server.hubrig import Rig

from fuzz.honest import Honest
from fuzz.hostile_client import SECRET, Attacker, key_of
from quicmsg import limits
from quicmsg.protocol import channels, frames
from quicmsg.server import topics
from quicmsg.store import MakeCode, SignIn
from quicmsg.store.memory import MemoryStore

STEPS: Final = 120


class Siege:
    """One case: honest people, hostile ones, and the store that answers when it likes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.rig = Rig()
        for user in ("mallory", "eve"):
            for number in range(2):
                code = f"code {number}"
                link = [MakeCode("link", user, code, 10**15)] if number else []
                self.rig.store.execute([*link, SignIn(user, key_of(user, number), "", code, False, 1)])
        self.alice, self.bob = Honest(self.rig, "alice"), Honest(self.rig, "bob")
        self.alice.wire.ask(0, frames.Create(1, "#team", ("bob", "mallory"), True))
        self.alice.wire.ask(0, frames.Create(2, "#secret", ("bob",), False))
        for person, peer in ((self.alice, "@bob"), (self.bob, "@alice")):
            for name in (peer, "#team", "#secret"):
                person.open(name)
        self.attackers: list[Attacker] = []
        self.inputs = 0

    def run(self) -> Counter[str]:
        for _ in range(STEPS):
            self._step()
            for attacker in self.attackers:
                attacker.check()
        self.rig.writer.full = False
        self.rig.hub.room()
        self.settle()
        self.alice.check([self.bob])
        self.bob.check([self.alice])
        for attacker in self.attackers:
            attacker.check_credit()
        closed = sum(attacker.is_closed for attacker in self.attackers)
        self._end()
        check_store(self.rig.store, self.alice, self.bob)
        return Counter(inputs=self.inputs, sessions=len(self.attackers), closed=closed)

    def settle(self) -> None:
        """Everybody hears everything, and the store does all that waits."""
        for _ in range(400):
            self.rig.writer.run()
            self.rig.time += 0.5  # whoever sent too fast is read on
            for attacker in self.attackers:
                attacker.listen()
                attacker.tick()
            for person in (self.alice, self.bob):
                person.tick()
            busy = [person.work() for person in (self.alice, self.bob)]
            if not any(busy) and not self.rig.writer.operations and not self.rig.writer.reads:
                return
        raise AssertionError("it does not come to rest")

    # ---- private

    def _step(self) -> None:
        random, rig = self.random, self.rig
        live = [attacker for attacker in self.attackers if not attacker.is_gone]
        draw = random.random()
        if not live or draw < 0.04:
            self._connect()
        elif draw < 0.6:
            self.inputs += random.choice(live).attack()
        elif draw < 0.65:
            random.choice(live).reset()
        elif draw < 0.8:
            self._store_works()
        elif draw < 0.88:
            random.choice((self.alice, self.bob)).say(random.choice(("peer", "#team", "#secret")), SECRET)
        elif draw < 0.93:
            rig.time += random.choice((0.0, 0.001, 0.3, 3.0, 16.0))
            for person in (self.alice, self.bob):
                person.tick()
            for attacker in live:
                attacker.tick()
        elif draw < 0.97:
            for attacker in live:
                attacker.listen()
        elif draw < 0.98:
            random.choice(live).vanish()
        else:
            rig.writer.full = random.random() < 0.5
            if not rig.writer.full:
                rig.hub.room()

    def _connect(self) -> None:
        user, number = self.random.choice(("mallory",) * 6 + ("eve", "eve", "bob")), self.random.randint(0, 1)
        attacker = Attacker(self.random, self.rig, user, number)
        self.attackers.append(attacker)
        if self.random.random() < 0.85:
            attacker.sign_in()
            if self.random.random() < 0.8:
                self.rig.writer.run()

    def _store_works(self) -> None:
        writer = self.rig.writer
        if self.random.random() < 0.4:
            writer.run()
        elif writer.operations:
            operation, callback = writer.operations.popleft()
            callback(self.rig.store.execute([operation])[0])
        elif writer.reads:
            function, answer = writer.reads.popleft()
            answer(function(self.rig.store))

    def _end(self) -> None:
        """Everybody leaves: nothing may stay behind in the hub."""
        for attacker in self.attackers:
            attacker.vanish()
        self.alice.leave()
        self.bob.leave()
        self.rig.writer.run()
        hub = self.rig.hub
        assert hub.sessions == 0
        topics = hub._conversations._topics._topics
        assert not [topic.key for topic in topics.values() if topic.uses], "a topic is in use by nobody"
        assert not hub._conversations._moves


def check_store(store: MemoryStore, *people: Honest) -> None:
    """The log's contract, as the store's own suite has it, on whatever came about."""
    state = store._state
    for key, log in state.logs.items():
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1)), key
        assert len({(entry.sender, entry.message_id) for entry in log}) == len(log), key
        for entry in log:
            assert len(entry.body) <= limits.BODY_SIZE_MAX
            assert (entry.sender, entry.device) in state.devices
        for user, member in state.members.get(key, {}).items():
            assert 0 <= member.read <= member.received <= len(log), (key, user)
            assert member.oldest <= len(log) + 1, (key, user)
    for (key, _, _), position in state.positions.items():
        assert 0 <= position.read <= position.received <= len(state.logs.get(key, ()))
    for person in people:
        written = {e.message_id for log in state.logs.values() for e in log if e.device == person.wire.device}
        said = {message_id for _, message_id, _ in person.said}
        made = {e.message_id for log in state.logs.values() for e in log if e.kind in frames.SERVER_KINDS}
        assert written - made <= said, f"{person.user} is said to have written what it did not"


def case(random: Random) -> Counter[str]:
    """One siege, half of them with bounds so small that they are met all the time."""
    with bounded(random if random.random() < 0.5 else None):
        return Siege(random).run()


@contextlib.contextmanager
def bounded(random: Random | None) -> Iterator[None]:
    """Small bounds are met often; the real ones hardly ever in so short a siege."""
    if random is None:
        yield
        return
    changes = [
        (limits, "SEND_BURST", random.choice((2, 20_000))),
        (limits, "SEND_RATE", random.choice((20.0, 20_000.0))),
        (limits, "OPERATIONS_MAX", random.choice((4, 1024))),
        (limits, "OUTPUT_MAX", random.choice((300, 5_000, 2**20))),
        (limits, "PAGE_SIZE_MAX", random.choice((100, 48 * 1024))),
        (channels, "DELIVER_WINDOW_MESSAGES", random.choice((1, 3, 64))),
        (channels, "SUBMIT_WINDOW_MESSAGES", random.choice((1, 3, 64))),
        (topics, "LOG_CACHE_SIZE", random.choice((500, 32 * 1024 * 1024))),
    ]
    with contextlib.ExitStack() as stack:
        for module, name, value in changes:
            stack.enter_context(mock.patch.object(module, name, value))
        yield
