"""What can be written into the journal, one frozen class each, and the rows that come back out.

Every write may be given twice, and most of them late: what is already so stays so. That is what lets
the client say the same thing again after a crash or a reconnect without asking first what it had said.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from quicmsg.protocol.frames import Entry

# ---- writes: what this device sends --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Queue:
    """Put a message at the end of the outbox. The same message again: no second row. Refused: CONFLICT
    (this id has another content, or was cancelled), LIMIT (the outbox is full)."""

    message_id: bytes
    conversation: str
    kind: int
    encoding: int
    body: bytes
    queued_at_ms: int


@dataclass(frozen=True, slots=True)
class Stored:
    """The server has it: out of the outbox (or back from the cancelled), into the messages."""

    message_id: bytes
    seq: int
    stored_at_ms: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server refused it for good; it stays in the outbox, in this state, until a person decides."""

    message_id: bytes
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class Requeued:
    """Send it again: a rejected message goes to the end of the order (those behind it went ahead), one
    that was never answered keeps its place."""

    message_id: bytes


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Do not send it again. It may have been stored already: a late `Stored` makes it a message after all,
    so its content is kept beside the outbox."""

    message_id: bytes


# ---- writes: what this device receives -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Processed:
    """The program has processed everything up to `position`: entries and position in one transaction, so
    that an acknowledged message is always on this disk. Of another epoch than the journal's: the entries
    are kept as known, without seq, and the position is not moved (a stale cursor is never trusted)."""

    conversation: str
    position: int
    entries: tuple[Entry, ...]
    epoch: int


@dataclass(frozen=True, slots=True)
class ReadUpTo:
    """Everything up to `position` was read; `public`: the others are told."""

    conversation: str
    position: int
    public: bool


@dataclass(frozen=True, slots=True)
class Positions:
    """Where other members stand: `(user, delivered, read)`; they only go forward. `whole`: these are all
    members there are; whoever left would otherwise hold back the ticks after a restart. `delivered_mark`,
    `read_mark`: up to where own messages were ticked: a restart takes no tick back, and tells none twice."""

    conversation: str
    members: tuple[tuple[str, int, int], ...]
    whole: bool = False
    delivered_mark: int = 0
    read_mark: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """What the server said about a conversation. `stale`: it must be opened to learn more. `head` and
    `oldest` only go forward within an epoch; of another epoch than the journal's they are not taken, and the
    conversation is stale until `Reset`: the position must not be believed under a new epoch."""

    conversation: str
    epoch: int
    head: int
    oldest: int
    stale: bool


@dataclass(frozen=True, slots=True)
class Reset:
    """The log was restored: cached entries lose their seq (their ids stay known, so that nothing is shown
    twice), the others' positions are forgotten, the own one is set."""

    conversation: str
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class Cursor:
    """The account feed is known up to here; forward only within an epoch."""

    epoch: int
    cursor: int


@dataclass(frozen=True, slots=True)
class Left:
    """No longer a member: loaded as `gone` (who comes back must still know its epoch and position), history
    stays readable. A later `Conversation` undoes it."""

    conversation: str


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Keep fetched history. `epoch` 0: not checked."""

    conversation: str
    entries: tuple[Entry, ...]
    epoch: int = 0


Write = (
    Queue
    | Stored
    | Rejected
    | Requeued
    | Cancelled
    | Processed
    | ReadUpTo
    | Positions
    | Conversation
    | Reset
    | Cursor
    | Left
    | HistoryPage
)

# ---- rows ----------------------------------------------------------------------------------------


class MessageState(enum.StrEnum):
    """Where an own message is: in exactly one of these."""

    QUEUED = "queued"
    REJECTED = "rejected"
    STORED = "stored"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """A message that is not accepted yet; `code` and `text` say why it was rejected."""

    message_id: bytes
    conversation: str
    kind: int
    encoding: int
    body: bytes
    queued_at_ms: int
    state: MessageState
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageRow:
    """An own message, wherever it is. `at_ms`: stored at if it is stored, else queued at. `seq` is None
    while it has none, and after the log was restored until the server says it anew."""

    message_id: bytes
    conversation: str
    kind: int
    encoding: int
    body: bytes
    at_ms: int
    state: MessageState
    seq: int | None = None
    code: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class ConversationRow:
    """Where this device stands in a conversation. `epoch` 0: never opened. `read_public`: the last
    `ReadUpTo` was for the others too. `owed`: the position that the server has not confirmed (0: none; see
    `JournalReader.load`). `members`: `(user, delivered, read)`, sorted by user. Marks: see `Positions`.
    `gone`: no longer a member. `resync`: since the log was restored, entries are known here without their
    seq: they may come again. `own`: seqs behind the position that this device sent itself."""

    name: str
    epoch: int
    position: int
    read: int
    read_public: bool
    head: int
    oldest: int
    stale: bool
    members: tuple[tuple[str, int, int], ...]
    owed: int = 0
    delivered_mark: int = 0
    read_mark: int = 0
    gone: bool = False
    resync: bool = False
    own: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the client needs in memory when it starts."""

    epoch: int
    cursor: int
    conversations: tuple[ConversationRow, ...]
    outbox: tuple[OutboxRow, ...]
