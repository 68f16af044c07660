"""What `pipe` can be told, one class for each operation; the parser checks names and types."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from quicmsg.errors import ProtocolError
from quicmsg.limits import HISTORY_MAX, MEMBERS_MAX, SEQ_MAX

Ref = str | int | float | bool | None
"""Whatever the program likes; it comes back in the answer."""
Seq = Annotated[int, Meta(ge=1, le=SEQ_MAX)]


class Base(
    msgspec.Struct, frozen=True, tag_field="op", tag=str.lower, forbid_unknown_fields=True, kw_only=True
):
    """Base of all operations. Unknown fields are errors: a mistyped one must not be lost silently."""

    ref: Ref = None


class Send(Base, frozen=True):
    """Send a text. `id`: a message id of the program's own, so that it can repeat this after a crash."""

    to: str
    text: str
    id: str | None = None


class Read(Base, frozen=True):
    """Everything up to `seq` was read."""

    __match_args__ = ("conversation", "seq")
    conversation: str
    seq: Seq


class Migrate(Base, frozen=True):
    """Go on from another local address; without one: from a new port."""

    __match_args__ = ("address",)
    address: str | None = None


class Create(Base, frozen=True):
    """Make a group."""

    __match_args__ = ("conversation", "members", "open")
    conversation: str
    members: Annotated[tuple[str, ...], Meta(max_length=MEMBERS_MAX)] = ()
    open: bool = False


class Invite(Base, frozen=True):
    """Add a user to a group."""

    __match_args__ = ("conversation", "user")
    conversation: str
    user: str


class Join(Base, frozen=True):
    """Join an open group."""

    __match_args__ = ("conversation",)
    conversation: str


class Leave(Base, frozen=True):
    """Leave a group."""

    __match_args__ = ("conversation",)
    conversation: str


class Resend(Base, frozen=True):
    """Send a message of the outbox again, under the same id."""

    __match_args__ = ("message_id",)
    message_id: str


class Cancel(Base, frozen=True):
    """Take a message out of the outbox."""

    __match_args__ = ("message_id",)
    message_id: str


class History(Base, frozen=True):
    """Ask for the newest messages below `before`."""

    __match_args__ = ("conversation", "before", "limit")
    conversation: str
    before: Seq | None = None
    limit: Annotated[int, Meta(ge=1, le=HISTORY_MAX)] = 50


class Close(Base, frozen=True):
    """As the end of stdin: wait for what is on its way, and leave."""


Operation = Send | Read | Migrate | Create | Invite | Join | Leave | Resend | Cancel | History | Close
_decoder: Final = msgspec.json.Decoder(Operation)


def parse(line: bytes) -> Operation:
    """One line. Raises ProtocolError in words."""
    try:
        operation: Operation = _decoder.decode(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not an operation: {error}") from error
    return operation


def ref_of(line: bytes | None) -> Ref:
    """The `ref` of a line that is not an operation, if it can be found."""
    try:
        found = msgspec.json.decode(line or b"null")
    except (ValueError, RecursionError):
        return None
    ref = found.get("ref") if isinstance(found, dict) else None
    return ref if isinstance(ref, str | int | float | bool) else None
