"""The hub between sessions and the store: nothing is said before it is durable."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import pytest

from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import CONTROL
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import device_of, sign_in_message
from quicmsg.server.hub import Hub
from quicmsg.store import Append, MovePosition, Operation, Result, Store
from quicmsg.store.memory import MemoryStore

T = TypeVar("T")
EPOCH = 7


class TinyWriter:
    """A store's writer of which a test says when it commits."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.full = False
        self.deferred = False
        self.submitted: list[Operation] = []
        self._waiting: deque[tuple[Operation, Callable[[Result], None]]] = deque()

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        self.submitted.append(operation)
        self._waiting.append((operation, callback))
        if not self.deferred:
            self.commit()

    def read(self, function: Callable[[Store], T], callback: Callable[[T], None]) -> None:
        callback(function(self.store))

    def commit(self) -> None:
        """Everything that waits becomes durable."""
        while self._waiting:
            operation, callback = self._waiting.popleft()
            callback(self.store.execute([operation])[0])

    def of(self, kind: type[T]) -> list[T]:
        """What was submitted of this kind."""
        return [operation for operation in self.submitted if isinstance(operation, kind)]


class FixedEnvironment:
    """Time that stands still, and signatures that say themselves whether they are good."""

    def __init__(self) -> None:
        self.verified: list[tuple[bytes, bytes, bytes]] = []

    def now(self) -> float:
        return 1.0

    def time_ms(self) -> int:
        return 1_000

    def make_code(self) -> str:
        return "code-for-another-device"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        self.verified.append((public_key, signature, message))
        return signature.startswith(b"good")

    def log(self, event: str, **fields: object) -> None:
        assert "body" not in fields


class Stage:
    """A hub on a store in memory."""

    def __init__(self) -> None:
        self.writer = TinyWriter(MemoryStore(EPOCH))
        self.environment = FixedEnvironment()
        self.hub = Hub(self.writer, self.environment, epoch=EPOCH, invite_only=False)

    def connect(self, user: str, **arguments: Any) -> Device:
        return Device(self, user, **arguments)


class Device:
    """A client that says exactly what a test wants, and hears what the server answers."""

    def __init__(self, stage: Stage, user: str, *, key: bytes = b"", signature: bytes = b"good") -> None:
        self.stage = stage
        self.key = (key or user.encode()).ljust(32, b"k")
        self.session = ServerSession(now=0.0)
        self.wakes = 0
        self.binding = b"binding of this connection".ljust(32)
        self._readers: dict[int, FrameReader] = {}
        stage.hub.attach(self.session, self._wake)
        self.session.connected(channel_binding=self.binding, observed_address="192.0.2.1:1", now=0.0)
        signature = signature.ljust(64)
        self.says(
            CONTROL,
            frames.Hello(1, 1, "test", (), True),
            frames.Authenticate(user, self.key, signature, "", ""),
        )

    def says(self, channel: int, *said: frames.Frame) -> None:
        self.session.receive_data(channel, b"".join(map(encode, said)), False, 1.0)
        self.stage.hub.pump(self.session)

    def sends(self, channel: int, number: int, text: bytes = b"hi") -> None:
        self.says(channel, frames.Send(message_id(number), 0, 0, text))

    def opens(self, channel: int, conversation: str) -> list[frames.Frame]:
        self.says(channel, frames.Open(conversation, 0, 0, 0))
        return self.hears(channel)

    def hears(self, channel: int | None = None) -> list[frames.Frame]:
        """Frames since the last call, of this channel or of all."""
        found = []
        for item in self.session.data_to_send():
            reader = self._readers.setdefault(item.channel, FrameReader(control=item.channel == CONTROL))
            reader.feed(item.data)
            heard = list(iter(reader.next_frame, None))
            found += heard if channel in (None, item.channel) else []
        return found

    def _wake(self) -> None:
        self.wakes += 1


def message_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def stage() -> Stage:
    return Stage()


def talking(stage: Stage) -> tuple[Device, Device]:
    """alice and bob have their conversation open on channel 1."""
    alice, bob = stage.connect("alice"), stage.connect("bob")
    for device, other in ((alice, "@bob"), (bob, "@alice")):
        assert any(isinstance(frame, frames.Opened) for frame in device.opens(1, other))
    alice.hears()
    bob.hears()
    return alice, bob


# ---- after the commit --------------------------------------------------------------------------


def test_message_is_accepted_and_published_only_after_the_commit(stage: Stage) -> None:
    """One tick means that it can no longer be lost; and nobody reads what could still be."""
    alice, bob = talking(stage)
    stage.writer.deferred = True
    alice.sends(1, 1)
    assert (alice.hears(), bob.hears()) == ([], [])
    woken = bob.wakes
    stage.writer.commit()
    assert alice.hears() == [frames.Accepted(message_id(1), 1, 1_000)]
    (delivered,) = bob.hears()
    assert isinstance(delivered, frames.Deliver)
    assert (delivered.seq, delivered.sender, delivered.body) == (1, "alice", b"hi")
    assert bob.wakes > woken, "its transport is told to flush"


