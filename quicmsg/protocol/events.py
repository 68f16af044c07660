"""Facts that a session reports to its shell, one frozen class each.

Client sessions and the mailbox report the first group, server sessions the second, both the last.
Shells `match` on them; an event that a shell does not know is a bug of ours.
"""

from __future__ import annotations

from dataclasses import dataclass

from quicmsg.protocol.frames import Entry, MemberEntry


class Event:
    """Base of all events."""

    __slots__ = ()


# ---- client ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignedIn(Event):
    """The server welcomed this device: the link is up."""

    user: str
    device: bytes
    epoch: int
    observed_address: str


@dataclass(frozen=True, slots=True)
class SignInRefused(Event):
    """The server does not take this user, key or code; asking again will not help."""

    code: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageStored(Event):
    """One of our messages is durable on the server under `seq`. `position`: ours once the journal has it.
    `entry`: it came back as a log entry (the answer to an earlier connection got lost), body included.
    `known`: it was in the outbox (else: cancelled meanwhile, or one of our joins and leaves)."""

    conversation: str
    message_id: bytes
    seq: int
    stored_at_ms: int
    position: int
    entry: Entry | None
    known: bool


@dataclass(frozen=True, slots=True)
class MessageRejected(Event):
    """One of our messages was refused for good; it stays in the outbox as rejected."""

    conversation: str
    message_id: bytes
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class MessageFailed(Event):
    """Nothing confirmed this message for 12 s: the red cross. It stays in the outbox and may still heal."""

    conversation: str
    message_id: bytes


@dataclass(frozen=True, slots=True)
class EntriesArrived(Event):
    """New entries of a conversation wait in the mailbox's inbox for the program."""

    conversation: str


@dataclass(frozen=True, slots=True)
class PositionsChanged(Event):
    """Members' positions moved (`whole`: these are all members; some have left). Own messages with seq in
    (delivered_from, delivered_to] are now delivered to everybody, those in (read_from, read_to] read by
    everybody; empty ranges: nothing to tick."""

    conversation: str
    members: tuple[MemberEntry, ...]
    whole: bool
    delivered_from: int
    delivered_to: int
    read_from: int
    read_to: int


@dataclass(frozen=True, slots=True)
class ConversationChanged(Event):
    """What should be written down about a conversation; `stale`: it must be opened to learn more."""

    conversation: str
    epoch: int
    head: int
    oldest: int
    stale: bool


@dataclass(frozen=True, slots=True)
class ConversationReset(Event):
    """The server's log was restored from a backup (other epoch): positions start again at `position`."""

    conversation: str
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class ConversationRefused(Event):
    """The server has no such conversation for us, or will not open it."""

    conversation: str
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class CursorMoved(Event):
    """All changes up to the cursor have been reported: write them down, then this. `whole`: that is all."""

    epoch: int
    cursor: int
    whole: bool = True


@dataclass(frozen=True, slots=True)
class RequestDone(Event):
    """Answer to create, invite, join, leave or link."""

    ref: int
    text: str


@dataclass(frozen=True, slots=True)
class RequestFailed(Event):
    """That request (or fetch) was refused or its channel ended; nothing changed."""

    ref: int
    code: int
    text: str


@dataclass(frozen=True, slots=True)
class PageArrived(Event):
    """Part of the answer to a fetch."""

    conversation: str
    ref: int
    entries: tuple[Entry, ...]
    last: bool


@dataclass(frozen=True, slots=True)
class AddressObserved(Event):
    """The server sees this client at a new address: the move is validated. `stall` is the silence, in
    seconds, that it caused here."""

    observed_address: str
    stall: float


@dataclass(frozen=True, slots=True)
class PathSuspect(Event):
    """Two pings, or a message for 3 s, without an answer: rebind the socket; the connection may live on."""


@dataclass(frozen=True, slots=True)
class LinkSilent(Event):
    """More than three pings without an answer: show red. The session goes on and may be heard again."""


@dataclass(frozen=True, slots=True)
class LinkHeard(Event):
    """After LinkSilent: the peer was heard again on this very session."""


@dataclass(frozen=True, slots=True)
class RaceWanted(Event):
    """Still no answer: let a second connection race this one."""


@dataclass(frozen=True, slots=True)
class GoingAway(Event):
    """The server will end this connection: reconnect elsewhere or later, within `deadline` seconds."""

    code: int
    deadline: float
    alternative: str


# ---- server ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SignInRequested(Event):
    """A client says who it is; verify `signature` over `binding`, then `welcome` or `refuse_sign_in`."""

    user: str
    public_key: bytes
    signature: bytes
    binding: bytes
    label: str
    code: str


@dataclass(frozen=True, slots=True)
class OpenRequested(Event):
    """A channel wants to be this conversation; answer `opened` or `refuse`."""

    channel: int
    conversation: str
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class MessageSubmitted(Event):
    """A message to store; answer `accept` or `reject`."""

    channel: int
    conversation: str
    message_id: bytes
    kind: int
    encoding: int
    body: bytes


@dataclass(frozen=True, slots=True)
class PositionMoved(Event):
    """This device processed everything up to `received`, and read up to `read` (0: not said)."""

    conversation: str
    received: int
    read: int
    read_public: bool


@dataclass(frozen=True, slots=True)
class EntriesWanted(Event):
    """The window has room for entries after `after`: answer `deliver` (also with nothing)."""

    channel: int
    conversation: str
    after: int
    limit: int


@dataclass(frozen=True, slots=True)
class FetchRequested(Event):
    """History: answer `page`."""

    channel: int
    conversation: str
    ref: int
    after: int
    before: int
    limit: int


@dataclass(frozen=True, slots=True)
class SyncRequested(Event):
    """What changed after this cursor: answer `sync_page`."""

    epoch: int
    cursor: int


@dataclass(frozen=True, slots=True)
class GroupRequested(Event):
    """create, invite, join or leave: answer `done` or `failed`."""

    ref: int
    action: str
    conversation: str
    users: tuple[str, ...]
    open: bool


@dataclass(frozen=True, slots=True)
class LinkRequested(Event):
    """A one-time code for another device: answer `done` with it."""

    ref: int


@dataclass(frozen=True, slots=True)
class ChannelClosed(Event):
    """A conversation's channel is closed; the device goes on hearing of it by Notice. Again, without a name,
    when `opened` comes for a channel that is closed already."""

    channel: int
    conversation: str


@dataclass(frozen=True, slots=True)
class ClientMoved(Event):
    """The client's address changed and the new path is validated."""

    old_address: str
    new_address: str


# ---- both --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PongReceived(Event):
    """A ping was answered after `round_trip` seconds."""

    round_trip: float


@dataclass(frozen=True, slots=True)
class SessionEnded(Event):
    """Last event of a session. `remote`: the peer said so or vanished; else we closed it."""

    code: int
    text: str
    remote: bool
