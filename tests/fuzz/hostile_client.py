"""A hostile client: what it sends, how it listens, and what must hold for the session that it talks to."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

from server.hubrig import Rig

from fuzz.codec import mutated
from fuzz.grammar import Grammar, pieces
from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.channels import ServerChannel
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import Frame
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState

NAMES: Final = ("alice", "bob", "mallory", "eve")
CONVERSATIONS: Final = ("@alice", "@bob", "@mallory", "@eve", "#team", "#secret", "#new")
SECRET: Final = b"secret"
"""What only the members of #secret may ever get."""
_REQUESTS: Final = (
    frames.Sync,
    frames.Ping,
    frames.Pong,
    frames.State,
    frames.Create,
    frames.Invite,
    frames.Join,
    frames.Leave,
    frames.Link,
)
_CONTROL: Final = (frames.Hello, frames.Authenticate, *_REQUESTS)
_CONVERSATION: Final = (frames.Send, frames.Ack, frames.Read, frames.Fetch)
_UNKNOWN: Final = b"\x00\x00\x00\x04\x93\x7f\xc3\x90"


class Attacker:
    """A hostile client: a session, and what it has sent and heard."""

    def __init__(self, random: Random, rig: Rig, user: str, number: int) -> None:
        self.random, self.rig = random, rig
        self.user = user
        self.key = key_of(user, number)
        self.grammar = Grammar(random, names=NAMES, conversations=CONVERSATIONS)
        self.grammar.wildness = random.choice((0.0, 0.005, 0.1))
        self.fed: Counter[int] = Counter()
        self.credited: Counter[int] = Counter()
        self.used: list[int] = [1]
        self.over: set[int] = set()
        self.said_goodbye: list[tuple[int, str]] = []
        self.is_gone = False
        self.unacknowledged = 0
        self.session = ServerSession(now=self.rig.time)
        self._readers: dict[int, FrameReader] = {}
        self.rig.hub.attach(self.session, lambda: None)
        self.session.connected(channel_binding=bytes(32), observed_address="192.0.2.6:6", now=self.rig.time)

    @property
    def is_closed(self) -> bool:
        return self.session.state is SessionState.CLOSED

    def sign_in(self) -> None:
        signature = (b"x" if self.random.random() < 0.05 else b"s") * 64
        hello = frames.Hello(1, 1, "fuzz", (), False)
        self.feed(0, encode(hello) + encode(frames.Authenticate(self.user, self.key, signature, "", "")))

    def attack(self) -> int:
        """Say something on some channel; how many frames that were."""
        random = self.random
        channel = 0 if random.random() < 0.25 else self._channel()
        count = random.choice((1, 1, 2, 4, 10))
        said = []
        if channel and self.fed[channel] == 0 and random.random() < 0.85:
            said.append(encode(self.grammar.frame(frames.Open)))
        said += [self._bytes(channel) for _ in range(count)]
        if channel and random.random() < 0.05:
            said += [encode(frames.Send(random.randbytes(16), 0, 0, bytes(limits.BODY_SIZE_MAX)))] * 5
        if channel == 0 and random.random() < 0.01:
            goodbye = frames.Close(
                self.grammar.number(0, 2**30), random.choice(("", "bye\x1b[2J", "\U0001f600" * 256))
            )
            said.append(encode(goodbye))
            self.said_goodbye.append((goodbye.code, goodbye.text))
        parts = pieces(random, b"".join(said))
        end = random.random() < (0.06 if channel else 0.003)
        for index, part in enumerate(parts):
            self.feed(channel, part, end and index == len(parts) - 1)
        return len(said)

    def feed(self, channel: int, data: bytes, end: bool = False) -> None:
        """As the transport does: within the window of the stream, nothing behind its end."""
        if channel in self.over or self.is_gone:
            return
        if self.fed[channel] - self.credited[channel] + len(data) > limits.STREAM_WINDOW:
            return
        self.fed[channel] += len(data)
        if end:
            self.over.add(channel)
        self.session.receive_data(channel, data, end, self.rig.time)
        self._pumped()

    def reset(self) -> None:
        channel = self._channel() if self.random.random() < 0.995 else 0
        if channel not in self.over and not self.is_gone:
            self.over.add(channel)
            self.session.receive_reset(channel, self.grammar.number(0, 2**62), self.rig.time)
            self._pumped()

    def vanish(self) -> None:
        if not self.is_gone:
            self.is_gone = True
            self.session.connection_lost(ErrorCode.UNREACHABLE, "gone", self.rig.time)
            self.rig.hub.pump(self.session)

    def tick(self) -> None:
        """The session's timer, if it is due."""
        due = self.session.get_timer()
        if due is not None and due <= self.rig.time and not self.is_gone:
            self.session.handle_timer(self.rig.time)
            self._pumped()

    def listen(self) -> None:
        """Take what the session says, perhaps without acknowledging it to the transport."""
        for item in self.session.data_to_send():
            if item.reset is not None:
                assert item.reset in ErrorCode.__members__.values() or item.channel in self.over
                continue
            reader = self._readers.setdefault(item.channel, FrameReader(control=item.channel == 0))
            reader.feed(item.data)
            while (frame := reader.next_frame()) is not None:
                self._heard(frame)
            assert reader.buffered == 0, "half a frame was written"
            self.unacknowledged += len(item.data)
        if self.random.random() < 0.8:
            self.unacknowledged = 0
        if self.unacknowledged > limits.SEND_BUFFER_MAX:
            self.vanish()
        elif not self.is_gone:
            self.session.backlog_changed(self.unacknowledged, self.rig.time)
            self._pumped()

    # ---- what must hold

    def check(self) -> None:
        session = self.session
        assert len(session._channels) <= limits.SERVER_CHANNELS_MAX + 1
        assert session._parked_size <= limits.PARKED_SIZE_MAX or self.is_closed
        for found in session._channels.values():
            if isinstance(found, ServerChannel):
                assert found.acknowledged <= found.covered.value, "a receipt was forged"
        assert 0 <= session._operations <= limits.OPERATIONS_MAX
        assert len(session._events) == 0, "the hub has left events"
        assert all(size >= 0 for _, size in self.credited.items())
        for channel, size in self.credited.items():
            assert size <= self.fed[channel], f"channel {channel}: more was credited than came"
        close = session.take_close()
        if close is not None:
            assert close[0] in ErrorCode.__members__.values() or close in self.said_goodbye, close
            assert len(close[1]) <= limits.TEXT_SIZE_MAX
            assert self.is_closed

    def check_credit(self) -> None:
        """Everything is answered: what was not credited is still to be read, or was given up by the peer."""
        if self.session.state is not SessionState.UP or self.session._starved:
            return
        for channel, size in self.fed.items():
            found = self.session._channels.get(channel)
            left = found.reader.buffered if found is not None else 0
            if channel not in self.over:
                assert size - self.credited[channel] == left, f"channel {channel}: window lost"

    # ---- private

    def _channel(self) -> int:
        draw = self.random.random()
        if draw < 0.6:
            return self.random.choice(self.used)
        channel = self.random.randint(1, 9) if draw < 0.97 else self.grammar.number(1, 2**60)
        self.used.append(channel)
        return channel

    def _bytes(self, channel: int) -> bytes:
        frame = self._frame(channel)
        try:
            data = encode(frame)
        except AssertionError:
            return encode(frames.Ping(0))  # above what a frame may have: nothing that could be sent
        if isinstance(frame, frames.Close):
            self.said_goodbye.append((frame.code, frame.text))
        draw = self.random.random()
        if draw < 0.004:
            return mutated(self.random, data, 1)
        if draw < 0.006:
            return self.random.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\x01\0\x01"))
        return data + _UNKNOWN if draw < 0.04 else data

    def _frame(self, channel: int) -> Frame:
        draw, grammar = self.random.random(), self.grammar
        if draw < 0.005:
            return grammar.any_of(frames.CONTROL_FRAMES + frames.CONVERSATION_FRAMES)
        if channel == 0:
            return grammar.any_of(_CONTROL if draw > 0.97 else _REQUESTS)
        if draw < 0.05:
            return grammar.any_of((frames.Open, *frames.CONVERSATION_FRAMES))
        return grammar.any_of(_CONVERSATION)

    def _heard(self, frame: Frame) -> None:
        match frame:
            case frames.Opened():
                self.grammar.positions = [0, 1, frame.head, frame.head + 1, frame.position, frame.oldest]
            case frames.Deliver():
                assert not frame.body.startswith(SECRET), "a secret was delivered"
                self.grammar.positions = [0, frame.seq, frame.seq, frame.seq - 1, frame.seq + 1]
                self.grammar.ids[3] = frame.message_id
            case frames.Page():
                assert not any(entry.body.startswith(SECRET) for entry in frame.entries), (
                    "a secret was fetched"
                )
            case frames.SyncPage():
                assert not any(entry.conversation == "#secret" for entry in frame.entries)
            case frames.Refused() | frames.Rejected() | frames.Failed() | frames.Close() | frames.GoAway():
                assert frame.code in ErrorCode.__members__.values(), frame

    def _pumped(self) -> None:
        self.rig.hub.pump(self.session)
        for channel, size in self.session.take_consumed():
            assert size > 0
            self.credited[channel] += size


def key_of(user: str, number: int) -> bytes:
    """The public key of a hostile device (bob's is not the real bob's)."""
    return f"{user}{number}".encode().ljust(32, b"!")
