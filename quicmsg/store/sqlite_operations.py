"""What each operation does to the tables of a SQLite store: the rights, the refusals, the results.

Everything is checked before anything is changed, so that a refusal needs no savepoint: it leaves the
batch as it was. `memory.py` says the same over plain dicts, and a test compares the two.
"""

from __future__ import annotations

from typing import Any

from quicmsg.limits import DEVICES_PER_USER_MAX, LINK_CODES_PER_USER_MAX, MEMBERS_MAX
from quicmsg.protocol.frames import Kind
from quicmsg.store import (
    Append,
    Appended,
    ChangeMember,
    CreateGroup,
    Done,
    GroupChanged,
    LogEntry,
    MakeCode,
    MemberPosition,
    Moved,
    MovePosition,
    OpenConversation,
    Opened,
    Operation,
    Refusal,
    Result,
    RevokeDevice,
    SignedIn,
    SignIn,
    rules,
)
from quicmsg.store.sqlite_tables import Conversation, Device, Member, Message, Tables


class Operations:
    """Runs operations on `Tables`, inside a transaction that its caller begins and commits."""

    def __init__(self, tables: Tables, epoch: int) -> None:
        self._tables = tables
        self._epoch = epoch

    def run(self, operation: Operation) -> Result:
        """Do it, or refuse it."""
        match operation:
            case Append():
                return self._append(operation)
            case OpenConversation():
                return self._open(operation)
            case MovePosition():
                return self._move(operation)
            case CreateGroup():
                return self._create(operation)
            case ChangeMember():
                return self._change_member(operation)
            case SignIn():
                return self._sign_in(operation)
            case MakeCode():
                return self._make_code(operation)
            case RevokeDevice():
                return self._revoke(operation)

    # ---- messages and positions

    def _append(self, op: Append) -> Appended | Refusal:
        conversation = self._tables.conversation(op.conversation)
        known = self._tables.user(op.sender)
        stored = None if known is None else self._tables.message(known, op.message_id)
        if stored is not None:
            # Looked up before any right: what is stored is stored, also when the sender has left since.
            if not _is_same(stored, conversation, op.kind, op.encoding, op.body):
                return rules.CONFLICT
            return Appended(stored.seq, stored.stored_at_ms, duplicate=True, change=0)
        actor = self._actor(op.sender, op.device)
        if isinstance(actor, Refusal):
            return actor
        sender, device = actor
        if conversation is None or self._current(conversation, sender) is None:
            return rules.UNKNOWN_CONVERSATION
        entry = self._add_entry(conversation, sender, device, op)
        change = self._tables.next_change(conversation)
        return Appended(entry.seq, op.at_ms, duplicate=False, change=change)

    def _open(self, op: OpenConversation) -> Opened | Refusal:
        actor = self._actor(op.user, op.device)
        if isinstance(actor, Refusal):
            return actor
        user, device = actor
        change = 0
        conversation = self._tables.conversation(op.conversation)
        if conversation is None:
            made = self._make_direct(op, user)
            if isinstance(made, Refusal):
                return made
            conversation, change = made, made.change
        member = self._current(conversation, user)
        if member is None:
            return rules.UNKNOWN_CONVERSATION
        head = conversation.head
        believed = rules.is_believed(op.position, epoch=op.epoch, store_epoch=self._epoch, head=head)
        if believed:
            change = self._go_forward(conversation, member, device, op.position, 0, False) or change
        own = self._tables.position(member, device)
        members = tuple(
            MemberPosition(name, received, own_read if name == op.user else read)
            for name, received, read, own_read in self._tables.members(conversation)
        )
        return Opened(self._epoch, member.oldest, head, own.received, own.read, not believed, members, change)

    def _make_direct(self, op: OpenConversation, opener: int) -> Conversation | Refusal:
        pair = rules.direct_members(op.conversation)
        users = [user for user in map(self._tables.user, pair) if user is not None]
        if op.user not in pair or len(users) < len(pair):
            return rules.UNKNOWN_CONVERSATION
        if not self._may_choose_another(opener):
            return rules.TOO_MANY_CONVERSATIONS
        conversation = self._tables.add_conversation(op.conversation, creator=0, open=False)
        for user in users:
            self._add_member(conversation, user, oldest=1, chosen=user == opener)
        self._tables.next_change(conversation)
        return conversation

    def _move(self, op: MovePosition) -> Moved | Refusal:
        actor = self._actor(op.user, op.device)
        if isinstance(actor, Refusal):
            return actor
        user, device = actor
        conversation = self._tables.conversation(op.conversation)
        member = None if conversation is None else self._current(conversation, user)
        if conversation is None or member is None:
            return rules.UNKNOWN_CONVERSATION
        change = self._go_forward(conversation, member, device, op.received, op.read, op.read_public)
        return Moved(member.received, member.read, member.own_read, change)

    def _go_forward(
        self,
        conversation: Conversation,
        member: Member,
        device: Device,
        received: int,
        read: int,
        read_public: bool,
    ) -> int:
        """Move the device, and the user as its devices' maximum; the change, or 0 if the user stays."""
        position = self._tables.position(member, device)
        read = min(read, conversation.head)
        received = max(position.received, min(received, conversation.head), read)
        if received > position.received or read > position.read:
            position.received, position.read = received, max(position.read, read)
            self._tables.write_position(position)
        old = (member.received, member.read, member.own_read)
        new = (
            max(member.received, received),
            max(member.read, read if read_public else 0),
            max(member.own_read, read),
        )
        if new == old:
            return 0
        member.received, member.read, member.own_read = new
        self._tables.write_member(member)
        return self._tables.next_change(conversation)

    # ---- groups

    def _create(self, op: CreateGroup) -> GroupChanged | Refusal:
        if not rules.is_group(op.conversation):
            return rules.GROUP_NAME_INVALID
        actor = self._actor(op.creator, op.device)
        if isinstance(actor, Refusal):
            return actor
        creator, device = actor
        group = self._tables.conversation(op.conversation)
        if group is not None:
            return self._unchanged(group) if group.creator == creator else rules.EXISTS
        names = tuple(dict.fromkeys((op.creator, *op.members)))
        users = self._founders(names, creator, op.request_id)
        if isinstance(users, Refusal):
            return users
        group = self._tables.add_conversation(op.conversation, creator=creator, open=op.open)
        entries = []
        for name, user in zip(names, users, strict=True):
            kind = Kind.CREATED if user == creator else Kind.JOINED
            entries.append(
                self._add_entry(group, creator, device, rules.group_entry(op, op.creator, kind, name))
            )
            self._add_member(group, user, oldest=1, chosen=user == creator)
        change = self._tables.next_change(group)
        return GroupChanged(tuple(entries), self._member_names(group), change)

    def _founders(self, names: tuple[str, ...], creator: int, request_id: bytes) -> list[int] | Refusal:
        if len(names) > MEMBERS_MAX:
            return rules.TOO_MANY_MEMBERS
        users = [user for user in map(self._tables.user, names) if user is not None]
        if len(users) < len(names):
            return rules.UNKNOWN_USER
        if not self._may_choose_another(creator):
            return rules.TOO_MANY_CONVERSATIONS
        if not all(self._may_be_added(user, creator) for user in users if user != creator):
            return rules.TOO_OFTEN_ADDED
        identities = [(creator, rules.entry_id(request_id, name)) for name in names]
        if any(self._tables.message(*identity) is not None for identity in identities):
            return rules.CONFLICT
        return users

    def _change_member(self, op: ChangeMember) -> GroupChanged | Refusal:
        found = self._actor(op.actor, op.device)
        if isinstance(found, Refusal):
            return found
        actor, device = found
        group = self._tables.conversation(op.conversation)
        if group is None or not group.creator:
            return rules.UNKNOWN_CONVERSATION
        kind = Kind.LEFT if op.change == "leave" else Kind.JOINED
        entry = rules.group_entry(op, op.actor, kind, op.user)
        stored = self._tables.message(actor, entry.message_id)
        if stored is not None:
            same = _is_same(stored, group, kind, 0, entry.body)
            return self._unchanged(group) if same else rules.CONFLICT
        if op.change == "leave":
            return self._leave(op, group, actor, device, entry)
        return self._join(op, group, actor, device, entry)

    def _join(
        self, op: ChangeMember, group: Conversation, actor: int, device: Device, entry: Append
    ) -> GroupChanged | Refusal:
        user = self._tables.user(op.user)
        is_member = user is not None and self._current(group, user) is not None
        if op.change == "join":
            if actor != user or not (group.open or is_member):
                return rules.UNKNOWN_CONVERSATION
        else:
            assert op.change == "invite", op.change
            if self._current(group, actor) is None:
                return rules.UNKNOWN_CONVERSATION
        if user is None:
            return rules.UNKNOWN_USER
        if is_member:
            return self._unchanged(group)
        if len(self._tables.members(group)) >= MEMBERS_MAX:
            return rules.TOO_MANY_MEMBERS
        if op.change == "join" and not self._may_choose_another(user):
            return rules.TOO_MANY_CONVERSATIONS
        if op.change == "invite" and not self._may_be_added(user, group.creator):
            return rules.TOO_OFTEN_ADDED
        added = self._add_entry(group, actor, device, entry)
        self._add_member(group, user, oldest=added.seq, chosen=op.change == "join")
        return self._group_changed(group, added)

    def _leave(
        self, op: ChangeMember, group: Conversation, actor: int, device: Device, entry: Append
    ) -> GroupChanged | Refusal:
        member = self._tables.member(group, actor)
        if member is None or op.user != op.actor:
            return rules.UNKNOWN_CONVERSATION
        if not member.oldest:
            return self._unchanged(group)
        added = self._add_entry(group, actor, device, entry)
        self._tables.write_member(Member(group.id, actor, 0, 0, 0, 0, chosen=False))
        self._tables.remove_positions(group, actor)
        return self._group_changed(group, added)

    def _group_changed(self, group: Conversation, entry: LogEntry) -> GroupChanged:
        change = self._tables.next_change(group)
        return GroupChanged((entry,), self._member_names(group), change)

    def _unchanged(self, group: Conversation) -> GroupChanged:
        return GroupChanged((), self._member_names(group), 0)

    def _member_names(self, group: Conversation) -> tuple[str, ...]:
        return tuple(name for name, *_ in self._tables.members(group))

    # ---- accounts

    def _sign_in(self, op: SignIn) -> SignedIn | Refusal:
        if not rules.is_name(op.user):
            return rules.USER_NAME_INVALID
        key = rules.device_id(op.public_key)
        user = self._tables.user(op.user)
        known = None if user is None else self._tables.device(user, key)
        if known is not None:
            if known.revoked:
                return rules.REVOKED
            if known.label != op.label:
                known.label = op.label
                self._execute("UPDATE device SET label = ? WHERE id = ?", op.label, known.id)
            return SignedIn(op.user, key, new_user=False, new_device=False)
        if user is not None and not op.code:
            return rules.NAME_TAKEN
        if user is None and op.invite_only and not op.code:
            return rules.INVITE_NEEDED
        if user is not None or op.invite_only:
            code = self._usable_code(op, "invite" if user is None else "link")
            if code is None:
                return rules.CODE_INVALID
            if user is not None and self._device_count(user) >= DEVICES_PER_USER_MAX:
                return rules.TOO_MANY_DEVICES
            self._execute("UPDATE code SET used = 1 WHERE id = ?", code)
        owner = self._tables.add_user(op.user) if user is None else user
        self._tables.add_device(owner, key, op.label, op.at_ms)
        return SignedIn(op.user, key, new_user=user is None, new_device=True)

    def _usable_code(self, op: SignIn, kind: str) -> int | None:
        sql = """SELECT id FROM code WHERE hash = ? AND kind = ? AND used = 0 AND expires_at_ms > ?
            AND (kind = 'invite' OR user = ?)"""
        rows = self._execute(sql, rules.code_hash(op.code), kind, op.at_ms, op.user)
        return rows[0][0] if rows else None

    def _device_count(self, user: int) -> int:
        sql = "SELECT count(*) FROM device WHERE user = ? AND revoked_at_ms IS NULL"
        count: int = self._execute(sql, user)[0][0]
        return count

    def _make_code(self, op: MakeCode) -> Done | Refusal:
        if op.kind == "link" and self._tables.user(op.user) is None:
            return rules.UNKNOWN_USER
        if op.device and isinstance(actor := self._actor(op.user, op.device), Refusal):
            return actor
        self._execute(
            "INSERT INTO code (hash, kind, user, expires_at_ms) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            rules.code_hash(op.code),
            op.kind,
            op.user,
            op.expires_at_ms,
        )
        if op.kind == "link":
            self._execute(
                """DELETE FROM code WHERE id IN (SELECT id FROM code WHERE user = ? AND kind = 'link'
                ORDER BY id DESC LIMIT -1 OFFSET ?)""",
                op.user,
                LINK_CODES_PER_USER_MAX,
            )
        return Done()

    def _revoke(self, op: RevokeDevice) -> Done | Refusal:
        user = self._tables.user(op.user)
        device = None if user is None else self._tables.device(user, op.device)
        if device is None:
            return rules.UNKNOWN_DEVICE
        if not device.revoked:
            self._execute("UPDATE device SET revoked_at_ms = ? WHERE id = ?", op.at_ms, device.id)
            device.revoked = True
        return Done()

    # ---- rows

    def _execute(self, sql: str, *values: Any) -> list[Any]:
        return self._tables.connection.execute(sql, values).fetchall()

    def _actor(self, name: str, key: bytes) -> tuple[int, Device] | Refusal:
        """Who does it: a user, with a device that it still has."""
        user = self._tables.user(name)
        device = None if user is None else self._tables.device(user, key)
        if user is None or device is None:
            return rules.UNKNOWN_DEVICE
        return rules.REVOKED if device.revoked else (user, device)

    def _current(self, conversation: Conversation, user: int) -> Member | None:
        member = self._tables.member(conversation, user)
        return member if member is not None and member.oldest else None

    def _may_choose_another(self, user: int) -> bool:
        return rules.may_choose_another(self._tables.chosen_count(user))

    def _may_be_added(self, user: int, maker: int) -> bool:
        return rules.may_be_added(*self._tables.added_counts(user, maker))

    def _add_member(self, conversation: Conversation, user: int, *, oldest: int, chosen: bool) -> None:
        # Positions begin right before the first entry to be seen: otherwise a join would take the second
        # tick away from messages that everybody else has.
        start = oldest - 1
        self._tables.write_member(Member(conversation.id, user, oldest, start, start, start, chosen))

    def _add_entry(self, conversation: Conversation, sender: int, device: Device, op: Append) -> LogEntry:
        entry = LogEntry(
            op.conversation,
            conversation.head + 1,
            op.message_id,
            op.sender,
            op.device,
            op.kind,
            op.encoding,
            op.body,
            op.at_ms,
        )
        self._tables.add_message(conversation, sender, device, entry)
        return entry


def _is_same(
    stored: Message, conversation: Conversation | None, kind: int, encoding: int, body: bytes
) -> bool:
    same_place = conversation is not None and stored.conversation == conversation.id
    return same_place and (stored.kind, stored.encoding, stored.body) == (kind, encoding, body)
