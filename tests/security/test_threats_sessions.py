"""What a client that speaks our protocol can cost the server and the others. No clock, no network: the real
hub over the memory store, frames in and frames out; bytes and operations are counted.

`docs/security-tests.md` has the table of threats.
"""

from __future__ import annotations

import gc
import random
import tracemalloc
from typing import Any

import msgpack
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hubrig import Rig, Wire, message
from receipts import ReceiptForger

from quicmsg import limits
from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import sign_in_message
from quicmsg.server import newcomers
from quicmsg.store import Append, MakeCode


def held_by(run: Any) -> int:
    """Bytes that are still held after `run`, which keeps what it makes alive by returning it."""
    gc.collect()
    tracemalloc.start()
    kept = run()
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del kept
    return held


# ---- row 8: who does not read ------------------------------------------------------------------


def test_threat_08_a_deaf_client_costs_less_than_two_megabytes() -> None:
    """Row 8: 2.6 MB of messages in ten groups and 100,000 changes in a hundred (a million: the soak), for
    somebody who reads nothing: what its end gives back is under 2 MB. The others get everything."""
    rig = Rig()
    ann, eve = rig.connect("ann"), rig.connect("eve")
    for number in range(1, 101):
        ann.ask(0, frames.Create(number, f"#g{number}", ("eve",), False))
        eve.open(number, f"#g{number}")
    for number in range(1, 11):
        ann.open(number, f"#g{number}")
    eve.session.data_to_send()
    tracemalloc.start()
    for number in range(160):
        body = bytes(limits.BODY_SIZE_MAX)
        ann.ask(number % 10 + 1, frames.Send(number.to_bytes(16, "big"), 0, 0, body))
        assert len(ann.heard(frames.Accepted)) == number + 1
    for number in range(1_000):
        for group in range(1, 101):
            eve.session.advance(f"#g{group}", 300, number)
    rig.hub.pump(eve.session)
    rig.writer.run()
    assert eve.session._unsent < limits.OUTPUT_MAX + limits.BODY_SIZE_MAX + 1000
    assert eve.session._backlog + eve.session._unsent > limits.OUTPUT_MAX, "the bound was reached"
    gc.collect()
    before, _ = tracemalloc.get_traced_memory()
    eve.session.connection_lost(0, "", 0.0)
    rig.hub.pump(eve.session)
    del eve
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 1_000_000 < before - after < 2_000_000


def test_threat_08_notices_to_a_client_that_opens_nothing_are_one_each() -> None:
    """Row 8: a conversation is told of once, however much happens in it."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.session.data_to_send()
    for number in range(1, 1001):
        eve.session.advance("@ann", number, number)
    assert len(eve.heard(frames.Notice)) == 1


# ---- row 10: channels that say nothing ---------------------------------------------------------


def test_threat_10_silent_channels_are_freed() -> None:
    """Row 10: all of them, with half a frame each, 5 s after they began; then there is room again. One that
    says its Open in time stays."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.session.data_to_send()
    for number in range(1, limits.SERVER_CHANNELS_MAX + 1):
        eve.session.receive_data(number, b"\0\0", False, 0.0)
    eve.session.receive_data(1, encode(frames.Open("@eve", 0, 0, 0))[2:], False, 1.0)
    eve.settle()
    eve.rig.hub.pump(eve.session)
    eve.session.receive_data(900, b"\0", False, 1.0)
    resets = {item.channel: item.reset for item in eve.session.data_to_send() if item.reset is not None}
    assert resets == {900: ErrorCode.LIMIT}
    assert eve.session.get_timer() == limits.OPEN_TIMEOUT
    eve.session.handle_timer(limits.OPEN_TIMEOUT)
    resets = {item.channel: item.reset for item in eve.session.data_to_send() if item.reset is not None}
    assert resets == dict.fromkeys(range(2, limits.SERVER_CHANNELS_MAX + 1), ErrorCode.TIMEOUT)
    eve.session.receive_data(901, encode(frames.Open("#none", 0, 0, 0)), False, 6.0)
    assert 901 in eve.session._channels
    assert 1 in eve.session._channels


