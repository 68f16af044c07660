"""What every store promises: one suite, run over each engine (see quicmsg/store/__init__.py).

A test module makes a subclass of each class here, with a fixture `given` that has a fresh store.
"""

from __future__ import annotations

import dataclasses

import pytest
from given import EPOCH, Given, device, key

from quicmsg.limits import DEVICES_PER_USER_MAX, LINK_CODES_PER_USER_MAX, MEMBERS_MAX
from quicmsg.protocol.frames import Kind
from quicmsg.store import (
    Appended,
    Change,
    Done,
    GroupChanged,
    MakeCode,
    MemberPosition,
    Moved,
    MovePosition,
    OpenConversation,
    Opened,
    Refusal,
    RevokeDevice,
    SignedIn,
    rules,
)


class LogContract:
    """Appending and reading."""

    def test_a_log_is_numbered_from_one_without_gaps(self, given: Given) -> None:
        """Each conversation counts for itself, whatever happens beside it."""
        given.users("ann", "bob", "cid")
        first, second = given.direct("ann", "bob"), given.direct("ann", "cid")
        for number in range(1, 6):
            assert given.say(first, "ann", f"a{number}").seq == 2 * number - 1
            assert given.say(first, "bob", f"b{number}").seq == 2 * number
            assert given.say(second, "cid", f"c{number}").seq == number
        assert [entry.seq for entry in given.entries(first, "bob")] == list(range(1, 11))

    def test_an_entry_is_read_as_it_was_written(self, given: Given) -> None:
        """Every field comes back, with any bytes in the body, also after the store was opened again."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        operations = [
            dataclasses.replace(given.message(direct, "ann", str(n)), body=body, kind=n, encoding=n + 1)
            for n, body in enumerate([b"", bytes(range(256)), b"\0", "ü👋".encode(), b"x" * 16384])
        ]
        given.store.execute(operations)
        for _ in range(2):
            for entry, op in zip(given.entries(direct, "bob"), operations, strict=True):
                assert (entry.conversation, entry.message_id, entry.body) == (direct, op.message_id, op.body)
                assert (entry.sender, entry.device) == ("ann", device("ann"))
                assert (entry.kind, entry.encoding, entry.stored_at_ms) == (op.kind, op.encoding, op.at_ms)
            given.reopen()

    def test_a_message_again_is_answered_and_not_stored_again(self, given: Given) -> None:
        """The first seq and time, however late it comes again: in its batch, later, after a restart."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        op = given.message(direct, "ann", "hi")
        later = dataclasses.replace(op, at_ms=op.at_ms + 99)
        first, again = given.store.execute([op, later])
        assert isinstance(first, Appended)
        assert not first.duplicate
        expected = Appended(first.seq, op.at_ms, duplicate=True, change=0)
        assert again == expected
        head = given.store.head()
        assert given.run(later) == expected
        given.reopen()
        assert given.run(later) == expected
        assert given.texts(direct, "bob") == ["hi"]
        assert given.store.head() == head

    def test_an_id_with_other_content_is_refused_and_burns_no_seq(self, given: Given) -> None:
        """Another body, kind, encoding or conversation under a known id is a conflict."""
        given.users("ann", "bob", "cid")
        direct, other = given.direct("ann", "bob"), given.direct("ann", "cid")
        op = given.message(direct, "ann", "hi")
        given.run(op)
        for change in ({"body": b"ho"}, {"kind": 9}, {"encoding": 9}, {"conversation": other}):
            assert given.refusal(dataclasses.replace(op, **change)) == "CONFLICT"
        assert given.refusal(dataclasses.replace(op, conversation="@ann:nobody")) == "CONFLICT"
        assert given.say(direct, "ann", "next").seq == 2
        assert given.texts(other, "cid") == []

    def test_an_id_belongs_to_its_sender(self, given: Given) -> None:
        """Somebody else's message with the same id is another message; one's other device's is not."""
        given.users("ann", "bob")
        given.link("ann", 2)
        direct = given.direct("ann", "bob")
        given.run(given.message(direct, "ann", "hi", message_id=b"i" * 16))
        other = given.run(given.message(direct, "bob", "hi", message_id=b"i" * 16))
        assert other == Appended(2, other.stored_at_ms, False, other.change)
        same = given.run(given.message(direct, "ann", "hi", message_id=b"i" * 16, number=2))
        assert (same.seq, same.duplicate) == (1, True)

    def test_one_batch_is_executed_in_order(self, given: Given) -> None:
        """What an operation needs may be made earlier in the same batch."""
        signed_in, opened, *appended, moved = given.store.execute(
            [
                given.sign_in("ann"),
                OpenConversation("@ann:ann", "ann", device("ann"), 0, 0, 1),
                *(given.message("@ann:ann", "ann", str(n)) for n in range(200)),
                MovePosition("@ann:ann", "ann", device("ann"), 150),
            ]
        )
        assert isinstance(signed_in, SignedIn)
        assert opened.members == (MemberPosition("ann", 0, 0),)
        assert [result.seq for result in appended] == list(range(1, 201))
        assert moved.received == 150
        assert given.texts("@ann:ann", "ann") == [str(n) for n in range(200)]

    def test_a_refusal_does_not_disturb_its_batch(self, given: Given) -> None:
        """Every kind of refusal, between messages that are stored."""
        given.users("ann", "bob", "cid")
        direct = given.direct("ann", "bob")
        refused = [
            given.message("@ann:cid", "ann", "x"),
            given.message(direct, "cid", "x"),
            given.message(direct, "nobody", "x"),
            OpenConversation("@bob:ann", "ann", device("ann"), EPOCH, 0, 1),
            MovePosition("#team", "ann", device("ann"), 1),
            given.create("#team", "ann", "nobody"),
            given.change("#team", "ann", "join"),
            given.sign_in("ann", 2),
            RevokeDevice("ann", b"?" * 16, 1),
        ]
        operations = []
        for number, refusal in enumerate(refused):
            operations += [given.message(direct, "ann", str(number)), refusal]
        results = given.store.execute(operations)
        assert [result.seq for result in results[::2]] == list(range(1, len(refused) + 1))
        assert all(isinstance(result, Refusal) for result in results[1::2])
        given.reopen()
        assert len(given.texts(direct, "bob")) == len(refused)
        assert given.store.members("#team") == []

    def test_entries_are_bounded_from_both_sides(self, given: Given) -> None:
        """The oldest after a position, or the newest before one; always ascending."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(1, 8):
            given.say(direct, "ann", str(number))
        assert given.texts(direct, "bob", after=2, limit=3) == ["3", "4", "5"]
        assert given.texts(direct, "bob", before=6, limit=3) == ["3", "4", "5"]
        assert given.texts(direct, "bob", after=3, before=6, limit=9) == ["4", "5"]
        assert given.texts(direct, "bob", before=3, limit=9) == ["1", "2"]
        assert given.texts(direct, "bob", before=2**53, limit=2) == ["6", "7"]
        assert given.texts(direct, "bob", after=2**53) == []
        assert given.texts(direct, "bob", after=7) == []
        assert given.texts(direct, "bob", before=1) == []
        assert given.texts(direct, "bob", before=0) == []
        assert given.texts(direct, "bob", limit=0) == []

    def test_only_members_read_and_write(self, given: Given) -> None:
        """No such conversation and not yours get the same answer, so that nobody can ask what exists."""
        given.users("ann", "bob", "cid")
        direct = given.direct("ann", "bob")
        given.say(direct, "ann", "secret")
        for conversation in (direct, "@ann:zed", "#none", "nonsense", "@bob:ann", "#\ud800"):
            assert given.entries(conversation, "cid") == []
            stranger = given.run(given.message(conversation, "cid", "x"))
            nothing = given.run(given.message("@cid:zed", "cid", "x"))
            assert stranger == nothing
            assert given.refusal(MovePosition(conversation, "cid", device("cid"), 1)) == "UNKNOWN"
            opening = OpenConversation(conversation, "cid", device("cid"), EPOCH, 0, 1)
            assert given.refusal(opening) == "UNKNOWN"
        assert given.entries(direct, "nobody\ud800") == []
        assert given.store.members("#\ud800") == given.store.devices("\ud800") == []
        assert given.store.changes("\ud800", after=0, limit=1) == []
        assert given.refusal(given.message(direct, "\ud800", "x", message_id=b"i" * 16)) == "UNKNOWN"


class PositionContract:
    """Opening, received and read."""

    def test_a_direct_conversation_is_made_when_it_is_opened(self, given: Given) -> None:
        """For two users that exist, under the one sorted key; also with oneself."""
        given.users("ann", "bob")
        opened = given.open("@ann:bob", "bob")
        members = (MemberPosition("ann", 0, 0), MemberPosition("bob", 0, 0))
        assert opened == Opened(EPOCH, 1, 0, 0, 0, False, members, change=1)
        assert given.store.members("@ann:bob") == ["ann", "bob"]
        assert given.open("@bob:bob", "bob").members == (MemberPosition("bob", 0, 0),)
        again = given.open("@ann:bob", "ann")
        assert (again.change, given.store.head()) == (0, 2)
        for conversation in ("@bob:ann", "@ann:zed", "@ann", "@ann:", "@:ann", "@ann:bob\n"):
            opening = OpenConversation(conversation, "ann", device("ann"), EPOCH, 0, 1)
            assert given.refusal(opening) == "UNKNOWN"

    def test_opening_with_a_position_acknowledges(self, given: Given) -> None:
        """It moves the device forward, never back, and says so to others only if the user moved."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        opened = given.open(direct, "bob", position=3)
        assert (opened.position, opened.head, opened.reset) == (3, 5, False)
        assert opened.change == given.store.head()
        back = given.open(direct, "bob", position=2)
        assert (back.position, back.reset, back.change) == (3, False, 0)
        assert given.open(direct, "ann").members[1] == MemberPosition("bob", 3, 0)

    def test_a_position_that_cannot_be_true_is_not_believed(self, given: Given) -> None:
        """Another epoch, or more than there is: the device starts again where the store knows it to be."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        given.move(direct, "bob", 2)
        head = given.store.head()
        for position, epoch in ((6, EPOCH), (4, EPOCH + 1), (0, EPOCH + 1), (4, 0)):
            opened = given.open(direct, "bob", position=position, epoch=epoch)
            assert (opened.reset, opened.position, opened.change) == (True, 2, 0)
        fresh = given.open(direct, "bob", position=0, epoch=0)
        assert (fresh.reset, fresh.position) == (False, 2)
        assert given.store.head() == head

    def test_positions_only_go_forward_and_never_beyond_the_head(self, given: Given) -> None:
        """Cumulative and capped; what was read was received."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        assert given.move(direct, "bob", 3) == Moved(3, 0, 0, change=given.store.head())
        assert given.move(direct, "bob", 2) == Moved(3, 0, 0, change=0)
        assert given.move(direct, "bob", 0, read=4) == Moved(4, 4, 4, change=given.store.head())
        assert given.move(direct, "bob", 9, read=9) == Moved(5, 5, 5, change=given.store.head())
        assert given.move(direct, "bob", 1, read=1) == Moved(5, 5, 5, change=0)
        given.reopen()
        assert given.move(direct, "bob", 1, read=1) == Moved(5, 5, 5, change=0)

    def test_a_private_read_is_told_to_nobody_else(self, given: Given) -> None:
        """The user's own devices see it; the others see what was read in public."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        private = given.move(direct, "bob", 0, read=4, public=False)
        assert private == Moved(4, 0, 4, change=given.store.head())
        assert given.open(direct, "ann").members[1] == MemberPosition("bob", 4, 0)
        assert given.open(direct, "bob").members[1] == MemberPosition("bob", 4, 4)
        assert given.move(direct, "bob", 0, read=2) == Moved(4, 2, 4, change=given.store.head())
        assert given.open(direct, "ann").members[1] == MemberPosition("bob", 4, 2)

    def test_each_device_has_its_own_position(self, given: Given) -> None:
        """The user's position is the highest of them; a device that lags behind changes nothing."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        given.link("bob", 2)
        given.move(direct, "bob", 4, read=3)
        assert given.move(direct, "bob", 2, number=2) == Moved(4, 3, 3, change=0)
        second = given.open(direct, "bob", number=2)
        assert (second.position, second.read, second.members[1]) == (2, 0, MemberPosition("bob", 4, 3))
        first = given.open(direct, "bob")
        assert (first.position, first.read) == (4, 3)

    def test_a_linked_device_starts_where_the_account_stands(self, given: Given) -> None:
        """In every conversation, with what was read in private; new conversations it begins like others."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for number in range(5):
            given.say(direct, "ann", str(number))
        given.move(direct, "bob", 4, read=3, public=False)
        given.link("bob", 2)
        given.move(direct, "bob", 5, read=5)
        given.reopen()
        linked = given.open(direct, "bob", number=2)
        assert (linked.position, linked.read) == (4, 3)
        assert given.open("@bob:bob", "bob", number=2).position == 0

    def test_a_device_linked_in_the_same_batch_starts_there_too(self, given: Given) -> None:
        """What moved, or was joined, just before it counts."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        given.store.execute(
            [
                MakeCode("link", "bob", "code", 2_000_000_000_000),
                given.message(direct, "ann", "hi"),
                MovePosition(direct, "bob", device("bob"), 1, 1),
                given.create("#team", "ann", "bob"),
                MovePosition("#team", "bob", device("bob"), 2),
                given.sign_in("bob", 2, code="code"),
            ]
        )
        positions = [given.open(name, "bob", number=2).position for name in (direct, "#team")]
        assert positions == [1, 2]


