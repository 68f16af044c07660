"""Who keeps the protocol is never told that it was broken.

A session that finds something malformed, or unexpected, gives the channel up; the next one heals it, so at
the end nothing is missing. But what was mixed up on the way was a bug of ours: nobody here breaks the
protocol, except strangers, and whom the server does not know by name yet is not judged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import Channel, Session
from simulation.strangers import StrangerSession

BROKEN = {ErrorCode.MALFORMED, ErrorCode.FRAME_TOO_BIG, ErrorCode.UNEXPECTED, ErrorCode.ACK_BEYOND}
OVERTAKEN = "is open already"
"""A conversation's new channel may overtake the end of its old one: channels are not ordered."""


@contextlib.contextmanager
def watched_manners() -> Iterator[list[str]]:
    """While it lasts, every such complaint is noted in the list."""
    complaints: list[str] = []
    violation, abort = Session._violation, Session._abort

    def watching_violation(self: Session, channel: Channel, error: ProtocolError, now: float) -> None:
        known = isinstance(self, ServerSession) and bool(self.user)
        if known and error.code in BROKEN and not error.message.endswith(OVERTAKEN):
            who = getattr(self, "user", "")
            complaints.append(f"protocol: {who}'s channel {channel.number}: {error.message}")
        violation(self, channel, error, now)

    def watching_abort(self: Session, channel: Channel, code: int) -> None:
        if code in BROKEN and isinstance(self, ClientSession) and not isinstance(self, StrangerSession):
            complaints.append(f"protocol: a client's channel {channel.number}: {ErrorCode(code).name}")
        abort(self, channel, code)

    watching: dict[str, Any] = {"_violation": watching_violation, "_abort": watching_abort}
    old = {name: Session.__dict__[name] for name in watching}
    for name, function in watching.items():
        setattr(Session, name, function)
    try:
        yield complaints
    finally:
        for name, function in old.items():
            setattr(Session, name, function)
