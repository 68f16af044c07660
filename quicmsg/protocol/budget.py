"""How much one user may ask of the server: tokens that come back with time, shared by all its devices.

Pure: the time is an argument. What goes beyond is not an error: a channel is read later, a request on the
control channel is told when to ask again.
"""

from __future__ import annotations

from quicmsg import limits

_ROUNDING = 1e-6
"""Seconds added to a due time: at the very instant the sum may be a last bit short of a whole token."""


class Tokens:
    """`rate` tokens a second in the long run, `burst` at once. Debts are paid off before anything else."""

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """What is there; below zero is a debt."""
        # Several sessions share it, and their clocks are read at different moments: never count back.
        self._level = min(self._burst, self._level + max(now - self._at, 0.0) * self._rate)
        self._at = max(self._at, now)
        return self._level

    def spend(self, cost: float, now: float) -> bool:
        """Take the tokens, whether they are there or not; is a whole one left for whatever is next?"""
        self._level = self.level(now) - cost
        return self._level >= 1

    def due(self) -> float:
        """When there is a whole token."""
        return self._at + max(1 - self._level, 0.0) / self._rate + _ROUNDING

    def is_full(self, now: float) -> bool:
        """Nothing is remembered here that a new one would not know."""
        return self.level(now) >= self._burst


class Budget:
    """What one user may do: `sends` (messages, opens, history), `requests` (groups, members, link codes)."""

    def __init__(self, now: float) -> None:
        self.sends = Tokens(limits.SEND_RATE, limits.SEND_BURST, now)
        self.requests = Tokens(limits.REQUEST_RATE, limits.REQUEST_BURST, now)

    def is_full(self, now: float) -> bool:
        """It can be forgotten: a fresh one is the same."""
        return self.sends.is_full(now) and self.requests.is_full(now)


def send_cost(size: int) -> int:
    """Tokens of a message with a body of this size: big ones fill the disk faster."""
    return 1 + size // limits.SEND_TOKEN_SIZE


def fetch_cost(limit: int) -> int:
    """Tokens of one question for this many entries of history."""
    return 1 + limit // limits.FETCH_TOKEN_ENTRIES