class FeedContract:
    """What changed since a cursor."""

    def test_the_feed_tells_what_changed_for_a_user(self, given: Given) -> None:
        """Each conversation once, at its latest change, in that order; nobody else's."""
        given.users("ann", "bob", "cid")
        first, second = given.direct("ann", "bob"), given.direct("ann", "cid")
        given.say(second, "ann", "1")
        given.say(first, "ann", "2")
        given.say(first, "bob", "3")
        changes = given.store.changes("ann", after=0, limit=10)
        assert changes == [Change(second, 1, 3), Change(first, 2, 5)]
        assert given.store.head() == 5
        assert given.feed("bob") == [first]
        assert given.feed("ann", after=3) == [first]
        assert given.feed("ann", after=5) == []
        assert given.store.changes("ann", after=0, limit=1) == changes[:1]
        assert given.store.changes("ann", after=0, limit=0) == []

    def test_what_somebody_would_be_told_is_a_change(self, given: Given) -> None:
        """Messages, members, positions that went forward (private ones too); nothing else."""
        given.users("ann", "bob", "cid")
        head = given.store.head()
        assert head == 0

        def changed() -> bool:
            nonlocal head
            before, head = head, given.store.head()
            assert head - before in (0, 1)
            return head > before

        team = "#team"
        assert given.group(team, "ann", "bob", open=True).change == 1
        assert changed()
        for action in (
            lambda: given.say(team, "ann", "hi"),
            lambda: given.move(team, "bob", 1),
            lambda: given.move(team, "bob", 1, read=1, public=False),
            lambda: given.move(team, "bob", 1, read=1),
            lambda: given.member(team, "cid", "join"),
            lambda: given.member(team, "cid", "leave"),
        ):
            result = action()
            assert changed()
            assert result.change == head
            assert given.feed("bob", after=head - 1) == [team]
        for action in (
            lambda: given.run(given.message(team, "ann", "hi")),
            lambda: given.move(team, "bob", 1, read=1),
            lambda: given.member(team, "bob", "join"),
            lambda: given.member(team, "cid", "leave"),
            lambda: given.open(team, "bob"),
        ):
            assert action().change == 0
            assert not changed()

    def test_the_feed_is_complete_page_by_page(self, given: Given) -> None:
        """Walked with any page size, and through a restart, it names every conversation once."""
        given.users("ann", *(f"u{number}" for number in range(30)))
        for number in range(30):
            given.say(given.direct("ann", f"u{number}"), "ann", "hi")
        given.reopen()
        seen, cursor = [], 0
        while page := given.store.changes("ann", after=cursor, limit=7):
            seen += [change.conversation for change in page]
            cursor = page[-1].change
        assert seen == [f"@ann:u{number}" for number in range(30)]
        assert cursor == given.store.head()


