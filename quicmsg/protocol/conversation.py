"""One conversation as a device knows it: positions in the log, members, and what waits for the program.

`position` <= `received` <= `head`. Up to `position` everything is processed and in
the journal; up to `received` it is in memory (inbox) or processed. Entries that this device sent itself
come as Accepted instead of Deliver, so `own` keeps their seqs until the positions have passed them.
`passed` is the position with the own entries behind it, of which the journal may not know yet.

`owed` and `told`: the position that the server must learn, and the one that it confirmed (by a Receipt with
our own name), so that a crash between processing and Ack costs nobody a tick; `read`, `read_told` likewise.

`members` is right as of `members_at`, and after it as far as the log is known (`received`): a tick counts
only up to there, since somebody may have joined behind it. `unsure`: the account feed has counted a change
that the open channel was to bring; if the channel is lost, the conversation has to be opened again.
`lost`: the server has refused it, and has not spoken of it since.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from quicmsg.protocol.frames import Entry


@dataclass(slots=True, eq=False)
class Conversation:
    """One conversation as this device knows it (see the module text for the positions)."""

    name: str
    epoch: int = 0
    position: int = 0
    received: int = 0
    head: int = 0
    oldest: int = 1
    stale: bool = False
    told: int = 0
    read: int = 0
    read_public: bool = True
    read_told: int = 0
    owed: int = 0
    resync_until: int = 0
    members: dict[str, tuple[int, int]] = field(default_factory=dict)
    members_at: int = 0
    unsure: bool = False
    lost: bool = False
    own: set[int] = field(default_factory=set)
    inbox: deque[Entry] = field(default_factory=deque)
    taken: int = 0
    passed: int = 0
    delivered_mark: int = 0
    read_mark: int = 0

    def wants_channel(self) -> bool:
        """Is there something that only an open channel can tell or ask (the outbox apart)?"""
        return self.stale or self.head > self.received or self.read > self.read_told or self.owed > self.told

    def past_own(self, position: int) -> int:
        """The position behind the own entries that follow this one."""
        while position + 1 in self.own:
            position += 1
        return position
