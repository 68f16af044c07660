"""Several devices of one person, groups, and receipts that must not get lost, told as stories."""

from __future__ import annotations

import pytest
from simulation.disk_mutants import TOLD
from simulation.planting import planted
from simulation.story import Story


def test_two_devices_of_one_person() -> None:
    """Both get everything; one of them is enough for the tick; each knows what the other sent and read."""
    story = Story(alice=1, bob=2)
    alice, bob, tablet = story["alice"], story["bob"], story["bob/1"]
    tablet.crashes()
    message = alice.sends("@bob", "hello")
    bob.receives("hello")
    alice.sees(message, "delivered")
    bob.sends("@alice", "hi")
    alice.receives("hi")
    tablet.starts()
    tablet.receives("hello", "hi")
    story.ends_well()


def test_second_device_catches_up_beyond_its_window() -> None:
    """Nobody waits for its receipts, since the first device was faster; it must acknowledge all the same."""
    story = Story(alice=1, bob=2)
    alice, bob, tablet = story["alice"], story["bob"], story["bob/1"]
    tablet.crashes()
    for number in range(150):
        alice.sends("@bob", str(number))
    bob.receives(*(str(number) for number in range(150)))
    tablet.starts()
    tablet.receives(*(str(number) for number in range(150)))
    story.ends_well()


def test_group_with_joins_and_leaves() -> None:
    """Who joins sees what comes from then on; who leaves holds nobody's tick back."""
    story = Story(alice=1, bob=1, carol=1)
    alice, bob, carol = story["alice"], story["bob"], story["carol"]
    alice.creates("#team", "bob")
    early = alice.sends("#team", "before carol")
    bob.receives("before carol")
    alice.sees(early, "delivered")
    carol.joins("#team")
    late = alice.sends("#team", "welcome")
    carol.receives("welcome")
    alice.sees(late, "delivered")
    assert carol.received() == [b"welcome"]
    bob.goes_into_a_tunnel()
    waiting = alice.sends("#team", "bob?")
    carol.receives("welcome", "bob?")
    story.wait(5.0)
    alice.does_not_see(waiting, "delivered")
    bob.comes_out()
    bob.receives("before carol", "welcome", "bob?")
    bob.leaves("#team")
    last = alice.sends("#team", "bob is gone")
    alice.sees(last, "delivered")
    story.ends_well()
    assert b"bob is gone" not in bob.received()


def test_receipt_that_the_feed_has_counted_is_not_lost_with_its_channel() -> None:
    """The account feed says "changed", the receipt itself gets stuck and dies with the connection."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    bob.crashes()
    message = alice.sends("@bob", "hello")
    alice.sees(message, "stored")
    alice.hears_nothing_on("@bob")
    bob.starts()
    bob.receives("hello")
    story.until(lambda: alice.device.mailbox.cursor >= story.server.store.head(), "alice did not sync", 40.0)
    alice.does_not_see(message, "delivered")
    alice.loses_the_connection()
    alice.sees(message, "delivered", patience=5.0)
    story.ends_well()


def test_news_that_overtook_the_verdict_is_not_lost_with_the_channel() -> None:
    """The feed counts a receipt while the channel's own first answer, which is older, is still stuck."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    bob.crashes()
    message = alice.sends("@bob", "hello")
    alice.hears_nothing_on("@bob", 4.0)  # verdict and Accepted are late ...
    story.until(lambda: story.count("committed") == 1, "it was not stored")
    story.wait(0.1)
    alice.hears_nothing_on("@bob")  # ... and what comes behind them never arrives
    bob.starts()
    bob.receives("hello")
    story.until(lambda: alice.device.mailbox.cursor >= story.server.store.head(), "alice did not sync", 3.0)
    alice.does_not_see(message, "stored")
    alice.sees(message, "stored", patience=3.0)
    alice.loses_the_connection()
    alice.sees(message, "delivered", patience=5.0)
    story.ends_well()


def test_crash_between_processing_and_acknowledging_costs_no_tick() -> None:
    """The message is on bob's disk, his Ack dies with him; his next start says it without being asked."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    bob.crashes()
    message = alice.sends("@bob", "hello")
    alice.sees(message, "stored")
    bob.starts()
    story.until(lambda: "@alice" in bob.device.session._by_name, "bob did not open")
    bob.is_not_heard_on("@alice", 0.02)
    story.until(lambda: story.count("kept", "bob/0") == 1, "bob did not keep it")
    story.until(lambda: bob.device.mailbox.conversations["@alice"].position == 1, "not processed")
    bob.crashes()
    alice.does_not_see(message, "delivered")
    bob.starts()
    alice.sees(message, "delivered", patience=5.0)
    story.ends_well()


def test_more_conversations_than_channels() -> None:
    """Three hundred groups over a hundred channels: all are talked in, nothing is retried."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    groups = [f"#group{number}" for number in range(300)]
    for group in groups[:100]:
        alice.creates(group, "bob")
    for group in groups[100:200]:  # nobody may put another into more than a hundred
        bob.creates(group, "alice")
    for group in groups[200:]:
        alice.creates(group)
        bob.joins(group)
    ids = [alice.sends(group, f"in {group}") for group in groups]
    for message in ids:
        alice.sees(message, "delivered")
    assert sorted(bob.received()) == sorted(f"in {group}".encode() for group in groups)
    story.ends_well()
    assert story.count("up") == 2
    assert not story.count("failed")


def test_the_story_of_the_crash_notices_a_receipt_that_is_not_owed() -> None:
    """The planted bug that chance hardly ever meets is found by its story."""
    mutant = TOLD["receipt_not_owed_after_crash"]
    with planted(mutant), pytest.raises(AssertionError, match="does not see"):
        test_crash_between_processing_and_acknowledging_costs_no_tick()
