"""What the server keeps, and the one interface to it: `Store`, durable when a call returns.

A store is plain blocking code: it runs in one writer thread (`store/writer.py`, group commit) and in
one reader thread, or directly in a test. Everything that changes the store is an `Operation`; a batch of
them is one transaction. An operation that is refused (no right, no such user, a conflict) answers with
`Refusal` and changes nothing; the others of its batch are not disturbed. Only a broken store raises
(`StorageError`): then nothing of the batch happened, or its outcome is unknown and the same operations
may be given again, since all of them are idempotent.

A conversation is named by its key: `"@alice:bob"` (direct; the two names sorted, also `"@bob:bob"`,
notes to self) or `"#team"` (group). What a user calls `@bob` becomes a key in `server/hub.py`.

Engines: `memory.py` (tests, simulation; the readable reference), `sqlite.py` (the embedded default). One
conformance suite, `tests/store/contract.py`, holds for all of them; what can be said without rows is said
once, in `rules.py`. The event loop talks to a store through `writer.py`.

Every operation that names a device is refused with UNKNOWN when it is not a device of that user, and with
REVOKED when it was removed: the sessions of a lost phone end at the store, whatever else still runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from quicmsg.errors import ErrorCode

# ---- values ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One entry of a conversation's log. `kind` is a `protocol.frames.Kind`; times are Unix milliseconds."""

    conversation: str
    seq: int
    message_id: bytes
    sender: str
    device: bytes
    kind: int
    encoding: int
    body: bytes
    stored_at_ms: int


@dataclass(frozen=True, slots=True)
class MemberPosition:
    """How far one member has got: the highest position over the user's devices. 0 <= read <= received."""

    user: str
    received: int
    read: int


@dataclass(frozen=True, slots=True)
class Change:
    """A conversation that changed after a cursor, as one line of a user's account feed."""

    conversation: str
    head: int
    change: int


# ---- operations (each is idempotent) -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Append:
    """Store a message: answers `Appended`, or `Refusal` UNKNOWN (no such conversation, or the sender is not
    a member: one answer for both) or CONFLICT (same sender and message_id with another conversation, kind,
    encoding or body; from which device does not matter). The same message again answers with the original
    seq and time, `duplicate=True`, for ever, also when its sender is no longer a member: it is stored."""

    conversation: str
    sender: str
    device: bytes
    message_id: bytes
    kind: int
    encoding: int
    body: bytes
    at_ms: int


@dataclass(frozen=True, slots=True)
class OpenConversation:
    """Say where a device stands; a direct conversation is made if both users exist. Answers `Opened` or
    `Refusal` UNKNOWN, LIMIT (of conversations: `user` alone is charged). `position` counts as an
    acknowledgement when `epoch` is the store's and position <= head; then the device's position becomes
    max(own, position).
    Epoch 0 is a device that has seen no log yet: it can only say position 0. With another epoch, or a
    position above the head, it is not believed: `reset=True` and `position` is the server's own."""

    conversation: str
    user: str
    device: bytes
    epoch: int
    position: int
    at_ms: int


@dataclass(frozen=True, slots=True)
class MovePosition:
    """Move a device's positions forward (never back; above the head they are capped to it; read implies
    received). `read_public=False` keeps `read` from the others. Answers `Moved` or `Refusal(UNKNOWN)`. A
    device that lags behind another one of its user moves without a change that anybody is told."""

    conversation: str
    user: str
    device: bytes
    received: int
    read: int = 0
    read_public: bool = True


@dataclass(frozen=True, slots=True)
class CreateGroup:
    """Make `#name` with its first members (the creator is one). Its first log entries are one CREATED and
    one JOINED for each other member, ids derived by `rules.entry_id`; the founders see all of them. Answers
    `GroupChanged` (its creator again: no entries, whatever else it asks for), or `Refusal`: EXISTS (made by
    somebody else), UNKNOWN (a member that does not exist), LIMIT (members, or conversations of the
    creator, who alone is charged), NAME_INVALID, CONFLICT (the creator has used one of those ids for
    something else)."""

    conversation: str
    creator: str
    device: bytes
    members: tuple[str, ...]
    open: bool
    at_ms: int
    request_id: bytes


@dataclass(frozen=True, slots=True)
class ChangeMember:
    """`join` (open groups; a member: no change), `invite` (a member adds `user`), `leave` (actor == user),
    each a log entry JOINED or LEFT whose body is the user's name. A new member sees the log from its own
    JOINED entry on, and its positions begin right before it (so that a join takes no tick away); one that
    comes back begins anew. Answers `GroupChanged`; no entries and `change` 0 when nothing changed: it is so
    already, or this `request_id` was done before. `Refusal` UNKNOWN (also: not for you), LIMIT (members; of a
    `join` also conversations: who is invited is not charged), CONFLICT."""

    conversation: str
    actor: str
    device: bytes
    user: str
    change: str
    at_ms: int
    request_id: bytes


