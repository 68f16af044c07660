"""The one table of frames: what is said on the wire, one frozen class each.

A frame is a msgpack array `[type, field, ...]` behind a 32-bit big-endian length. The classes are
msgspec structs with `array_like=True`: the decoder checks every type, length and range while it parses, so
that behind it types are true (`codec.py`). Trailing fields of a newer version are ignored; a field is
never re-used for something else. `docs/protocol.md` says the same for people who write a client in
another language, with examples that a test decodes.

A conversation is addressed as its user sees it: `@bob` (the direct conversation with bob) or `#team`.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from quicmsg.limits import (
    BODY_SIZE_MAX,
    LABEL_SIZE_MAX,
    MEMBERS_MAX,
    MESSAGE_ID_SIZE,
    NAME_SIZE_MAX,
    PAGE_MESSAGES_MAX,
    SEQ_MAX,
    SYNC_PAGE_ENTRIES,
    TEXT_SIZE_MAX,
)

PROTOCOL_VERSION: Final = 1
ALPN: Final = "quicmsg/1"
CONTROL: Final = 0
"""The channel for everything that belongs to no conversation."""
SIGNATURE_CONTEXT: Final = b"quicmsg-auth-v1"
EXPORTER_LABEL: Final = b"EXPORTER-Channel-Binding"
"""RFC 9266: the value that both ends of this one TLS connection can derive, and nobody else."""

NAME_PATTERN: Final = rf"^[a-z0-9][a-z0-9._-]{{0,{NAME_SIZE_MAX - 1}}}\Z"
ADDRESS_PATTERN: Final = rf"^[@#][a-z0-9][a-z0-9._-]{{0,{NAME_SIZE_MAX - 1}}}\Z"


class Kind(enum.IntEnum):
    """What a log entry is. A client that does not know a kind keeps its place in the order."""

    TEXT = 0  # body: UTF-8
    CREATED = 1  # body: empty; the sender made the group
    JOINED = 2  # body: the user's name
    LEFT = 3  # body: the user's name


SERVER_KINDS: Final = frozenset({Kind.CREATED, Kind.JOINED, Kind.LEFT})
"""Written by the server only: otherwise a member could make everybody believe that somebody left."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Address = Annotated[str, Meta(pattern=ADDRESS_PATTERN)]
Position = Annotated[int, Meta(ge=0, le=SEQ_MAX)]
Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Byte = Annotated[int, Meta(ge=0, le=255)]
Code = Annotated[int, Meta(ge=0, le=2**30)]
MessageId = Annotated[bytes, Meta(min_length=MESSAGE_ID_SIZE, max_length=MESSAGE_ID_SIZE)]
DeviceId = Annotated[bytes, Meta(min_length=16, max_length=16)]
Body = Annotated[bytes, Meta(max_length=BODY_SIZE_MAX)]
Text = Annotated[str, Meta(max_length=TEXT_SIZE_MAX)]
Label = Annotated[str, Meta(max_length=LABEL_SIZE_MAX)]
ShortText = Annotated[str, Meta(max_length=64)]
Features = Annotated[tuple[ShortText, ...], Meta(max_length=32)]


