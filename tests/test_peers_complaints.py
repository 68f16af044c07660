"""What people complain about in other messengers, T1 to T24, and the tests that say that it is not so here.

The stories below are those for which there was no test; the table names for each complaint the tests that
cover it, or says what it waits for. A test holds that all of them exist.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from simulation.story import Story, direct

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import SEQ_MAX

TESTS = Path(__file__).resolve().parent
HERE = "test_peers_complaints.py"
COVERED: dict[str, tuple[str, ...]] = {
    "T1 an address changes with messages in flight, with loss": (
        "transport/test_moves.py::test_fifty_conversations_move_without_a_scratch",
        "end_to_end/test_migration_loopback.py::test_fifty_conversations_move_with_messages_in_flight",
        "netns/test_netns.py::test_nothing_is_lost_doubled_disordered_or_failed",
    ),
    "T2 the receiver vanishes silently": (f"{HERE}::test_t2_what_was_sent_to_somebody_in_a_tunnel_arrives",),
    "T3 the confirmation is lost, or resend is pressed": (
        "scenarios/test_messages.py::test_lost_answer_makes_no_second_copy",
        f"{HERE}::test_t3_resent_by_hand_after_a_lost_confirmation_is_one_copy",
    ),
    "T4 shown as failed, then confirmed": (
        f"{HERE}::test_t4_a_red_cross_on_what_is_stored_heals",
        "end_to_end/test_escalation.py::test_the_red_cross_comes_at_twelve_seconds_and_heals",
    ),
    "T5 written without a network": (f"{HERE}::test_t5_what_was_written_offline_keeps_its_order",),
    "T6 away for more than a page": (f"{HERE}::test_t6_no_hole_after_an_absence_of_many_messages",),
    "T7 new messages during the catching up": (f"{HERE}::test_t7_no_hole_when_messages_come_meanwhile",),
    "T8 two connections of one device": (
        "server/test_hub.py::test_newer_session_replaces_the_older_only_when_it_is_confirmed",
        f"{HERE}::test_t8_a_second_connection_takes_over_and_nothing_is_lost",
    ),
    "T9 kill -9 of a client at each commit": (
        "end_to_end/test_kills.py::test_contract_survives_a_kill_at_every_point",
    ),
    "T10 kill -9 of the server at each commit": (
        "end_to_end/test_kills.py::test_contract_survives_a_kill_at_every_point",
        "end_to_end/test_kills.py::test_contract_survives_kills_at_random_moments",
    ),
    "T11 a backup is restored": (f"{HERE}::test_t11_a_restored_backup_is_noticed",),
    "T12 the other end resets a conversation's stream": (
        f"{HERE}::test_t12_a_channel_that_the_server_resets_is_opened_again",
        "transport/test_streams.py::test_an_aborted_channel_tells_the_peer_and_takes_nothing_more",
    ),
    "T14 a push to an idle client": (f"{HERE}::test_t14_an_idle_client_hears_at_once",),
    "T15 keepalive while publishing": (f"{HERE}::test_t15_a_busy_sender_is_not_taken_for_dead_nor_blind",),
    "T16 the laptop slept": (
        "client/test_complaints_of_programs.py::test_t16_after_a_sleep_the_clocks_start_anew_and_the_link_moves",
        "client/test_network.py::test_sleep_is_the_gap_between_the_clocks",
        "protocol/test_outbox.py::test_sleep_of_this_computer_is_nobodys_silence",
    ),
    "T17 receipts in a big group": (
        "server/test_complaints_at_the_hub.py::test_t17_receipts_of_a_big_group_are_few_frames_and_exact",
    ),
    "T18 read on one device, private receipts": (
        f"{HERE}::test_t18_read_privately_on_one_device_is_read_on_the_other",
        "server/test_hub.py::test_private_reading_is_told_to_nobody_else",
    ),
    "T19 a poisonous message": (
        "client/test_complaints_of_programs.py::test_t19_a_poisonous_message_stops_nobody",
    ),
    "T21 ten thousand conversations reconnect": (
        "protocol/test_many_conversations.py::test_t21_reconnecting_costs_what_changed",
    ),
    "T22 frames cut anywhere": (
        "protocol/test_codec.py::test_any_split_of_the_bytes_gives_the_same_frames",
        "protocol/test_codec.py::test_many_frames_do_not_gather_in_the_reader",
    ),
    "T23 nonsense in one frame": (
        "server/test_complaints_at_the_hub.py::test_t23_nonsense_costs_a_channel_and_never_the_connection",
        "protocol/test_codec.py::test_unknown_types_are_skipped",
    ),
    "T24 the server restarts": (
        f"{HERE}::test_t24_a_restart_of_the_server_costs_nothing",
        "client/test_complaints_of_programs.py::test_t24_clients_of_a_server_that_stops_come_back_spread_out",
        "client/test_library.py::test_a_server_restart_loses_nothing_and_needs_no_hand",
    ),
}
WAITING: dict[str, str] = {
    "T13 an attachment beside the chat": "attachments are not built yet",
    "T20 UDP is blocked": "the fallback to WebTransport and TCP is not built yet",
}


def test_every_complaint_has_its_test_or_its_reason() -> None:
    """The table is complete, and what it names exists."""
    numbers = sorted(int(name.split()[0][1:]) for name in (*COVERED, *WAITING))
    assert numbers == list(range(1, 25))
    named: dict[str, set[str]] = {}
    for place in (place for places in COVERED.values() for place in places):
        path, _, name = place.partition("::")
        named.setdefault(path, set()).add(name)
    for path, names in named.items():
        nodes = ast.parse((TESTS / path).read_text()).body
        there = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert names <= there, path


@pytest.mark.slow
def test_t2_what_was_sent_to_somebody_in_a_tunnel_arrives() -> None:
    """T2: who drops off without a word gets what was sent meanwhile, however long that was."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    texts: list[str] = []
    for seconds in (1.0, 20.0, 90.0, 3600.0):
        bob.goes_into_a_tunnel()
        for _ in range(4):
            texts.append(f"text {len(texts)}")
            alice.sends("@bob", texts[-1])
            story.wait(seconds / 4)
        bob.comes_out()
        bob.receives(*texts, patience=15.0)
    story.ends_well()