def test_repeated_message_is_answered_again_and_published_once(stage: Stage) -> None:
    """The answer to every repetition is the original seq."""
    alice, bob = talking(stage)
    alice.sends(1, 1)
    alice.sends(1, 1)
    assert alice.hears() == [frames.Accepted(message_id(1), 1, 1_000)] * 2
    assert len(bob.hears()) == 1
    alice.sends(1, 1, b"another text")
    (rejected,) = alice.hears()
    assert isinstance(rejected, frames.Rejected)
    assert (rejected.code, bob.hears()) == (ErrorCode.CONFLICT, [])


def test_receipt_is_told_only_after_the_commit_of_the_position(stage: Stage) -> None:
    """Two ticks are as durable as one."""
    alice, bob = talking(stage)
    alice.sends(1, 1)
    alice.hears()
    bob.hears()
    stage.writer.deferred = True
    bob.says(1, frames.Ack(1))
    assert alice.hears() == []
    stage.writer.commit()
    assert alice.hears() == [frames.Receipt((frames.MemberEntry("bob", 1, 0),))]


def test_positions_that_come_while_one_is_being_written_are_one_write(stage: Stage) -> None:
    """An Ack for each message must not be a transaction for each message; nothing is swallowed."""
    alice, bob = talking(stage)
    for number in range(1, 21):
        alice.sends(1, number)
    alice.hears()
    bob.hears()
    stage.writer.deferred = True
    for position in range(1, 21):
        bob.says(1, frames.Ack(position))
        if position == 10:
            bob.says(1, frames.Read(10, True))
    stage.writer.commit()
    moves = [(move.received, move.read) for move in stage.writer.of(MovePosition)]
    assert moves == [(1, 0), (20, 10)]
    (receipt,) = alice.hears()
    assert receipt == frames.Receipt((frames.MemberEntry("bob", 20, 10),))
    stage.writer.deferred = False
    bob.says(1, frames.Read(20, True))
    assert alice.hears() == [frames.Receipt((frames.MemberEntry("bob", 20, 20),))]


def test_private_reading_is_told_to_nobody_else(stage: Stage) -> None:
    """Only the reader's own devices learn of it."""
    alice, bob = talking(stage)
    alice.sends(1, 1)
    bob.says(1, frames.Ack(1))
    alice.hears()
    bob.hears()
    bob.says(1, frames.Read(1, False))
    assert all(entry.read == 0 for frame in alice.hears() for entry in getattr(frame, "members", ()))
    assert bob.hears() == [frames.Receipt((frames.MemberEntry("bob", 1, 1),))]


def test_private_and_public_reading_that_wait_together_are_not_mixed(stage: Stage) -> None:
    """Coalescing must not make public what was read in private."""
    alice, bob = talking(stage)
    for number in (1, 2):
        alice.sends(1, number)
    alice.hears()
    bob.hears()
    stage.writer.deferred = True
    bob.says(1, frames.Ack(2), frames.Ack(2), frames.Read(2, False), frames.Read(1, True))
    stage.writer.commit()
    assert alice.hears() == [frames.Receipt((frames.MemberEntry("bob", 2, 1),))]


def test_full_store_queue_holds_submissions_in_their_order(stage: Stage) -> None:
    """What waits goes first when there is room; nothing overtakes it."""
    alice, bob = talking(stage)
    stage.writer.full = True
    for number in range(1, 6):
        alice.sends(1, number)
    assert stage.writer.of(Append) == []
    stage.writer.full = False
    alice.sends(1, 6)
    assert stage.writer.of(Append) == []
    stage.hub.room()
    assert [append.message_id for append in stage.writer.of(Append)] == [message_id(n) for n in range(1, 7)]
    assert [frame.seq for frame in alice.hears() if isinstance(frame, frames.Accepted)] == [1, 2, 3, 4, 5, 6]
    assert [frame.seq for frame in bob.hears() if isinstance(frame, frames.Deliver)] == [1, 2, 3, 4, 5, 6]


def test_message_whose_sender_has_gone_is_stored_and_published(stage: Stage) -> None:
    """The connection ended before the commit: the answer is lost, the message is not."""
    alice, bob = talking(stage)
    stage.writer.deferred = True
    alice.sends(1, 1)
    alice.session.connection_lost(0, "gone", 1.0)
    stage.hub.pump(alice.session)
    stage.writer.commit()
    assert [type(frame) for frame in bob.hears()] == [frames.Deliver]


# ---- sign-in -----------------------------------------------------------------------------------


def test_signature_is_asked_about_with_the_key_and_this_connections_message(stage: Stage) -> None:
    """What was signed for another connection, user or key is worth nothing here."""
    alice = stage.connect("alice")
    message = sign_in_message("alice", alice.key, alice.binding)
    assert stage.environment.verified == [(alice.key, b"good".ljust(64), message)]
    (welcome,) = alice.hears()
    assert isinstance(welcome, frames.Welcome)
    assert (welcome.user, welcome.device, welcome.epoch) == ("alice", device_of(alice.key), EPOCH)


