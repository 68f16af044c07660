"""How values look on a terminal and in JSON lines; one shape each, for every command.

Whatever a peer wrote is printed with its control, escape and direction characters made visible: a message
may not move the cursor, colour the terminal, or pretend to be two lines.
"""

from __future__ import annotations

import datetime
import unicodedata
from typing import Any, Final

import msgspec

from quicmsg.client.values import (
    ClientEvent,
    ConnectionChanged,
    ConversationLost,
    Lagged,
    MemberChanged,
    Message,
    OutboxMessage,
    ReceiptChanged,
    StateChanged,
    Synced,
)
from quicmsg.protocol.frames import Kind

CHANGES: Final = {Kind.CREATED: "created", Kind.JOINED: "joined", Kind.LEFT: "left"}
_JOINERS: Final = frozenset("\u200c\u200d")
"""Needed inside words and emoji, and harmless."""
_HIDDEN: Final = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Control, format (direction marks and overrides, tags), surrogates, line and paragraph separators."""


def harmless(text: str) -> str:
    """The text on one line, with everything that acts on a terminal instead of being shown escaped."""
    if text.isprintable():
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    return character.encode("unicode_escape").decode() if _acts(character) else character


def _shown_in_json(character: str) -> str:
    if not _acts(character):
        return character
    units = character.encode("utf-16-be").hex()  # beyond 16 bits JSON has a pair of surrogates
    return "".join(f"\\u{units[i : i + 4]}" for i in range(0, len(units), 4))


def _acts(character: str) -> bool:
    return character not in _JOINERS and unicodedata.category(character) in _HIDDEN


# ---- JSON lines --------------------------------------------------------------------------------


def encode(value: dict[str, Any]) -> bytes:
    """One line of JSON, in UTF-8, without its end. What acts on a terminal is written as \\uXXXX: the line
    may be printed on one, and who parses it gets the exact text all the same."""
    line = msgspec.json.encode(value)
    if line.isascii() and b"\x7f" not in line:
        return line
    return "".join(_shown_in_json(character) for character in line.decode()).encode()


def message_object(message: Message) -> dict[str, Any]:
    """The same for `listen`, `history` and `pipe`."""
    if message.kind != Kind.TEXT:
        change = CHANGES.get(Kind(message.kind)) if message.kind in CHANGES else "unknown"
        user = message.text or message.sender
        return _member(message.conversation, message.seq, user, str(change))
    return {
        "event": "message",
        "conversation": message.conversation,
        "seq": message.seq,
        "message_id": message.message_id,
        "sender": message.sender,
        "text": message.text,
        "stored_at": message.stored_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


def event_object(event: ClientEvent) -> dict[str, Any]:
    """What happened."""
    match event:
        case StateChanged(message_id, conversation, state, seq, reason):
            found: dict[str, Any] = {"event": "state", "message_id": message_id, "conversation": conversation}
            found |= {"state": state.value, "seq": seq}
            return found | ({"reason": reason} if reason else {})
        case ReceiptChanged(conversation, user, delivered, read):
            return {
                "event": "receipt",
                "conversation": conversation,
                "user": user,
                "delivered": delivered,
                "read": read,
            }
        case MemberChanged(conversation, seq, user, change):
            return _member(conversation, seq, user, change)
        case ConnectionChanged():
            return {
                "event": "connection",
                "state": event.state.value,
                "address": event.address,
                "observed_address": event.observed_address,
                "stall_ms": round(event.stall_ms, 1),
            } | ({"reason": event.reason} if event.reason else {})
        case ConversationLost(conversation, reason):
            return {"event": "lost", "conversation": conversation, "reason": reason}
        case Synced():
            return {"event": "synced"}
        case Lagged(missed):
            return {"event": "lagged", "missed": missed}


def outbox_object(row: OutboxMessage) -> dict[str, Any]:
    """A message that the server has not accepted."""
    return {
        "message_id": row.message_id,
        "conversation": row.conversation,
        "text": row.text,
        "state": row.state.value,
        "reason": row.reason,
    }


def _member(conversation: str, seq: int, user: str, change: str) -> dict[str, Any]:
    return {"event": "member", "conversation": conversation, "seq": seq, "user": user, "change": change}


# ---- for people --------------------------------------------------------------------------------


def message_line(message: Message) -> str:
    """One line: time here, conversation, who, what."""
    if message.kind != Kind.TEXT:
        what = message_object(message)
        said = f"* {what['user']} {what['change']}"
    else:
        said = f"{message.sender}: {message.text}"
    return harmless(f"{local_time(message.stored_at)} {message.conversation} {said}")


def local_time(moment: datetime.datetime) -> str:
    """In this computer's time zone."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def outbox_line(row: OutboxMessage) -> str:
    """One line: id, state, conversation, text, reason."""
    reason = f" ({row.reason})" if row.reason else ""
    return harmless(f"{row.message_id} {row.state.value} {row.conversation} {row.text}{reason}")
