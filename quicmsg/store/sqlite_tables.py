"""The rows of a SQLite store as objects, for its one writing connection.

What is read is kept: a right is checked without a statement. What is changed is gathered and written at
the end of the batch: a conversation that gets 100 messages in one batch is written once.

Since nobody else writes, an object is what the row will be after the commit. There is no way back from a
rollback: a store whose commit failed is not used again (see `SqliteStore.execute`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from quicmsg.limits import STORE_HOT_ROWS
from quicmsg.store import LogEntry, chain, rules
from quicmsg.store.schema import Connection


@dataclass(slots=True)
class Device:
    id: int
    label: str
    revoked: bool


@dataclass(slots=True)
class Conversation:
    """`creator` is 0 for a direct conversation; `chain` is the link of the newest message."""

    id: int
    key: str
    creator: int
    open: bool
    head: int
    change: int
    chain: bytes


@dataclass(slots=True)
class Member:
    """`oldest` is the first seq to be seen; 0 is a member that has left. `chosen`: see `rules`."""

    conversation: int
    user: int
    oldest: int
    received: int
    read: int
    own_read: int
    chosen: bool


@dataclass(slots=True)
class Position:
    conversation: int
    device: int
    received: int
    read: int


@dataclass(frozen=True, slots=True)
class Message:
    """What is needed to answer a message that is there already."""

    conversation: int
    seq: int
    stored_at_ms: int
    kind: int
    encoding: int
    body: bytes


_INSERT_MESSAGE: Final = f"""INSERT INTO message ({chain.COLUMNS}, chain)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_WRITE_CONVERSATION: Final = """INSERT INTO conversation (id, key, creator, open, head, change, chain)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET head = excluded.head, change = excluded.change, chain = excluded.chain"""
_WRITE_MEMBER: Final = """INSERT INTO member (conversation, user, oldest, received, read, own_read, chosen)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (conversation, user) DO UPDATE SET oldest = excluded.oldest,
    received = excluded.received, read = excluded.read, own_read = excluded.own_read,
    chosen = excluded.chosen"""
_WRITE_POSITION: Final = """INSERT INTO position (conversation, device, received, read) VALUES (?, ?, ?, ?)
    ON CONFLICT (conversation, device) DO UPDATE SET received = excluded.received, read = excluded.read"""