def test_bad_signature_reaches_no_store(stage: Stage) -> None:
    """A stranger leaves no trace: the name is still free."""
    mallory = stage.connect("alice", key=b"mallory", signature=b"bad")
    (close,) = mallory.hears()
    assert isinstance(close, frames.Close)
    assert close.code == ErrorCode.SIGN_IN_REFUSED
    assert (stage.writer.submitted, stage.hub.sessions) == ([], 0)
    assert isinstance(stage.connect("alice").hears()[0], frames.Welcome)


def test_newer_session_replaces_the_older_only_when_it_is_confirmed(stage: Stage) -> None:
    """A failed attempt costs the good connection nothing; another device of the user is left alone."""
    alice, bob = talking(stage)
    stage.connect("alice", signature=b"bad")
    stage.connect("alice", key=b"another key, no code")
    assert alice.session.state is SessionState.UP
    stage.writer.deferred = True
    newer = stage.connect("alice")
    assert alice.session.state is SessionState.UP
    stage.writer.commit()
    assert alice.session.state is SessionState.CLOSED
    (close,) = alice.hears()
    assert isinstance(close, frames.Close)
    assert close.code == ErrorCode.REPLACED
    assert isinstance(newer.hears()[0], frames.Welcome)
    assert not stage.hub.knows(alice.session)
    assert stage.hub.sessions == 2
    stage.writer.deferred = False
    bob.sends(1, 1)
    assert [type(frame) for frame in newer.hears()] == [frames.Notice], "news go to the newer one"


def test_sign_in_that_is_confirmed_after_the_connection_ended_replaces_nobody(stage: Stage) -> None:
    """The newer connection died on its way: the older one goes on."""
    alice = stage.connect("alice")
    stage.writer.deferred = True
    newer = stage.connect("alice")
    newer.session.connection_lost(0, "gone", 1.0)
    stage.hub.pump(newer.session)
    stage.writer.commit()
    assert alice.session.state is SessionState.UP
    assert stage.hub.sessions == 1


# ---- who may see what --------------------------------------------------------------------------


def test_unknown_and_forbidden_get_the_same_answer(stage: Stage) -> None:
    """A stranger cannot find out which groups exist."""
    alice, eve = stage.connect("alice"), stage.connect("eve")
    alice.says(CONTROL, frames.Create(1, "#secret", (), False))
    eve.hears()
    (refused,) = eve.opens(1, "#secret")
    assert isinstance(refused, frames.Refused)
    assert refused.code == ErrorCode.UNKNOWN
    assert eve.opens(2, "#nothing") == [refused], "not even the text tells them apart"
    answers = []
    for ref, name in ((1, "#secret"), (2, "#nothing")):
        eve.says(CONTROL, frames.Join(ref, name))
        answers += eve.hears(CONTROL)
    assert [type(frame) for frame in answers] == [frames.Failed, frames.Failed]
    assert (answers[0].code, answers[0].text) == (answers[1].code, answers[1].text)


def test_channel_of_a_member_who_left_closes_at_once(stage: Stage) -> None:
    """On every device: what is said later is not for them."""
    alice, bob = stage.connect("alice"), stage.connect("bob")
    alice.says(CONTROL, frames.Create(1, "#team", ("bob",), False))
    alice.opens(1, "#team")
    bob.opens(1, "#team")
    alice.hears()
    bob.says(CONTROL, frames.Leave(1, "#team"))
    refused = [frame for frame in bob.hears(1) if isinstance(frame, frames.Refused)]
    assert [frame.code for frame in refused] == [ErrorCode.UNKNOWN]
    alice.sends(1, 1, b"now among us")
    assert bob.hears() == []
    assert all(getattr(frame, "kind", None) != frames.Kind.TEXT for frame in bob.opens(2, "#team"))


# ---- the end -----------------------------------------------------------------------------------


def test_draining_and_closing_tell_everybody(stage: Stage) -> None:
    """First a warning with a deadline, then the end; nothing of a session stays."""
    devices = talking(stage)
    stage.hub.drain(5.0)
    for device in devices:
        assert device.hears() == [frames.GoAway(ErrorCode.GOING_AWAY, 5_000, "")]
    stage.hub.close()
    for device in devices:
        (close,) = device.hears()
        assert isinstance(close, frames.Close)
        assert close.code == ErrorCode.GOING_AWAY
    assert stage.hub.sessions == 0
    assert len(stage.hub._conversations._topics) == 0, "what was loaded is let go"


def test_topics_are_let_go_when_nobody_needs_them(stage: Stage) -> None:
    """Also after refusals, moves and groups: memory follows what is open."""
    alice, bob = talking(stage)
    alice.sends(1, 1)
    bob.says(1, frames.Ack(1), frames.Read(1, True))
    alice.says(CONTROL, frames.Create(1, "#team", ("bob",), False), frames.Link(2))
    alice.opens(2, "#nothing")
    stage.writer.deferred = True
    alice.says(3, frames.Open("#team", 0, 0, 0))
    alice.session.receive_reset(3, 0, 1.0)
    stage.hub.pump(alice.session)
    stage.writer.commit()
    for device in (alice, bob):
        device.session.receive_reset(1, 0, 1.0)
        stage.hub.pump(device.session)
    assert len(stage.hub._conversations._topics) == 0
