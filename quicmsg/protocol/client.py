"""One connection of a client: sign-in, control channel, liveness, moves.

Life: connected (the TLS handshake is complete) -> Hello, Authenticate and, in the same flight, what the
mailbox wants to say (the server parks it until the sign-in is checked) -> Welcome -> Sync -> traffic.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from quicmsg import limits
from quicmsg.errors import SIGN_IN_CODES, ErrorCode, error_code
from quicmsg.protocol import events, frames
from quicmsg.protocol.channels import ClientChannel
from quicmsg.protocol.client_conversations import ClientConversations
from quicmsg.protocol.frames import CONTROL, ChangeEntry, Frame
from quicmsg.protocol.heartbeat import Beat
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import Escalation
from quicmsg.protocol.session import Channel, SessionState

Request = frames.Create | frames.Invite | frames.Join | frames.Leave | frames.Link
Sign = Callable[[bytes], frames.Authenticate]
"""Makes the Authenticate frame for a channel binding (`signin.py`)."""


class ClientSession(ClientConversations):
    """A client's end of one connection.

    Args:
        mailbox: what the client knows; at most one signed-in session works on it.
        sign: makes Authenticate from the connection's channel binding.
        agent: name and version of the program, for logs.
        foreground: a person is looking: pings come often enough to turn red within seconds.
        early: work on the mailbox in the first flight, before Welcome. False for a session that races
            another one: two sessions must not write the same rows; the shell calls `attach` when it won.
    """

    def __init__(
        self, mailbox: Mailbox, *, sign: Sign, agent: str, foreground: bool, now: float, early: bool = True
    ) -> None:
        super().__init__(mailbox, now=now)
        self.body_size_max = limits.BODY_SIZE_MAX
        self._sign = sign
        self._agent = agent
        self._foreground = foreground
        self._early = early
        self._requests: set[int] = set()
        self._move_pings: list[float] = []
        self._moved_at: float | None = None
        self._stall: float | None = None
        self._silent = False
        self._syncing = False

    # ---- input

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        """The transport is ready: sign in, and say at once what waits."""
        self.state = SessionState.SIGNING_IN
        self._channels[CONTROL] = Channel(CONTROL, control=True)
        version = frames.PROTOCOL_VERSION
        self._write(CONTROL, frames.Hello(version, version, self._agent, (), self._foreground))
        self._write(CONTROL, self._sign(channel_binding))
        self.heartbeat.received(now)
        if self._early:
            self.attach(now)

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """See Session.receive_data."""
        super().receive_data(channel, data, end, now)
        self.service(now)

    def path_changed(self, observed_address: str, now: float) -> None:
        """Our own socket was replaced: tell the server at once, and again (see limits.MOVE_PINGS)."""
        if self.state is SessionState.UP:
            self._moved_at = now
            self._stall = None
            self._move_pings = [now + delay for delay in limits.MOVE_PINGS]
            self.handle_timer(now)

    def get_timer(self) -> float | None:
        """See Session.get_timer."""
        if self.state is SessionState.CLOSED:
            return None
        if self.state is not SessionState.UP:
            return self.created_at + limits.CONNECT_TIMEOUT
        due = self.heartbeat.due()
        if self._move_pings:
            due = min(due, self._move_pings[0])
        for _, at in self._failures.values():
            due = min(due, at)
        if self._by_name:
            oldest = next(iter(self._by_name.values()))
            due = min(due, oldest.used_at + limits.CHANNEL_IDLE)
        return due

    def handle_timer(self, now: float) -> None:
        """See Session.handle_timer."""
        if self.state is SessionState.CLOSED:
            return
        if self.state is not SessionState.UP:
            if now >= self.created_at + limits.CONNECT_TIMEOUT:
                self._end(ErrorCode.TIMEOUT, "no answer to the sign-in", remote=True, now=now)
            return
        self._beat(now)
        for name in [n for n, (_, at) in self._failures.items() if at <= now]:
            self._failures[name] = (self._failures[name][0], float("inf"))
            self.mailbox.touched[name] = None
        self._close_idle(now)
        self.service(now)

    # ---- commands

    def attach(self, now: float) -> None:
        """From now on this session, and no other, works on the mailbox."""
        if not self._attached:
            self._attached = True
            self.mailbox.touch_all()
            self.service(now)

    def doubt(self, steps: Collection[Escalation], now: float) -> None:
        """A message is unanswered for 3 s (PROBE) or longer (RACE): ping, and ask for another path."""
        if self.state is not SessionState.UP or not steps:
            return
        self._ping(now)
        self._events.append(events.RaceWanted() if Escalation.RACE in steps else events.PathSuspect())

    def request(self, frame: Request) -> None:
        """Send a request on channel 0; RequestDone or RequestFailed with its ref will follow."""
        self._requests.add(frame.ref)
        self._write(CONTROL, frame)

    def set_foreground(self, foreground: bool, now: float) -> None:
        """A person is looking at it, or not any more."""
        self._foreground = foreground
        if self.state is SessionState.UP:
            self._write(CONTROL, frames.State(foreground))
        self._update_activity(now)

    def _channel_ended(self, channel: Channel, now: float) -> None:
        if channel.number == CONTROL:
            self._end(ErrorCode.GOING_AWAY, "the server closed the control channel", remote=True, now=now)
            return
        self._finish_channel(channel)
        self._channels.pop(channel.number, None)
        self._channel_lost(channel, ErrorCode.NO_ERROR, now)

    # ---- private: liveness

    def _heard(self, now: float) -> None:
        if self._moved_at is not None and self._stall is None and now > self._moved_at:
            # While something was unanswered, the stall began with the silence, not with the move.
            unanswered = self.mailbox.outbox.conversations()
            began = self.heartbeat.silent_since if unanswered else self._moved_at
            self._stall = now - min(began, self._moved_at)
        super()._heard(now)
        if self._silent:
            self._silent = False
            self._events.append(events.LinkHeard())

    def _beat(self, now: float) -> None:
        while self._move_pings and self._move_pings[0] <= now:
            self._move_pings.pop(0)
            self._ping(now)
        beat = self.heartbeat.poll(now)
        if beat is Beat.NOTHING:
            return
        self._ping(now)
        if beat is Beat.SUSPECT:
            self._events.append(events.PathSuspect())
        elif beat is Beat.DOWN and not self._silent:
            self._silent = True
            self._events.append(events.LinkSilent())
            self._events.append(events.RaceWanted())

    def _ping(self, now: float) -> None:
        self._write(CONTROL, frames.Ping(self.heartbeat.ping(now)))

    def _update_activity(self, now: float) -> None:
        waiting = bool(self.mailbox.outbox.conversations()) or bool(self._requests)
        self.heartbeat.set_active(self._foreground or waiting, now)

    # ---- private: frames

    def _handle_frame(self, channel: Channel, frame: Frame, now: float) -> None:
        if isinstance(channel, ClientChannel):
            self._handle_conversation(channel, frame, now)
        elif self.state is SessionState.SIGNING_IN:
            self._handle_sign_in(frame, now)
        else:
            self._handle_control(frame, now)

    def _handle_sign_in(self, frame: Frame, now: float) -> None:
        match frame:
            case frames.Welcome():
                self.state = SessionState.UP
                self.observed_address = frame.observed_address
                self.body_size_max = frame.body_size_max
                self.mailbox.welcomed(frame.epoch)
                self._events.append(
                    events.SignedIn(frame.user, frame.device, frame.epoch, frame.observed_address)
                )
                self._sync()
            case frames.Close():
                code = error_code(frame.code)
                if code in SIGN_IN_CODES:
                    self._events.append(events.SignInRefused(code, frame.text))
                self._end(code, frame.text, remote=True, now=now)
            case frames.Ping():
                self._write(CONTROL, frames.Pong(frame.number, 0, self.mailbox.cursor))
            case _:
                self._end(
                    ErrorCode.UNEXPECTED, f"{type(frame).__name__} before Welcome", remote=False, now=now
                )

    def _handle_control(self, frame: Frame, now: float) -> None:
        match frame:
            case frames.Notice():
                self._changed(ChangeEntry(frame.conversation, frame.head, frame.change))
            case frames.Ping():
                self._write(CONTROL, frames.Pong(frame.number, 0, self.mailbox.cursor))
            case frames.Pong():
                round_trip = self.heartbeat.pong(frame.number, now)
                if round_trip is not None:
                    self._events.append(events.PongReceived(round_trip))
                if frame.account_head > self.mailbox.account_head:
                    self._sync()
            case frames.SyncPage():
                self._synced(frame)
            case frames.Moved():
                self.observed_address = frame.observed_address
                self._events.append(events.AddressObserved(frame.observed_address, self._stall or 0.0))
                self._moved_at = None
            case frames.Done():
                self._requests.discard(frame.ref)
                self._events.append(events.RequestDone(frame.ref, frame.text))
            case frames.Failed():
                self._requests.discard(frame.ref)
                self._events.append(events.RequestFailed(frame.ref, frame.code, frame.text))
            case frames.GoAway():
                self._events.append(events.GoingAway(frame.code, frame.deadline_ms / 1000, frame.alternative))
            case frames.Close():
                self._end(frame.code, frame.text, remote=True, now=now)
            case _:
                self._end(
                    ErrorCode.UNEXPECTED, f"{type(frame).__name__} from a server", remote=False, now=now
                )

    def _changed(self, entry: ChangeEntry) -> None:
        channel = self._by_name.get(entry.conversation)
        # A refusal may be on its way on a channel that we have ended already: the news may be younger.
        for known in (channel, self._retiring.get(entry.conversation)):
            if known is not None:
                known.news = True
        self.mailbox.changed(entry, channel_open=channel is not None)

    def _sync(self) -> None:
        if not self._syncing:
            self._syncing = True
            self._write(CONTROL, frames.Sync(self.mailbox.epoch, self.mailbox.cursor))

    def _synced(self, page: frames.SyncPage) -> None:
        self._syncing = False
        for entry in page.entries:
            self._changed(entry)
        self.mailbox.synced(page.epoch, page.cursor, whole=not page.more)
        if page.more:
            self._sync()
