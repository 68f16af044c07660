"""Topics: what is in memory of open conversations stays small, whatever comes and goes."""

from __future__ import annotations

import pytest

from quicmsg.server import topics
from quicmsg.server.topics import ENTRY_OVERHEAD, ORDER_SLACK, Topic, Topics
from quicmsg.store import LogEntry


def entry(topic: Topic, seq: int) -> LogEntry:
    return LogEntry(topic.key, seq, bytes(16), "bob", bytes(16), 0, 0, b"hello", 1)


def test_topics_that_come_and_go_leave_nothing_behind() -> None:
    """100,000 conversations that were opened for one message each."""
    loaded = Topics()
    stays = loaded.use("#stays")
    loaded.remember(stays, entry(stays, 1))
    for number in range(100_000):
        topic = loaded.use(f"#{number % 50}")
        loaded.remember(topic, entry(topic, number // 50 + 1))
        loaded.release(topic)
    assert len(loaded) == 1
    assert len(loaded._order) <= ORDER_SLACK + 2
    assert stays.after(0, 10) == [entry(stays, 1)]


def test_the_cache_keeps_its_bound_to_the_byte_while_topics_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The newest entries stay, the oldest of all topics go first, also after dead places were swept out."""
    monkeypatch.setattr(topics, "LOG_CACHE_SIZE", 10 * (ENTRY_OVERHEAD + 5))
    monkeypatch.setattr(topics, "ORDER_SLACK", 3)
    loaded = Topics()
    first, second = loaded.use("#first"), loaded.use("#second")
    for seq in range(1, 100):
        for topic in (first, second):
            loaded.remember(topic, entry(topic, seq))
        for _ in range(20):
            brief = loaded.use("#brief")
            loaded.remember(brief, entry(brief, seq))
            loaded.release(brief)
        held = len(first.recent) + len(second.recent)
        assert loaded._size == held * (ENTRY_OVERHEAD + 5) <= topics.LOG_CACHE_SIZE
        assert held >= min(2 * seq, 9), "an entry was dropped though there was room"
        assert abs(len(first.recent) - len(second.recent)) <= 1
        assert len(loaded._order) <= 2 * (held + 1) + 3, "one topic was released since the last look"
