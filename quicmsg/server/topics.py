"""Conversations that somebody has open right now: who is a member, how far the log goes, what is recent.

Everything here can be thrown away at any time; truth is the store. Recent entries are kept so that live
delivery needs no read; all topics together keep at most `limits.LOG_CACHE_SIZE` bytes.
"""

from __future__ import annotations

from collections import deque
from itertools import islice

from quicmsg.limits import LOG_CACHE_SIZE
from quicmsg.store import LogEntry, MemberPosition

ENTRY_OVERHEAD = 200
"""Bytes that an entry costs beside its body."""
ORDER_SLACK = 1024
"""Dead places in the order of eviction that are tolerated beside as many as there are live ones: few enough
to cost nothing, enough that sweeping them out is rare."""


class Topic:
    """One loaded conversation. `uses` counts why it is here: open channels, operations under way.
    `loaded`: `members` names every member."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.head = 0
        self.uses = 0
        self.loaded = False
        self.members: dict[str, MemberPosition] = {}
        self.recent: deque[LogEntry] = deque()

    def after(self, seq: int, limit: int) -> list[LogEntry] | None:
        """Entries after `seq` from the cache; None: it has not the next one, ask the store."""
        if not self.recent or not self.recent[0].seq <= seq + 1 <= self.recent[-1].seq:
            return None
        start = seq + 1 - self.recent[0].seq
        return list(islice(self.recent, start, start + limit))


class Topics:
    """All loaded topics, by key."""

    def __init__(self) -> None:
        self._topics: dict[str, Topic] = {}
        self._order: deque[tuple[Topic, int]] = deque()
        self._size = 0
        self._entries = 0

    def __len__(self) -> int:
        return len(self._topics)

    def get(self, key: str) -> Topic | None:
        """The topic, if it is loaded."""
        return self._topics.get(key)

    def use(self, key: str) -> Topic:
        """Load it, or use it once more; every `use` needs its `release`."""
        topic = self._topics.get(key)
        if topic is None:
            topic = self._topics[key] = Topic(key)
        topic.uses += 1
        return topic

    def release(self, topic: Topic) -> None:
        """One reason less to keep it."""
        topic.uses -= 1
        assert topic.uses >= 0
        if topic.uses == 0 and self._topics.get(topic.key) is topic:
            del self._topics[topic.key]
            self._size -= sum(len(e.body) + ENTRY_OVERHEAD for e in topic.recent)
            self._entries -= len(topic.recent)
            topic.recent.clear()

    def remember(self, topic: Topic, entry: LogEntry) -> None:
        """A new entry was committed."""
        if topic.recent and entry.seq != topic.recent[-1].seq + 1:
            return
        topic.head = max(topic.head, entry.seq)
        topic.recent.append(entry)
        size = len(entry.body) + ENTRY_OVERHEAD
        self._size += size
        self._entries += 1
        self._order.append((topic, entry.seq))
        while self._size > LOG_CACHE_SIZE and self._order:
            oldest, seq = self._order.popleft()
            if oldest.recent and oldest.recent[0].seq == seq:
                self._size -= len(oldest.recent.popleft().body) + ENTRY_OVERHEAD
                self._entries -= 1
        if len(self._order) > 2 * self._entries + ORDER_SLACK:
            self._sweep()

    def _sweep(self) -> None:
        """Let go of released topics. Without it the order would grow for ever, since it shrinks by itself
        only when the cache is full, which it never is when topics come and go."""
        self._order = deque(
            (topic, seq) for topic, seq in self._order if topic.recent and seq >= topic.recent[0].seq
        )
