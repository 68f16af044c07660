"""A message that is damaged on the server's disk: its readers are told, and nobody else notices."""

from __future__ import annotations

from hubrig import Rig, Wire, message

from quicmsg.errors import DamagedError, ErrorCode
from quicmsg.limits import BUSY_RETRY_AFTER, DAMAGED_RETRY_AFTER
from quicmsg.protocol import frames
from quicmsg.store import LogEntry
from quicmsg.store.memory import MemoryStore


class Damaged(MemoryStore):
    """The third message of each conversation with bob has a flipped bit."""

    def entries(
        self, conversation: str, user: str, *, after: int = 0, before: int | None = None, limit: int
    ) -> list[LogEntry]:
        found = super().entries(conversation, user, after=after, before=before, limit=limit)
        if not any(entry.seq == 3 for entry in found) or "bob" not in conversation:
            return found
        if before is None and found[0].seq < 3:
            return [entry for entry in found if entry.seq < 3]
        raise DamagedError(conversation, 3)


def world() -> tuple[Rig, Wire, Wire]:
    rig = Rig()
    rig.store.__class__ = Damaged
    alice, bob = rig.connect("alice"), rig.connect("bob")
    alice.open(1, "@bob")
    for number in range(5):
        alice.ask(1, message(number))
    alice.send(1, end=True)
    return rig, alice, bob


def test_delivery_stops_before_the_damage_and_says_why() -> None:
    """What is before it is delivered; the channel is closed for now, not for ever; others go on."""
    rig, alice, bob = world()
    bob.open(1, "@alice")
    assert [entry.seq for entry in bob.heard(frames.Deliver, 1)] == [1, 2]
    (refused,) = bob.heard(frames.Refused, 1)
    assert refused.code == ErrorCode.INTERNAL
    assert "message 3 of @alice:bob is damaged" in refused.text
    assert refused.retry_after_ms == DAMAGED_RETRY_AFTER * 1000
    cid = rig.connect("cid")
    alice.open(2, "@cid")
    for number in range(10, 15):
        alice.ask(2, message(number))
    cid.open(1, "@alice")
    assert [entry.seq for entry in cid.heard(frames.Deliver, 1)] == [1, 2, 3, 4, 5]


def test_a_page_with_damage_is_an_error_and_not_an_empty_page() -> None:
    """And the next question is answered: the failed one does not stand in its way."""
    _, _, bob = world()
    bob.open(1, "@alice", 5)
    bob.ask(1, frames.Fetch(1, 0, 5, 2))
    assert bob.heard(frames.Page) == []
    assert bob.heard(frames.Refused, 1)[0].retry_after_ms == BUSY_RETRY_AFTER * 1000
    bob.open(2, "@alice", 5)
    bob.ask(2, frames.Fetch(2, 0, 3, 2))
    assert [[entry.seq for entry in page.entries] for page in bob.heard(frames.Page)] == [[1, 2]]