def test_threat_10_a_conversation_is_open_once() -> None:
    """Row 10: a second channel for the same conversation is refused, the first lives on."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.open(1, "@eve")
    eve.open(2, "@eve")
    resets = {item.channel: item.reset for item in eve.session.data_to_send() if item.reset is not None}
    assert resets == {2: ErrorCode.UNEXPECTED}
    eve.ask(1, message(1))
    assert eve.heard(frames.Accepted, 1)


# ---- rows 11 and 12: frames --------------------------------------------------------------------


@pytest.mark.parametrize("channel", [0, 1])
def test_threat_11_a_prefix_of_four_gigabytes_costs_nothing(channel: int) -> None:
    """Row 11: the length is judged before a byte is kept."""
    rig = Rig()
    eve, ann = rig.connect("eve"), rig.connect("ann")
    eve.session.data_to_send()
    eve.session.receive_data(channel, b"\xff\xff\xff\xff" + bytes(60_000), False, 0.0)
    out = {item.channel: item for item in eve.session.data_to_send()}
    if channel == 0:
        assert eve.session.state is SessionState.CLOSED
        assert eve.session.take_close()[0] == ErrorCode.FRAME_TOO_BIG  # type: ignore[index]
    else:
        assert out[channel].reset == ErrorCode.FRAME_TOO_BIG
        assert channel not in eve.session._channels
    assert held_by(lambda: feed(b"\xff\xff\xff\xff")) < 10_000
    assert ann.is_up


def feed(data: bytes) -> FrameReader:
    reader = FrameReader(control=False)
    reader.feed(data)
    try:
        reader.next_frame()
    except ProtocolError:
        return reader
    raise AssertionError("it was taken")


def test_threat_11_a_body_at_the_limit_and_one_byte_above() -> None:
    """Row 11: 16 KiB are stored, one more is not."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.open(1, "@eve")
    eve.ask(1, frames.Send(b"a" * 16, 0, 0, bytes(limits.BODY_SIZE_MAX)))
    assert eve.heard(frames.Accepted, 1)
    eve.ask(1, frames.Send(b"b" * 16, 0, 0, bytes(limits.BODY_SIZE_MAX + 1)))
    assert len(rig.store._state.logs["@eve:eve"]) == 1
    resets = [item.reset for item in eve.session.data_to_send() if item.reset is not None]
    assert resets == [ErrorCode.MALFORMED]


# ---- row 13: who said it -----------------------------------------------------------------------


def test_threat_13_no_frame_can_say_who_sends() -> None:
    """Row 13: a Send with a sender behind its fields is stored under the name that signed in."""
    rig = Rig()
    ann, eve = rig.connect("ann"), rig.connect("eve")
    eve.open(1, "@ann")
    body = msgpack.packb([34, b"i" * 16, 0, 0, b"forged", "ann", ann.device, {"sender": "ann"}])
    eve.session.receive_data(1, len(body).to_bytes(4, "big") + body, False, 0.0)
    rig.hub.pump(eve.session)
    rig.writer.run()
    (entry,) = rig.store._state.logs["@ann:eve"]
    assert (entry.sender, entry.device) == ("eve", eve.device)
    assert not {"sender", "user", "device"} & set(frames.Send.__struct_fields__)


# ---- row 16: receipts --------------------------------------------------------------------------


@pytest.mark.slow
def test_threat_16_receipts_cannot_be_forged() -> None:
    """Row 16: 20,000 random Acks and Reads (1,000,000: `python -m tests.security --acks 1000000`): nobody's
    position is above what that device was sent, or goes back, or is moved by somebody else."""
    forger = ReceiptForger(seed=1)
    forger.run(20_000)
    assert forger.problems == []
    assert forger.refused > 1_000
    assert forger.moved > 1_000


# ---- row 17: a sign-in that is passed on -------------------------------------------------------


class SigningRig(Rig):
    """Signatures are real here."""

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def test_threat_17_a_sign_in_is_good_on_its_own_connection_only() -> None:
    """Row 17: what a victim signed towards a man in the middle is worth nothing on his connection to us."""
    rig = SigningRig()
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes_raw()

    def attempt(signed_for: bytes, connection: bytes) -> ServerSession:
        session = ServerSession(now=0.0)
        rig.hub.attach(session, lambda: None)
        session.connected(channel_binding=connection, observed_address="192.0.2.1:1", now=0.0)
        signature = key.sign(sign_in_message("victim", public, signed_for))
        said = (frames.Hello(1, 1, "x", (), True), frames.Authenticate("victim", public, signature, "", ""))
        session.receive_data(0, b"".join(map(encode, said)), False, 0.0)
        rig.hub.pump(session)
        rig.writer.run()
        return session

    relayed = attempt(b"A" * 32, b"B" * 32)
    assert relayed.state is SessionState.CLOSED
    assert relayed.take_close()[0] == ErrorCode.SIGN_IN_REFUSED  # type: ignore[index]
    assert rig.store.devices("victim") == []
    assert attempt(b"A" * 32, b"A" * 32).state is SessionState.UP


# ---- row 18: quotas ----------------------------------------------------------------------------


