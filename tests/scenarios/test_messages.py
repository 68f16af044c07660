"""What people live through, told as stories on the simulated world: real protocol and hub, virtual time."""

from __future__ import annotations

from simulation.story import Story, direct


def test_two_people_talk() -> None:
    """Ticks go from stored over delivered to read, and each message is shown once, in order."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    first, second = alice.sends("@bob", "hello"), alice.sends("@bob", "are you there?")
    alice.sees(first, "stored")
    bob.receives("hello", "are you there?")
    alice.sees(second, "delivered")
    alice.does_not_see(first, "read")
    answer = bob.sends("@alice", "yes")
    alice.receives("yes")
    bob.sees(answer, "delivered")
    bob.reads("@alice")
    alice.sees(second, "read")
    story.ends_well()
    assert story.count("up") == 2
    assert not story.count("raced")


def test_who_was_away_gets_everything_in_order() -> None:
    """Two hundred messages, several windows of them, wait in the log for who is offline."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    bob.crashes()
    ids = [alice.sends("@bob", str(number)) for number in range(200)]
    alice.sees(ids[-1], "stored")
    alice.does_not_see(ids[0], "delivered")
    bob.starts()
    bob.receives(*(str(number) for number in range(200)))
    alice.sees(ids[-1], "delivered")
    story.ends_well()


def test_lost_answer_makes_no_second_copy() -> None:
    """The message is stored, the answer gets lost, the client sends it again: one copy, one tick."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "first"), "stored")
    alice.hears_nothing_on("@bob")
    message = alice.sends("@bob", "once")
    bob.receives("first", "once")
    alice.does_not_see(message, "stored")
    alice.loses_the_connection()
    alice.sees(message, "stored")
    alice.sees(message, "delivered")
    assert story.log(direct("alice", "bob")) == [b"first", b"once"]
    story.ends_well()


def test_red_cross_after_twelve_seconds_heals() -> None:
    """In a tunnel a message is shown as failed, kept, and stored once the network is back, without a hand."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.goes_into_a_tunnel()
    message = alice.sends("@bob", "hello?")
    story.wait(11.5)
    alice.does_not_see(message, "failed")
    alice.sees(message, "failed", patience=1.0)
    story.wait(120.0)
    alice.comes_out()
    alice.sees(message, "stored", patience=10.0)
    bob.receives("hello?")
    story.ends_well()


def test_resent_by_hand_is_one_copy() -> None:
    """The person taps a red cross again and again: one copy."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.goes_into_a_tunnel()
    message = alice.sends("@bob", "hello?")
    for _ in range(3):
        story.wait(13.0)
        alice.resends(message)
    alice.comes_out()
    bob.receives("hello?")
    story.ends_well()
    assert bob.received() == [b"hello?"]


def test_cancelled_is_not_sent_and_what_was_sent_shows_up() -> None:
    """Cancelled in time it is never sent; cancelled too late it is shown as stored after all."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "first"), "stored")
    alice.hears_nothing_on("@bob")
    late = alice.sends("@bob", "too late")
    bob.receives("first", "too late")
    alice.cancels(late)
    alice.loses_the_connection()
    alice.goes_into_a_tunnel()
    never = alice.sends("@bob", "never")
    alice.cancels(never)
    alice.comes_out()
    alice.sees(late, "stored")
    bob.receives("first", "too late")
    story.ends_well()
    alice.does_not_see(never, "stored")


def test_crash_of_the_server_costs_nothing() -> None:
    """What was stored is there, what was not is sent again, nothing is doubled."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    kept = alice.sends("@bob", "before")
    alice.sees(kept, "stored")
    story.server.crash()
    waiting = alice.sends("@bob", "meanwhile")
    story.wait(5.0)
    story.server.start()
    alice.sees(waiting, "stored")
    bob.receives("before", "meanwhile")
    story.ends_well()


def test_address_change_with_messages_in_flight() -> None:
    """The connection lives on: no reconnect, nothing lost, doubled or out of order."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    for number in range(20):
        alice.sends("@bob", str(number))
        bob.sends("@alice", str(number))
        if number % 5 == 2:
            alice.moves()
    texts = [str(number) for number in range(20)]
    alice.receives(*texts)
    bob.receives(*texts)
    story.ends_well()
    assert story.count("up", "alice/0") == 1
