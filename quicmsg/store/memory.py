"""The store as plain dicts: the readable reference for the other engines, and the store of simulations.

Nothing is durable: `snapshot` and `restore` are what a simulated disk is made of, so that a crash can
drop what was not committed yet. Values are immutable, which makes a snapshot a copy of the dicts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from quicmsg.limits import DEVICES_PER_USER_MAX, LINK_CODES_PER_USER_MAX, MEMBERS_MAX
from quicmsg.protocol.frames import Kind
from quicmsg.store import (
    Append,
    Appended,
    Change,
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
from quicmsg.store.memory_state import Code, Device, Group, Member, Position, State


class MemoryStore:
    """A store that lives as long as its process."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._state = State()

    # ---- for simulations

    def snapshot(self) -> object:
        """What the store holds now; give it to `restore`, of this store or of another one."""
        return self._state.copy()

    def restore(self, snapshot: object) -> None:
        """Hold again what was held at the time of the snapshot, which stays usable."""
        assert isinstance(snapshot, State), "not a snapshot of a MemoryStore"
        self._state = snapshot.copy()

    # ---- operations

    def execute(self, operations: Sequence[Operation]) -> list[Result]:
        return [self._run(operation) for operation in operations]

    def close(self) -> None:
        """There is nothing to close."""

    def _run(self, operation: Operation) -> Result:
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

    # ---- reading

    def entries(
        self, conversation: str, user: str, *, after: int = 0, before: int | None = None, limit: int
    ) -> list[LogEntry]:
        member = self._member(conversation, user)
        if member is None or limit <= 0:
            return []
        log = self._state.logs[conversation]
        first = max(after + 1, member.oldest)
        if before is None:
            return log[first - 1 : first - 1 + limit]
        last = min(before - 1, len(log))
        return log[max(first, last - limit + 1) - 1 : last] if last >= first else []

    def changes(self, user: str, *, after: int, limit: int) -> list[Change]:
        found = [
            Change(conversation, len(self._state.logs[conversation]), change)
            for conversation, change in list(self._state.changes.items())
            if change > after and self._member(conversation, user) is not None
        ]
        return sorted(found, key=lambda change: change.change)[: max(limit, 0)]

    def members(self, conversation: str) -> list[str]:
        members = list(self._state.members.get(conversation, {}).items())
        return sorted(user for user, member in members if member.oldest)

    def devices(self, user: str) -> list[tuple[bytes, str, bool]]:
        devices = list(self._state.devices.items())
        return [(key, device.label, device.revoked) for (owner, key), device in devices if owner == user]

    def head(self) -> int:
        return self._state.change

    # ---- messages and positions

    def _append(self, op: Append) -> Appended | Refusal:
        stored = self._state.identities.get((op.sender, op.message_id))
        if stored is not None:
            # Looked up before any right: what is stored is stored, also when the sender has left since.
            if not _is_same(stored, op.conversation, op.kind, op.encoding, op.body):
                return rules.CONFLICT
            return Appended(stored.seq, stored.stored_at_ms, duplicate=True, change=0)
        refusal = self._actor_refusal(op.sender, op.device)
        if refusal is not None:
            return refusal
        if self._member(op.conversation, op.sender) is None:
            return rules.UNKNOWN_CONVERSATION
        entry = self._add_entry(op)
        return Appended(entry.seq, op.at_ms, duplicate=False, change=self._next_change(op.conversation))

    def _open(self, op: OpenConversation) -> Opened | Refusal:
        refusal = self._actor_refusal(op.user, op.device)
        if refusal is not None:
            return refusal
        change = 0
        if self._member(op.conversation, op.user) is None:
            pair = rules.direct_members(op.conversation)
            if op.user not in pair or any(user not in self._state.users for user in pair):
                return rules.UNKNOWN_CONVERSATION
            if not self._may_choose_another(op.user):
                return rules.TOO_MANY_CONVERSATIONS
            self._begin(op.conversation)
            for user in pair:
                self._add_member(op.conversation, user, oldest=1, chosen=user == op.user)
            change = self._next_change(op.conversation)
        head = len(self._state.logs[op.conversation])
        believed = rules.is_believed(op.position, epoch=op.epoch, store_epoch=self.epoch, head=head)
        if believed:
            change = self._go_forward(op.conversation, op.user, op.device, op.position, 0, False) or change
        member = self._state.members[op.conversation][op.user]
        own = self._position(op.conversation, op.user, op.device)
        members = tuple(
            MemberPosition(user, other.received, other.own_read if user == op.user else other.read)
            for user, other in sorted(self._state.members[op.conversation].items())
            if other.oldest
        )
        return Opened(self.epoch, member.oldest, head, own.received, own.read, not believed, members, change)

    def _move(self, op: MovePosition) -> Moved | Refusal:
        refusal = self._actor_refusal(op.user, op.device)
        if refusal is not None:
            return refusal
        if self._member(op.conversation, op.user) is None:
            return rules.UNKNOWN_CONVERSATION
        change = self._go_forward(op.conversation, op.user, op.device, op.received, op.read, op.read_public)
        member = self._state.members[op.conversation][op.user]
        return Moved(member.received, member.read, member.own_read, change)

    def _go_forward(
        self, conversation: str, user: str, device: bytes, received: int, read: int, read_public: bool
    ) -> int:
        """Move the device, and the user as its devices' maximum; the change, or 0 if the user stays."""
        head = len(self._state.logs[conversation])
        old = self._position(conversation, user, device)
        read = min(read, head)
        position = Position(max(old.received, min(received, head), read), max(old.read, read))
        self._state.positions[conversation, user, device] = position
        member = self._state.members[conversation][user]
        moved = replace(
            member,
            received=max(member.received, position.received),
            read=max(member.read, read if read_public else 0),
            own_read=max(member.own_read, read),
        )
        if moved == member:
            return 0
        self._state.members[conversation][user] = moved
        return self._next_change(conversation)

    # ---- groups

    def _create(self, op: CreateGroup) -> GroupChanged | Refusal:
        if not rules.is_group(op.conversation):
            return rules.GROUP_NAME_INVALID
        refusal = self._actor_refusal(op.creator, op.device)
        if refusal is not None:
            return refusal
        group = self._state.groups.get(op.conversation)
        if group is not None:
            return self._unchanged(op.conversation) if group.creator == op.creator else rules.EXISTS
        users = tuple(dict.fromkeys((op.creator, *op.members)))
        if len(users) > MEMBERS_MAX:
            return rules.TOO_MANY_MEMBERS
        if any(user not in self._state.users for user in users):
            return rules.UNKNOWN_USER
        if not self._may_choose_another(op.creator):
            return rules.TOO_MANY_CONVERSATIONS
        if not all(self._may_be_added(user, op.creator) for user in users if user != op.creator):
            return rules.TOO_OFTEN_ADDED
        if any((op.creator, rules.entry_id(op.request_id, user)) in self._state.identities for user in users):
            return rules.CONFLICT
        self._begin(op.conversation)
        self._state.groups[op.conversation] = Group(op.creator, op.open)
        entries = []
        for user in users:
            kind = Kind.CREATED if user == op.creator else Kind.JOINED
            entries.append(self._add_entry(rules.group_entry(op, op.creator, kind, user)))
            self._add_member(op.conversation, user, oldest=1, chosen=user == op.creator)
        change = self._next_change(op.conversation)
        return GroupChanged(tuple(entries), tuple(self.members(op.conversation)), change)

    def _change_member(self, op: ChangeMember) -> GroupChanged | Refusal:
        refusal = self._actor_refusal(op.actor, op.device)
        if refusal is not None:
            return refusal
        group = self._state.groups.get(op.conversation)
        if group is None:
            return rules.UNKNOWN_CONVERSATION
        kind = Kind.LEFT if op.change == "leave" else Kind.JOINED
        entry = rules.group_entry(op, op.actor, kind, op.user)
        stored = self._state.identities.get((op.actor, entry.message_id))
        if stored is not None:
            same = _is_same(stored, op.conversation, kind, 0, entry.body)
            return self._unchanged(op.conversation) if same else rules.CONFLICT
        if op.change == "leave":
            return self._leave(op, entry)
        return self._join(op, group, entry)

    def _join(self, op: ChangeMember, group: Group, entry: Append) -> GroupChanged | Refusal:
        is_member = self._member(op.conversation, op.user) is not None
        if op.change == "join":
            if op.actor != op.user or not (group.open or is_member):
                return rules.UNKNOWN_CONVERSATION
        else:
            assert op.change == "invite", op.change
            if self._member(op.conversation, op.actor) is None:
                return rules.UNKNOWN_CONVERSATION
            if op.user not in self._state.users:
                return rules.UNKNOWN_USER
        if is_member:
            return self._unchanged(op.conversation)
        if len(self.members(op.conversation)) >= MEMBERS_MAX:
            return rules.TOO_MANY_MEMBERS
        if op.change == "join" and not self._may_choose_another(op.user):
            return rules.TOO_MANY_CONVERSATIONS
        if op.change == "invite" and not self._may_be_added(op.user, group.creator):
            return rules.TOO_OFTEN_ADDED
        added = self._add_entry(entry)
        self._add_member(op.conversation, op.user, oldest=added.seq, chosen=op.change == "join")
        return self._group_changed(added)

    def _leave(self, op: ChangeMember, entry: Append) -> GroupChanged | Refusal:
        member = self._state.members[op.conversation].get(op.user)
        if member is None or op.actor != op.user:
            return rules.UNKNOWN_CONVERSATION
        if not member.oldest:
            return self._unchanged(op.conversation)
        added = self._add_entry(entry)
        self._state.members[op.conversation][op.user] = Member(0, 0, 0, 0, chosen=False)
        for key in self._state.positions.copy():
            if key[:2] == (op.conversation, op.user):
                del self._state.positions[key]
        return self._group_changed(added)

    def _group_changed(self, entry: LogEntry) -> GroupChanged:
        change = self._next_change(entry.conversation)
        return GroupChanged((entry,), tuple(self.members(entry.conversation)), change)

    def _unchanged(self, conversation: str) -> GroupChanged:
        return GroupChanged((), tuple(self.members(conversation)), 0)

    # ---- accounts

    def _sign_in(self, op: SignIn) -> SignedIn | Refusal:
        if not rules.is_name(op.user):
            return rules.USER_NAME_INVALID
        device = rules.device_id(op.public_key)
        known = self._state.devices.get((op.user, device))
        if known is not None:
            if known.revoked:
                return rules.REVOKED
            self._state.devices[op.user, device] = Device(op.label)
            return SignedIn(op.user, device, new_user=False, new_device=False)
        new_user = op.user not in self._state.users
        if not new_user and not op.code:
            return rules.NAME_TAKEN
        if new_user and op.invite_only and not op.code:
            return rules.INVITE_NEEDED
        if not new_user or op.invite_only:
            code = self._usable_code(op, "invite" if new_user else "link")
            if code is None:
                return rules.CODE_INVALID
            if sum(not revoked for _, _, revoked in self.devices(op.user)) >= DEVICES_PER_USER_MAX:
                return rules.TOO_MANY_DEVICES
            self._state.codes[rules.code_hash(op.code)] = replace(code, used=True)
        self._state.users[op.user] = None
        self._state.devices[op.user, device] = Device(op.label)
        for conversation, members in self._state.members.items():
            member = members.get(op.user)
            if member is not None and member.oldest:
                start = Position(member.received, member.own_read)
                self._state.positions[conversation, op.user, device] = start
        return SignedIn(op.user, device, new_user=new_user, new_device=True)

    def _usable_code(self, op: SignIn, kind: str) -> Code | None:
        code = self._state.codes.get(rules.code_hash(op.code))
        if code is None or code.used or code.kind != kind or code.expires_at_ms <= op.at_ms:
            return None
        return code if kind == "invite" or code.user == op.user else None

    def _make_code(self, op: MakeCode) -> Done | Refusal:
        if op.kind == "link" and op.user not in self._state.users:
            return rules.UNKNOWN_USER
        if op.device and (refusal := self._actor_refusal(op.user, op.device)) is not None:
            return refusal
        codes = self._state.codes
        codes.setdefault(rules.code_hash(op.code), Code(op.kind, op.user, op.expires_at_ms))
        if op.kind == "link":
            links = [key for key, code in codes.items() if (code.kind, code.user) == ("link", op.user)]
            for key in links[:-LINK_CODES_PER_USER_MAX]:
                del codes[key]
        return Done()

    def _revoke(self, op: RevokeDevice) -> Done | Refusal:
        device = self._state.devices.get((op.user, op.device))
        if device is None:
            return rules.UNKNOWN_DEVICE
        self._state.devices[op.user, op.device] = replace(device, revoked=True)
        return Done()

    # ---- rows

    def _actor_refusal(self, user: str, key: bytes) -> Refusal | None:
        device = self._state.devices.get((user, key))
        if device is None:
            return rules.UNKNOWN_DEVICE
        return rules.REVOKED if device.revoked else None

    def _begin(self, conversation: str) -> None:
        self._state.logs[conversation] = []
        self._state.members[conversation] = {}

    def _member(self, conversation: str, user: str) -> Member | None:
        """The current member, or None."""
        member = self._state.members.get(conversation, {}).get(user)
        return member if member is not None and member.oldest else None

    def _add_member(self, conversation: str, user: str, *, oldest: int, chosen: bool) -> None:
        # Positions begin right before the first entry to be seen: otherwise a join would take the second
        # tick away from messages that everybody else has.
        start = oldest - 1
        self._state.members[conversation][user] = Member(oldest, start, start, start, chosen)

    def _may_choose_another(self, user: str) -> bool:
        every = self._state.members.values()
        return rules.may_choose_another(sum(user in members and members[user].chosen for members in every))

    def _may_be_added(self, user: str, maker: str) -> bool:
        found = [(group.creator, self._member(key, user)) for key, group in self._state.groups.items()]
        makers = [creator for creator, member in found if member is not None and not member.chosen]
        return rules.may_be_added(len(makers), makers.count(maker))

    def _position(self, conversation: str, user: str, device: bytes) -> Position:
        start = self._state.members[conversation][user].oldest - 1
        return self._state.positions.get((conversation, user, device), Position(start, start))

    def _add_entry(self, op: Append) -> LogEntry:
        log = self._state.logs[op.conversation]
        entry = LogEntry(
            op.conversation, len(log) + 1, op.message_id, op.sender, op.device,
            op.kind, op.encoding, op.body, op.at_ms,
        )  # fmt: skip
        log.append(entry)
        self._state.identities[op.sender, op.message_id] = entry
        return entry

    def _next_change(self, conversation: str) -> int:
        self._state.change += 1
        self._state.changes[conversation] = self._state.change
        return self._state.change


def _is_same(stored: LogEntry, conversation: str, kind: int, encoding: int, body: bytes) -> bool:
    same_place = stored.conversation == conversation and stored.kind == kind
    return same_place and stored.encoding == encoding and stored.body == body