def many_devices(rig: Rig, user: str, count: int) -> list[Wire]:
    wires = [rig.connect(user)]
    for number in range(1, count):
        rig.store.execute([MakeCode("link", user, f"code {number}", 10**15)])
        wires.append(rig.connect(user, number, code=f"code {number}"))
        assert wires[-1].is_up
    return wires


def test_threat_18_all_devices_of_a_user_share_one_rate() -> None:
    """Row 18: eight devices store as much as one, and another user is not held back; what waits is taken when
    there are tokens again, in order."""
    rig = Rig()
    wires = many_devices(rig, "eve", 8)
    ann = rig.connect("ann")
    sent, stored = 0, rig.store._state.logs
    for wire in wires:
        wire.open(1, "@eve")
    budget = wires[0].session.budget
    assert all(wire.session.budget is budget for wire in wires)
    budget.sends.spend(budget.sends.level(0.0) - 50, 0.0)
    for _ in range(30):
        for wire in wires:
            sent += 1
            wire.ask(1, message(sent))
    assert 50 <= len(stored["@eve:eve"]) <= 50 + len(wires)
    ann.open(1, "@ann")
    ann.ask(1, message(1))
    assert ann.heard(frames.Accepted)
    for step in range(1, 200):
        rig.time = step * 0.05
        for wire in wires:
            wire.session.heartbeat.received(rig.time)
            wire.session.handle_timer(rig.time)
            rig.hub.pump(wire.session)
        rig.writer.run()
        assert len(stored["@eve:eve"]) <= 60 + limits.SEND_RATE * rig.time
    assert len(stored["@eve:eve"]) == sent


def test_threat_18_who_comes_back_finds_its_spent_budget() -> None:
    """Row 18: a new connection fills no purse."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.session.budget.sends.spend(10_000, 0.0)
    again = rig.connect("eve")
    assert again.session.budget.sends.level(0.0) == limits.SEND_BURST - 10_000 - 0.0
    assert not eve.is_up


def test_threat_18_budgets_are_forgotten_when_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 18: what is remembered about users who are gone is bounded."""
    monkeypatch.setattr("quicmsg.server.directory.BUDGETS_MAX", 10)
    rig = Rig()
    directory = rig.hub._directory
    for number in range(40):
        directory.budget(f"user{number}", 0.0)
    assert len(directory._budgets) <= 11
    for number in range(40):
        directory.budget(f"spent{number}", 0.0).sends.spend(100, 0.0)
    assert len(directory._budgets) <= 11


def test_threat_18_requests_beyond_the_rate_are_told_when_to_come_back() -> None:
    """Row 18: joins and leaves write into what others read: the burst, then BUSY with the seconds to wait;
    who waits is served, and so are the others meanwhile. A group's members are counted one by one."""
    rig = Rig()
    eve, ann = rig.connect("eve"), rig.connect("ann")
    requests = eve.session.budget.requests
    requests.spend(requests.level(0.0) - 3, 0.0)
    eve.ask(0, *(frames.Create(number, f"#g{number}", (), True) for number in range(5)))
    assert len(eve.heard(frames.Done)) == 3
    failed = eve.heard(frames.Failed)
    assert [(frame.code, frame.text) for frame in failed] == [
        (ErrorCode.BUSY, "too many requests: try again in 1 s")
    ] * 2
    ann.ask(0, frames.Create(1, "#ann", (), True))
    assert ann.heard(frames.Done)
    rig.time = 1.0
    eve.ask(0, frames.Create(8, "#late", ("ann", "eve"), True))
    assert len(eve.heard(frames.Done)) == 4
    assert requests.level(1.0) == pytest.approx(limits.REQUEST_RATE - 2, abs=0.1)


def test_threat_18_a_thousand_syncs_wait_their_turn() -> None:
    """Row 18: each reads the disk, so each has its price; more than REQUESTS_MAX at once end the session."""
    rig = Rig()
    eve = rig.connect("eve")
    sends = eve.session.budget.sends
    sends.spend(sends.level(0.0) - 1, 0.0)
    eve.send(0, *(frames.Sync(7, 0) for _ in range(limits.REQUESTS_MAX)))
    assert len(rig.writer.reads) == 1
    assert eve.is_up
    due = eve.session.get_timer()
    assert due is not None
    assert due < 1.0
    eve.send(0, frames.Sync(7, 0))
    assert not eve.is_up


