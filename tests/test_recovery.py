"""After a restart of the server its clients are usable again at once, not after a timeout."""

from __future__ import annotations

import statistics

import pytest
from simulation.recovery import Kind, recover

from quicmsg.limits import PING_INTERVAL_IDLE

SEEDS = range(1, 41)
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", [Kind.SENDING, Kind.WATCHING])
def test_a_killed_server_is_missed_for_seconds_only(kind: Kind) -> None:
    """Virtual time, real QUIC connections, 40 seeds: half of the clients within 1.5 s of the kill, all within
    3 s, half a second of which the server was away. The stateless reset does it: without it a client waits
    for four unanswered pings."""
    took = [recover(seed, kind) for seed in SEEDS]
    assert statistics.median(took) <= 1.5
    assert max(took) <= 3.0


def test_in_the_background_the_next_ping_finds_out() -> None:
    """Nobody is at it and nothing is unanswered: one idle interval at most, for the battery's sake."""
    assert max(recover(seed, Kind.AWAY) for seed in SEEDS) <= PING_INTERVAL_IDLE + 1.0