class Tables:
    """Rows by their names; every change goes through here."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._users: dict[str, int] = {}
        self._devices: dict[tuple[int, bytes], Device] = {}
        self._conversations: dict[str, Conversation] = {}
        self._members: dict[tuple[int, int], Member] = {}
        self._positions: dict[tuple[int, int], Position] = {}
        self._batch_messages: dict[tuple[int, bytes], Message] = {}
        self._new_messages: list[tuple[Any, ...]] = []
        self._changed_conversations: dict[int, Conversation] = {}
        self._changed_members: dict[tuple[int, int], Member] = {}
        self._changed_positions: dict[tuple[int, int], Position] = {}
        self._change: int = self._one("SELECT coalesce(max(change), 0) FROM conversation")[0]
        self._last_conversation: int = self._one("SELECT coalesce(max(id), 0) FROM conversation")[0]

    @property
    def change(self) -> int:
        """The latest change number."""
        return self._change

    # ---- the batch

    def flush(self) -> None:
        """Write what was gathered, before the commit."""
        self._write(_INSERT_MESSAGE, self._new_messages)
        self._new_messages.clear()
        conversations = self._changed_conversations.values()
        self._write(
            _WRITE_CONVERSATION,
            [(c.id, c.key, c.creator, c.open, c.head, c.change, c.chain) for c in conversations],
        )
        self._changed_conversations.clear()
        self._flush_members()
        positions = self._changed_positions.values()
        self._write(_WRITE_POSITION, [(p.conversation, p.device, p.received, p.read) for p in positions])
        self._changed_positions.clear()

    def settle(self) -> None:
        """After the commit: keep the objects, unless they became too many."""
        self._batch_messages.clear()
        for kept in (self._users, self._devices, self._conversations, self._members, self._positions):
            if len(kept) > STORE_HOT_ROWS:
                kept.clear()

    # ---- users and devices

    def user(self, name: str) -> int | None:
        """The id of a user, or None."""
        found = self._users.get(name)
        if found is None:
            # Only a good name may reach SQLite: it refuses to bind text that is not Unicode.
            row = self._one("SELECT id FROM user WHERE name = ?", name) if rules.is_name(name) else None
            if row is None:
                return None
            found = self._users[name] = row[0]
        return found

    def add_user(self, name: str) -> int:
        user: int = self._one("INSERT INTO user (name) VALUES (?) RETURNING id", name)[0]
        self._users[name] = user
        return user

    def device(self, user: int, key: bytes) -> Device | None:
        found = self._devices.get((user, key))
        if found is None:
            sql = "SELECT id, label, revoked_at_ms IS NOT NULL FROM device WHERE user = ? AND key = ?"
            row = self._one(sql, user, key)
            if row is None:
                return None
            found = self._devices[user, key] = Device(row[0], row[1], bool(row[2]))
        return found

    def add_device(self, user: int, key: bytes, label: str, at_ms: int) -> None:
        """A new device, which stands where its user stands."""
        self.flush()
        sql = "INSERT INTO device (user, key, label, created_at_ms) VALUES (?, ?, ?, ?) RETURNING id"
        device = self._one(sql, user, key, label, at_ms)[0]
        self._devices[user, key] = Device(device, label, revoked=False)
        self.connection.execute(
            """INSERT INTO position (conversation, device, received, read)
            SELECT conversation, ?, received, own_read FROM member WHERE user = ? AND oldest > 0""",
            (device, user),
        )

    # ---- conversations and members

    def conversation(self, key: str) -> Conversation | None:
        found = self._conversations.get(key)
        if found is None:
            sql = "SELECT id, key, creator, open, head, change, chain FROM conversation WHERE key = ?"
            row = self._one(sql, key) if rules.is_conversation(key) else None
            if row is None:
                return None
            found = self._conversations[key] = Conversation(*row)
        return found

    def add_conversation(self, key: str, *, creator: int, open: bool) -> Conversation:
        self._last_conversation += 1
        new = Conversation(self._last_conversation, key, creator, open, 0, 0, chain.beginning(key))
        self._conversations[key] = new
        return new

    def next_change(self, conversation: Conversation) -> int:
        """Give the conversation the next number of the store's one counter."""
        self._change += 1
        conversation.change = self._change
        self._changed_conversations[conversation.id] = conversation
        return self._change

    def member(self, conversation: Conversation, user: int) -> Member | None:
        """A member, also one that has left."""
        found = self._members.get((conversation.id, user))
        if found is None:
            sql = """SELECT oldest, received, read, own_read, chosen FROM member
                WHERE conversation = ? AND user = ?"""
            row = self._one(sql, conversation.id, user)
            if row is None:
                return None
            found = self._members[conversation.id, user] = Member(conversation.id, user, *row)
        return found

    def write_member(self, member: Member) -> None:
        """This member is new or changed."""
        key = (member.conversation, member.user)
        self._members[key] = self._changed_members[key] = member

    def members(self, conversation: Conversation) -> list[tuple[str, int, int, int]]:
        """(name, received, read, own_read) of the current members, sorted by name."""
        self._flush_members()
        sql = """SELECT name, received, read, own_read FROM member JOIN user ON user.id = member.user
            WHERE conversation = ? AND oldest > 0 ORDER BY name"""
        return self.connection.execute(sql, (conversation.id,)).fetchall()

    def chosen_count(self, user: int) -> int:
        """How many conversations count against this user: see `rules.may_choose_another`."""
        self._flush_members()
        sql = "SELECT count(*) FROM member WHERE user = ? AND chosen = 1"
        count: int = self._one(sql, user)[0]
        return count

    def added_counts(self, user: int, maker: int) -> tuple[int, int]:
        """In how many groups others have put this user, and how many of those `maker` made."""
        self.flush()
        # The unary plus keeps SQLite from going through all groups of the store instead of the user's own.
        sql = """SELECT count(*), coalesce(sum(creator = ?), 0) FROM member
            JOIN conversation ON conversation.id = +member.conversation
            WHERE user = ? AND oldest > 0 AND chosen = 0 AND creator > 0"""
        counts: tuple[int, int] = self._one(sql, maker, user)
        return counts

    # ---- positions

    def position(self, member: Member, device: Device) -> Position:
        """Where a device stands; one that never said stands before the first entry that it may see."""
        found = self._positions.get((member.conversation, device.id))
        if found is None:
            sql = "SELECT received, read FROM position WHERE conversation = ? AND device = ?"
            row = self._one(sql, member.conversation, device.id) or (member.oldest - 1, member.oldest - 1)
            found = Position(member.conversation, device.id, *row)
            self._positions[member.conversation, device.id] = found
        return found

    def write_position(self, position: Position) -> None:
        """This position is new or changed."""
        self._changed_positions[position.conversation, position.device] = position

    def remove_positions(self, conversation: Conversation, user: int) -> None:
        """Forget where the devices of somebody who left have been."""
        self.flush()
        sql = "DELETE FROM position WHERE conversation = ? AND device = ?"
        for (device,) in self.connection.execute("SELECT id FROM device WHERE user = ?", (user,)).fetchall():
            self.connection.execute(sql, (conversation.id, device))
            self._positions.pop((conversation.id, device), None)

    # ---- messages

    def message(self, sender: int, message_id: bytes) -> Message | None:
        """A stored message, also one of this batch."""
        found = self._batch_messages.get((sender, message_id))
        if found is None:
            sql = """SELECT conversation, seq, stored_at_ms, kind, encoding, body FROM message
                WHERE sender = ? AND message_id = ?"""
            row = self._one(sql, sender, message_id)
            return None if row is None else Message(*row)
        return found

    def add_message(self, conversation: Conversation, sender: int, device: Device, entry: LogEntry) -> None:
        """The next entry of the log; `entry.seq` is the head + 1."""
        assert entry.seq == conversation.head + 1, "a log has no gaps"
        conversation.head = entry.seq
        self._changed_conversations[conversation.id] = conversation
        self._batch_messages[sender, entry.message_id] = Message(
            conversation.id, entry.seq, entry.stored_at_ms, entry.kind, entry.encoding, entry.body
        )
        row: chain.Row = (
            conversation.id,
            entry.seq,
            sender,
            device.id,
            entry.message_id,
            entry.kind,
            entry.encoding,
            entry.stored_at_ms,
            entry.body,
        )
        conversation.chain = chain.link(conversation.chain, row)
        self._new_messages.append((*row, conversation.chain))

    # ---- private

    def _one(self, sql: str, *values: Any) -> Any:
        # All rows, though there is one: a statement that is not at its end keeps the commit from working.
        rows = self.connection.execute(sql, values).fetchall()
        return rows[0] if rows else None

    def _flush_members(self) -> None:
        members = self._changed_members.values()
        rows = [(m.conversation, m.user, m.oldest, m.received, m.read, m.own_read, m.chosen) for m in members]
        self._write(_WRITE_MEMBER, rows)
        self._changed_members.clear()

    def _write(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        for row in rows:
            self.connection.execute(sql, row)
