"""The line of unaccepted messages and its clock, in virtual time."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg.limits import FAILED_AFTER, RESEND_INTERVAL, RESENDS_MAX
from quicmsg.protocol.outbox import Escalation, Outbox, OutboxMessage, Outcome

PROBE, RACE = {Escalation.PROBE}, {Escalation.RACE}
SPINS_MAX = 50


def message(number: int, *, now: float = 0.0, conversation: str = "@bob") -> OutboxMessage:
    return OutboxMessage(number.to_bytes(16, "big"), conversation, 0, 0, b"text", now)


def add(outbox: Outbox, number: int, *, now: float = 0.0, conversation: str = "@bob") -> OutboxMessage:
    row = message(number, now=now, conversation=conversation)
    outbox.add(row, now)
    return row


def run_to(outbox: Outbox, until: float) -> list[tuple[float, set[Escalation], list[OutboxMessage]]]:
    """What the clock says up to `until`, called exactly when it wants to be; each has to lead on."""
    said = []
    at, calls = float("-inf"), 0
    while (due := outbox.get_timer()) is not None and due <= until:
        calls = calls + 1 if due <= at else 0
        assert calls < SPINS_MAX, "the timer does not move forward"
        at = due
        steps, failed = outbox.escalations(due)
        if steps or failed:
            said.append((due, steps, failed))
    return said


@pytest.mark.parametrize("start", [0.0, 0.1, 12_345.678, 2.0**27 - 1 - 2**-26, 2.0**27 - 1 - 3 * 2**-26])
def test_unanswered_message_is_probed_raced_twice_and_failed(start: float) -> None:
    """3 s, 3 times, then the red cross; whatever the clock of this computer shows."""
    outbox = Outbox()
    row = add(outbox, 1, now=start)
    said = run_to(outbox, start + 100)
    assert [(pytest.approx(at - start, abs=1e-6), *what) for at, *what in said] == [
        (3.0, PROBE, []),
        (6.0, RACE, []),
        (9.0, RACE, []),
        (12.0, set(), [row]),
    ]
    assert row.outcome is Outcome.FAILED
    assert outbox.get_timer() is None, "nothing more is to be said about it"
    assert row.message_id in outbox
    assert outbox.waiting("@bob"), "it is sent again on the next connection"


def test_progress_in_the_conversation_starts_its_clock_again() -> None:
    """An answer proves that the path works: who stands behind it waits from there."""
    outbox = Outbox()
    first, second = add(outbox, 1), add(outbox, 2)
    assert run_to(outbox, 7.0) == [(3.0, PROBE, []), (6.0, RACE, [])]
    assert outbox.answered(first.message_id, 7.0) is first
    assert run_to(outbox, 100.0) == [
        (10.0, PROBE, []),
        (13.0, RACE, []),
        (16.0, RACE, []),
        (19.0, set(), [second]),
    ]


def test_progress_in_another_conversation_is_no_progress_here() -> None:
    """A stuck conversation is found also while others are busy."""
    outbox = Outbox()
    stuck = add(outbox, 0)
    failed_at = None
    for number in range(1, 20):
        add(outbox, number, now=float(number - 1), conversation="#busy")
        for at, _, failed in run_to(outbox, float(number)):
            failed_at = at if failed == [stuck] else failed_at
            assert stuck in failed or not failed
        outbox.answered(number.to_bytes(16, "big"), float(number))
    assert failed_at == FAILED_AFTER


def test_long_line_with_steady_progress_never_fails() -> None:
    """A long line on a slow network is not a line of failures."""
    outbox = Outbox()
    rows = [add(outbox, number) for number in range(200)]
    for number, row in enumerate(rows):
        now = 2.9 * (number + 1)
        assert run_to(outbox, now) == []
        outbox.answered(row.message_id, now)
    assert len(outbox) == 0


def test_deadlines_of_lines_that_ended_do_not_gather() -> None:
    """Hours of question and answer: as many clocks run as conversations wait, not one a message."""
    outbox = Outbox()
    fired = 0
    for number in range(2_000):
        now = number / 10
        add(outbox, number, now=now)
        while (due := outbox.get_timer()) is not None and due <= now:
            assert outbox.escalations(now) == (set(), [])
            fired += 1
        outbox.answered(number.to_bytes(16, "big"), now + 0.099)
    assert len(outbox._deadlines) <= RESEND_INTERVAL * 10 + 1
    assert fired <= 2_000


def test_failed_message_heals_when_it_is_accepted_after_all() -> None:
    """The red cross turns into a tick."""
    outbox = Outbox()
    row = add(outbox, 1)
    run_to(outbox, 12.0)
    assert row.outcome is Outcome.FAILED
    assert outbox.answered(row.message_id, 40.0) is row
    assert (len(outbox), outbox.waiting("@bob")) == (0, False)
    assert outbox.answered(row.message_id, 41.0) is None, "a repeated answer is nothing new"


def test_rejected_message_blocks_nobody_and_goes_to_the_end_when_resent() -> None:
    """It waits for a person, out of the line."""
    outbox = Outbox()
    rows = [add(outbox, number) for number in (1, 2, 3)]
    assert outbox.reject(rows[0].message_id, 1.0) is rows[0]
    assert outbox.reject(rows[0].message_id, 1.0) is None
    assert list(outbox.unwritten("@bob", object())) == rows[1:]
    assert rows[0].message_id in outbox
    assert outbox.resend(rows[0].message_id, 2.0) is rows[0]
    assert list(outbox.unwritten("@bob", object())) == [*rows[1:], rows[0]]
    assert rows[0].outcome is Outcome.QUEUED


def test_failed_message_that_is_resent_keeps_its_place_and_gets_its_time_again() -> None:
    """The order in which they were sent stays; the clock starts anew."""
    outbox = Outbox()
    first, second = add(outbox, 1), add(outbox, 2)
    run_to(outbox, 12.0)
    outbox.resend(first.message_id, 20.0)
    assert list(outbox.unwritten("@bob", object())) == [first, second]
    assert [(at, what) for at, *what in run_to(outbox, 100.0)] == [
        (23.0, [PROBE, []]),
        (26.0, [RACE, []]),
        (29.0, [RACE, []]),
        (32.0, [set(), [first]]),
    ]


def test_cancelled_message_is_forgotten_in_any_state() -> None:
    """Queued, failed or rejected: cancelling takes it out; unknown ids are nothing."""
    outbox = Outbox()
    queued, rejected, failed = add(outbox, 1, now=10.0), add(outbox, 2, now=10.0), add(outbox, 3)
    outbox.reject(rejected.message_id, 10.0)
    failed.outcome = Outcome.FAILED
    for row in (queued, rejected, failed):
        assert outbox.cancel(row.message_id, 11.0) is row
        assert outbox.cancel(row.message_id, 11.0) is None
        assert outbox.resend(row.message_id, 11.0) is None
    assert (len(outbox), outbox.conversations()) == (0, [])
    assert run_to(outbox, 100.0) == []


def test_unwritten_is_what_this_channel_has_not_got_in_order() -> None:
    """Nothing is written twice to one channel; a new channel gets the whole line again."""
    outbox = Outbox()
    rows = [add(outbox, number) for number in range(5)]
    older, newer = object(), object()
    for row in rows[:3]:
        row.channel = older
    assert list(outbox.unwritten("@bob", older)) == rows[3:]
    assert list(outbox.unwritten("@bob", newer)) == rows
    assert list(outbox.unwritten("@carol", newer)) == []


def test_sleep_of_this_computer_is_nobodys_silence() -> None:
    """After waking every line has its 12 s again."""
    outbox = Outbox()
    row, other = add(outbox, 1), add(outbox, 2, conversation="#team")
    run_to(outbox, 6.0)
    outbox.restart_clocks(8_000.0)
    said = run_to(outbox, 8_100.0)
    assert [(at, steps) for at, steps, _ in said] == [
        (8_003.0, PROBE), (8_006.0, RACE), (8_009.0, RACE), (8_012.0, set()),
    ]  # fmt: skip
    assert set(map(id, said[-1][2])) == {id(row), id(other)}


def test_late_timer_says_everything_at_once() -> None:
    """A busy loop that comes late skips steps, and does not walk through them one by one."""
    outbox = Outbox()
    row = add(outbox, 1)
    assert outbox.escalations(20.0) == (RACE, [row])
    assert outbox.get_timer() is None


# ---- any order of operations -------------------------------------------------------------------

OPERATIONS = st.tuples(
    st.sampled_from(("add", "answered", "reject", "resend", "cancel", "restart", "wait", "late")),
    st.integers(0, 7),
    st.floats(0.0, 5.0),
)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(OPERATIONS, max_size=40), st.sampled_from((0.0, 1e5 + 0.1, 2.0**27 - 20 - 2**-26)))
def test_every_message_is_in_exactly_one_place_and_the_timer_never_spins(
    operations: list[tuple[str, int, float]], now: float
) -> None:
    """In its line, rejected, or gone; what the clock promises comes within FAILED_AFTER."""
    outbox = Outbox()
    lines: dict[str, list[OutboxMessage]] = {"@bob": [], "#team": []}
    rejected: dict[bytes, OutboxMessage] = {}
    made = 0
    for name, number, delay in operations:
        known = [*lines["@bob"], *lines["#team"], *rejected.values()]
        row = known[number % len(known)] if known else message(99)
        line = lines[row.conversation]
        match name:
            case "add":
                made += 1
                row = add(outbox, made + 1000, now=now, conversation=("@bob", "#team")[number % 2])
                lines[row.conversation].append(row)
            case "answered" | "cancel":
                taken = getattr(outbox, name)(row.message_id, now)
                assert taken is (row if known else None)
                rejected.pop(row.message_id, None)
                lines[row.conversation] = [other for other in line if other is not row]
            case "reject":
                taken = outbox.reject(row.message_id, now)
                assert (taken is row) == (row in line)
                if taken is row:
                    line.remove(row)
                    rejected[row.message_id] = row
            case "resend":
                taken = outbox.resend(row.message_id, now)
                assert taken is (row if known else None)
                if rejected.pop(row.message_id, None) is not None:
                    line.append(row)
            case "restart":
                outbox.restart_clocks(now)
            case "wait":
                now += delay
                run_to(outbox, now)
            case "late":
                now += 3 * delay
                outbox.escalations(now)
                assert outbox.get_timer() is None or outbox.get_timer() > now
        for conversation, rows in lines.items():
            assert list(outbox.unwritten(conversation, object())) == rows
            assert outbox.waiting(conversation) == bool(rows)
        assert all(outbox.get(row.message_id) is row for row in rejected.values())
        assert len(outbox) == sum(map(len, lines.values())) + len(rejected)
    run_to(outbox, now + FAILED_AFTER * (RESENDS_MAX + 1))
    assert all(row.outcome is Outcome.FAILED for rows in lines.values() for row in rows)
    assert outbox.get_timer() is None
