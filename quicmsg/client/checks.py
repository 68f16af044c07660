"""Is this a name, a conversation, a text? Said in words before anything is queued."""

from __future__ import annotations

import re

from quicmsg import limits
from quicmsg.errors import ErrorCode, RefusedError
from quicmsg.protocol.frames import ADDRESS_PATTERN, NAME_PATTERN

_ADDRESS = re.compile(ADDRESS_PATTERN)
_NAME = re.compile(NAME_PATTERN)


def encode_text(text: str) -> bytes:
    """The body of a text message. Raises RefusedError: empty, too long, or not valid Unicode."""
    try:
        body = text.encode()
    except UnicodeEncodeError as error:
        raise RefusedError("the text is not valid Unicode (it has lone surrogates)") from error
    if not body:
        raise RefusedError("the text is empty: there is nothing to send", code=ErrorCode.MALFORMED)
    if len(body) > limits.BODY_SIZE_MAX:
        raise RefusedError(
            f"the text has {len(body)} bytes; the limit is {limits.BODY_SIZE_MAX}: split it",
            code=ErrorCode.TOO_BIG,
        )
    return body


def check_address(conversation: str) -> None:
    if not isinstance(conversation, str) or not _ADDRESS.match(conversation):
        raise RefusedError(
            f"{conversation!r} is not a conversation: write @user or #group (small letters, digits, . _ -)",
            code=ErrorCode.NAME_INVALID,
        )


def check_group(conversation: str) -> None:
    check_address(conversation)
    if not conversation.startswith("#"):
        raise RefusedError(
            f"{conversation!r} is not a group: a group's name begins with #", code=ErrorCode.NAME_INVALID
        )


def check_name(name: str) -> None:
    if not _NAME.match(name):
        raise RefusedError(
            f"{name!r} is not a user name: small letters, digits, . _ -", code=ErrorCode.NAME_INVALID
        )
