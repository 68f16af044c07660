"""What every engine must decide in the same way, as pure functions: names, ids, positions, refusals.

An engine (`memory.py`, `sqlite.py`) keeps rows and checks rights; whatever can be said without rows is
said once, here, so that two engines cannot disagree about it.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from quicmsg.errors import ErrorCode
from quicmsg.limits import (
    ADDED_BY_ONE_MAX,
    ADDED_PER_USER_MAX,
    CONVERSATIONS_PER_USER_MAX,
    DEVICES_PER_USER_MAX,
    MEMBERS_MAX,
    MESSAGE_ID_SIZE,
)
from quicmsg.protocol.frames import NAME_PATTERN, Kind
from quicmsg.store import Append, ChangeMember, CreateGroup, Refusal

_name: Final = re.compile(NAME_PATTERN)

# ---- names and ids -----------------------------------------------------------------------------


def is_name(text: str) -> bool:
    """Whether a user may be called so."""
    return _name.fullmatch(text) is not None


def is_group(conversation: str) -> bool:
    """Whether this is a well-formed key of a group: `#name`."""
    return conversation.startswith("#") and is_name(conversation[1:])


def direct_members(conversation: str) -> tuple[str, ...]:
    """The one or two users of a direct conversation's key, or () when it is not such a key.

    The names must be sorted: otherwise two people could have two conversations with each other.
    """
    if not conversation.startswith("@"):
        return ()
    first, _, second = conversation[1:].partition(":")
    if not (is_name(first) and is_name(second)) or first > second:
        return ()
    return (first,) if first == second else (first, second)


def is_conversation(key: str) -> bool:
    """Whether a conversation can have this key."""
    return is_group(key) or direct_members(key) != ()


def device_id(public_key: bytes) -> bytes:
    """A device is called by its key, so that nobody can claim the id of somebody else's device."""
    return hashlib.sha256(public_key).digest()[:16]


def entry_id(request_id: bytes, user: str) -> bytes:
    """The message_id of the log entry that a request makes about `user`: the request again gives the same
    id, so that doing it twice writes one entry."""
    seed = b"quicmsg-entry\0" + request_id + b"\0" + user.encode("utf-8", "surrogatepass")
    return hashlib.sha256(seed).digest()[:MESSAGE_ID_SIZE]


def group_entry(op: CreateGroup | ChangeMember, actor: str, kind: Kind, user: str) -> Append:
    """The log entry by which a group tells what happened to `user`."""
    body = b"" if kind is Kind.CREATED else user.encode("utf-8", "surrogatepass")
    message_id = entry_id(op.request_id, user)
    return Append(op.conversation, actor, op.device, message_id, int(kind), 0, body, op.at_ms)


def code_hash(code: str) -> bytes:
    """What is kept of a one-time code: who reads the database cannot use it."""
    return hashlib.sha256(code.encode("utf-8", "surrogatepass")).digest()


# ---- limits and positions ----------------------------------------------------------------------


def may_choose_another(chosen: int) -> bool:
    """Whether a user who is in so many conversations by its own choice may be in one more.

    Chosen is what the user itself created, opened or joined. What others added it to does not count: one
    account could otherwise fill another's share and keep it from talking to anybody.
    """
    return chosen < CONVERSATIONS_PER_USER_MAX


def may_be_added(added: int, added_by_maker: int) -> bool:
    """Whether somebody who is in so many groups because others put it there, so many of them made by one
    user, may be put into one more of that user's groups."""
    return added < ADDED_PER_USER_MAX and added_by_maker < ADDED_BY_ONE_MAX


def is_believed(position: int, *, epoch: int, store_epoch: int, head: int) -> bool:
    """Whether what a device says about its position can be true of this log. Epoch 0 is a device that has
    seen no log yet: it has nothing to say but position 0."""
    if position > head:
        return False
    return epoch == store_epoch or (epoch == 0 and position == 0)


# ---- refusals ----------------------------------------------------------------------------------

UNKNOWN_CONVERSATION: Final = Refusal(
    ErrorCode.UNKNOWN, "no such conversation, or you are not a member of it"
)
UNKNOWN_USER: Final = Refusal(ErrorCode.UNKNOWN, "no such user")
UNKNOWN_DEVICE: Final = Refusal(ErrorCode.UNKNOWN, "no such device of this user")
CONFLICT: Final = Refusal(ErrorCode.CONFLICT, "this message_id belongs to another message")
EXISTS: Final = Refusal(ErrorCode.EXISTS, "a group of that name exists")
REVOKED: Final = Refusal(ErrorCode.REVOKED, "this device was removed from the account")
GROUP_NAME_INVALID: Final = Refusal(
    ErrorCode.NAME_INVALID, "a group is called #name: a-z, 0-9, '.', '_', '-'; it begins with a-z or 0-9"
)
USER_NAME_INVALID: Final = Refusal(
    ErrorCode.NAME_INVALID, "a user name has a-z, 0-9, '.', '_', '-' and begins with a-z or 0-9"
)
NAME_TAKEN: Final = Refusal(
    ErrorCode.NAME_TAKEN,
    "this name belongs to another key: link this device with a code from a signed-in one",
)
INVITE_NEEDED: Final = Refusal(ErrorCode.INVITE_NEEDED, "this server is closed: ask for an invite code")
CODE_INVALID: Final = Refusal(ErrorCode.CODE_INVALID, "this code is unknown, used or expired")
TOO_MANY_MEMBERS: Final = Refusal(ErrorCode.LIMIT, f"a group has at most {MEMBERS_MAX} members")
TOO_MANY_CONVERSATIONS: Final = Refusal(
    ErrorCode.LIMIT, f"a user creates, opens and joins at most {CONVERSATIONS_PER_USER_MAX} conversations"
)
TOO_OFTEN_ADDED: Final = Refusal(
    ErrorCode.LIMIT, "others have put this user into too many groups: it must join this one itself"
)
TOO_MANY_DEVICES: Final = Refusal(
    ErrorCode.LIMIT, f"an account has at most {DEVICES_PER_USER_MAX} devices: remove one first"
)