def test_t3_resent_by_hand_after_a_lost_confirmation_is_one_copy() -> None:
    """T3: stored, the confirmation lost, a red cross, and somebody who presses resend again and again."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "first"), "stored")
    alice.hears_nothing_on("@bob")
    message = alice.sends("@bob", "once")
    bob.receives("first", "once")
    alice.goes_into_a_tunnel()
    alice.sees(message, "failed")
    for _ in range(3):
        alice.resends(message)
        story.wait(5.0)
    alice.crashes()
    alice.device.start()
    alice.comes_out()
    alice.sees(message, "stored")
    alice.sees(message, "delivered")
    assert story.log(direct("alice", "bob")) == [b"first", b"once"]
    story.ends_well()


def test_t4_a_red_cross_on_what_is_stored_heals() -> None:
    """T4: the server has it, the sender sees a red cross; the late confirmation takes it away."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "first"), "stored")
    alice.hears_nothing_on("@bob", 10.0)
    message = alice.sends("@bob", "late")
    bob.receives("first", "late")
    alice.goes_into_a_tunnel()
    alice.sees(message, "failed", patience=13.0)
    alice.does_not_see(message, "stored")
    alice.comes_out()
    alice.sees(message, "stored", patience=15.0)
    assert bob.received() == [b"first", b"late"]
    story.ends_well()


def test_t5_what_was_written_offline_keeps_its_order() -> None:
    """T5: a, b, c, d without a network, over a restart of the program, arrive as a, b, c, d."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.goes_into_a_tunnel()
    for text in "abcd":
        alice.sends("@bob", text)
        story.wait(7.0)
    alice.crashes()
    alice.device.start()
    alice.sends("@bob", "e")
    alice.comes_out()
    bob.receives(*"abcde")
    story.ends_well()


@pytest.mark.slow
@pytest.mark.parametrize("count", [24, 50, 500])
def test_t6_no_hole_after_an_absence_of_many_messages(count: int) -> None:
    """T6: one page, some pages, many windows: all of it, in order, once."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    bob.crashes()
    for number in range(count):
        alice.sends("@bob", str(number))
    bob.starts()
    bob.receives(*map(str, range(count)))
    story.ends_well()


@pytest.mark.slow
def test_t7_no_hole_when_messages_come_meanwhile() -> None:
    """T7: somebody writes on while three conversations of who comes back are caught up."""
    story = Story(alice=1, bob=1, carol=1)
    alice, bob, carol = story["alice"], story["bob"], story["carol"]
    alice.creates("#team", "bob", "carol")
    bob.crashes()
    for number in range(60):
        alice.sends("@bob", f"a{number}")
        carol.sends("@bob", f"c{number}")
        alice.sends("#team", f"t{number}")
    bob.device.start()
    for number in range(60, 100):
        alice.sends("@bob", f"a{number}")
        carol.sends("@bob", f"c{number}")
        alice.sends("#team", f"t{number}")
        story.wait(0.005)
    story.until(lambda: len(bob.received()) >= 3 * 100, "not everything came")
    for letter in "act":
        own = [text.decode() for text in bob.received() if text.decode()[0] == letter]
        assert own == [f"{letter}{number}" for number in range(100)]
    story.ends_well()


