"""What a `MemoryStore` holds: dicts of immutable rows, so that a snapshot is a copy of the dicts only."""

from __future__ import annotations

from dataclasses import dataclass, field

from quicmsg.store import LogEntry


@dataclass(frozen=True, slots=True)
class Device:
    label: str
    revoked: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    creator: str
    open: bool


@dataclass(frozen=True, slots=True)
class Member:
    """`oldest` is the first seq to be seen; 0 is a member that has left. `chosen`: see `rules`."""

    oldest: int
    received: int
    read: int
    own_read: int
    chosen: bool


@dataclass(frozen=True, slots=True)
class Position:
    received: int
    read: int


@dataclass(frozen=True, slots=True)
class Code:
    kind: str
    user: str
    expires_at_ms: int
    used: bool = False


@dataclass(slots=True)
class State:
    """Everything that a snapshot has to hold."""

    change: int = 0
    users: dict[str, None] = field(default_factory=dict)
    devices: dict[tuple[str, bytes], Device] = field(default_factory=dict)
    codes: dict[bytes, Code] = field(default_factory=dict)
    groups: dict[str, Group] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)  # conversation -> its latest change
    logs: dict[str, list[LogEntry]] = field(default_factory=dict)
    identities: dict[tuple[str, bytes], LogEntry] = field(default_factory=dict)  # (sender, message_id)
    members: dict[str, dict[str, Member]] = field(default_factory=dict)
    positions: dict[tuple[str, str, bytes], Position] = field(default_factory=dict)

    def copy(self) -> State:
        return State(
            self.change,
            dict(self.users),
            dict(self.devices),
            dict(self.codes),
            dict(self.groups),
            dict(self.changes),
            {conversation: list(log) for conversation, log in self.logs.items()},
            dict(self.identities),
            {conversation: dict(members) for conversation, members in self.members.items()},
            dict(self.positions),
        )
