"""T17 and T23 of the complaints about other messengers (tests/test_peers_complaints.py), frame by frame."""

from __future__ import annotations

import pytest
from hubrig import Rig, Wire, message

from quicmsg.errors import ErrorCode
from quicmsg.limits import BODY_SIZE_MAX, FRAME_SIZE_MAX, RECEIPT_INTERVAL
from quicmsg.protocol import frames
from quicmsg.protocol.codec import encode

MEMBERS = 200


@pytest.mark.slow
def test_t17_receipts_of_a_big_group_are_few_frames_and_exact() -> None:
    """T17: 199 people receive three messages; the sender hears of all of them, in a frame an interval."""
    rig = Rig()
    alice = rig.connect("alice")
    others = [rig.connect(f"member{number}") for number in range(MEMBERS - 1)]
    names = tuple(f"member{number}" for number in range(MEMBERS - 1))
    alice.ask(0, frames.Create(1, "#big", names, False))
    for wire in (alice, *others):
        wire.open(1, "#big")
        while (seq := wire.heard(frames.Deliver)[-1].seq) < MEMBERS:
            wire.ask(1, frames.Ack(seq))
        wire.ask(1, frames.Ack(seq))
    rig.time += RECEIPT_INTERVAL
    for wire in (alice, *others):
        wire.session.handle_timer(rig.time)
        wire.heard(frames.Receipt)
        wire.frames.clear()
    for number in (1, 2, 3):
        alice.ask(1, message(number))
        seq = alice.heard(frames.Accepted)[-1].seq
        for wire in others:
            assert wire.heard(frames.Deliver)[-1].seq == seq
            wire.ask(1, frames.Ack(seq))
        rig.time += RECEIPT_INTERVAL
        alice.session.handle_timer(rig.time)
        told = alice.heard(frames.Receipt)
        assert len(told) == number
        assert {member.user: member.delivered for member in told[-1].members} == dict.fromkeys(names, seq)
    for wire in others:
        wire.session.handle_timer(rig.time)
        assert len(wire.heard(frames.Receipt)) == 1


NONSENSE = {
    "an Ack of what was never sent": encode(frames.Ack(7)),
    "an Ack far beyond any log": encode(frames.Ack(2**53)),
    "a body that is too big": encode(frames.Send(bytes(16), 0, 0, b"x" * (BODY_SIZE_MAX + 1))),
    "a length that is too big": (FRAME_SIZE_MAX + 1).to_bytes(4, "big"),
    "a second Open": encode(frames.Open("@bob", 7, 0, 0)),
    "a frame of the server": encode(frames.Accepted(bytes(16), 1, 1)),
    "no msgpack at all": b"\x00\x00\x00\x05\xc1\xc1\xc1\xc1\xc1",
}


@pytest.mark.parametrize("name", NONSENSE)
def test_t23_nonsense_costs_a_channel_and_never_the_connection(name: str) -> None:
    """T23: the channel ends with a code; the connection and the other conversations go on."""
    rig, alice = _three()
    alice.session.receive_data(1, NONSENSE[name], False, rig.time)
    rig.hub.pump(alice.session)
    alice.settle()
    alice.heard(frames.Close)
    assert alice.ended == {1}
    _goes_on(alice)


def test_t23_wrong_epoch_unknown_conversation_and_unknown_type_are_answered() -> None:
    """T23: each gets an answer (or, for what a newer version may say, none), and nothing ends."""
    rig, alice = _three()
    alice.ask(3, frames.Open("#nowhere", 7, 0, 0))
    assert alice.heard(frames.Refused, 3)[0].code == ErrorCode.UNKNOWN
    alice.ask(1, message(1))
    again = rig.connect("alice")
    again.open(1, "@bob", position=1, epoch=6)
    verdict = again.heard(frames.Opened, 1)[0]
    assert verdict.reset
    assert verdict.position == 0
    unknown_type = b"\x00\x00\x00\x02\xcc\xfa"
    again.session.receive_data(1, unknown_type, False, rig.time)
    rig.hub.pump(again.session)
    assert not again.ended
    again.open(2, "@carol")
    _goes_on(again)


def _three() -> tuple[Rig, Wire]:
    rig = Rig()
    alice = rig.connect("alice")
    for user in ("bob", "carol"):
        rig.connect(user)
    alice.open(1, "@bob")
    alice.open(2, "@carol")
    return rig, alice


def _goes_on(wire: Wire) -> None:
    assert wire.is_up
    wire.ask(2, message(9))
    assert len(wire.heard(frames.Accepted, 2)) == 1
    wire.ask(0, frames.Ping(5))
    assert wire.heard(frames.Pong, 0)
