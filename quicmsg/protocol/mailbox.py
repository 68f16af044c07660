"""What a client knows, independent of any connection: conversations, positions, inbox, outbox.

The mailbox outlives connections: a new ClientSession on the same mailbox opens conversations after their
positions and flushes the outbox in order. It is pure; the shell writes down (in the journal) what its
events say, and calls `processed` only once that is on the disk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterable

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import SEQ_MAX
from quicmsg.protocol import events
from quicmsg.protocol.conversation import Conversation
from quicmsg.protocol.frames import ChangeEntry, Entry, Kind, MemberEntry, Opened
from quicmsg.protocol.outbox import Escalation, Outbox, OutboxMessage, Outcome


class Mailbox:
    """Conversations, inbox and outbox of one device.

    Args:
        user, device: who this is; `device` tells own entries apart.
    """

    def __init__(self, user: str, device: bytes) -> None:
        self.user = user
        self.device = device
        self.epoch = 0
        self.cursor = 0
        self.account_head = 0
        self.outbox = Outbox()
        self.conversations: dict[str, Conversation] = {}
        self.touched: dict[str, None] = {}
        self._events: deque[events.Event] = deque()
        self._arrivals: deque[str] = deque()

    # ---- construct: what the journal had

    def conversation(self, name: str) -> Conversation:
        """The conversation of this name; a new one counts as stale, so that it gets opened."""
        found = self.conversations.get(name)
        if found is None:
            found = self.conversations[name] = Conversation(name, stale=True)
            self.touched[name] = None
        return found

    def touch_all(self) -> None:
        """A new session begins: everything that wants a channel has to be looked at."""
        for name, found in self.conversations.items():
            if found.wants_channel() or self.outbox.waiting(name):
                self.touched[name] = None

    def restore(self, conversation: Conversation) -> None:
        """Put back a conversation from the journal: nothing of it is in memory but what is processed. Its
        marks stay where they were: what has been ticked may be behind an entry that is not processed."""
        conversation.received = conversation.taken = conversation.passed = conversation.position
        self._pass_own(conversation)
        delivered, read = self._marks(conversation)
        conversation.delivered_mark = max(conversation.delivered_mark, delivered)
        conversation.read_mark = max(conversation.read_mark, read)
        self.conversations[conversation.name] = conversation

    # ---- output

    def next_event(self) -> events.Event | None:
        """The next thing to write down or to show, or None."""
        return self._events.popleft() if self._events else None

    def take(self, conversation: str | None = None, *, skip: Container[str] = ()) -> tuple[str, Entry] | None:
        """The next entry for the program, in order of arrival, none of those in `skip`; None: nothing waits.

        Own entries of this device never come here. The caller must call `processed` for each, in order."""
        for _ in range(len(self._arrivals)):
            name = self._arrivals.popleft()
            if name not in skip and conversation in (None, name):
                found = self.conversations[name]
                if found.inbox:
                    entry = found.inbox.popleft()
                    found.taken = entry.seq
                    return name, entry
            else:
                self._arrivals.append(name)
        return None

    def put_back(self, conversation: str, entry: Entry) -> None:
        """The program will not process what it took last: it is first in line again."""
        found = self.conversations[conversation]
        assert found.taken == entry.seq
        found.inbox.appendleft(entry)
        found.taken = entry.seq - 1
        self._arrivals.appendleft(conversation)

    def waiting(self) -> int:
        """Entries that wait for the program."""
        return len(self._arrivals)

    def position_after(self, conversation: str, seq: int) -> int:
        """The position once `seq` is processed: it passes over own entries that follow directly."""
        found = self.conversations[conversation]
        return found.past_own(max(seq, found.position))

    # ---- input: the program and the journal

    def submit(self, message: OutboxMessage, now: float) -> None:
        """A message that the journal has committed enters its conversation's line."""
        self.outbox.add(message, now)
        if message.outcome is not Outcome.REJECTED:
            self.conversation(message.conversation)
            self.touched[message.conversation] = None

    def resend(self, message_id: bytes, now: float) -> OutboxMessage | None:
        """By hand: see `Outbox.resend`. None: it is not in the outbox."""
        message = self.outbox.resend(message_id, now)
        if message is not None:
            self.conversation(message.conversation)
            self.touched[message.conversation] = None
        return message

    def processed(self, conversation: str, position: int, epoch: int) -> None:
        """The program processed everything up to `position`, and the journal has committed that."""
        found = self.conversations[conversation]
        # A verdict may have gone back meanwhile, within the epoch (a backup was copied in by hand): what the
        # program took before that is beyond what there is now, and nobody has processed what will come there.
        position = min(position, found.past_own(found.taken))
        if position > found.position and epoch == found.epoch:
            found.position = found.owed = position
            found.own = {seq for seq in found.own if seq > position}
            self._pass_own(found)
            self.touched[conversation] = None

    def own_kept(self, conversation: str, position: int, epoch: int) -> None:
        """The journal has committed our own entries up to `position` (as told by MessageStored). Before that
        the server must not count them as ours: after a crash it would never show us what it has of us."""
        found = self.conversations[conversation]
        position = min(position, found.passed)
        if position > found.position and epoch == found.epoch:
            found.position = position
            found.own = {seq for seq in found.own if seq > position}
            self.touched[conversation] = None

    def read(self, conversation: str, position: int, *, public: bool) -> int:
        """The person read up to `position` (not beyond what was processed); returns what now holds."""
        found = self.conversations[conversation]
        reached = min(position, found.position)
        if reached > found.read:
            # What was read privately does not become public by reading something older publicly.
            found.read = reached
            found.read_public = public
        self.touched[conversation] = None
        return found.read

    def escalate(self, now: float) -> set[Escalation]:
        """Let the outbox's clocks act; failed messages are reported as events."""
        steps, failed = self.outbox.escalations(now)
        for message in failed:
            self._events.append(events.MessageFailed(message.conversation, message.message_id))
        return steps

    # ---- input: a session (frames of one conversation, in the order of its channel)

    def accepted(
        self,
        name: str,
        message_id: bytes,
        seq: int,
        stored_at_ms: int,
        now: float,
        entry: Entry | None = None,
    ) -> None:
        """The server stored a message of ours; `entry`: it came as a log entry, not as Accepted."""
        found = self.conversation(name)
        self.touched[name] = None
        known = self.outbox.answered(message_id, now) is not None
        told = not known and (seq <= found.position or seq in found.own)
        if seq > found.received:
            found.own.add(seq)
            self._pass_own(found)
        found.head = max(found.head, seq)
        self._events.append(
            events.MessageStored(name, message_id, seq, stored_at_ms, found.passed, entry, known)
        )
        if seq <= found.delivered_mark and not told:
            # It was stored long ago, only the answer comes now: nobody will tell again that others have it.
            # What is said to be read is never more than what is: the journal keeps it.
            read_to = min(seq, found.read_mark)
            read_from = min(seq - 1, read_to)
            self._events.append(events.PositionsChanged(name, (), False, seq - 1, seq, read_from, read_to))
        self._move_marks(found)

    def rejected(self, name: str, message_id: bytes, code: int, text: str, now: float) -> None:
        """The server refused a message of ours for good."""
        self.touched[name] = None
        if self.outbox.reject(message_id, now) is not None:
            self._events.append(events.MessageRejected(name, message_id, code, text))

    def reject_all(self, name: str, code: int, text: str, now: float) -> None:
        """The conversation is refused, so is everything that waits in its line."""
        while (message := next(self.outbox.unwritten(name, self), None)) is not None:
            self.rejected(name, message.message_id, code, text, now)

    def opened(self, name: str, verdict: Opened) -> None:
        """The server's answer to Open."""
        found = self.conversation(name)
        if verdict.reset or (found.epoch and verdict.epoch != found.epoch):
            self._reset(found, verdict)
        found.epoch = verdict.epoch
        found.oldest = verdict.oldest
        # Not the highest ever heard of: that may have been of a log that was replaced by a backup.
        found.head = max(found.received, verdict.head)
        fresh = not (found.position or found.received)
        if found.received < verdict.oldest - 1:
            found.received = verdict.oldest - 1
            found.inbox.clear()
        start = max(verdict.oldest - 1, verdict.position if fresh else 0)
        if found.position < start:
            # A new member sees the log from its own entry on, a new device from where the account stands.
            found.position = found.taken = found.passed = start
            found.received = max(found.received, start)
        found.stale = found.lost = False
        found.members_at = verdict.head
        self.touched[name] = None
        self._events.append(
            events.ConversationChanged(name, found.epoch, found.head, found.oldest, found.unsure)
        )
        self._set_members(found, verdict.members, whole=True)

    def delivered(self, name: str, entry: Entry, now: float) -> None:
        """The next entry of the log. Raises ProtocolError when one is missing before it."""
        found = self.conversation(name)
        if entry.seq <= found.received:
            self.touched[name] = None  # not news, but it takes room in the channel's window until its Ack
            return
        if entry.seq != found.received + 1:
            raise ProtocolError(
                f"{name}: entry {entry.seq} after {found.received}", code=ErrorCode.UNEXPECTED
            )
        found.head = max(found.head, entry.seq)
        self._note_membership(found, entry)
        if entry.device == self.device:
            # Ours, sent over an earlier connection whose answer got lost.
            self.accepted(name, entry.message_id, entry.seq, entry.stored_at_ms, now, entry)
            return
        found.received = entry.seq
        found.inbox.append(entry)
        self._arrivals.append(name)
        self._pass_own(found)
        self._move_marks(found)
        self._events.append(events.EntriesArrived(name))

    def receipts(self, name: str, members: Iterable[MemberEntry]) -> None:
        """Positions of members moved."""
        self._set_members(self.conversation(name), members, whole=False)

    def changed(self, entry: ChangeEntry, *, channel_open: bool) -> None:
        """The account feed, or a Notice, says that a conversation has news. `channel_open`: its channel, or
        the verdict that it waits for, brings it (or brought it before: then it is asked once too often)."""
        found = self.conversation(entry.conversation)
        found.head = max(found.head, entry.head)
        found.lost = False
        if channel_open:
            found.unsure = True
        else:
            found.stale = True
        self.touched[entry.conversation] = None
        self.account_head = max(self.account_head, entry.change)
        # After a crash nobody knows what the channel has brought: then it has to be opened again.
        self._events.append(
            events.ConversationChanged(found.name, found.epoch, found.head, found.oldest, True)
        )

    def brought_all(self, name: str) -> None:
        """The channel was ended by both sides: it has brought everything that it was to bring."""
        found = self.conversation(name)
        if found.unsure:
            found.unsure = False
            self._events.append(
                events.ConversationChanged(name, found.epoch, found.head, found.oldest, found.stale)
            )

    def welcomed(self, epoch: int) -> None:
        """A session is signed in; change numbers of another epoch mean nothing any more."""
        if epoch != self.epoch:
            self.account_head = 0

    def synced(self, epoch: int, cursor: int, *, whole: bool = True) -> None:
        """Everything up to the cursor was reported; `whole`: that is all."""
        self.epoch = epoch
        self.cursor = cursor
        self.account_head = max(self.account_head, cursor)
        self._events.append(events.CursorMoved(epoch, cursor, whole))

    def refused(self, name: str, code: int, text: str, now: float) -> None:
        """The server will not open this conversation: it is not ours, or not any more."""
        found = self.conversation(name)
        found.stale = found.unsure = False
        found.head = found.received
        found.told = found.owed
        found.read_told = found.read
        found.lost = True
        self._events.append(events.ConversationRefused(name, code, text))
        self.reject_all(name, code, text, now)

    # ---- private

    def _pass_own(self, found: Conversation) -> None:
        while found.received + 1 in found.own:
            found.received += 1
        found.passed = max(found.passed, found.position)
        if found.taken <= found.passed and not found.inbox:
            # Nothing is with the program: own entries need nobody's processing, only the journal's.
            found.passed = found.past_own(found.passed)
            found.taken = max(found.taken, found.passed)

    def _note_membership(self, found: Conversation, entry: Entry) -> None:
        if entry.kind not in (Kind.JOINED, Kind.LEFT) or entry.seq <= found.members_at:
            return
        user = entry.body.decode("utf-8", "replace")
        if entry.kind == Kind.LEFT and found.members.get(user, (0, 0))[0] >= entry.seq:
            return  # who has processed this very entry is a member again; a Receipt said so before the log
        others = [MemberEntry(name, *at) for name, at in found.members.items() if name != user]
        if entry.kind == Kind.JOINED:
            # Earlier messages are not for the newcomer, so they do not wait for it.
            others.append(MemberEntry(user, entry.seq - 1, entry.seq - 1))
        self._set_members(found, others, whole=True)

    def _reset(self, found: Conversation, verdict: Opened) -> None:
        # Contract: a stale cursor is never trusted. What comes again and was shown before is recognised by
        # its message_id (`resync_until` tells the shell to look): now, or when its sender, who had no answer
        # before the restore, sends it again.
        found.position = found.received = found.taken = found.passed = verdict.position
        found.owed = found.told = verdict.position
        found.head = verdict.head
        found.resync_until = SEQ_MAX
        found.own.clear()
        found.inbox.clear()
        found.read = found.read_told = 0
        found.delivered_mark = found.read_mark = 0
        found.members.clear()
        self._events.append(events.ConversationReset(found.name, verdict.epoch, verdict.position))

    def _set_members(self, found: Conversation, members: Iterable[MemberEntry], *, whole: bool) -> None:
        before = dict(found.members)
        news = []
        if whole:
            found.members = {}
        for member in members:
            delivered, read = before.get(member.user, (0, 0))
            now = (max(delivered, member.delivered), max(read, member.read))
            found.members[member.user] = now
            if before.get(member.user) != now:
                news.append(MemberEntry(member.user, *now))
        if self.user in found.members:
            own_delivered, own_read = found.members[self.user]
            found.told = max(found.told, own_delivered)
            found.read_told = max(found.read_told, own_read)
            found.read = max(found.read, min(own_read, found.position))
        gone = bool(whole and before.keys() - found.members.keys())
        if gone:
            news = [MemberEntry(user, *at) for user, at in found.members.items()]
        self._move_marks(found, tuple(news), whole=gone)

    def _move_marks(
        self, found: Conversation, news: tuple[MemberEntry, ...] = (), *, whole: bool = False
    ) -> None:
        delivered_from, read_from = found.delivered_mark, found.read_mark
        delivered, read = self._marks(found)
        found.delivered_mark = max(delivered_from, delivered)
        found.read_mark = max(read_from, read)
        if news or whole or found.delivered_mark != delivered_from or found.read_mark != read_from:
            self._events.append(
                events.PositionsChanged(
                    found.name,
                    news,
                    whole,
                    delivered_from,
                    found.delivered_mark,
                    read_from,
                    found.read_mark,
                )
            )

    def _marks(self, found: Conversation) -> tuple[int, int]:
        """Up to where everybody else has it, and has read it; 0 without others."""
        others = [positions for user, positions in found.members.items() if user != self.user]
        if not others:
            return 0, 0
        known = max(found.received, found.members_at)
        return min(known, min(p[0] for p in others)), min(known, min(p[1] for p in others))


def outbox_row(
    message_id: bytes, conversation: str, kind: int, encoding: int, body: bytes, now: float
) -> OutboxMessage:
    """A fresh row, queued now."""
    return OutboxMessage(message_id, conversation, kind, encoding, body, now, Outcome.QUEUED)
