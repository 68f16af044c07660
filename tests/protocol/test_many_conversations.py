"""T21 of the complaints about other messengers: a client of ten thousand conversations comes back."""

from __future__ import annotations

import pytest
from conversing import ALICE, drain

from quicmsg import limits
from quicmsg.protocol import frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.conversation import Conversation
from quicmsg.protocol.frames import CONTROL, ChangeEntry
from quicmsg.protocol.mailbox import Mailbox

CONVERSATIONS = 10_000
BYTES_MAX = 1_000


@pytest.mark.slow
def test_t21_reconnecting_costs_what_changed() -> None:
    """T21: of ten thousand conversations three have news: three are opened, in a few hundred bytes."""
    mailbox = Mailbox("alice", ALICE)
    mailbox.epoch, mailbox.cursor = 1, 50_000
    for number in range(CONVERSATIONS):
        known = Conversation(f"#group{number}", epoch=1, position=5, head=5, stale=False)
        known.members["alice"] = (5, 0)
        known.told = 5
        mailbox.restore(known)
    session = ClientSession(
        mailbox,
        sign=lambda _: frames.Authenticate("alice", bytes(32), bytes(64), "", ""),
        agent="test", foreground=True, now=0.0,
    )  # fmt: skip
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    welcome = frames.Welcome(1, "alice", ALICE, 1, 50_003, "192.0.2.1:1", 0, limits.BODY_SIZE_MAX, ())
    session.receive_data(CONTROL, encode(welcome), False, 0.0)
    session.attach(0.0)
    said = _said(session)
    assert sum(size for _, size in said) <= BYTES_MAX
    assert [frame for frame, _ in said if isinstance(frame, frames.Sync)] == [frames.Sync(1, 50_000)]
    changed = tuple(ChangeEntry(f"#group{number}", 6, 50_000 + number) for number in (1, 2, 3))
    session.receive_data(CONTROL, encode(frames.SyncPage(1, changed, 50_003, False)), False, 0.1)
    drain(session)
    said = _said(session)
    opened = [frame.conversation for frame, _ in said if isinstance(frame, frames.Open)]
    assert opened == ["#group1", "#group2", "#group3"]
    assert sum(size for _, size in said) <= BYTES_MAX


def _said(session: ClientSession) -> list[tuple[frames.Frame, int]]:
    """Every frame that goes out, with its share of the bytes."""
    found: list[tuple[frames.Frame, int]] = []
    for item in session.data_to_send():
        reader = FrameReader(control=item.channel == CONTROL)
        reader.feed(item.data)
        batch = list(iter(reader.next_frame, None))
        found += [(frame, len(item.data) // len(batch)) for frame in batch]
    return found
