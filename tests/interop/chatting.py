"""People who chat over real QUIC in virtual time: real mailboxes, sessions, hub and store over `quicpair`.

    room = Room(seed=1, users=("ann", "bob"), latency=0.375)
    room.say("ann", "@bob", 5)          # or room.chatter(seconds=20): everybody says something now and then
    room.finish()                       # until all is stored, shown once and in order, and ticked

`finish` checks the contract. `room.people["ann"].end` is the connection in use; `connections` and `failed`
count what a person would notice.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable
from random import Random
from typing import Any

from certificates import authority
from quicpair import SERVER, End, World, client_configuration

from quicmsg.protocol import events, frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.mailbox import Mailbox, outbox_row
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import device_of, sign_in_message
from quicmsg.server.conversations import key_of
from quicmsg.server.hub import Hub
from quicmsg.store import CreateGroup, Operation, Result, SignIn, Store
from quicmsg.store.memory import MemoryStore
from quicmsg.transport.connection import Connection
from quicmsg.transport.resuming import ClientTickets
from quicmsg.transport.trust import Trust

COMMIT_TIME = 0.002
REDIAL_DELAY = 0.3


def sign(public_key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(public_key + message).digest()


class Writer:
    """The store's thread: answers a moment later, in order."""

    full = False

    def __init__(self, world: World, store: MemoryStore) -> None:
        self._world = world
        self._store = store
        self._waiting: deque[Callable[[], None]] = deque()

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        self._later(lambda: callback(self._store.execute([operation])[0]))

    def read(self, function: Callable[[Store], Any], callback: Callable[[Any], None]) -> None:
        self._later(lambda: callback(function(self._store)))

    def _later(self, work: Callable[[], None]) -> None:
        self._waiting.append(work)
        self._world.after(COMMIT_TIME, lambda: self._waiting.popleft()())


class Room:
    """A server and its people."""

    def __init__(
        self,
        seed: int,
        users: tuple[str, ...] = ("ann", "bob", "cleo"),
        *,
        groups: int = 1,
        configure: Callable[[Any], None] = lambda _: None,
        hosts: str = "10.0.1.{}",
        address: tuple[str, int] = SERVER,
        start: bool = True,
        **network: float,
    ) -> None:
        self.random = Random(f"room {seed}")
        self.world = World(seed, **network)  # type: ignore[arg-type]
        self.store = MemoryStore(7)
        self.hub = Hub(Writer(self.world, self.store), self, epoch=7, invite_only=False)
        self.server = self.world.serve(self._session, on_activity=self._activity, address=address)
        self.logged: list[tuple[str, dict[str, object]]] = []
        self.configure = configure
        self.people: dict[str, Person] = {}
        for number, user in enumerate(users):
            person = self.people[user] = Person(self, user, hosts.format(number + 1), address)
            self.store.execute([SignIn(user, person.key, user, "", False, 1)])
        maker = self.people[users[0]]
        for number in range(groups):
            group = CreateGroup(
                f"#g{number}", maker.user, maker.device, users[1:], True, 1, number.to_bytes(16, "big")
            )
            self.store.execute([group])
        if start:
            for person in self.people.values():
                person.dial()

    # ---- what people do

    def say(self, user: str, conversation: str, count: int = 1, size: int = 20) -> None:
        """Put messages into somebody's outbox, now."""
        self.people[user].say(conversation, count, size)

    def chatter(self, seconds: float, rate: float = 4.0) -> None:
        """Everybody says something now and then, `rate` times a second in all."""
        stop = self.world.now + seconds

        def speak() -> None:
            if self.world.now < stop:
                user = self.random.choice(list(self.people))
                others = [f"@{other}" for other in self.people if other != user]
                self.say(user, self.random.choice([*others, "#g0"]))
                self.world.after(self.random.expovariate(rate), speak)

        speak()

    def run_for(self, seconds: float) -> None:
        self.world.run_for(seconds)

    def finish(self, limit: float = 60.0) -> float:
        """Until everything is everywhere; gives the seconds that took, and checks the contract."""
        took = self.world.run(self._is_done, limit=limit)
        for person in self.people.values():
            person.check(self.store)
        return took

    def flips(self) -> int:
        """Path changes that the server noticed."""
        return sum(event == "moved" for event, _ in self.logged)

    # ---- the hub's environment

    def now(self) -> float:
        return self.world.now

    def time_ms(self) -> int:
        return int(self.world.now * 1000)

    def make_code(self) -> str:
        return "code"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return signature == sign(public_key, message)

    def log(self, event: str, **fields: object) -> None:
        self.logged.append((event, fields))

    # ---- private

    def _session(self, _address: str) -> ServerSession:
        session = ServerSession(now=self.world.now)

        def wake() -> None:
            for end in self.server.ends:
                if end.session is session:
                    end.flush()

        self.hub.attach(session, wake)
        return session

    def _activity(self, end: End) -> None:
        self.hub.pump(end.session)
        if end.session.state is SessionState.UP:
            end.connection.keep_ticket(end.session.device)

    def _is_done(self) -> bool:
        return all(person.is_done(self.store) for person in self.people.values())