def test_threat_18_a_flood_of_pings_ends_the_session() -> None:
    """Row 18: a packet has room for 200 of them, and each has an answer: the burst, then LIMIT. Another
    session is answered meanwhile."""
    rig = Rig()
    eve, ann = rig.connect("eve"), rig.connect("ann")
    for _ in range(limits.CONTROL_BURST // 100 - 1):
        eve.send(0, *(frames.Ping(n) for n in range(100)))
        eve.session.data_to_send()
    assert eve.is_up
    ann.send(0, frames.Ping(7))
    assert [pong.number for pong in ann.heard(frames.Pong)] == [7]
    eve.send(0, *(frames.Ping(n) for n in range(200)))
    assert [close.code for close in eve.heard(frames.Close)] == [ErrorCode.LIMIT]


def test_threat_18_acks_that_say_nothing_new_are_paid_for() -> None:
    """Row 18: a channel full of them is read later; another channel of somebody else is not."""
    rig = Rig()
    eve = rig.connect("eve")
    eve.open(1, "@eve")
    sends = eve.session.budget.sends
    sends.spend(sends.level(0.0) - 10, 0.0)
    eve.send(1, *(frames.Ack(0) for _ in range(10_000)))
    left = eve.session._channels[1].reader.buffered // len(encode(frames.Ack(0)))
    assert 10_000 - left == pytest.approx(9 / limits.ACK_COST, abs=2)
    assert eve.is_up


def test_threat_18_one_session_may_ask_for_so_much_at_once() -> None:
    """Row 18: with the disk standing still: OPERATIONS_MAX, whatever the number of channels; another session
    is read on meanwhile."""
    rig = Rig()
    ann, eve = rig.connect("ann"), rig.connect("eve")
    for number in range(1, 101):
        ann.ask(0, frames.Create(number, f"#g{number}", ("eve",), False))
    for number in range(1, 101):
        eve.open(number, f"#g{number}")
    ann.open(1, "#g1")
    for number in range(1, 101):
        eve.send(number, *(message(number * 1000 + n) for n in range(60)))
    waiting = [o for o, _ in rig.writer.operations if isinstance(o, Append)]
    assert len(waiting) == limits.OPERATIONS_MAX
    ann.send(1, message(1))
    assert len(rig.writer.operations) == limits.OPERATIONS_MAX + 1


def test_threat_18_users_take_turns_at_the_store() -> None:
    """Row 18: sixteen devices have 4,096 operations waiting; somebody else's message is the next but two
    commits, and no user's own order changes."""
    rig = Rig()
    ann = rig.connect("ann")
    ann.open(1, "@ann")
    wires = many_devices(rig, "eve", limits.DEVICES_PER_USER_MAX)
    for wire in wires:
        for number in range(1, 6):
            wire.open(number, "@eve" if number == 1 else f"@{['ann', 'bob', 'cid', 'dan'][number - 2]}")
    sent = 0
    for wire in wires:
        for channel in (1, 2):
            for _ in range(64):
                sent += 1
                wire.send(channel, message(sent))
    assert len(rig.writer.operations) == limits.STORE_FLIGHT_MAX
    ann.send(1, message(1, "me too"))
    for _ in range(limits.STORE_FLIGHT_MAX + 2):
        operation, answer = rig.writer.operations.popleft()
        answer(rig.store.execute([operation])[0])
    assert ann.heard(frames.Accepted), "an honest message waits for two commits at most"
    rig.writer.run()
    for key in ("@eve:eve", "@ann:eve"):
        ids = [int.from_bytes(entry.message_id, "big") for entry in rig.store._state.logs[key]]
        assert ids == sorted(ids)
        assert len(ids) == sent // 2


def test_threat_18_what_is_at_the_store_is_bounded_in_bytes() -> None:
    """Row 18: a commit of the biggest messages is not longer than others; somebody's short one is next."""
    rig = Rig()
    ann, eve = rig.connect("ann"), rig.connect("eve")
    ann.open(1, "@ann")
    for number in range(1, 9):
        rig.connect(f"u{number}")
        eve.open(number, f"@u{number}")
    for number in range(8 * 16):
        body = bytes(limits.BODY_SIZE_MAX)
        eve.send(number % 8 + 1, frames.Send(number.to_bytes(16, "big"), 0, 0, body))
    bodies = [len(o.body) for o, _ in rig.writer.operations if isinstance(o, Append)]
    assert limits.STORE_FLIGHT_SIZE_MAX // 2 < sum(bodies) <= limits.STORE_FLIGHT_SIZE_MAX
    before = len(rig.writer.operations)
    ann.send(1, message(1))
    for _ in range(before + 2):
        operation, answer = rig.writer.operations.popleft()
        answer(rig.store.execute([operation])[0])
    assert ann.heard(frames.Accepted)
    rig.writer.run()
    assert len(eve.heard(frames.Accepted)) == 16 * 8


def test_threat_18_when_too_much_waits_the_greedy_are_sent_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 18: Refused(BUSY) with the time to wait, and nothing behind it is taken, so that the order holds;
    who asks for little is served."""
    monkeypatch.setattr("quicmsg.server.submitter.STORE_FLIGHT_MAX", 4)
    monkeypatch.setattr("quicmsg.server.submitter.HELD_SIZE_MAX", 40_000)
    rig = Rig()
    ann, eve = rig.connect("ann"), rig.connect("eve")
    ann.open(1, "@ann")
    eve.open(1, "@eve")
    eve.send(1, *(message(number) for number in range(1, 61)))
    ann.send(1, message(1))
    (refused,) = eve.heard(frames.Refused, 1)
    assert (refused.code, refused.retry_after_ms) == (ErrorCode.BUSY, 1000 * limits.BUSY_RETRY_AFTER)
    rig.writer.run()
    ids = [int.from_bytes(entry.message_id, "big") for entry in rig.store._state.logs["@eve:eve"]]
    assert ids == list(range(1, len(ids) + 1))
    assert 40 <= len(ids) < 60
    assert ann.heard(frames.Accepted)
    assert eve.session._operations == 0
    for channel in (2, 3):
        eve.open(channel, "@eve")
        stored = len(rig.store._state.logs["@eve:eve"])
        eve.ask(channel, *(message(number) for number in range(stored + 1, 61)))
    ids = [int.from_bytes(entry.message_id, "big") for entry in rig.store._state.logs["@eve:eve"]]
    assert ids == list(range(1, 61))


def test_threat_18_an_address_claims_so_many_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 18: then BUSY; who has a name comes in, and so does a new one from elsewhere, or a bit later."""
    monkeypatch.setattr(newcomers, "NEW_NAMES_BURST", 3)
    rig = Rig()
    assert [rig.connect(f"new{number}").is_up for number in range(5)] == [True] * 3 + [False] * 2
    assert rig.logged[-2][1]["code"] == ErrorCode.BUSY
    assert rig.connect("new0").is_up
    rig.time = 1.0 + 1 / limits.NEW_NAMES_RATE
    assert rig.connect("new4").is_up
    assert not rig.connect("new5").is_up
    network = newcomers.network_of
    assert network("[2001:db8::1]:9") == network("[2001:db8::2]:8") != network("[2001:db8:0:1::1]:9")
    assert network("192.0.2.1:9") == "192.0.2.1"


def test_threat_18_before_the_sign_in_little_is_taken() -> None:
    """Row 18: time and bytes of somebody who has not said who it is: 5 s, 4 KiB, 64 KiB parked."""
    for channel, most in ((0, limits.SIGN_IN_SIZE_MAX), (3, limits.PARKED_SIZE_MAX)):
        for size, lives in ((most, True), (most + 1, False)):
            session = ServerSession(now=0.0)
            session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
            ping = encode(frames.Ping(1))
            filler = (ping * (size // len(ping) + 1))[:size] if channel == 0 else bytes(size)
            session.receive_data(channel, filler, False, 0.0)
            assert (session.state is SessionState.SIGNING_IN) == lives
    session = ServerSession(now=0.0)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    for _ in range(limits.PARKED_PIECES_MAX):
        session.receive_data(3, b"x", False, 0.0)
    assert session.state is SessionState.SIGNING_IN
    session.receive_data(3, b"x", False, 0.0)
    assert session.state is SessionState.CLOSED


# ---- row 20, first half: what the hub logs -----------------------------------------------------


def test_threat_20_the_hub_logs_neither_content_nor_secrets() -> None:
    """Row 20: bodies, signatures, keys and codes are in no field of any line."""
    rig = Rig()
    ann = rig.connect("ann", code="sesame-code")
    eve = Wire(rig, "ann", 5, "sesame-code", signature=b"forged-signature".ljust(64, b"!"))
    ann.open(1, "@ann")
    ann.ask(1, message(1, "canary-body"))
    ann.ask(0, frames.Link(1), frames.Close(0, "canary-close\x1b[2J\nforged line"))
    said = repr(rig.logged)
    assert not eve.is_up
    for secret in ("canary-body", "forged-signature", "sesame", "CODE", repr(ann.key)[2:-1]):
        assert secret not in said, secret


def test_random_choices_are_seeded() -> None:
    """The same seed forges the same receipts."""
    first, second = (ReceiptForger(seed=random.Random(9).randrange(100)) for _ in range(2))
    first.run(200)
    second.run(200)
    assert (first.refused, first.moved) == (second.refused, second.moved)
