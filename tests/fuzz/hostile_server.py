"""A hostile server against a client's sessions and mailbox, beside a program that takes, reads, sends and
cancels.

Nothing may be raised, the client never says what it cannot stand for (an acknowledgement of what was not
processed, a frame that is none), no message leaves the outbox unnoticed, and what the program is shown goes
forward only.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

from fuzz.codec import mutated
from fuzz.grammar import Grammar, pieces
from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.conversation import Conversation
from quicmsg.protocol.frames import Frame
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import OutboxMessage
from quicmsg.protocol.session import SessionState

STEPS: Final = 150
CONVERSATIONS: Final = ("@bob", "@carol", "#team", "#other")
DEVICE: Final = b"d" * 16
_REQUESTS: Final = (frames.Create, frames.Invite, frames.Join, frames.Leave, frames.Link)
_FROM_SERVER: Final = (
    frames.SyncPage, frames.Notice, frames.Ping, frames.Pong, frames.Moved, frames.Done, frames.Failed,
    frames.GoAway,
)  # fmt: skip
_ON_CHANNELS: Final = (
    frames.Opened, frames.Accepted, frames.Rejected, frames.Deliver, frames.Deliver, frames.Receipt,
    frames.Page,
    frames.Refused,
)  # fmt: skip
_SESSION_EVENTS: Final = (
    events.SignedIn, events.SignInRefused, events.SessionEnded, events.PathSuspect, events.RaceWanted,
    events.LinkHeard, events.RequestFailed, events.RequestDone, events.PageArrived, events.LinkSilent,
    events.PongReceived, events.AddressObserved, events.GoingAway,
)  # fmt: skip


class Victim:
    """One client: its mailbox, its program, and the connection that the hostile server has to it."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.now = 100.0
        self.mailbox = Mailbox("alice", DEVICE)
        self.grammar = Grammar(random, names=("alice", "bob", "carol"), conversations=CONVERSATIONS)
        self.grammar.wildness = random.choice((0.0, 0.01, 0.1))
        self.own_words = Grammar(random, names=("alice", "bob", "carol"), conversations=CONVERSATIONS)
        self.own_words.wildness = 0.0
        self.inputs = 0
        self.opens: Counter[str] = Counter()
        self.sent: set[bytes] = set()
        self.submitted: dict[bytes, str] = {}
        self.gone: dict[bytes, str] = {}
        self.taken: dict[str, tuple[int, int]] = {}
        self.working: list[tuple[str, int, int]] = []
        self._count = 0
        for name in CONVERSATIONS[: random.randint(0, 3)]:
            position = random.choice((0, 3, 70))
            self.mailbox.restore(
                Conversation(name, epoch=7 if position else 0, position=position, head=position, stale=True)
            )
        self._connect()

    def run(self) -> Counter[str]:
        for _ in range(STEPS):
            self._step()
            self._check()
        return Counter(inputs=self.inputs, sessions=self._count, shown=len(self.taken))

    # ---- private: what happens

    def _step(self) -> None:
        draw, now = self.random.random(), self.now
        if self.session.state is SessionState.CLOSED or draw < 0.01:
            self.session.connection_lost(ErrorCode.UNREACHABLE, "gone", now)
            self._pumped()
            self._connect()
        elif draw < 0.55:
            self._attack()
        elif draw < 0.58:
            self._end_channel()
        elif draw < 0.68:
            self._program()
        elif draw < 0.8:
            self._person()
        elif draw < 0.9:
            self.now += self.random.choice((0.0, 0.01, 1.0, 3.0, 20.0))
            due = self.session.get_timer()
            if due is not None and due <= self.now:
                self.session.handle_timer(self.now)
            self.session.doubt(self.mailbox.escalate(self.now), self.now)
        elif draw < 0.93:
            self.session.backlog_changed(self.random.choice((0, 0, limits.OUTPUT_MAX + 1)), now)
        elif draw < 0.96:
            self.session.path_changed("10.0.0.2:2", now)
        else:
            self.session.set_foreground(self.random.random() < 0.5, now)
        self._pumped()

    def _connect(self) -> None:
        early = self.random.random() < 0.7
        self._count += 1
        self.session = ClientSession(
            self.mailbox, sign=self._sign, agent="fuzz", foreground=False, now=self.now, early=early
        )
        self.channels: dict[int, str] = {}
        self.over: set[int] = set()
        self.fed: Counter[int] = Counter()
        self.credited: Counter[int] = Counter()
        self.covered: dict[int, int] = {}
        self.asked: dict[int, list[bytes]] = {}
        self._readers: dict[int, FrameReader] = {}
        self.session.connected(channel_binding=bytes(32), observed_address="10.0.0.1:1", now=self.now)
        if self.random.random() < 0.9:
            epoch = self.random.choice((7, 7, 7, 8))
            welcome = frames.Welcome(1, "alice", DEVICE, epoch, 1, "10.0.0.1:1", 0, limits.BODY_SIZE_MAX, ())
            self._feed(0, encode(welcome))
            if not early:
                self.session.attach(self.now)
        self._pumped()

    def _sign(self, binding: bytes) -> frames.Authenticate:
        return frames.Authenticate("alice", b"k" * 32, b"s" * 64, "", "")

    def _attack(self) -> None:
        random = self.random
        open_channels = [channel for channel in self.channels if channel not in self.over]
        channel = 0 if random.random() < 0.3 or not open_channels else random.choice(open_channels)
        said = [self._bytes(channel) for _ in range(random.choice((1, 1, 2, 5)))]
        if channel and random.random() < 0.05:
            start = self.mailbox.conversations[self.channels[channel]].received
            said += [encode(self._entry(start + number)) for number in range(1, 80)]
        self.inputs += len(said)
        for part in pieces(random, b"".join(said)):
            self._feed(channel, part)

    def _end_channel(self) -> None:
        channel = self.random.choice(
            [0, *self.channels] if self.random.random() < 0.02 else list(self.channels) or [0]
        )
        if channel in self.over or (channel == 0 and self.random.random() < 0.95):
            return
        self.over.add(channel)
        if self.random.random() < 0.5:
            self.session.receive_data(channel, b"", True, self.now)
        else:
            self.session.receive_reset(channel, self.grammar.number(0, 2**62), self.now)

    def _feed(self, channel: int, data: bytes) -> None:
        if channel in self.over:
            return
        self.fed[channel] += len(data)
        self.session.receive_data(channel, data, False, self.now)
        self._pumped()

    def _program(self) -> None:
        """Take entries, or be done with some: in order for each conversation."""
        taken = self.mailbox.take()
        if taken is not None and self.random.random() < 0.7:
            name, entry = taken
            found = self.mailbox.conversations[name]
            epoch, before = self.taken.get(name, (found.epoch, 0))
            assert found.epoch != epoch or entry.seq > before or found.resync_until, (
                f"{name}: {entry.seq} again"
            )
            self.taken[name] = (found.epoch, entry.seq)
            self.working.append((name, entry.seq, found.epoch))
        elif taken is not None:
            self.mailbox.put_back(*taken)
        while self.working and self.random.random() < 0.7:
            name, seq, epoch = self.working.pop(0)
            self.mailbox.processed(name, self.mailbox.position_after(name, seq), epoch)
            self.session.service(self.now)

    def _person(self) -> None:
        random, mailbox = self.random, self.mailbox
        name = random.choice(CONVERSATIONS)
        match random.randrange(6):
            case 0 | 1:
                message_id = len(self.submitted).to_bytes(16, "big")
                self.submitted[message_id] = name
                mailbox.submit(OutboxMessage(message_id, name, 0, 0, b"hi", self.now), self.now)
            case 2 if self.submitted:
                mailbox.resend(random.choice(list(self.submitted)), self.now)
            case 3 if self.submitted:
                message_id = random.choice(list(self.submitted))
                if mailbox.outbox.cancel(message_id, self.now) is not None:
                    self.gone[message_id] = "cancelled"
            case 4 if name in mailbox.conversations:
                mailbox.read(name, random.choice((0, 1, 5, limits.SEQ_MAX)), public=random.random() < 0.5)
            case 5 if self.session.state is SessionState.UP:
                if random.random() < 0.5:
                    self.session.request(self.own_words.frame(random.choice(_REQUESTS)))  # type: ignore[arg-type]
                else:
                    self.session.fetch(
                        name, ref=random.randint(1, 5), after=0, before=0, limit=9, now=self.now
                    )
        self.session.service(self.now)

    def _bytes(self, channel: int) -> bytes:
        try:
            data = encode(self._frame(channel))
        except AssertionError:
            return encode(frames.Ping(0))
        draw = self.random.random()
        return mutated(self.random, data, 1) if draw < 0.005 else data

    def _frame(self, channel: int) -> Frame:
        grammar, draw = self.grammar, self.random.random()
        if draw < 0.006:
            return grammar.any_of(frames.CONTROL_FRAMES + frames.CONVERSATION_FRAMES)
        if channel == 0:
            return grammar.any_of(_FROM_SERVER)
        name = self.channels[channel]
        found = self.mailbox.conversations[name]
        grammar.positions = [
            0,
            1,
            found.received + 1,
            found.received + 1,
            found.received,
            found.head,
            found.position,
        ]
        kind = self.random.choice(_ON_CHANNELS)
        if kind is frames.Deliver and draw < 0.8:
            device = DEVICE if draw < 0.1 else b"e" * 16
            return grammar.frame(kind, seq=found.received + 1, device=device, kind=self._kind())
        if kind in (frames.Accepted, frames.Rejected) and self.asked.get(channel):
            return grammar.frame(kind, message_id=self.asked[channel].pop(0))
        if kind is frames.Refused and draw < 0.6:
            kind = frames.Receipt
        if kind in (frames.Accepted, frames.Rejected) and draw < 0.9:
            kind = frames.Opened
        return grammar.frame(kind)

    def _entry(self, seq: int) -> Frame:
        return frames.Deliver(seq, self.random.randbytes(16), "bob", b"e" * 16, 0, 0, b"", 1)

    def _kind(self) -> int:
        return self.random.choice((0, 0, 0, 1, 2, 3, 9))

    # ---- private: what comes of it

    def _pumped(self) -> None:
        while (event := self.mailbox.next_event()) is not None:
            self._note(event)
        while (event := self.session.next_event()) is not None:
            assert isinstance(event, _SESSION_EVENTS), event
        for channel, size in self.session.take_consumed():
            self.credited[channel] += size
            assert self.credited[channel] <= self.fed[channel], (
                f"channel {channel}: more was credited than came"
            )
        for item in self.session.data_to_send():
            if item.reset is not None:
                self.over.add(item.channel)
                continue
            reader = self._readers.setdefault(item.channel, FrameReader(control=item.channel == 0))
            reader.feed(item.data)
            while (frame := reader.next_frame()) is not None:
                self._said(item.channel, frame)
            assert reader.buffered == 0, "half a frame was written"

    def _note(self, event: events.Event) -> None:
        match event:
            case events.MessageStored():
                assert event.entry is not None or event.message_id in self.sent, "an answer to nothing"
                if event.known:
                    assert event.message_id not in self.gone, (
                        f"{event} of what is {self.gone[event.message_id]}"
                    )
                    self.gone[event.message_id] = "stored"
                epoch = self.mailbox.conversations[event.conversation].epoch
                self.mailbox.own_kept(event.conversation, event.position, epoch)
            case events.PositionsChanged():
                assert 0 <= event.delivered_from <= event.delivered_to or event.delivered_to == 0, event
                assert event.read_to <= max(event.delivered_to, event.read_from, event.read_to), event

    def _said(self, channel: int, frame: Frame) -> None:
        """What the client writes is what a server's decoder takes, and true."""
        match frame:
            case frames.Open():
                assert channel not in self.channels, "a channel was opened twice"
                self.channels[channel] = frame.conversation
                self.opens[frame.conversation] += 1
                assert frame.position <= frame.received
            case frames.Send():
                assert self.submitted[frame.message_id] == self.channels[channel]
                self.sent.add(frame.message_id)
                self.asked.setdefault(channel, []).append(frame.message_id)
            case frames.Ack():
                assert frame.position <= self.mailbox.conversations[self.channels[channel]].position
            case frames.Read():
                assert frame.position <= self.mailbox.conversations[self.channels[channel]].position

    def _check(self) -> None:
        mailbox, session = self.mailbox, self.session
        for message_id in self.submitted:
            inside = message_id in mailbox.outbox
            assert inside != (message_id in self.gone), f"{message_id.hex()} is in {inside} places"
        for found in mailbox.conversations.values():
            assert 0 <= found.position <= found.received <= limits.SEQ_MAX, found
            assert found.read <= max(found.position, found.read_told), found
            windows = self.opens[found.name] * limits.DELIVER_WINDOW_MESSAGES
            assert len(found.inbox) <= windows, f"{found.name} holds {len(found.inbox)} of {windows}"
        assert len(session._channels) <= limits.SERVER_CHANNELS_MAX
        close: Any = session.take_close()
        assert close is None or session.state is SessionState.CLOSED


def case(random: Random) -> Counter[str]:
    """One victim."""
    return Victim(random).run()
