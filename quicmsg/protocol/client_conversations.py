"""The conversation channels of a client's session.

`service` is the one place that decides what a conversation's channel says next; whatever happens to a
conversation puts its name into `mailbox.touched`, and every input ends with servicing those, and with
opening channels for who waits for one. So nothing is walked that did not change, however many conversations
there are. Channels are opened when there is something to say or to learn, and the least recently used idle
one is closed to make room.
"""

from __future__ import annotations

from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.channels import ClientChannel
from quicmsg.protocol.conversation import Conversation
from quicmsg.protocol.frames import Entry, Frame
from quicmsg.protocol.heartbeat import Heartbeat
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.session import Channel, Session, SessionState


class ClientConversations(Session):
    """Base of ClientSession: everything that happens on channels 1 and up."""

    def __init__(self, mailbox: Mailbox, *, now: float) -> None:
        super().__init__(heartbeat=Heartbeat(limits.PING_INTERVAL_IDLE, now=now), now=now)
        self.mailbox = mailbox
        self._attached = False
        self._by_name: dict[str, ClientChannel] = {}
        self._next_number = 1
        self._early_size = 0
        self._failures: dict[str, tuple[int, float]] = {}
        self._retiring: dict[str, ClientChannel] = {}
        self._fetches: dict[str, list[frames.Fetch]] = {}
        self._waiting_to_send: dict[str, None] = {}
        self._waiting_to_learn: dict[str, None] = {}
        self._held_back: dict[str, None] = {}

    # ---- commands

    def fetch(self, conversation: str, *, ref: int, after: int, before: int, limit: int, now: float) -> None:
        """Ask for history; PageArrived (until `last`) or RequestFailed will follow."""
        self.mailbox.conversation(conversation)
        self.mailbox.touched[conversation] = None
        self._fetches.setdefault(conversation, []).append(frames.Fetch(ref, after, before, limit))
        self.service(now)

    def service(self, now: float) -> None:
        """Let every touched conversation say what it has to say."""
        if not self._attached or self.state not in (SessionState.SIGNING_IN, SessionState.UP):
            return
        touched, self.mailbox.touched = self.mailbox.touched, {}
        for name in touched:
            channel = self._by_name.get(name)
            if channel is not None:
                self._speak(channel, now)
            elif self._is_urgent(name):
                self._waiting_to_send[name] = None
            elif self.mailbox.conversations[name].wants_channel():
                self._waiting_to_learn[name] = None
        self._open_waiting(self._waiting_to_send, now)
        if self.mailbox.waiting() < limits.INBOX_MAX:
            self._open_waiting(self._waiting_to_learn, now)
        self._update_activity(now)

    # ---- private: opening and closing

    def _open_waiting(self, waiting: dict[str, None], now: float) -> None:
        """Open channels for who waits longest, as long as there are any: with thousands waiting, an input
        costs a look at the first."""
        while waiting:
            name = next(iter(waiting))
            found = self.mailbox.conversations[name]
            wanted = self._is_urgent(name) or found.wants_channel()
            if name in self._by_name or not wanted or not self._is_openable(name):
                # Who must wait for a reason of its own is touched again when that has passed.
                del waiting[name]
            elif self._has_channel_to_spare():
                del waiting[name]
                self._speak(self._open(found, now), now)
            else:
                return

    def _is_urgent(self, name: str) -> bool:
        return name in self._fetches or self.mailbox.outbox.waiting(name)

    def _is_openable(self, name: str) -> bool:
        return name not in self._retiring and self._failures.get(name, (0, 0.0))[1] in (0.0, float("inf"))

    def _has_channel_to_spare(self) -> bool:
        if self.state is not SessionState.UP and self._early_size >= limits.EARLY_SIZE_MAX:
            return False
        if len(self._channels) >= limits.SERVER_CHANNELS_MAX - 1:
            return False
        if len(self._by_name) < limits.CHANNELS_MAX:
            return True
        for channel in self._by_name.values():  # least recently used first
            if not self._is_busy(channel):
                self._retire(channel)
                return True
        return False

    def _open(self, found: Conversation, now: float) -> ClientChannel:
        channel = ClientChannel(self._next_number, found, now=now)
        self._next_number += 1
        self._channels[channel.number] = self._by_name[found.name] = channel
        found.unsure = False  # from now on this channel answers for everything
        asked = channel.asked
        self._say(channel, frames.Open(found.name, found.epoch, asked.position, asked.received))
        return channel

    def _retire(self, channel: ClientChannel) -> None:
        """Nothing is going on: end it; positions live in the store, so this costs nothing. Until the server
        has ended it too, it still may bring something, and the conversation is not opened again."""
        name = channel.conversation.name
        self._retiring[name] = self._by_name.pop(name)
        self._finish_channel(channel)

    def _close_idle(self, now: float) -> None:
        for channel in list(self._by_name.values()):
            if channel.used_at + limits.CHANNEL_IDLE > now:
                return
            if self._is_busy(channel):
                self._use(channel, now)
            else:
                self._retire(channel)

    def _use(self, channel: ClientChannel, now: float) -> None:
        """Move to the recently used end of `_by_name`."""
        name = channel.conversation.name
        if self._by_name.get(name) is channel:
            self._by_name[name] = self._by_name.pop(name)
        channel.used_at = now

    def _is_busy(self, channel: ClientChannel) -> bool:
        found = channel.conversation
        return bool(
            channel.in_flight
            or channel.fetches
            or not channel.opened
            or found.wants_channel()
            or self.mailbox.outbox.waiting(found.name)
        )

    def _relieved(self, now: float) -> None:
        self.mailbox.touched.update(self._held_back)
        self._held_back.clear()
        self.service(now)

    def _new_channel(self, number: int, now: float) -> Channel | None:
        return None  # of a channel that we have closed; only the client opens any

    def _channel_lost(self, channel: Channel, code: int, now: float) -> None:
        """The channel is gone; its conversation's state is not: open again, later each time."""
        assert isinstance(channel, ClientChannel)
        name = channel.conversation.name
        for ref in channel.fetches:
            self._events.append(events.RequestFailed(ref, int(code), "the channel was closed"))
        channel.fetches.clear()
        current = self._by_name.get(name) is channel
        if current:
            del self._by_name[name]
        if self._retiring.get(name) is channel:
            del self._retiring[name]
            self.mailbox.touched[name] = None
            if code == ErrorCode.NO_ERROR:
                self.mailbox.brought_all(name)
                return
        if self.state is SessionState.CLOSED:
            # The account feed tells what changed, except what it has told of already.
            channel.conversation.stale |= channel.conversation.unsure
        elif current:
            channel.conversation.stale = True
            self._delay_reopening(name, 0.0, now)
        else:
            channel.conversation.stale |= channel.conversation.unsure

    def _delay_reopening(self, name: str, delay: float, now: float) -> None:
        failures = self._failures.get(name, (0, 0.0))[0] + 1
        backoff = min(limits.REOPEN_DELAY * 2 ** (failures - 1), limits.REOPEN_DELAY_MAX)
        self._failures[name] = (failures, now + max(delay, backoff))

    # ---- private: frames

    def _speak(self, channel: ClientChannel, now: float) -> None:
        found = channel.conversation
        for message in self.mailbox.outbox.unwritten(found.name, channel):
            early = self.state is not SessionState.UP and self._early_size >= limits.EARLY_SIZE_MAX
            if self.crowded:
                self._held_back[found.name] = None
            if early or self.crowded or not channel.has_room():
                break
            self._say(channel, frames.Send(message.message_id, message.kind, message.encoding, message.body))
            message.channel = channel
            channel.sent(message)
            self._use(channel, now)
        for fetch in self._fetches.pop(found.name, ()):
            channel.fetches.add(fetch.ref)
            self._say(channel, fetch)
            self._use(channel, now)
        if not channel.opened:
            return
        position = min(found.position, channel.covered.value)
        if position > channel.acknowledged and max(found.owed, channel.delivered) > channel.acknowledged:
            # Also when nobody waits for a receipt (another device of ours was first, or it was our own entry
            # that came back): it makes room in the window. Entries that were only accepted are no reason.
            channel.acknowledge(position)
            self._say(channel, frames.Ack(position))
        if found.read > max(channel.read_sent, found.read_told) and found.read <= channel.covered.value:
            channel.read_sent = found.read
            self._say(channel, frames.Read(found.read, found.read_public))

    def _say(self, channel: ClientChannel, frame: Frame) -> None:
        size = self._write(channel.number, frame)
        if self.state is not SessionState.UP:
            self._early_size += size

    def _handle_conversation(self, channel: ClientChannel, frame: Frame, now: float) -> None:
        name = channel.conversation.name
        self._use(channel, now)
        match frame:
            case frames.Opened() if not channel.opened:
                channel.opened = True
                self._failures.pop(name, None)
                self.mailbox.opened(name, frame)
                start = channel.asked.start(frame.position, frame.oldest, reset=frame.reset)
                channel.covered.reset(start)
                channel.acknowledged = start if frame.reset else min(start, channel.asked.position)
            case frames.Deliver() if channel.opened:
                channel.deliver(frame.seq)
                self.mailbox.delivered(name, _entry(frame), now)
            case frames.Accepted():
                channel.answered(frame.message_id)
                channel.covered.skip(frame.seq)
                self.mailbox.accepted(name, frame.message_id, frame.seq, frame.stored_at_ms, now)
            case frames.Rejected():
                channel.answered(frame.message_id)
                self.mailbox.rejected(name, frame.message_id, frame.code, frame.text, now)
            case frames.Receipt():
                self.mailbox.receipts(name, frame.members)
            case frames.Page():
                if frame.last:
                    channel.fetches.discard(frame.ref)
                self._events.append(events.PageArrived(name, frame.ref, frame.entries, frame.last))
            case frames.Refused():
                self._refused(channel, frame, now)
            case _:
                self._abort(channel, ErrorCode.UNEXPECTED)
                self._channel_lost(channel, ErrorCode.UNEXPECTED, now)

    def _refused(self, channel: ClientChannel, frame: frames.Refused, now: float) -> None:
        name = channel.conversation.name
        self._by_name.pop(name, None)
        for ref in channel.fetches:
            self._events.append(events.RequestFailed(ref, frame.code, frame.text))
        channel.fetches.clear()
        if frame.retry_after_ms:
            channel.conversation.stale = True
            self._delay_reopening(name, frame.retry_after_ms / 1000, now)
        elif channel.news or (channel.opened and channel.in_flight):
            # The news may be younger than the refusal (we are a member again). And what was written here
            # may be stored yet. The answer to another Open is behind both.
            channel.conversation.stale = True
            self.mailbox.touched[name] = None
        else:
            self.mailbox.refused(name, frame.code, frame.text, now)
        self._finish_channel(channel)

    # ---- for the subclass

    def _update_activity(self, now: float) -> None:
        raise AssertionError("the subclass knows its heartbeat")


def _entry(frame: frames.Deliver) -> Entry:
    return Entry(
        frame.seq,
        frame.message_id,
        frame.sender,
        frame.device,
        frame.kind,
        frame.encoding,
        frame.body,
        frame.stored_at_ms,
    )