class Person:
    """A user with one device: what `quicmsg.client` does, without disk and asyncio."""

    def __init__(self, room: Room, user: str, host: str, server: tuple[str, int]) -> None:
        self.room, self.user, self.host = room, user, host
        self.key = user.encode().ljust(32, b".")
        self.device = device_of(self.key)
        self.mailbox = Mailbox(user, self.device)
        self.tickets: ClientTickets | None = None
        self.end: End | None = None
        self.said: dict[str, list[bytes]] = defaultdict(list)
        self.shown: dict[str, list[bytes]] = defaultdict(list)
        self.ticked: dict[str, set[int]] = defaultdict(set)
        self.connections = 0
        self.failed: list[bytes] = []
        self._server = server
        self._racing: End | None = None
        self._timer = 0.0

    # ---- connections

    def dial(self, *, early: bool = True) -> End:
        """One attempt."""
        world = self.room.world
        settings = client_configuration()
        self.room.configure(settings)
        trust = Trust(fingerprint=authority().fingerprint)
        tickets = self.tickets
        connection = Connection(
            configuration=settings,
            trust=trust,
            resumes=tickets.take("localhost", trust) if tickets is not None else None,
            on_ticket=tickets.put if tickets is not None else None,
        )
        session = ClientSession(
            self.mailbox, sign=self._sign, agent="interop", foreground=True, now=world.now, early=early
        )
        end = world.join(connection, session, host=self.host, to=self._server, on_activity=self._activity)
        if early:
            self.end = end
        else:
            self._racing = end
        self._watch(end)
        return end

    def _watch(self, end: End) -> None:
        """An attempt that never got a session ends without telling it."""

        def look() -> None:
            if end.is_over and end.session is None:
                self._lost(end)
            elif end.session is None:
                self.room.world.after(0.25, look)

        self.room.world.after(0.25, look)

    def _sign(self, binding: bytes) -> frames.Authenticate:
        signature = sign(self.key, sign_in_message(self.user, self.key, binding))
        return frames.Authenticate(self.user, self.key, signature, self.user, "")

    def _lost(self, end: End) -> None:
        if end is self._racing:
            self._racing = None
        elif end is self.end:
            self.end = None
            self.room.world.after(REDIAL_DELAY, lambda: self.end or self.dial())

    def _activity(self, end: End) -> None:
        while (event := end.session.next_event()) is not None:
            match event:
                case events.SignedIn():
                    self.connections += 1
                    if end is self._racing:
                        self._take_over(end)
                case events.SessionEnded():
                    self._lost(end)
                case events.PathSuspect() if end is self.end:
                    end.migrate()
                case events.RaceWanted() if end is self.end and self._racing is None:
                    self.dial(early=False)
                case events.SignInRefused():
                    raise AssertionError(f"{self.user} was refused: {event.text}")
        self._work()

    def _take_over(self, end: End) -> None:
        old, self.end, self._racing = self.end, end, None
        if old is not None and not old.is_over:
            old.session.close(now=self.room.world.now)
            old.flush()
        end.session.attach(self.room.world.now)
        end.flush()

    # ---- messages

    def say(self, conversation: str, count: int, size: int) -> None:
        now = self.room.world.now
        for _ in range(count):
            number = sum(map(len, self.said.values()))
            body = f"{self.user} {number} ".encode().ljust(size, b".")
            self.said[conversation].append(body)
            message_id = hashlib.sha256(body).digest()[:16]
            self.mailbox.submit(outbox_row(message_id, conversation, 0, 0, body, now), now)
        self._touch()

    def is_done(self, store: MemoryStore) -> bool:
        if len(self.mailbox.outbox):
            return False
        for conversation in self.room_conversations():
            log = store._state.logs.get(key_of(conversation, self.user), [])
            head = len(log)
            found = self.mailbox.conversations.get(conversation)
            if head and (found is None or found.position < head):
                return False
            mine = {entry.seq for entry in log if entry.device == self.device and entry.kind == 0}
            if not mine <= self.ticked[conversation]:
                return False
        return True

    def room_conversations(self) -> list[str]:
        groups = [key for key in self.room.store._state.logs if key.startswith("#")]
        return [*(f"@{other}" for other in self.room.people if other != self.user), *groups]

    def check(self, store: MemoryStore) -> None:
        """Once, in order, and all of it; ticks reach as far as the log."""
        for conversation in self.room_conversations():
            log = store._state.logs.get(key_of(conversation, self.user), [])
            texts = [entry for entry in log if entry.kind == 0]
            mine = [entry.body for entry in texts if entry.device == self.device]
            assert mine == self.said[conversation], f"{self.user} {conversation}: not once and in order"
            theirs = [entry.body for entry in texts if entry.device != self.device]
            assert self.shown[conversation] == theirs, f"{self.user} {conversation}: shown otherwise"

    # ---- private

    def _touch(self) -> None:
        if self.end is not None and self.end.session is not None:
            self.end.session.service(self.room.world.now)
            self.end.flush()
        self._work()

    def _work(self) -> None:
        """The program is quick: it takes what there is, and is done with it."""
        now = self.room.world.now
        while (event := self.mailbox.next_event()) is not None:
            match event:
                case events.MessageStored():
                    epoch = self.mailbox.conversations[event.conversation].epoch
                    self.mailbox.own_kept(event.conversation, event.position, epoch)
                case events.MessageFailed():
                    self.failed.append(event.message_id)
                case events.MessageRejected():
                    raise AssertionError(f"rejected: {event.text}")
                case events.PositionsChanged():
                    fresh = range(event.delivered_from + 1, event.delivered_to + 1)
                    self.ticked[event.conversation].update(fresh)
        took = False
        while (taken := self.mailbox.take()) is not None:
            name, entry = taken
            if entry.kind == 0:
                self.shown[name].append(entry.body)
            epoch = self.mailbox.conversations[name].epoch
            self.mailbox.processed(name, self.mailbox.position_after(name, entry.seq), epoch)
            took = True
        if took and self.end is not None and self.end.session is not None:
            self.end.session.service(now)
            self.end.flush()
        self._arm()

    def _arm(self) -> None:
        due = self.mailbox.outbox.get_timer()
        if due is not None and due != self._timer:
            self._timer = due
            self.room.world.at(due, lambda: self._escalate(due))

    def _escalate(self, due: float) -> None:
        if due != self._timer:
            return
        self._timer = 0.0
        steps = self.mailbox.escalate(self.room.world.now)
        if steps and self.end is not None and self.end.session is not None:
            self.end.session.doubt(steps, self.room.world.now)
            self._activity(self.end)
            self.end.flush()
        self._work()


def assert_smooth(room: Room) -> None:
    """Nobody noticed anything: one connection each, no red cross."""
    assert [person.connections for person in room.people.values()] == [1] * len(room.people)
    assert not any(person.failed for person in room.people.values())
