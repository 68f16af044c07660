"""The conversation channels of a server's session: a window and two positions each, no queue of messages.

While an Open is being looked up, or too many Sends are unanswered, a channel is not read on, so that flow
control holds that one conversation back, and no other. New entries cost a channel one number (`advance`):
when its window has room it asks the hub for what comes after its own place in the log. Live delivery,
catch-up and offline delivery are that one path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence

from quicmsg import limits
from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.protocol import events, frames
from quicmsg.protocol.budget import Budget, fetch_cost, send_cost
from quicmsg.protocol.channels import Asked, ServerChannel
from quicmsg.protocol.frames import CONTROL, Entry, Frame, MemberEntry
from quicmsg.protocol.heartbeat import Heartbeat
from quicmsg.protocol.session import Channel, Outgoing, Session, SessionState


class ServerConversations(Session):
    """Base of ServerSession: everything that happens on channels 1 and up."""

    def __init__(self, *, now: float) -> None:
        # Patient: a client in a tunnel should find its connection alive when it comes out.
        heartbeat = Heartbeat(limits.PING_INTERVAL_IDLE, now=now, patient=True)
        super().__init__(heartbeat=heartbeat, now=now)
        self.user = ""
        self.account_head = 0
        self._by_name: dict[str, ServerChannel] = {}
        self._receipts_due: float | None = None
        self._fresh: dict[ServerChannel, None] = {}
        self._noticed: set[str] = set()
        self.budget = Budget(now)
        """This user's; the hub gives all sessions of a user the same one."""
        self._silent: dict[ServerChannel, float] = {}
        self._starved: set[ServerChannel] = set()
        self._hungry: dict[ServerChannel, None] = {}
        self._fetches: deque[events.FetchRequested] = deque()
        self._fetching = False
        self._operations = 0

    # ---- commands: conversations

    def opened(
        self,
        channel: int,
        *,
        epoch: int,
        oldest: int,
        head: int,
        position: int,
        reset: bool,
        members: Sequence[MemberEntry],
        now: float,
    ) -> None:
        """Answer to OpenRequested: the channel is this conversation from now on."""
        found = self._conversation_channel(channel)
        if found is None:
            if self.state is SessionState.UP:
                # Aborted meanwhile, and reported then: the caller has loaded it since.
                self._events.append(events.ChannelClosed(channel, ""))
            return
        assert not found.opened
        found.opened = True
        found.head = max(found.head, head)
        start = found.asked.start(position, oldest, reset=reset)
        found.covered.reset(start)
        found.acknowledged = start if reset else min(start, found.asked.position)
        found.receipts.clear()  # the verdict has everybody's positions
        self._write(channel, frames.Opened(epoch, oldest, head, position, reset, tuple(members)))
        self._want_entries(found)
        self._read(found, now)

    def refuse(self, channel: int, code: int, text: str, *, retry_after: float = 0.0) -> None:
        """The channel will not be (or no longer is) this conversation; seconds until a retry, 0: never."""
        found = self._conversation_channel(channel)
        if found is None:
            return
        self._write(
            channel,
            frames.Refused(int(code), text[: limits.TEXT_SIZE_MAX], int(retry_after * 1000)),
        )
        self._forget(found)
        self._credit(channel, found.reader.buffered)
        self._finish_channel(found)

    def accept(self, channel: int, message_id: bytes, seq: int, stored_at_ms: int, now: float) -> None:
        """A message is durable; also for a repetition."""
        found = self._conversation_channel(channel)
        if found is None:
            return
        found.answer(message_id)
        found.covered.skip(seq)
        self._write(channel, frames.Accepted(message_id, seq, stored_at_ms))
        self._resume(found, now)

    def reject(self, channel: int, message_id: bytes, code: int, text: str, now: float) -> None:
        """A message was refused for good, and nothing was stored."""
        found = self._conversation_channel(channel)
        if found is None:
            return
        found.answer(message_id)
        self._write(channel, frames.Rejected(message_id, int(code), text[: limits.TEXT_SIZE_MAX]))
        self._resume(found, now)

    def answered(self, now: float) -> None:
        """One operation that this session asked for (open, send, fetch) is over, whatever became of its
        channel: called once for each, beside the answer itself."""
        self._operations -= 1
        assert self._operations >= 0
        if self._operations == limits.OPERATIONS_MAX // 2:
            self._read_all(now)

    def advance(self, conversation: str, head: int, change: int) -> None:
        """The log has grown (or only changed): two numbers move, nothing is queued."""
        if self.state is not SessionState.UP:
            return
        self.account_head = max(self.account_head, change)
        found = self._by_name.get(conversation)
        if found is None:
            self._notice(conversation, head, change)
            return
        found.head = max(found.head, head)
        self._want_entries(found)

    def deliver(self, channel: int, entries: Iterable[Entry]) -> None:
        """Answer to EntriesWanted: what follows in the log (nothing: try again with the next advance)."""
        found = self._conversation_channel(channel)
        if found is None or not found.reading:
            return
        found.reading = False
        progress = False
        for entry in entries:
            if entry.seq <= found.covered.value:
                # Accepted here since it was asked for: that counts, there may be more behind it.
                progress = True
                continue
            if entry.seq != found.covered.value + 1 or found.room() <= 0 or self.crowded:
                break
            if entry.kind == frames.Kind.LEFT:
                # What is known of somebody's positions must not come after the news that they left.
                self._flush_receipts(found)
            self._write(
                channel,
                frames.Deliver(
                    entry.seq, entry.message_id, entry.sender, entry.device,
                    entry.kind, entry.encoding, entry.body, entry.stored_at_ms,
                ),
            )  # fmt: skip
            found.delivered(entry.seq, len(entry.body))
            progress = True
        if progress or self.crowded:
            self._want_entries(found)

    def data_to_send(self) -> list[Outgoing]:
        """See Session.data_to_send; receipts that came since the last flush go out as one frame each."""
        for channel in self._fresh:
            self._flush_receipts(channel)
        self._fresh.clear()
        return super().data_to_send()

    def receipt(
        self, conversation: str, member: MemberEntry, change: int, *, coalesce: bool, now: float
    ) -> None:
        """A member's positions moved: told with the next flush, or (`coalesce`: a big group) with the next
        Receipt of this interval, or by a Notice when no channel is open."""
        if self.state is not SessionState.UP:
            return
        self.account_head = max(self.account_head, change)
        found = self._by_name.get(conversation)
        if found is None:
            if member.user != self.user:
                self._notice(conversation, 0, change)
            return
        found.receipts[member.user] = member
        if not coalesce:
            self._fresh[found] = None
        elif self._receipts_due is None:
            self._receipts_due = now + limits.RECEIPT_INTERVAL

    def page(self, channel: int, ref: int, entries: Sequence[Entry], now: float) -> None:
        """Answer to FetchRequested, cut into frames."""
        self._fetching = False
        found = self._conversation_channel(channel)
        if found is None:
            self._next_fetch()
            return
        found.fetching -= 1
        piece: list[Entry] = []
        size = 0
        for entry in entries:
            if piece and size + len(entry.body) + 128 > limits.PAGE_SIZE_MAX:
                self._write(channel, frames.Page(ref, tuple(piece), False))
                piece, size = [], 0
            piece.append(entry)
            size += len(entry.body) + 128
        self._write(channel, frames.Page(ref, tuple(piece), True))
        self._next_fetch()
        self._resume(found, now)

    # ---- private: pausing and windows

    def _may_read(self, channel: Channel) -> bool:
        if not isinstance(channel, ServerChannel):
            return True
        if self._operations >= limits.OPERATIONS_MAX or (channel.conversation and not channel.opened):
            return False
        return channel.may_submit() and channel not in self._starved

    def _resume(self, channel: ServerChannel, now: float) -> None:
        """An answer went out: there may be room to read on, or nothing left to wait for."""
        if channel.ended_by_us:
            return
        if channel.reader.buffered or channel.ended_by_peer:
            self._read(channel, now)

    def _spend(self, channel: ServerChannel, cost: float, now: float) -> None:
        """Of the user's long-term rate; with nothing left the channel is read later, not refused."""
        if not self.budget.sends.spend(cost, now):
            self._starved.add(channel)

    def _feed_starved(self, now: float) -> None:
        if not self._starved or self.budget.sends.level(now) < 1:
            return
        starved, self._starved = self._starved, set()
        for channel in sorted(starved, key=lambda c: c.number):
            if self._channels.get(channel.number) is channel:
                self._read(channel, now)

    def _end_silent(self, now: float) -> None:
        """Channels whose Open did not come in time. One whose bytes we do not read has done its part."""
        for channel, until in list(self._silent.items()):
            if now < until:
                return
            del self._silent[channel]
            if channel.reader.buffered and not self._may_read(channel):
                self._silent[channel] = now + limits.OPEN_TIMEOUT
            else:
                self._violation(channel, ProtocolError("no Open in time", code=ErrorCode.TIMEOUT), now)

    def _notice(self, conversation: str, head: int, change: int) -> None:
        """Once, until the client has opened it or asked for all changes: a client that opens nothing costs
        one frame a conversation, not one a message (the next Pong's account head tells it of the rest)."""
        if conversation not in self._noticed:
            self._noticed.add(conversation)
            self._write(CONTROL, frames.Notice(conversation, head, change))

    def _relieved(self, now: float) -> None:
        hungry, self._hungry = self._hungry, {}
        for channel in hungry:
            if self._channels.get(channel.number) is channel:
                self._want_entries(channel)
        self._next_fetch()

    def _read_all(self, now: float) -> None:
        for channel in list(self._by_name.values()):
            self._resume(channel, now)
        for waiting in list(self._channels.values()):
            if isinstance(waiting, ServerChannel) and not waiting.conversation:
                self._resume(waiting, now)

    def _next_fetch(self) -> None:
        """One page at a time, and none while much is on its way: a page is up to 1.6 MiB."""
        while self._fetches and not self._fetching and not self.crowded:
            fetch = self._fetches.popleft()
            if self._conversation_channel(fetch.channel) is None:
                continue
            self._fetching = True
            self._operations += 1
            self._events.append(fetch)

    def _want_entries(self, channel: ServerChannel) -> None:
        room = channel.room()
        if self.crowded:
            self._hungry[channel] = None
            return
        if channel.opened and not channel.reading and channel.head > channel.covered.value and room > 0:
            channel.reading = True
            self._events.append(
                events.EntriesWanted(channel.number, channel.conversation, channel.covered.value, room)
            )

    def _flush_receipts(self, channel: ServerChannel) -> None:
        if channel.receipts and channel.opened and self._conversation_channel(channel.number) is channel:
            self._write(channel.number, frames.Receipt(tuple(channel.receipts.values())))
            channel.receipts.clear()

    # ---- private: channels

    def _new_channel(self, number: int, now: float) -> Channel | None:
        if len(self._channels) > limits.SERVER_CHANNELS_MAX:
            self._ends[number] = ErrorCode.LIMIT
            return None
        channel = self._channels[number] = ServerChannel(number)
        self._silent[channel] = now + limits.OPEN_TIMEOUT
        return channel

    def _conversation_channel(self, number: int) -> ServerChannel | None:
        """The channel a command is for, if it still takes any."""
        if self.state is not SessionState.UP:
            return None
        found = self._channels.get(number)
        return found if isinstance(found, ServerChannel) and not found.ended_by_us else None

    def _forget(self, channel: ServerChannel) -> None:
        self._bury(channel)
        self._silent.pop(channel, None)
        self._starved.discard(channel)
        self._fresh.pop(channel, None)
        self._hungry.pop(channel, None)
        if channel.fetching:
            self._fetches = deque(fetch for fetch in self._fetches if fetch.channel != channel.number)
        if self._by_name.get(channel.conversation) is channel:
            del self._by_name[channel.conversation]
            self._events.append(events.ChannelClosed(channel.number, channel.conversation))

    def _channel_lost(self, channel: Channel, code: int, now: float) -> None:
        assert isinstance(channel, ServerChannel)
        self._forget(channel)

    # ---- private: frames

    def _handle_open(self, channel: ServerChannel, frame: Frame, now: float) -> None:
        if not isinstance(frame, frames.Open):
            raise ProtocolError("a channel must begin with Open", code=ErrorCode.UNEXPECTED)
        if frame.conversation in self._by_name:
            raise ProtocolError(f"{frame.conversation} is open already", code=ErrorCode.UNEXPECTED)
        if frame.received < frame.position:
            raise ProtocolError("received is below position")
        channel.conversation = frame.conversation
        channel.asked = Asked(frame.position, frame.received)
        self._by_name[frame.conversation] = channel
        self._operations += 1
        self._silent.pop(channel, None)
        self._spend(channel, 1, now)
        self._noticed.discard(frame.conversation)
        self._events.append(
            events.OpenRequested(channel.number, frame.conversation, frame.epoch, frame.position)
        )

    def _handle_conversation(self, channel: ServerChannel, frame: Frame, now: float) -> None:
        match frame:
            case frames.Send() if frame.kind in frames.SERVER_KINDS:
                self._spend(channel, 1, now)
                text = "entries of this kind are written by the server only"
                self._write(channel.number, frames.Rejected(frame.message_id, ErrorCode.FORBIDDEN, text))
            case frames.Send():
                channel.submit(frame.message_id, len(frame.body))
                self._operations += 1
                self._spend(channel, send_cost(len(frame.body)), now)
                self._events.append(
                    events.MessageSubmitted(
                        channel.number, channel.conversation, frame.message_id,
                        frame.kind, frame.encoding, frame.body,
                    )
                )  # fmt: skip
            case frames.Ack():
                self._spend(channel, limits.ACK_COST, now)
                self._check_position(channel, frame.position)
                if frame.position > channel.acknowledged:
                    channel.acknowledge(frame.position)
                    self._events.append(events.PositionMoved(channel.conversation, frame.position, 0, True))
                    self._want_entries(channel)
            case frames.Read():
                self._spend(channel, limits.ACK_COST, now)
                self._check_position(channel, frame.position)
                self._events.append(
                    events.PositionMoved(channel.conversation, frame.position, frame.position, frame.public)
                )
            case frames.Fetch():
                channel.fetching += 1
                if channel.fetching > limits.REQUESTS_MAX:
                    raise ProtocolError("too many fetches at once", code=ErrorCode.LIMIT)
                self._spend(channel, fetch_cost(frame.limit), now)
                self._fetches.append(
                    events.FetchRequested(
                        channel.number, channel.conversation, frame.ref,
                        frame.after, frame.before, frame.limit,
                    )
                )  # fmt: skip
                self._next_fetch()
            case _:
                raise ProtocolError(f"{type(frame).__name__} from a client", code=ErrorCode.UNEXPECTED)

    def _check_position(self, channel: ServerChannel, position: int) -> None:
        if position > channel.covered.value:
            raise ProtocolError(
                f"position {position} is beyond {channel.covered.value}", code=ErrorCode.ACK_BEYOND
            )