class Frame(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of all frames."""


# ---- channel 0: control ------------------------------------------------------------------------


class Hello(Frame, frozen=True, tag=1):
    """Client, first frame: versions it speaks, what it is, whether a person is looking at it."""

    version_min: Byte
    version_max: Byte
    agent: ShortText
    features: Features
    foreground: bool


class Authenticate(Frame, frozen=True, tag=2):
    """Client, right after Hello: who I am. `signature` is Ed25519 by the device's key over
    `SIGNATURE_CONTEXT NUL user NUL public_key channel_binding`, so it is worth nothing on another
    connection. `code`: a link or invite code, or empty."""

    user: Name
    public_key: Annotated[bytes, Meta(min_length=32, max_length=32)]
    signature: Annotated[bytes, Meta(min_length=64, max_length=64)]
    label: Label
    code: ShortText


class Welcome(Frame, frozen=True, tag=3):
    """Server: you are signed in. `account_head` is the change number to compare with one's cursor."""

    version: Byte
    user: Name
    device: DeviceId
    epoch: Number
    server_time_ms: Number
    observed_address: ShortText
    account_head: Number
    body_size_max: Number
    features: Features


class Sync(Frame, frozen=True, tag=4):
    """Client: which of my conversations changed after this cursor (0: all)?"""

    epoch: Number
    cursor: Number


class ChangeEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One changed conversation: `[conversation, head, change]`."""

    conversation: Address
    head: Position
    change: Number


class SyncPage(Frame, frozen=True, tag=5):
    """Server: changed conversations in order of change; `cursor` is the new one once these are written
    down; `more`: ask again from there. `epoch` differs from the Sync's: the log was restored."""

    epoch: Number
    entries: Annotated[tuple[ChangeEntry, ...], Meta(max_length=SYNC_PAGE_ENTRIES)]
    cursor: Number
    more: bool


class Notice(Frame, frozen=True, tag=6):
    """Server: a conversation for which no channel is open has news; open one when you like."""

    conversation: Address
    head: Position
    change: Number


class Ping(Frame, frozen=True, tag=7):
    """Either side: answer with Pong at once."""

    number: Number


class Pong(Frame, frozen=True, tag=8):
    """The answer. From the server `account_head` proves the subscription, not only the path: a head
    above the client's cursor means that a Notice got lost, and the client sends Sync."""

    number: Number
    time_ms: Number
    account_head: Number


class Moved(Frame, frozen=True, tag=9):
    """Server: I now see you at this address (after a path change was validated)."""

    observed_address: ShortText


class State(Frame, frozen=True, tag=10):
    """Client: a person is looking at it, or not (heartbeats and receipts adapt)."""

    foreground: bool


class GoAway(Frame, frozen=True, tag=11):
    """Server: finish and come back later. `deadline_ms` from now; `alternative` may be empty."""

    code: Code
    deadline_ms: Number
    alternative: ShortText


class Close(Frame, frozen=True, tag=12):
    """Either side, last frame: why this connection ends."""

    code: Code
    text: Text


class Create(Frame, frozen=True, tag=13):
    """Client: make a group. `open`: anybody may join, else a member must invite."""

    ref: Number
    conversation: Address
    members: Annotated[tuple[Name, ...], Meta(max_length=MEMBERS_MAX)]
    open: bool


class Invite(Frame, frozen=True, tag=14):
    """Client, a member: add a user to a group."""

    ref: Number
    conversation: Address
    user: Name


class Join(Frame, frozen=True, tag=15):
    """Client: become a member of an open group (already a member: done)."""

    ref: Number
    conversation: Address


class Leave(Frame, frozen=True, tag=16):
    """Client: stop being a member."""

    ref: Number
    conversation: Address


class Link(Frame, frozen=True, tag=17):
    """Client: give me a one-time code with which another device of mine can sign in."""

    ref: Number


class Done(Frame, frozen=True, tag=18):
    """Server: the request with this ref is durably done; `text` is its answer, if it has one."""

    ref: Number
    text: Text


class Failed(Frame, frozen=True, tag=19):
    """Server: the request with this ref was refused and changed nothing."""

    ref: Number
    code: Code
    text: Text


# ---- a conversation channel --------------------------------------------------------------------


class Open(Frame, frozen=True, tag=32):
    """Client, first frame: what this channel is for. `position`: everything up to here is processed on
    this device (counts as Ack). `received`: up to here I have it in memory, do not send it again."""

    conversation: Address
    epoch: Number
    position: Position
    received: Position


class MemberEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member and its positions: `[user, delivered, read]`."""

    user: Name
    delivered: Position
    read: Position


class Opened(Frame, frozen=True, tag=33):
    """Server: the verdict. `reset`: your position was not believed (restored log); start at `position`.
    `oldest`: the first seq you may see. `members`: everybody's positions, yours included."""

    epoch: Number
    oldest: Seq
    head: Position
    position: Position
    reset: bool
    members: Annotated[tuple[MemberEntry, ...], Meta(max_length=MEMBERS_MAX)]


class Send(Frame, frozen=True, tag=34):
    """Client: store this. `encoding` 0: plain; the server never looks into a body."""

    message_id: MessageId
    kind: Byte
    encoding: Byte
    body: Body


class Accepted(Frame, frozen=True, tag=35):
    """Server, only after the commit: stored under this seq. Also the answer to every repetition."""

    message_id: MessageId
    seq: Seq
    stored_at_ms: Number


class Rejected(Frame, frozen=True, tag=36):
    """Server: refused for good and not stored under this id."""

    message_id: MessageId
    code: Code
    text: Text


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One log entry: `[seq, message_id, sender, device, kind, encoding, body, stored_at_ms]`."""

    seq: Seq
    message_id: MessageId
    sender: Name
    device: DeviceId
    kind: Byte
    encoding: Byte
    body: Body
    stored_at_ms: Number


class Deliver(Frame, frozen=True, tag=37):
    """Server: the next log entries, in order and without gaps, except entries that this very channel has
    Accepted before (the client knows those). At most a window ahead of the last Ack."""

    seq: Seq
    message_id: MessageId
    sender: Name
    device: DeviceId
    kind: Byte
    encoding: Byte
    body: Body
    stored_at_ms: Number


class Ack(Frame, frozen=True, tag=38):
    """Client: everything up to `position` is processed by my program (cumulative, never back)."""

    position: Position


class Read(Frame, frozen=True, tag=39):
    """Client: everything up to `position` was read; not `public`: only my own devices are told."""

    position: Position
    public: bool


class Receipt(Frame, frozen=True, tag=40):
    """Server: positions of members (coalesced state, not events); also a member that is new here."""

    members: Annotated[tuple[MemberEntry, ...], Meta(min_length=1, max_length=MEMBERS_MAX)]


class Fetch(Frame, frozen=True, tag=41):
    """Client: history. `before` > 0: the newest `limit` entries below it; else the oldest above `after`."""

    ref: Number
    after: Position
    before: Position
    limit: Annotated[int, Meta(ge=1, le=PAGE_MESSAGES_MAX)]


class Page(Frame, frozen=True, tag=42):
    """Server: part of the answer to Fetch, ascending; `last`: that was all of it."""

    ref: Number
    entries: Annotated[tuple[Entry, ...], Meta(max_length=PAGE_MESSAGES_MAX)]
    last: bool


class Refused(Frame, frozen=True, tag=43):
    """Server: this channel will not be opened, or is closed now; then FIN. `retry_after_ms` 0: for good."""

    code: Code
    text: Text
    retry_after_ms: Number


CONTROL_FRAMES: Final = (
    Hello, Authenticate, Welcome, Sync, SyncPage, Notice, Ping, Pong, Moved, State, GoAway, Close,
    Create, Invite, Join, Leave, Link, Done, Failed,
)  # fmt: skip
CONVERSATION_FRAMES: Final = (
    Open, Opened, Send, Accepted, Rejected, Deliver, Ack, Read, Receipt, Fetch, Page, Refused,
)  # fmt: skip

ControlFrame = (
    Hello | Authenticate | Welcome | Sync | SyncPage | Notice | Ping | Pong | Moved | State | GoAway | Close
    | Create | Invite | Join | Leave | Link | Done | Failed
)  # fmt: skip
ConversationFrame = (
    Open | Opened | Send | Accepted | Rejected | Deliver | Ack | Read | Receipt | Fetch | Page | Refused
)  # fmt: skip
