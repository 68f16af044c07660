"""Is the peer there: one counter, and a schedule that is quick when somebody waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicmsg import limits
from quicmsg.protocol.heartbeat import Beat, Heartbeat

IDLE = limits.PING_INTERVAL_IDLE


def beats_in_silence(heartbeat: Heartbeat, count: int) -> list[tuple[float, Beat]]:
    """Poll exactly when it is due, and ping as told."""
    said = []
    for _ in range(count):
        at = heartbeat.due()
        beat = heartbeat.poll(at)
        if beat in (Beat.PING, Beat.SUSPECT):
            heartbeat.ping(at)
        said.append((at, beat))
    return said


def test_silence_is_suspected_once_and_then_down() -> None:
    """The first ping at leisure, the next ones quickly; more than 3 without an answer: gone."""
    said = beats_in_silence(Heartbeat(IDLE, now=0.0), 5)
    assert said == [
        (15.0, Beat.PING),
        (16.0, Beat.PING),
        (17.0, Beat.SUSPECT),
        (18.0, Beat.DOWN),
        (19.0, Beat.DOWN),
    ]


def test_any_frame_sets_the_counter_back_and_allows_another_suspicion() -> None:
    """Suspected once per silence, not once per life."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    for start in (0.0, 100.0):
        heartbeat.received(start)
        assert heartbeat.misses == 0
        assert heartbeat.silent_since == start
        beats = [beat for _, beat in beats_in_silence(heartbeat, 8)]
        assert beats.count(Beat.SUSPECT) == 1
        assert beats.index(Beat.DOWN) == limits.PINGS_MISSED_MAX


def test_a_frame_puts_the_next_ping_off() -> None:
    """A busy connection sends no pings: any frame proves as much."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    for now in range(100):
        heartbeat.received(float(now))
        assert heartbeat.poll(now + 0.5) is Beat.NOTHING
    assert heartbeat.due() == 99 + IDLE


def test_something_unanswered_makes_it_quick_but_not_at_once() -> None:
    """The silence before the question was nobody's fault."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    heartbeat.set_active(True, 14.0)
    assert heartbeat.due() == 14.0 + limits.PING_INTERVAL_ACTIVE_MIN
    heartbeat.set_active(True, 14.5)
    assert heartbeat.due() == 14.0 + limits.PING_INTERVAL_ACTIVE_MIN, "saying it again changes nothing"
    heartbeat.set_active(False, 14.6)
    assert heartbeat.due() == 14.0 + IDLE


def test_patient_server_keeps_its_interval_and_suspects_nobody() -> None:
    """A client in a tunnel finds its connection alive when it comes out."""
    heartbeat = Heartbeat(IDLE, now=0.0, patient=True)
    heartbeat.set_active(True, 0.0)
    assert beats_in_silence(heartbeat, 4) == [
        (15.0, Beat.PING),
        (30.0, Beat.PING),
        (45.0, Beat.PING),
        (60.0, Beat.DOWN),
    ]


@pytest.mark.parametrize(
    ("round_trip", "interval"), [(0.0, 1.0), (0.1, 1.15), (0.5, 1.75), (0.7, 2.0), (30.0, 2.0)]
)
def test_interval_grows_with_the_round_trip_within_its_bounds(round_trip: float, interval: float) -> None:
    """On a slow path the answer is given time, but a dead one is found before a message fails."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    heartbeat.pong(heartbeat.ping(0.0), round_trip)
    heartbeat.received(round_trip)
    heartbeat.set_active(True, round_trip)
    assert heartbeat.due() == pytest.approx(round_trip + interval)
    down = next(at for at, beat in beats_in_silence(heartbeat, 9) if beat is Beat.DOWN)
    assert down - round_trip < limits.RESEND_INTERVAL * limits.RESENDS_MAX


def test_pong_is_matched_with_its_ping() -> None:
    """Only an answer that was asked for is measured, once, and older questions are done with it."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    first, second, third = heartbeat.ping(1.0), heartbeat.ping(2.0), heartbeat.ping(3.0)
    assert heartbeat.pong(second, 2.25) == 0.25
    assert heartbeat.round_trip == 0.25
    assert heartbeat.pong(second, 9.0) is None
    assert heartbeat.pong(first, 9.0) is None
    assert heartbeat.pong(2**40, 9.0) is None
    assert heartbeat.round_trip == 0.25
    assert heartbeat.pong(third, 4.0) == 1.0


def test_unanswered_pings_are_remembered_within_a_bound() -> None:
    """Who never answers costs no memory."""
    heartbeat = Heartbeat(IDLE, now=0.0)
    for now in range(1000):
        heartbeat.ping(float(now))
    assert len(heartbeat._pending) <= 16
    assert heartbeat.pong(1000, 1000.0) == 1.0


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(("heard", "poll", "active", "idle", "ping", "pong")), st.floats(0.0, 20.0)),
        max_size=40,
    ),
    st.booleans(),
    st.sampled_from((0.0, 2.0**27 - 20 - 2**-26)),
)
def test_schedule_always_moves_forward(steps: list[tuple[str, float]], patient: bool, now: float) -> None:
    """What is due has something to say, and then is not due any more."""
    heartbeat = Heartbeat(IDLE, now=now, patient=patient)
    for name, delay in steps:
        now += delay
        match name:
            case "heard":
                heartbeat.received(now)
                assert heartbeat.due() > now
            case "active" | "idle":
                heartbeat.set_active(name == "active", now)
            case "ping":
                heartbeat.ping(now)
            case "pong":
                heartbeat.pong(1, now)
            case _:
                was_due = heartbeat.due() <= now
                before = heartbeat.misses
                beat = heartbeat.poll(now)
                assert (beat is not Beat.NOTHING) == was_due
                assert heartbeat.misses == before + was_due
                assert heartbeat.due() > now
                assert (beat is Beat.DOWN) == (was_due and heartbeat.misses > limits.PINGS_MISSED_MAX)