class GroupContract:
    """Members and what they may."""

    def test_a_group_begins_with_its_first_members(self, given: Given) -> None:
        """CREATED, then one JOINED for each other; the founders see all of it."""
        given.users("ann", "bob", "cid")
        created = given.group("#team", "ann", "cid", "bob", "ann", "cid")
        entries = given.entries("#team", "bob")
        assert created == GroupChanged(tuple(entries), ("ann", "bob", "cid"), change=1)
        told = [(entry.seq, entry.kind, entry.body, entry.sender) for entry in entries]
        assert told == [
            (1, Kind.CREATED, b"", "ann"),
            (2, Kind.JOINED, b"cid", "ann"),
            (3, Kind.JOINED, b"bob", "ann"),
        ]
        assert given.open("#team", "bob").oldest == 1

    def test_making_a_group_again_changes_nothing(self, given: Given) -> None:
        """For its creator it is done already; for everybody else the name is taken."""
        given.users("ann", "bob")
        op = given.create("#team", "ann")
        assert isinstance(given.run(op), GroupChanged)
        assert given.run(op) == GroupChanged((), ("ann",), 0)
        assert given.group("#team", "ann", "bob") == GroupChanged((), ("ann",), 0)
        assert given.refusal(given.create("#team", "bob")) == "EXISTS"
        for name in ("team", "#Team", "#", "#team\n", "@ann:bob", "#" + "x" * 33, "#\ud800"):
            assert given.refusal(given.create(name, "ann")) == "NAME_INVALID"
        assert given.refusal(given.create("#other", "ann", "nobody")) == "UNKNOWN"
        assert given.store.members("#other") == []

    def test_who_joins_sees_the_log_from_there_on(self, given: Given) -> None:
        """Not a message from before, whichever way it asks; and it owes no receipts for those."""
        given.users("ann", "bob")
        given.group("#team", "ann", open=True)
        for number in range(4):
            given.say("#team", "ann", str(number))
        joined = given.member("#team", "bob", "join")
        assert [(entry.seq, entry.kind, entry.body) for entry in joined.entries] == [(6, Kind.JOINED, b"bob")]
        assert joined.members == ("ann", "bob")
        given.say("#team", "ann", "welcome")
        assert given.texts("#team", "bob") == ["bob", "welcome"]
        assert given.texts("#team", "bob", before=7) == ["bob"]
        assert given.texts("#team", "bob", before=6) == []
        opened = given.open("#team", "bob")
        assert (opened.oldest, opened.head, opened.position) == (6, 7, 5)
        assert opened.members[1] == MemberPosition("bob", 5, 5)
        given.reopen()
        assert given.texts("#team", "bob") == ["bob", "welcome"]
        assert len(given.texts("#team", "ann")) == 7

    def test_only_members_invite_and_only_open_groups_are_joined(self, given: Given) -> None:
        """A closed group looks to a stranger like none at all."""
        given.users("ann", "bob", "cid")
        given.group("#team", "ann")
        for change in ("join", "leave"):
            assert given.run(given.change("#team", "bob", change)) == given.run(
                given.change("#none", "bob", change)
            )
        assert given.refusal(given.change("#team", "bob", "invite", "cid")) == "UNKNOWN"
        assert given.refusal(given.change("#team", "ann", "invite", "nobody")) == "UNKNOWN"
        assert given.refusal(given.change("#team", "ann", "leave", "bob")) == "UNKNOWN"
        assert given.refusal(given.change("#team", "bob", "join", "cid")) == "UNKNOWN"
        assert given.member("#team", "ann", "invite", "bob").entries[0].sender == "ann"
        assert given.member("#team", "bob", "invite", "cid").members == ("ann", "bob", "cid")
        direct = given.direct("ann", "bob")
        assert given.refusal(given.change(direct, "ann", "invite", "cid")) == "UNKNOWN"
        assert given.refusal(given.change(direct, "ann", "leave")) == "UNKNOWN"

    def test_who_left_is_out(self, given: Given) -> None:
        """No reading, writing, opening, moving; no feed; but a stored message stays acknowledged."""
        given.users("ann", "bob")
        given.group("#team", "ann", "bob", open=True)
        op = given.message("#team", "bob", "hi")
        given.run(op)
        given.move("#team", "bob", 3, read=3)
        left = given.member("#team", "bob", "leave")
        assert (left.members, left.entries[0].kind, left.entries[0].body) == (("ann",), Kind.LEFT, b"bob")
        for _ in range(2):
            assert given.entries("#team", "bob") == []
            assert given.feed("bob") == []
            assert given.refusal(given.message("#team", "bob", "still here?")) == "UNKNOWN"
            assert given.refusal(MovePosition("#team", "bob", device("bob"), 4)) == "UNKNOWN"
            assert given.refusal(OpenConversation("#team", "bob", device("bob"), EPOCH, 0, 1)) == "UNKNOWN"
            assert given.run(op).duplicate
            assert given.store.members("#team") == ["ann"]
            assert [m.user for m in given.open("#team", "ann").members] == ["ann"]
            given.reopen()

    def test_who_comes_back_starts_anew(self, given: Given) -> None:
        """From the new JOINED entry on, with positions from there; the time between stays hidden."""
        given.users("ann", "bob")
        given.group("#team", "ann", "bob", open=True)
        given.say("#team", "ann", "first")
        given.move("#team", "bob", 3, read=3)
        given.member("#team", "bob", "leave")
        given.say("#team", "ann", "behind his back")
        given.member("#team", "bob", "join")
        assert given.texts("#team", "bob") == ["bob"]
        opened = given.open("#team", "bob")
        assert (opened.oldest, opened.position, opened.read) == (6, 5, 5)
        given.reopen()
        opened = given.open("#team", "bob")
        assert (opened.oldest, opened.position, opened.read) == (6, 5, 5)

    def test_a_change_of_members_again_changes_nothing(self, given: Given) -> None:
        """The same request writes one entry, also when something else happened in between."""
        given.users("ann", "bob")
        given.group("#team", "ann", open=True)
        join, leave = given.change("#team", "bob", "join"), given.change("#team", "bob", "leave")
        assert len(given.run(join).entries) == 1
        assert given.run(join) == GroupChanged((), ("ann", "bob"), 0)
        assert len(given.run(leave).entries) == 1
        assert given.run(leave) == given.member("#team", "bob", "leave") == GroupChanged((), ("ann",), 0)
        assert given.run(join) == GroupChanged((), ("ann",), 0)
        assert [entry.kind for entry in given.entries("#team", "ann")] == [
            Kind.CREATED,
            Kind.JOINED,
            Kind.LEFT,
        ]

    def test_a_request_whose_id_is_taken_is_a_conflict(self, given: Given) -> None:
        """A client that guesses the id of an entry harms itself only, and not the store."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        create, later = given.create("#team", "ann", "bob"), given.create("#late", "ann", "bob")
        taken = rules.entry_id(create.request_id, "bob")
        given.run(given.message(direct, "ann", "x", message_id=taken))
        assert given.refusal(create) == "CONFLICT"
        given.run(later)
        leave = given.change("#late", "ann", "leave")
        given.run(given.message(direct, "ann", "y", message_id=rules.entry_id(leave.request_id, "ann")))
        assert given.refusal(leave) == "CONFLICT"
        assert given.store.members("#late") == ["ann", "bob"]

    def test_a_group_has_a_limit(self, given: Given) -> None:
        """Not one member more, at the start or later."""
        users = [f"u{number:03}" for number in range(MEMBERS_MAX + 1)]
        given.store.execute([given.sign_in(user) for user in users])
        assert given.refusal(given.create("#big", *users)) == "LIMIT"
        assert len(given.group("#big", *users[:-1], open=True).members) == MEMBERS_MAX
        assert given.refusal(given.change("#big", users[-1], "join")) == "LIMIT"
        given.member("#big", users[1], "leave")
        assert len(given.member("#big", users[-1], "join").members) == MEMBERS_MAX

    def test_a_user_chooses_a_limited_number_of_conversations(
        self, given: Given, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Created, joined or opened, one is as good as the other; leaving one makes room."""
        monkeypatch.setattr(rules, "CONVERSATIONS_PER_USER_MAX", 3)
        given.users("ann", "bob", "cid", "dan")
        given.group("#mine", "ann")
        given.group("#open", "bob", open=True)
        given.group("#more", "bob", open=True)
        given.member("#open", "ann", "join")
        given.direct("ann", "bob")
        opening = OpenConversation("@ann:cid", "ann", device("ann"), EPOCH, 0, 1)
        for choice in (given.create("#late", "ann"), given.change("#more", "ann", "join"), opening):
            assert given.refusal(choice) == "LIMIT"
            given.reopen()
        given.member("#open", "ann", "leave")
        assert isinstance(given.run(opening), Opened)
        batch = [given.create(name, "dan") for name in ("#a", "#b", "#c", "#d")]
        assert [isinstance(result, Refusal) for result in given.store.execute(batch)] == [False] * 3 + [True]

    def test_nobody_can_use_up_the_conversations_of_somebody_else(
        self, given: Given, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whom others add, invite or write to is not charged, nor kept from it by being full."""
        monkeypatch.setattr(rules, "CONVERSATIONS_PER_USER_MAX", 1)
        given.users("ann", "bob", "cid", "dan", "eve")
        for number in range(3):
            given.group(f"#spam{number}", "eve", "bob")
            given.member(f"#spam{number}", "eve", "leave")
        given.group("#spam", "eve")
        given.member("#spam", "eve", "invite", "bob")
        given.direct("ann", "bob")
        given.reopen()
        given.direct("bob", "cid")
        assert given.refusal(given.create("#late", "bob")) == "LIMIT"
        given.direct("dan", "bob")
        given.group("#team", "cid", "bob")
        assert given.refusal(OpenConversation("@bob:eve", "eve", device("eve"), EPOCH, 0, 1)) == "LIMIT"

    def test_nobody_is_put_into_groups_without_end(
        self, given: Given, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Not by one maker, whoever of its members invites, and not by all together; leaving makes room, and
        the way in by oneself stays open."""
        monkeypatch.setattr(rules, "ADDED_BY_ONE_MAX", 2)
        monkeypatch.setattr(rules, "ADDED_PER_USER_MAX", 3)
        given.users("ann", "bob", "eve", "mal")
        for number in range(2):
            given.group(f"#spam{number}", "eve", "bob")
        given.group("#more", "eve", "mal", open=True)
        for attempt in (
            given.create("#late", "eve", "bob", "ann"),
            given.change("#more", "eve", "invite", "bob"),
            given.change("#more", "mal", "invite", "bob"),
        ):
            assert given.refusal(attempt) == "LIMIT"
            given.reopen()
        assert given.store.members("#late") == []
        given.group("#team", "ann", "bob")
        given.group("#other", "ann")
        assert given.refusal(given.change("#other", "ann", "invite", "bob")) == "LIMIT"
        given.member("#more", "bob", "join")
        given.member("#spam0", "bob", "leave")
        given.member("#other", "ann", "invite", "bob")
        batch = [given.create(name, "mal", "ann") for name in ("#a", "#b", "#c")]
        assert [isinstance(result, Refusal) for result in given.store.execute(batch)] == [False] * 2 + [True]


class AccountContract:
    """Names, devices, codes."""

    def test_a_removed_device_gets_no_code_for_another(self, given: Given) -> None:
        """Else a lost phone that is still connected could come back as a new device."""
        given.users("ann")
        given.link("ann", 2)
        ask = MakeCode("link", "ann", "back-door", 10**15, device("ann", 2))
        given.run(RevokeDevice("ann", device("ann", 2), 1))
        assert given.refusal(ask) == "REVOKED"
        assert given.refusal(MakeCode("link", "ann", "x", 10**15, b"nobody's")) == "UNKNOWN"
        assert given.refusal(given.sign_in("ann", 3, code="back-door")) == "CODE_INVALID"
        assert given.run(MakeCode("link", "ann", "front-door", 10**15, device("ann"))) == Done()

    def test_a_name_belongs_to_the_first_key(self, given: Given) -> None:
        """It comes back with that key; another key needs a code; bad names are refused."""
        first = given.run(given.sign_in("ann"))
        assert first == SignedIn("ann", device("ann"), new_user=True, new_device=True)
        again = SignedIn("ann", device("ann"), new_user=False, new_device=False)
        assert given.run(given.sign_in("ann")) == again
        assert given.refusal(given.sign_in("ann", 2)) == "NAME_TAKEN"
        given.reopen()
        assert given.run(given.sign_in("ann")) == again
        for name in ("", "Ann", "a b", "ann\n", "-ann", "x" * 33, "\ud800"):
            op = dataclasses.replace(given.sign_in("ann"), user=name)
            assert given.refusal(op) == "NAME_INVALID"
        assert given.store.devices("ann") == [(device("ann"), "ann's 1", False)]
        given.run(dataclasses.replace(given.sign_in("ann"), label="phone"))
        assert given.store.devices("ann") == [(device("ann"), "phone", False)]

    def test_a_link_code_adds_one_device_once(self, given: Given) -> None:
        """Of its own user, before it expires, whatever happened in between."""
        given.users("ann", "bob")
        code = MakeCode("link", "ann", "secret", expires_at_ms=2_000_000_000_000)
        assert given.run(code) == given.run(code) == Done()
        assert given.refusal(given.sign_in("bob", 2, code="secret")) == "CODE_INVALID"
        assert given.refusal(given.sign_in("ann", 2, code="secre")) == "CODE_INVALID"
        late = given.sign_in("ann", 2, code="secret", at_ms=2_000_000_000_000)
        assert given.refusal(late) == "CODE_INVALID"
        given.reopen()
        assert given.run(given.sign_in("ann", 2, code="secret")) == SignedIn(
            "ann", device("ann", 2), new_user=False, new_device=True
        )
        assert not given.run(given.sign_in("ann", 2, code="secret")).new_device
        assert given.run(code) == Done()
        assert given.refusal(given.sign_in("ann", 3, code="secret")) == "CODE_INVALID"
        assert given.refusal(MakeCode("link", "nobody", "x", 2_000_000_000_000)) == "UNKNOWN"

    def test_a_code_is_used_up_only_when_it_was_needed(self, given: Given) -> None:
        """A known device, and a new name on an open server, need none."""
        given.users("ann")
        given.run(MakeCode("link", "ann", "link", 2_000_000_000_000))
        given.run(MakeCode("invite", "ann", "invite", 2_000_000_000_000))
        given.run(given.sign_in("ann", code="link"))
        assert given.run(given.sign_in("bob", code="invite")).new_user
        assert given.run(given.sign_in("ann", 2, code="link")).new_device
        assert given.run(given.sign_in("cid", code="invite", invite_only=True)).new_user

    def test_a_closed_server_wants_an_invite(self, given: Given) -> None:
        """One new user for each code; a link code is none, and who is known needs none."""
        given.users("ann")
        given.run(MakeCode("invite", "", "invite", 2_000_000_000_000))
        given.run(MakeCode("link", "ann", "link", 2_000_000_000_000))
        assert given.refusal(given.sign_in("bob", invite_only=True)) == "INVITE_NEEDED"
        for code in ("guess", "link"):
            assert given.refusal(given.sign_in("bob", code=code, invite_only=True)) == "CODE_INVALID"
        assert given.refusal(given.sign_in("ann", 2, code="invite")) == "CODE_INVALID"
        late = given.sign_in("bob", code="invite", invite_only=True, at_ms=2_000_000_000_001)
        assert given.refusal(late) == "CODE_INVALID"
        assert given.run(given.sign_in("bob", code="invite", invite_only=True)).new_user
        assert given.refusal(given.sign_in("cid", code="invite", invite_only=True)) == "CODE_INVALID"
        assert not given.run(given.sign_in("ann", invite_only=True)).new_user

    def test_codes_and_devices_are_limited(self, given: Given) -> None:
        """The newest link codes count; the last device but one too many is refused, its code kept."""
        given.users("ann")
        for number in range(LINK_CODES_PER_USER_MAX + 1):
            given.run(MakeCode("link", "ann", f"c{number}", 2_000_000_000_000))
        assert given.refusal(given.sign_in("ann", 99, code="c0")) == "CODE_INVALID"
        for number in range(2, DEVICES_PER_USER_MAX + 1):
            assert given.link("ann", number).new_device
        given.run(MakeCode("link", "ann", "last", 2_000_000_000_000))
        assert given.refusal(given.sign_in("ann", 99, code="last")) == "LIMIT"
        given.run(RevokeDevice("ann", device("ann", 2), 1))
        assert given.run(given.sign_in("ann", 99, code="last")).new_device

    def test_a_revoked_device_is_out_for_good(self, given: Given) -> None:
        """It cannot sign in, nor do anything in a session that is still open; the others can."""
        given.users("ann", "bob")
        given.link("ann", 2)
        direct = given.direct("ann", "bob")
        given.move(direct, "ann", 0)
        assert given.run(RevokeDevice("ann", device("ann"), 5)) == Done()
        assert given.run(RevokeDevice("ann", device("ann"), 6)) == Done()
        given.run(MakeCode("link", "ann", "code", 2_000_000_000_000))
        for _ in range(2):
            for op in (
                given.sign_in("ann"),
                given.sign_in("ann", code="code"),
                given.message(direct, "ann", "x"),
                OpenConversation(direct, "ann", device("ann"), EPOCH, 0, 1),
                MovePosition(direct, "ann", device("ann"), 1),
                given.create("#team", "ann"),
                given.change("#team", "ann", "join"),
            ):
                assert given.refusal(op) == "REVOKED"
            given.reopen()
        assert given.store.devices("ann") == [
            (device("ann"), "ann's 1", True),
            (device("ann", 2), "ann's 2", False),
        ]
        assert isinstance(given.run(given.message(direct, "ann", "x", number=2)), Appended)
        assert given.refusal(RevokeDevice("ann", device("bob"), 1)) == "UNKNOWN"
        assert given.refusal(RevokeDevice("nobody", device("bob"), 1)) == "UNKNOWN"

    def test_a_device_acts_for_its_own_user_only(self, given: Given) -> None:
        """A device of somebody else, or of nobody, is as good as none."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        for stranger in (device("bob"), b"?" * 16):
            op = dataclasses.replace(given.message(direct, "ann", "x"), device=stranger)
            assert given.refusal(op) == "UNKNOWN"
        assert given.store.devices("nobody") == []
        assert rules.device_id(key("ann")) == device("ann")


class DurableContract:
    """What is left when the store is opened again."""

    def test_everything_is_there_again(self, given: Given) -> None:
        """Log, members, positions, feed and epoch; and the counters go on where they were."""
        given.users("ann", "bob")
        direct = given.direct("ann", "bob")
        given.group("#team", "ann", "bob")
        given.say(direct, "ann", "hi")
        given.move(direct, "bob", 1, read=1, public=False)

        def everything() -> object:
            reads = [
                (
                    given.store.devices(user),
                    given.store.changes(user, after=0, limit=9),
                    [(given.entries(name, user), given.open(name, user)) for name in (direct, "#team")],
                )
                for user in ("ann", "bob")
            ]
            return given.store.epoch, given.store.head(), given.store.members("#team"), reads

        before = everything()
        given.reopen()
        assert everything() == before
        assert given.store.epoch == EPOCH
        said = given.say(direct, "bob", "ho")
        assert (said.seq, said.change) == (2, given.store.head())
        assert given.group("#next", "bob").change == given.store.head()

    def test_an_empty_store_is_empty(self, given: Given) -> None:
        """No change, no members, nothing for anybody; an empty batch does nothing."""
        assert given.store.execute([]) == []
        assert given.store.head() == 0
        assert given.store.members("#none") == []
        assert given.store.changes("ann", after=0, limit=5) == []
