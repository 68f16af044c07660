"""Corners of the hub that the simulated world found, or is not likely to: one exact order of events each."""

from __future__ import annotations

from hubrig import Rig, Wire, message

from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.frames import MemberEntry
from quicmsg.store import MakeCode, MovePosition

GROUP = "#team"


def two_people() -> tuple[Rig, Wire, Wire]:
    rig = Rig()
    alice, bob = rig.connect("alice"), rig.connect("bob")
    alice.open(1, "@bob")
    bob.open(1, "@alice")
    return rig, alice, bob


def three_in_a_group() -> tuple[Rig, Wire, Wire, Wire]:
    rig = Rig()
    people = [rig.connect(name) for name in ("alice", "bob", "carol")]
    people[0].ask(0, frames.Create(1, GROUP, ("bob", "carol"), False))
    for wire in people:
        wire.open(1, GROUP)
    return rig, people[0], people[1], people[2]


def positions_of(user: str, wire: Wire) -> MemberEntry:
    """What this client was told last."""
    told = [member for receipt in wire.heard(frames.Receipt) for member in receipt.members]
    return next(member for member in reversed(told) if member.user == user)


# ---- signing in


def test_closed_server_wants_an_invitation() -> None:
    """A new name needs a code; the name once claimed comes back without one."""
    rig = Rig(invite_only=True)
    assert rig.connect("alice").heard(frames.Close)[0].code == ErrorCode.INVITE_NEEDED
    rig.store.execute([MakeCode("invite", "", "welcome", 10**15)])
    assert rig.connect("alice", code="welcome").is_up
    assert rig.connect("alice").is_up


def test_second_device_comes_in_with_a_link_code() -> None:
    """Without the code the name is taken."""
    rig = Rig()
    phone = rig.connect("bob")
    assert rig.connect("bob", 1).heard(frames.Close)[0].code == ErrorCode.NAME_TAKEN
    phone.ask(0, frames.Link(5))
    assert phone.heard(frames.Done) == [frames.Done(5, "CODE")]
    assert rig.connect("bob", 1, code="CODE").is_up
    assert phone.is_up


# ---- messages


def test_another_body_under_the_same_id_is_refused() -> None:
    """An id names one message for ever."""
    _, alice, _ = two_people()
    alice.ask(1, message(1, "one"), message(1, "two"))
    assert [rejected.code for rejected in alice.heard(frames.Rejected)] == [ErrorCode.CONFLICT]


def test_entry_that_is_accepted_while_it_is_being_read_does_not_end_delivery() -> None:
    """A repetition is answered while the store is asked for it; what is behind it is not forgotten."""
    rig, alice, bob = two_people()
    alice.ask(1, message(1))
    alice.session.close(now=0.0)
    rig.hub.pump(alice.session)
    again = rig.connect("alice")
    again.send(4, frames.Open("@bob", 0, 0, 0), message(1))
    rig.hub._conversations._topics.use(
        "@alice:bob"
    ).recent.clear()  # as if it had been pushed out of the cache
    operation, callback = rig.writer.operations.popleft()
    callback(rig.store.execute([operation])[0])  # opened: now it asks for what follows 0
    ((read, answer),) = rig.writer.reads
    rig.writer.reads.clear()
    seen = read(rig.store)
    rig.writer.run()  # the repetition is accepted
    bob.ask(1, message(9))  # and somebody else writes
    answer(seen)
    rig.writer.run()
    assert [entry.seq for entry in again.heard(frames.Deliver)] == [2]


# ---- positions


def test_positions_that_wait_for_the_disk_are_merged() -> None:
    """An Ack and a Read while one move is on its way: both count, in one operation."""
    rig, alice, bob = two_people()
    alice.ask(1, *(message(number) for number in range(1, 5)))
    bob.send(1, frames.Ack(1), frames.Ack(4), frames.Read(2, True), frames.Ack(3))
    rig.writer.run()
    assert positions_of("bob", alice) == MemberEntry("bob", 4, 2)


def test_position_beyond_what_was_sent_ends_the_channel_only() -> None:
    """An Ack of the future is a violation; the connection lives."""
    _, alice, bob = two_people()
    alice.ask(1, message(1))
    bob.ask(1, frames.Ack(2))
    bob.heard(frames.Close)
    assert 1 in bob.ended
    assert bob.is_up
    bob.open(2, "@alice")
    assert len(bob.heard(frames.Opened, 2)) == 1


def test_open_moves_the_position_and_tells_it() -> None:
    """What an Ack could not say any more, the next Open says."""
    rig, alice, bob = two_people()
    alice.ask(1, message(1))
    again = rig.connect("bob")
    again.open(3, "@alice", position=1)
    assert positions_of("bob", alice) == MemberEntry("bob", 1, 0)
    assert bob.heard(frames.Close)


