"""Conversations on the server: open, append, deliver, fetch, positions, and telling the members.

Nothing is said before it is durable: `accept` follows the commit, members are told after the sender's
commit, receipts follow the commit of the position.

A conversation's key in the store (`@alice:bob`, `#team`) is what a user writes as `@bob` or `#team`:
`key_of` and `address_for` translate. One function answers "may this user see it": the store's, inside the
transaction; unknown and forbidden get the same answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from quicmsg.errors import DamagedError, ErrorCode
from quicmsg.limits import BUSY_RETRY_AFTER, DAMAGED_RETRY_AFTER, RECEIPT_AT_ONCE_MEMBERS
from quicmsg.protocol import events
from quicmsg.protocol.frames import Entry, MemberEntry
from quicmsg.protocol.server import ServerSession
from quicmsg.server.directory import Directory, Environment, Peer
from quicmsg.server.submitter import Submitter
from quicmsg.server.topics import Topic, Topics
from quicmsg.store import (
    Append,
    Appended,
    GroupChanged,
    LogEntry,
    MemberPosition,
    Moved,
    MovePosition,
    OpenConversation,
    Opened,
    Refusal,
    Result,
    Store,
)
from quicmsg.store.writer import StoreWriter

_Found = list[LogEntry] | DamagedError


class Conversations:
    """What happens on conversation channels, for all sessions.

    Args:
        pump: handles the events of a session and flushes it; called after every command to a session.
    """

    def __init__(
        self,
        writer: StoreWriter,
        submitter: Submitter,
        directory: Directory,
        environment: Environment,
        pump: Callable[[ServerSession], None],
    ) -> None:
        self._writer = writer
        self._submitter = submitter
        self._directory = directory
        self._environment = environment
        self._pump = pump
        self._topics = Topics()
        self._moves: dict[tuple[str, bytes, bool], MovePosition | None] = {}

    # ---- channels

    def closed(self, peer: Peer, channel: int) -> None:
        """A channel was closed."""
        topic = peer.topics.pop(channel, None)
        if topic is not None:
            self._topics.release(topic)

    def open(self, peer: Peer, event: events.OpenRequested) -> None:
        session = peer.session
        if self._submitter.is_over_share(session):
            # What a session asked stays when it is gone: a session may have few, one after the other many.
            self._send_away(session, event.channel)
            return
        key = key_of(event.conversation, session.user)
        topic = self._topics.use(key)
        operation = OpenConversation(
            key, session.user, session.device, event.epoch, event.position, self._environment.time_ms()
        )

        def opened(result: Result) -> None:
            session.answered(self._environment.now())
            if isinstance(result, Refusal):
                self._topics.release(topic)
                session.refuse(event.channel, result.code, result.text)
                self._pump(session)
                return
            assert isinstance(result, Opened)
            self._opened(peer, topic, event, result)

        self._submitter.submit(session, operation, opened)

    def _opened(self, peer: Peer, topic: Topic, event: events.OpenRequested, result: Opened) -> None:
        session = peer.session
        topic.head = max(topic.head, result.head)
        mine = MemberPosition(session.user, 0, 0)
        for member in result.members:
            if member.user == session.user:
                mine = member
            else:
                topic.members[member.user] = member
        public = topic.members.get(session.user)
        topic.members[session.user] = MemberPosition(
            session.user, mine.received, public.read if public else 0
        )
        topic.loaded = True
        if session not in self._directory.peers:
            # It has moved the position all the same, and nothing will move it there again: who waits for
            # that receipt would wait until the next message.
            if result.change:
                self._tell_positions(topic, session.user, own_read=mine.read, change=result.change)
            self._topics.release(topic)
            return
        peer.topics[event.channel] = topic
        session.opened(
            event.channel,
            epoch=result.epoch,
            oldest=result.oldest,
            head=result.head,
            position=result.position,
            reset=result.reset,
            members=[MemberEntry(m.user, m.received, m.read) for m in result.members],
            now=self._environment.now(),
        )
        if result.change:
            self._tell_positions(topic, session.user, own_read=mine.read, change=result.change)
        self._pump(session)

    def submit(self, peer: Peer, event: events.MessageSubmitted) -> None:
        session = peer.session
        if self._submitter.is_over_share(session):
            self._send_away(session, event.channel)
            return
        topic = self._topics.use(peer.topics[event.channel].key)
        at_ms = self._environment.time_ms()
        operation = Append(
            topic.key,
            session.user,
            session.device,
            event.message_id,
            event.kind,
            event.encoding,
            event.body,
            at_ms,
        )

        def appended(result: Result) -> None:
            now = self._environment.now()
            session.answered(now)
            if isinstance(result, Refusal):
                session.reject(event.channel, event.message_id, result.code, result.text, now)
            else:
                assert isinstance(result, Appended)
                session.accept(event.channel, event.message_id, result.seq, result.stored_at_ms, now)
                if not result.duplicate:
                    self._publish(topic, [_logged(operation, result)], result.change)
            self._topics.release(topic)
            self._pump(session)

        self._submitter.submit(session, operation, appended)

    def _send_away(self, session: ServerSession, channel: int) -> None:
        """Nothing of it is stored: the client keeps its messages, and sends them in their order on its next
        channel. What this channel has said behind it is sent away as well, since all of that is looked at
        before any operation is over, and this user's share only grows meanwhile."""
        session.answered(self._environment.now())
        text = "too much waits for the disk"
        session.refuse(channel, ErrorCode.BUSY, text, retry_after=BUSY_RETRY_AFTER)

    def deliver(self, peer: Peer, event: events.EntriesWanted) -> None:
        topic = peer.topics[event.channel]
        session = peer.session
        cached = topic.after(event.after, event.limit)
        if cached is not None:
            session.deliver(event.channel, map(_entry, cached))
            return

        def read(found: _Found) -> None:
            if isinstance(found, DamagedError):
                session.refuse(event.channel, found.code, found.message, retry_after=DAMAGED_RETRY_AFTER)
            else:
                session.deliver(event.channel, map(_entry, found))
            self._pump(session)

        self._writer.read(
            lambda store: _entries(store, topic.key, session.user, after=event.after, limit=event.limit), read
        )

    def fetch(self, peer: Peer, event: events.FetchRequested) -> None:
        session = peer.session
        topic = peer.topics[event.channel]

        def read(found: _Found) -> None:
            now = self._environment.now()
            session.answered(now)
            if isinstance(found, DamagedError):
                # An empty page would say that there is nothing. The channel is good for what is new.
                session.refuse(event.channel, found.code, found.message, retry_after=BUSY_RETRY_AFTER)
                found = []
            session.page(event.channel, event.ref, [_entry(e) for e in found], now)
            self._pump(session)

        self._writer.read(
            lambda store: _entries(
                store,
                topic.key,
                session.user,
                after=event.after,
                before=event.before or None,
                limit=event.limit,
            ),
            read,
        )

    # ---- positions

    def move(self, peer: Peer, event: events.PositionMoved) -> None:
        """Coalesce: while one move of a device in a conversation is on its way to the disk, the next
        ones only raise a number. Private and public reads are told to different people: each for itself."""
        session = peer.session
        key = key_of(event.conversation, session.user)
        at = (key, session.device, event.read_public)
        move = MovePosition(key, session.user, session.device, event.received, event.read, event.read_public)
        if at not in self._moves:
            self._submit_move(at, move, session)
            return
        waiting = self._moves[at]
        if waiting is not None:
            # Neither swallows the other: a Read may be behind the Ack before it, and an Ack reads nothing.
            move = replace(
                move, received=max(move.received, waiting.received), read=max(move.read, waiting.read)
            )
        self._moves[at] = move

    def _submit_move(self, at: tuple[str, bytes, bool], move: MovePosition, session: ServerSession) -> None:
        self._moves[at] = None
        topic = self._topics.use(move.conversation)

        def moved(result: Result) -> None:
            if isinstance(result, Moved) and result.change:
                self._with_members(topic, lambda: self._tell_move(topic, move.user, result))
            self._topics.release(topic)
            following = self._moves.pop(at)
            if following is not None:
                self._submit_move(at, following, session)

        self._submitter.submit(session, move, moved)

    def _tell_positions(self, topic: Topic, user: str, *, own_read: int, change: int) -> None:
        at = topic.members[user]
        now = self._environment.now()
        coalesce = len(topic.members) > RECEIPT_AT_ONCE_MEMBERS
        for member in topic.members:
            read = own_read if member == user else at.read
            entry = MemberEntry(user, at.received, read)
            for peer in self._directory.of(member):
                peer.session.receipt(
                    address_for(topic.key, member), entry, change, coalesce=coalesce, now=now
                )
                peer.wake()

    def _tell_move(self, topic: Topic, user: str, moved: Moved) -> None:
        known = topic.members.get(user)
        if known is None:
            return  # it has left since
        # While the members were looked up, a later Open or move may have been told: positions never go back.
        received, read = max(known.received, moved.received), max(known.read, moved.read)
        topic.members[user] = MemberPosition(user, received, read)
        self._tell_positions(topic, user, own_read=moved.own_read, change=moved.change)

    def _with_members(self, topic: Topic, then: Callable[[], None]) -> None:
        """Run `then` once it is known who must be told: the topic may have been loaded for nobody."""
        if topic.loaded:
            then()
            return
        self._topics.use(topic.key)

        def read(members: list[str]) -> None:
            if not topic.loaded:  # else what is there is younger than this answer
                for user in members:
                    topic.members.setdefault(user, MemberPosition(user, 0, 0))
                topic.loaded = True
            then()
            self._topics.release(topic)

        self._writer.read(lambda store: store.members(topic.key), read)

    # ---- membership

    def group_changed(self, key: str, result: GroupChanged) -> None:
        topic = self._topics.use(key)
        gone = topic.members.keys() - set(result.members)
        for user in gone:
            del topic.members[user]
            self._remove(topic, user)
        for user in result.members:
            topic.members.setdefault(user, MemberPosition(user, 0, 0))
        topic.loaded = True
        if result.entries:
            self._publish(topic, result.entries, result.change)
        self._topics.release(topic)

    def _remove(self, topic: Topic, user: str) -> None:
        """No longer a member: the channel closes at once."""
        for peer in self._directory.of(user):
            for channel in [n for n, t in peer.topics.items() if t is topic]:
                peer.session.refuse(channel, ErrorCode.UNKNOWN, "you are no longer a member")
            self._pump(peer.session)

    # ---- private: telling the members

    def _publish(self, topic: Topic, entries: Iterable[LogEntry], change: int) -> None:
        """Durable entries: every member's devices hear of them, the open ones get them."""
        head = 0
        for entry in entries:
            self._topics.remember(topic, entry)
            head = entry.seq
        topic.head = max(topic.head, head)
        for member in list(topic.members):
            for peer in self._directory.of(member):
                peer.session.advance(address_for(topic.key, member), head, change)
                self._pump(peer.session)


def key_of(address: str, user: str) -> str:
    """The store's key of what `user` calls `address`."""
    if address.startswith("#"):
        return address
    first, second = sorted((address[1:], user))
    return f"@{first}:{second}"


def address_for(key: str, user: str) -> str:
    """What `user` calls the conversation with this key."""
    if key.startswith("#"):
        return key
    first, second = key[1:].split(":")
    return f"@{second if first == user else first}"


def _entries(store: Store, key: str, user: str, **bounds: int | None) -> _Found:
    """The store's entries; that a row is damaged is an answer too, for this conversation alone."""
    try:
        return store.entries(key, user, **bounds)  # type: ignore[arg-type]
    except DamagedError as error:
        return error


def _entry(entry: LogEntry) -> Entry:
    return Entry(
        entry.seq,
        entry.message_id,
        entry.sender,
        entry.device,
        entry.kind,
        entry.encoding,
        entry.body,
        entry.stored_at_ms,
    )


def _logged(operation: Append, result: Appended) -> LogEntry:
    return LogEntry(
        operation.conversation,
        result.seq,
        operation.message_id,
        operation.sender,
        operation.device,
        operation.kind,
        operation.encoding,
        operation.body,
        result.stored_at_ms,
    )
