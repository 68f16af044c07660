"""What a program gets from the client: messages, events, states. Plain values, nothing behind them."""

from __future__ import annotations

import datetime
import enum
import secrets
import time
from dataclasses import dataclass
from uuid import UUID

from quicmsg.errors import RefusedError
from quicmsg.limits import MESSAGE_ID_SIZE
from quicmsg.protocol.frames import Entry, Kind


class State(enum.StrEnum):
    """What is known of a message that was sent here, and no more."""

    QUEUED = "queued"  # on this device's disk
    STORED = "stored"  # durable on the server; has a seq
    DELIVERED = "delivered"  # a device of every other member has processed it
    READ = "read"  # every other member has read it
    FAILED = "failed"  # not confirmed for 12 s; in the outbox, may still become stored
    REJECTED = "rejected"  # refused for good; in the outbox until it is cancelled or sent again
    CANCELLED = "cancelled"  # taken out of the outbox by hand


class Connection(enum.StrEnum):
    """Whether the server answers."""

    UP = "up"
    DOWN = "down"
    MOVED = "moved"  # up, at a new address


@dataclass(frozen=True, slots=True)
class Message:
    """One entry of a conversation. `seq` orders it; `own`: sent by this user (here or elsewhere)."""

    conversation: str
    seq: int
    message_id: str
    sender: str
    text: str
    stored_at: datetime.datetime
    own: bool
    kind: Kind | int = Kind.TEXT


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that the server has not accepted. `state`: queued, failed or rejected; `reason`: why."""

    message_id: str
    conversation: str
    text: str
    state: State
    reason: str


# ---- events --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A message of ours is in another state."""

    message_id: str
    conversation: str
    state: State
    seq: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ReceiptChanged:
    """Somebody else's positions: `user` has everything up to `delivered`, read everything up to `read`."""

    conversation: str
    user: str
    delivered: int
    read: int


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """Somebody created, joined or left a group: a log entry with a seq of its own."""

    conversation: str
    seq: int
    user: str
    change: str


@dataclass(frozen=True, slots=True)
class ConnectionChanged:
    """The link: `address` is ours, `observed_address` what the server sees, `stall_ms` the silence that a
    move caused, `reason` why it is down."""

    state: Connection
    address: str = ""
    observed_address: str = ""
    stall_ms: float = 0.0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Synced:
    """The server has told everything that changed while this device was away: `conversations()` is whole."""


@dataclass(frozen=True, slots=True)
class ConversationLost:
    """The server has no such conversation for this user (any more)."""

    conversation: str
    reason: str


@dataclass(frozen=True, slots=True)
class Lagged:
    """The program was so slow to take events that this many were dropped; states can still be asked."""

    missed: int


ClientEvent = (
    StateChanged | ReceiptChanged | MemberChanged | ConnectionChanged | Synced | ConversationLost | Lagged
)


def message_of(conversation: str, entry: Entry, user: str) -> Message:
    """A log entry as the program sees it. Undecodable text is shown with replacement characters."""
    return Message(
        conversation,
        entry.seq,
        entry.message_id.hex(),
        entry.sender,
        entry.body.decode("utf-8", "replace"),
        datetime.datetime.fromtimestamp(entry.stored_at_ms / 1000, datetime.UTC),
        entry.sender == user,
        Kind(entry.kind) if entry.kind in Kind.__members__.values() else entry.kind,
    )


def parse_message_id(text: str) -> bytes:
    """32 hexadecimal digits, with or without dashes. Raises RefusedError."""
    try:
        parsed = UUID(text).bytes
    except (ValueError, AttributeError, TypeError) as error:
        raise RefusedError(f"{text!r} is not a message id: give 32 hexadecimal digits") from error
    assert len(parsed) == MESSAGE_ID_SIZE
    return parsed


def fresh_message_id() -> bytes:
    """An id for a message of now."""
    return make_message_id(time.time_ns() // 1_000_000, secrets.token_bytes(10))


def make_message_id(time_ms: int, random: bytes) -> bytes:
    """A UUIDv7 (RFC 9562 section 5.7) from Unix milliseconds and 10 random bytes."""
    value = (time_ms & (1 << 48) - 1) << 80 | int.from_bytes(random, "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return value.to_bytes(MESSAGE_ID_SIZE, "big")
