"""Is the peer there? One counter: +1 for each ping that goes out, 0 on any frame that comes in.

A ping is sent only after silence, since any frame proves as much as a Pong does. While something is
unanswered (a message, or a ping) pings come every 1 to 2 s; with a counter above 3 the peer is gone.
"""

from __future__ import annotations

import enum

from quicmsg.limits import (
    PING_INTERVAL_ACTIVE_MAX,
    PING_INTERVAL_ACTIVE_MIN,
    PINGS_MISSED_MAX,
    SUSPECT_AFTER,
)


class Beat(enum.Enum):
    """What is due."""

    NOTHING = "nothing"
    PING = "ping"
    SUSPECT = "suspect"  # send a ping too, and try another path
    DOWN = "down"


class Heartbeat:
    """Counts unanswered pings of one session.

    Args:
        interval: seconds of silence after which a ping is due when nothing is unanswered.
        patient: True on the server: unanswered pings do not make the interval shorter, since a client
            in a tunnel should find its connection alive when it comes out.
    """

    def __init__(self, interval: float, *, now: float, patient: bool = False) -> None:
        self.interval = interval
        self.misses = 0
        self.round_trip = 0.0
        self._patient = patient
        self._active = False
        self._heard_at = now
        self._sent_at = now
        self._number = 0
        self._pending: dict[int, float] = {}

    @property
    def silent_since(self) -> float:
        """When the last frame came in."""
        return self._heard_at

    def received(self, now: float) -> None:
        """Any frame came in."""
        self.misses = 0
        self._heard_at = now

    def pong(self, number: int, now: float) -> float | None:
        """The answer to ping `number`; returns its round trip, or None if we never asked."""
        sent_at = self._pending.pop(number, None)
        if sent_at is None:
            return None
        for older in [n for n in self._pending if n < number]:
            del self._pending[older]
        self.round_trip = now - sent_at
        return self.round_trip

    def set_active(self, active: bool, now: float) -> None:
        """`active`: something is unanswered, or a person is at it."""
        if active and not self._active:
            # The silence so far was nobody's fault: nothing had been asked.
            self._sent_at = max(self._sent_at, now)
        self._active = active

    def ping(self, now: float) -> int:
        """Count one ping that is being sent now; returns its number."""
        self._number += 1
        self._pending[self._number] = now
        if len(self._pending) > 16:
            del self._pending[next(iter(self._pending))]
        return self._number

    def due(self) -> float:
        """When `poll` has something to say."""
        return max(self._heard_at, self._sent_at) + self._current_interval()

    def poll(self, now: float) -> Beat:
        """What is due now. After PING or SUSPECT the caller sends a ping (`ping`)."""
        if now < self.due():
            return Beat.NOTHING
        # Only the schedule's own pings move the schedule: further ones (after a move, on a doubt) must not
        # put off the moment at which the peer counts as gone.
        self._sent_at = now
        self.misses += 1
        if self.misses > PINGS_MISSED_MAX:
            return Beat.DOWN
        # Exactly once per silence: a second rebind of the same socket would only cost a connection id.
        return Beat.SUSPECT if self.misses == SUSPECT_AFTER + 1 and not self._patient else Beat.PING

    def _current_interval(self) -> float:
        if self._patient or not (self._active or self.misses):
            return self.interval
        wish = PING_INTERVAL_ACTIVE_MIN + 1.5 * self.round_trip
        return min(PING_INTERVAL_ACTIVE_MAX, wish, self.interval)