def test_t8_a_second_connection_takes_over_and_nothing_is_lost() -> None:
    """T8: the first one hangs with messages on their way in both directions; the second replaces it."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "0"), "stored")
    bob.sees(bob.sends("@alice", "0"), "delivered")
    alice.hears_nothing_on("@bob")
    for number in range(1, 10):
        alice.sends("@bob", str(number))
        bob.sends("@alice", str(number))
    texts = [str(number) for number in range(10)]
    alice.receives(*texts)
    bob.receives(*texts)
    assert story.count("raced", "alice/0") == 1
    story.ends_well()


def test_t11_a_restored_backup_is_noticed() -> None:
    """T11: the log goes back to a backup; what it gives the same seq again is not taken for the old one."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    for number in range(3):
        alice.sends("@bob", f"kept {number}")
    bob.receives("kept 0", "kept 1", "kept 2")
    story.server.back_up()
    gone = alice.sends("@bob", "not in the backup")
    alice.sees(gone, "delivered")
    story.server.crash()
    story.server.restore()
    story.server.start()
    after = alice.sends("@bob", "after")
    alice.sees(after, "delivered")
    assert bob.received() == [b"kept 0", b"kept 1", b"kept 2", b"not in the backup", b"after"]
    assert story.count("reset", "bob/0") == 1
    assert story.log(direct("alice", "bob")) == [b"kept 0", b"kept 1", b"kept 2", b"after"]
    story.ends_well()


def test_t12_a_channel_that_the_server_resets_is_opened_again() -> None:
    """T12: one conversation's stream is reset in the middle: it goes on, on the same connection."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "before"), "delivered")
    hub, client = story.server.hub, alice.device.session
    assert hub is not None
    assert client is not None
    session = next(peer for peer in hub._directory.peers if peer.user == "alice")
    number = client._by_name["@bob"].number
    alice.sends("@bob", "on its way")
    error = ProtocolError("a fault of the server", code=ErrorCode.LIMIT)
    session._violation(session._channels[number], error, story.kernel.now)
    hub.pump(session)
    alice.sees(alice.sends("@bob", "behind it"), "delivered")
    assert client._by_name["@bob"].number != number
    assert bob.received() == [b"before", b"on its way", b"behind it"]
    assert story.count("up", "alice/0") == 1
    story.ends_well()


def test_t14_an_idle_client_hears_at_once() -> None:
    """T14: after half an hour without a word a message takes a network's time, not a keepalive's."""
    story = Story(alice=1, bob=1)
    alice, bob = story["alice"], story["bob"]
    alice.sees(alice.sends("@bob", "hello"), "delivered")
    story.wait(1800.0)
    alice.sends("@bob", "are you still there?")
    bob.receives("hello", "are you still there?", patience=0.25)
    assert story.count("up") == 2
    story.ends_well()


@pytest.mark.slow
def test_t15_a_busy_sender_is_not_taken_for_dead_nor_blind() -> None:
    """T15: at full rate nobody is suspected; and a silent other end is noticed all the same."""
    story = Story(alice=1, bob=1)
    alice = story["alice"]
    for number in range(300):
        alice.sends("@bob", str(number))
        story.wait(0.05)
    assert story.count("up") == 2
    assert not story.count("suspect")
    assert not story.count("down")
    alice.goes_into_a_tunnel()
    for number in range(60):
        alice.sends("@bob", f"into the void {number}")
        story.wait(0.1)
    assert story.count("suspect", "alice/0")
    alice.comes_out()
    story.ends_well()


def test_t18_read_privately_on_one_device_is_read_on_the_other() -> None:
    """T18: with public receipts off, the other device of the reader knows, and the sender does not."""
    story = Story(alice=1, bob=2)
    alice, bob, tablet = story["alice"], story["bob"], story["bob/1"]
    message = alice.sends("@bob", "secret")
    bob.receives("secret")
    tablet.receives("secret")
    alice.sees(message, "delivered")
    bob.device.read("@alice", SEQ_MAX, public=False)
    known = tablet.device.mailbox.conversations["@alice"]
    story.until(lambda: known.read >= 1, "the tablet does not know that it was read")
    story.wait(30.0)
    alice.does_not_see(message, "read")
    story.ends_well()


def test_t24_a_restart_of_the_server_costs_nothing() -> None:
    """T24: it says that it goes, comes back, and everybody is back with what they had on their way."""
    story = Story(alice=2, bob=2, carol=1)
    alice, bob = story["alice"], story["bob"]
    before = alice.sends("@bob", "before")
    alice.sees(before, "stored")
    story.server.stop()
    during = alice.sends("@bob", "during")
    story.until(lambda: story.server.hub is None, "it does not stop")
    story.server.start()
    story.until(lambda: all(p.device.is_up for p in story.people.values()), "not everybody is back", 15.0)
    alice.sees(during, "delivered")
    assert bob.received() == [b"before", b"during"]
    assert story.count("up") <= 2 * len(story.people)
    story.ends_well()