def test_open_of_a_connection_that_ended_meanwhile_is_told_as_well() -> None:
    """It moved the position: the next Open finds it there, changes nothing, and would tell nobody."""
    rig, alice, _ = two_people()
    alice.ask(1, message(1))
    again = rig.connect("bob")
    again.send(3, frames.Open("@alice", 7, 1, 1))
    again.session.connection_lost(0, "the connection broke", rig.time)
    rig.hub.pump(again.session)
    rig.writer.run()
    rig.connect("bob").open(1, "@alice", position=1)
    assert positions_of("bob", alice) == MemberEntry("bob", 1, 0)


# ---- membership


def test_who_leaves_loses_the_channel_and_hears_no_more() -> None:
    """At once; and a receipt of theirs that was on its way to the disk makes nobody a member again."""
    rig, alice, bob, carol = three_in_a_group()
    alice.ask(1, message(1))
    noticed = len(bob.heard(frames.Notice))
    bob.send(1, frames.Ack(4))
    ((operation, _),) = rig.writer.operations
    assert isinstance(operation, MovePosition)
    bob.ask(0, frames.Leave(2, GROUP))
    assert bob.heard(frames.Refused, 1)[0].code == ErrorCode.UNKNOWN
    alice.ask(1, message(2))
    assert not any(entry.message_id[-1] == 2 for entry in bob.heard(frames.Deliver))
    assert len(bob.heard(frames.Notice)) == noticed
    left = next(entry for entry in carol.heard(frames.Deliver) if entry.kind == frames.Kind.LEFT)
    carol_frames = [frame for _, frame in carol.frames]
    behind = carol_frames[carol_frames.index(left) :]
    told = [member.user for frame in behind if isinstance(frame, frames.Receipt) for member in frame.members]
    assert "bob" not in told


def test_who_left_while_members_were_looked_up_is_no_member_again() -> None:
    """Nobody has the group open; a position of bob's is told while he leaves; later he hears nothing."""
    rig, alice, bob, carol = three_in_a_group()
    for wire in (alice, carol):
        wire.send(1, end=True)
    bob.send(1, frames.Ack(2), frames.Ack(3))
    bob.send(1, end=True)
    for _ in range(2):
        operation, callback = rig.writer.operations.popleft()
        callback(rig.store.execute([operation])[0])
    # Both are written; but the group is in nobody's use, so that it has to be read whom to tell.
    ((read, answer),) = rig.writer.reads
    rig.writer.reads.clear()
    seen = read(rig.store)
    bob.send(0, frames.Leave(2, GROUP))
    operation, callback = rig.writer.operations.popleft()
    carol.send(2, frames.Open(GROUP, 7, 0, 0))  # keeps the group in memory
    callback(rig.store.execute([operation])[0])
    answer(seen)
    rig.writer.run()
    noticed = len(bob.heard(frames.Notice))
    carol.ask(2, message(1))
    assert len(bob.heard(frames.Notice)) == noticed
    assert "bob" not in {m.user for receipt in carol.heard(frames.Receipt, 2) for m in receipt.members}


def test_who_is_invited_hears_of_it_and_sees_what_follows() -> None:
    """The log begins with one's own JOINED entry."""
    rig, alice, _, _ = three_in_a_group()
    alice.ask(1, message(1))
    dave = rig.connect("dave")
    alice.ask(0, frames.Invite(2, GROUP, "dave"))
    assert [notice.conversation for notice in dave.heard(frames.Notice)] == [GROUP]
    dave.open(1, GROUP)
    alice.ask(1, message(2))
    assert [entry.kind for entry in dave.heard(frames.Deliver)] == [frames.Kind.JOINED, frames.Kind.TEXT]


# ---- memory


def test_nothing_is_kept_of_what_is_closed() -> None:
    """Whatever way a channel or a session ends: in the middle of an Open, of a Send, of a read."""
    rig, alice, bob = two_people()
    alice.send(1, message(1))
    alice.send(2, frames.Open("@alice", 0, 0, 0))
    alice.session.receive_reset(2, 0, 0.0)
    rig.hub.pump(alice.session)
    bob.send(2, frames.Open("@bob", 0, 0, 0), frames.Fetch(1, 0, 0, 10))
    bob.session.connection_lost(0, "gone", 0.0)
    rig.hub.pump(bob.session)
    rig.writer.run()
    alice.send(1, end=True)
    assert len(rig.hub._conversations._topics) == 0
    assert rig.hub.sessions == 1