@dataclass(frozen=True, slots=True)
class SignIn:
    """Claim a name or come back. The signature was verified by the caller. Answers `SignedIn`, or `Refusal`
    NAME_INVALID, NAME_TAKEN (another key, no code), INVITE_NEEDED, CODE_INVALID, REVOKED, LIMIT (devices).
    A linked device starts where the account stands: for every conversation of the user its position is
    the user's highest, read in private included. `code` is one of `MakeCode`; it is used up only when it was
    needed (not by a known device, nor by a new user of an open server). A known device may change its
    label."""

    user: str
    public_key: bytes
    label: str
    code: str
    invite_only: bool
    at_ms: int


@dataclass(frozen=True, slots=True)
class MakeCode:
    """Register a one-time code (only its SHA-256 is kept): kind "link" for a user's next device, kind
    "invite" for a new user (`user` is who made it, or empty). It is good while at_ms < expires_at_ms. Of a
    user's link codes the newest LINK_CODES_PER_USER_MAX are good. `device` is the one that asks for a link
    (empty: the operator does). Answers `Done`, or `Refusal` UNKNOWN (a link for no such user), REVOKED."""

    kind: str
    user: str
    code: str
    expires_at_ms: int
    device: bytes = b""


@dataclass(frozen=True, slots=True)
class RevokeDevice:
    """Remove a device of `user`; it can never sign in again, and what it still asks for is refused. Answers
    `Done` (also when it was removed before) or `Refusal(UNKNOWN)`."""

    user: str
    device: bytes
    at_ms: int


Operation = (
    Append | OpenConversation | MovePosition | CreateGroup | ChangeMember | SignIn | MakeCode | RevokeDevice
)

# ---- results -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Appended:
    """The message is durable. `change` is the store-wide change number of this append; 0 of a duplicate."""

    seq: int
    stored_at_ms: int
    duplicate: bool
    change: int


@dataclass(frozen=True, slots=True)
class Opened:
    """`oldest` is the first seq that this user may see (head + 1 when there is none yet); `position` and
    `read` are this device's own; `members` has every current member, this user included, with public
    positions for the others and the private read position for this user, sorted by name. `change` is the
    number of the change if this operation moved the user's position or made the conversation, else 0."""

    epoch: int
    oldest: int
    head: int
    position: int
    read: int
    reset: bool
    members: tuple[MemberPosition, ...]
    change: int


@dataclass(frozen=True, slots=True)
class Moved:
    """The user's positions over all devices, after the move; `own_read` is private. `change` is 0 when
    neither of them (nor `own_read`) went forward."""

    received: int
    read: int
    own_read: int
    change: int


@dataclass(frozen=True, slots=True)
class GroupChanged:
    """`entries` are the log entries that were added, in order (empty: nothing changed, or a repeat);
    `members` is the membership afterwards, sorted."""

    entries: tuple[LogEntry, ...]
    members: tuple[str, ...]
    change: int


@dataclass(frozen=True, slots=True)
class SignedIn:
    """`device` = first 16 bytes of SHA-256 of the public key. `new_user`, `new_device` say what happened."""

    user: str
    device: bytes
    new_user: bool
    new_device: bool


@dataclass(frozen=True, slots=True)
class Done:
    """It is so, durably."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """It is not so and never was; `text` is for people and names nobody's secrets."""

    code: ErrorCode
    text: str


Result = Appended | Opened | Moved | GroupChanged | SignedIn | Done | Refusal


class Store(Protocol):
    """A durable log per conversation, with members as positions in it, and the accounts.

    `execute` may be called from one thread at a time, the read methods from another. `seq` is given per
    conversation from 1 without gaps; `change` is one counter over the whole store, raised by everything
    that some member would want to be told, so that "what changed since my cursor" is one question.
    Each operation raises it by one at most. `epoch` is a random number above 0 made with the store and made
    anew when it is restored from a backup.
    """

    epoch: int

    def execute(self, operations: Sequence[Operation]) -> list[Result]:
        """Run the operations in order as one transaction; durable on return. Raises StorageError, and
        from then on always: the process has to start anew (a failed fsync must not be tried again)."""
        ...

    def entries(
        self, conversation: str, user: str, *, after: int = 0, before: int | None = None, limit: int
    ) -> list[LogEntry]:
        """Entries with after < seq < before that this user may see, ascending; with `before` given the
        newest `limit` of them, else the oldest. Not a member, or no such conversation: an empty list.

        What is not as it was written is never given out: the answer ends before it (with `before`: begins
        behind it). Raises DamagedError when nothing else would be left."""
        ...

    def changes(self, user: str, *, after: int, limit: int) -> list[Change]:
        """The user's conversations whose latest change is after the cursor, in order of that change.
        The cost depends on the answer and, at the worst, on the number of the user's own conversations;
        never on the size of the store. A conversation that the user has left is not told of."""
        ...

    def members(self, conversation: str) -> list[str]:
        """Current members, sorted; empty for no such conversation."""
        ...

    def devices(self, user: str) -> list[tuple[bytes, str, bool]]:
        """(device, label, revoked) of a user, oldest first."""
        ...

    def head(self) -> int:
        """The latest change number; 0 in an empty store."""
        ...

    def close(self) -> None: ...
