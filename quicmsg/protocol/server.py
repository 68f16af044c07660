"""A server's end of one connection: sign-in, control channel, liveness.

What a client asks becomes an event; the hub answers by calling a command (`welcome`, `opened`, `accept`,
`deliver` ...). Nothing is read from a conversation channel before the client is signed in: its bytes
are parked, within a bound, and read at once and in their order when it is.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from quicmsg import limits
from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.protocol import events, frames
from quicmsg.protocol.budget import Tokens, fetch_cost
from quicmsg.protocol.channels import ServerChannel
from quicmsg.protocol.frames import CONTROL, ChangeEntry, Frame
from quicmsg.protocol.heartbeat import Beat
from quicmsg.protocol.server_conversations import ServerConversations
from quicmsg.protocol.session import Channel, SessionState


class ServerSession(ServerConversations):
    """A server's end of one connection.

    `user` and `device` are set by `welcome`; `account_head` is the latest change that concerns this user,
    raised by the hub, and carried by every Pong.
    """

    def __init__(self, *, now: float) -> None:
        super().__init__(now=now)
        self.device = b""
        self.agent = ""
        self.foreground = False
        self._channels[CONTROL] = Channel(CONTROL, control=True)
        self._binding = b""
        self._parked: list[tuple[int, bytes, bool]] = []
        self._parked_size = 0
        self._control_size = 0
        self._asked_sign_in = False
        self._hello: frames.Hello | None = None
        self._requests = 0
        self._leaving: tuple[int, str, float] | None = None
        self._control_tokens = Tokens(limits.CONTROL_RATE, limits.CONTROL_BURST, now)
        self._late_syncs: deque[events.SyncRequested] = deque()

    # ---- input from the transport

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        """The handshake is complete; the client must sign in within SIGN_IN_TIMEOUT."""
        self.state = SessionState.SIGNING_IN
        self.created_at = now
        self.observed_address = observed_address
        self._binding = channel_binding
        self.heartbeat.received(now)

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """See Session.receive_data; parks conversation channels until the client is signed in."""
        if self.state is SessionState.SIGNING_IN:
            if channel == CONTROL:
                self._control_size += len(data)
                if self._control_size > limits.SIGN_IN_SIZE_MAX:
                    self._end(ErrorCode.LIMIT, "too much before sign-in", remote=False, now=now)
                    return
            else:
                self._park(channel, data, end, now)
                return
        super().receive_data(channel, data, end, now)

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        """See Session.receive_reset; what was parked of that channel is forgotten with it."""
        if self.state is SessionState.SIGNING_IN and channel != CONTROL:
            self._parked = [piece for piece in self._parked if piece[0] != channel]
            self._ends[channel] = code
            return
        super().receive_reset(channel, code, now)

    def path_changed(self, observed_address: str, now: float) -> None:
        """The client has a new address, and the path to it is validated: tell it, and the hub."""
        if self.state is SessionState.CLOSED or observed_address == self.observed_address:
            return
        old, self.observed_address = self.observed_address, observed_address
        if self.state is SessionState.UP:
            self._write(CONTROL, frames.Moved(observed_address))
            self._events.append(events.ClientMoved(old, observed_address))

    def get_timer(self) -> float | None:
        """See Session.get_timer."""
        if self.state is SessionState.CLOSED:
            return None
        if self.state is not SessionState.UP:
            return self.created_at + limits.SIGN_IN_TIMEOUT
        due = self.heartbeat.due()
        if self._leaving is not None:
            due = min(due, self._leaving[2])
        if self._receipts_due is not None:
            due = min(due, self._receipts_due)
        if self._starved or self._late_syncs:
            due = min(due, self.budget.sends.due())
        if self._silent:
            due = min(due, next(iter(self._silent.values())))
        return due

    def handle_timer(self, now: float) -> None:
        """See Session.handle_timer."""
        if self.state is SessionState.CLOSED:
            return
        if self.state is not SessionState.UP:
            if now >= self.created_at + limits.SIGN_IN_TIMEOUT:
                self._end(ErrorCode.TIMEOUT, "no sign-in in time", remote=False, now=now)
            return
        if self._leaving is not None and now >= self._leaving[2]:
            self._end(self._leaving[0], self._leaving[1], remote=True, now=now)
            return
        beat = self.heartbeat.poll(now)
        if beat is Beat.DOWN:
            self._end(ErrorCode.TIMEOUT, "nothing was heard of the client", remote=False, now=now)
            return
        if beat is not Beat.NOTHING:
            self._write(CONTROL, frames.Ping(self.heartbeat.ping(now)))
        if self._receipts_due is not None and now >= self._receipts_due:
            self._receipts_due = None
            for channel in self._by_name.values():
                self._flush_receipts(channel)
        self._end_silent(now)
        self._feed_starved(now)
        self._next_syncs(now)

    # ---- commands: sign-in and control

    def welcome(
        self, *, user: str, device: bytes, epoch: int, account_head: int, time_ms: int, now: float
    ) -> None:
        """The sign-in is good: take up the parked bytes, in the order in which they came."""
        if self.state is not SessionState.SIGNING_IN:
            return
        self.state = SessionState.UP
        self.user = user
        self.device = device
        self.account_head = account_head
        self._write(
            CONTROL,
            frames.Welcome(
                frames.PROTOCOL_VERSION, user, device, epoch, time_ms, self.observed_address,
                account_head, limits.BODY_SIZE_MAX, (),
            ),
        )  # fmt: skip
        parked, self._parked = self._parked, []
        for channel, data, end in parked:
            super().receive_data(channel, data, end, now)

    def refuse_sign_in(self, code: int, text: str, now: float) -> None:
        """The sign-in is not good; the connection ends."""
        if self.state is SessionState.SIGNING_IN:
            self._end(code, text, remote=False, now=now)

    def sync_page(self, epoch: int, entries: Sequence[ChangeEntry], cursor: int, *, more: bool) -> None:
        """Answer to SyncRequested."""
        if self.state is SessionState.UP:
            self._requests -= 1
            self._write(CONTROL, frames.SyncPage(epoch, tuple(entries), cursor, more))

    def done(self, ref: int, text: str = "") -> None:
        """A request of this ref is durably done."""
        if self.state is SessionState.UP:
            self._requests -= 1
            self._write(CONTROL, frames.Done(ref, text))

    def failed(self, ref: int, code: int, text: str) -> None:
        """A request of this ref was refused."""
        if self.state is SessionState.UP:
            self._requests -= 1
            self._write(CONTROL, frames.Failed(ref, int(code), text[: limits.TEXT_SIZE_MAX]))

    def go_away(self, code: int, deadline: float) -> None:
        """The server stops: the client should finish and come back later."""
        if self.state is SessionState.UP:
            self._write(CONTROL, frames.GoAway(int(code), int(deadline * 1000), ""))

    # ---- private: parking

    def _park(self, channel: int, data: bytes, end: bool, now: float) -> None:
        self._parked_size += len(data)
        if self._parked_size > limits.PARKED_SIZE_MAX or len(self._parked) >= limits.PARKED_PIECES_MAX:
            self._end(ErrorCode.LIMIT, "too much before sign-in", remote=False, now=now)
            return
        self._parked.append((channel, data, end))

    # ---- private: channels

    def _channel_ended(self, channel: Channel, now: float) -> None:
        if not isinstance(channel, ServerChannel):
            self._end(ErrorCode.NO_ERROR, "", remote=True, now=now)
        elif channel.idle():
            self._flush_receipts(channel)
            if channel.opened and channel.head > channel.covered.value:
                # It was told of by `advance` while this channel was open: nobody else would say it.
                self._noticed.discard(channel.conversation)
                self._notice(channel.conversation, channel.head, self.account_head)
            self._forget(channel)
            self._finish_channel(channel)

    # ---- private: frames

    def _handle_frame(self, channel: Channel, frame: Frame, now: float) -> None:
        if isinstance(channel, ServerChannel):
            if channel.conversation:
                self._handle_conversation(channel, frame, now)
            else:
                self._handle_open(channel, frame, now)
        elif self.state is SessionState.SIGNING_IN:
            self._handle_sign_in(frame)
        else:
            if not self._control_tokens.spend(1, now):
                raise ProtocolError("too many frames on the control channel", code=ErrorCode.LIMIT)
            self._handle_control(frame, now)

    def _handle_sign_in(self, frame: Frame) -> None:
        match frame:
            case frames.Hello() if self._hello is None:
                version = frames.PROTOCOL_VERSION
                if not frame.version_min <= version <= frame.version_max:
                    raise ProtocolError(
                        f"this server speaks version {version}; update the client", code=ErrorCode.VERSION
                    )
                self._hello = frame
                self.agent = frame.agent
                self.foreground = frame.foreground
            case frames.Authenticate() if self._hello is not None and not self._asked_sign_in:
                self._asked_sign_in = True
                self._events.append(
                    events.SignInRequested(
                        frame.user, frame.public_key, frame.signature, self._binding, frame.label, frame.code
                    )
                )
            case frames.Ping():
                self._write(CONTROL, frames.Pong(frame.number, 0, 0))
            case _:
                raise ProtocolError(f"{type(frame).__name__} before sign-in", code=ErrorCode.SIGN_IN_REQUIRED)

    def _handle_control(self, frame: Frame, now: float) -> None:
        match frame:
            case frames.Ping():
                self._write(CONTROL, frames.Pong(frame.number, 0, self.account_head))
            case frames.Pong():
                self.heartbeat.pong(frame.number, now)
            case frames.Sync():
                self._count_request()
                self._noticed.clear()
                self._late_syncs.append(events.SyncRequested(frame.epoch, frame.cursor))
                self._next_syncs(now)
            case frames.State():
                self.foreground = frame.foreground
            case frames.Create():
                self._group(frame.ref, "create", frame.conversation, frame.members, frame.open, now)
            case frames.Invite():
                self._group(frame.ref, "invite", frame.conversation, (frame.user,), False, now)
            case frames.Join():
                self._group(frame.ref, "join", frame.conversation, (), False, now)
            case frames.Leave():
                self._group(frame.ref, "leave", frame.conversation, (), False, now)
            case frames.Link():
                if self._may_request(frame.ref, now):
                    self._events.append(events.LinkRequested(frame.ref))
            case frames.Close():
                # Its last acknowledgements may be behind it, on other channels: the client closes the
                # connection itself once they have arrived. It gets a while for that, not for ever.
                self._leaving = (frame.code, frame.text, now + limits.CLOSE_TIMEOUT)
            case _:
                raise ProtocolError(f"{type(frame).__name__} from a client", code=ErrorCode.UNEXPECTED)

    def _group(
        self, ref: int, action: str, conversation: str, users: tuple[str, ...], open_: bool, now: float
    ) -> None:
        # Each person who is added pays: all at once is not cheaper than one by one.
        if self._may_request(ref, now, cost=max(len(users), 1)):
            self._events.append(events.GroupRequested(ref, action, conversation, users, open_))

    def _next_syncs(self, now: float) -> None:
        """Each costs as much as a page of history: the disk is read for it."""
        sends = self.budget.sends
        while self._late_syncs and sends.level(now) >= 1:
            sends.spend(fetch_cost(limits.SYNC_PAGE_ENTRIES), now)
            self._events.append(self._late_syncs.popleft())

    def _may_request(self, ref: int, now: float, *, cost: int = 1) -> bool:
        """One request of the user's long-term rate; without one it is refused, with the time to wait."""
        requests = self.budget.requests
        if requests.level(now) < 1:
            wait = math.ceil(requests.due() - now)
            text = f"too many requests: try again in {wait} s"
            self._write(CONTROL, frames.Failed(ref, ErrorCode.BUSY, text))
            return False
        requests.spend(cost, now)
        self._count_request()
        return True

    def _count_request(self) -> None:
        self._requests += 1
        if self._requests > limits.REQUESTS_MAX:
            raise ProtocolError("too many requests at once", code=ErrorCode.LIMIT)
