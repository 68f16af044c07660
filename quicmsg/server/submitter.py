"""The store's queue, shared fairly: each user's operations in their order, users in turn.

With one queue for all, who fills it first makes everybody wait. Here at most STORE_FLIGHT_MAX operations
are at the store, a commit or two; what else is asked waits with its user, and each answer lets the next
user in turn hand one over. So an honest user waits for two commits, whatever the others ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from quicmsg.errors import ErrorCode
from quicmsg.limits import HELD_SIZE_MAX, STORE_FLIGHT_MAX, STORE_FLIGHT_SIZE_MAX
from quicmsg.protocol.server import ServerSession
from quicmsg.store import Append, Operation, Refusal, Result
from quicmsg.store.writer import StoreWriter

Answer = Callable[[Result], None]
_Waiting = tuple[ServerSession, Operation, Answer]
OPERATION_OVERHEAD = 1_000
"""Bytes that a waiting operation costs beside its body."""


class Submitter:
    """Hands operations to the store's writer.

    Args:
        on_revoked: told of a session whose device the store no longer knows as the user's.
    """

    def __init__(self, writer: StoreWriter, on_revoked: Callable[[ServerSession], None]) -> None:
        self._writer = writer
        self._on_revoked = on_revoked
        self._in_flight = 0
        self._flight_size = 0
        self._held: dict[str, deque[_Waiting]] = {}
        self._strangers: dict[ServerSession, tuple[str, _Waiting]] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0
        self._releasing = False

    def submit(self, session: ServerSession, operation: Operation, answer: Answer) -> None:
        """Queue an operation; its result comes back through `answer`, after the commit."""

        size = _size(operation)

        def answered(result: Result) -> None:
            self._in_flight -= 1
            self._flight_size -= size
            try:
                answer(result)
                if isinstance(result, Refusal) and result.code is ErrorCode.REVOKED:
                    self._on_revoked(session)
            finally:
                self._release()

        user = session.user or _stranger(session)
        if not self._held and self._has_room():
            self._hand_over(operation, answered)
            return
        waiting = session, operation, answered
        self._held.setdefault(user, deque()).append(waiting)
        self._count(user, size)
        if not session.user:
            self._strangers[session] = user, waiting

    def withdraw(self, session: ServerSession) -> None:
        """It ended. If its sign-in still waits here, nobody wants the answer: while the disk stands still
        its client comes back every few seconds, and each time another one would stay."""
        user, waiting = self._strangers.pop(session, (None, None))
        if user is not None and waiting is not None:
            self._held[user].remove(waiting)
            self._count(user, -_size(waiting[1]))
            if not self._held[user]:
                del self._held[user]

    def is_over_share(self, session: ServerSession) -> bool:
        """So much waits for the disk that users with more than an equal share of it are sent away."""
        if self._size <= HELD_SIZE_MAX:
            return False
        return self._sizes.get(session.user, 0) > HELD_SIZE_MAX / len(self._sizes)

    def room(self) -> None:
        """The writer's queue is short again."""
        self._release()

    # ---- private

    def _has_room(self) -> bool:
        if self._in_flight >= STORE_FLIGHT_MAX or self._flight_size >= STORE_FLIGHT_SIZE_MAX:
            return False
        return not self._writer.full

    def _hand_over(self, operation: Operation, answered: Answer) -> None:
        self._in_flight += 1
        self._flight_size += _size(operation)
        self._writer.submit(operation, answered)

    def _release(self) -> None:
        if self._releasing:  # a writer that answers at once calls back from within
            return
        self._releasing = True
        try:
            while self._held and self._has_room():
                user, waiting = next(iter(self._held.items()))
                session, operation, answered = waiting.popleft()
                self._strangers.pop(session, None)
                del self._held[user]
                if waiting:
                    self._held[user] = waiting  # behind everybody else
                self._count(user, -_size(operation))
                self._hand_over(operation, answered)
        finally:
            self._releasing = False

    def _count(self, user: str, size: int) -> None:
        self._size += size
        total = self._sizes.get(user, 0) + size
        if total:
            self._sizes[user] = total
        else:
            del self._sizes[user]


def _stranger(session: ServerSession) -> str:
    """Who has not signed in counts by its address; no user's name begins like this."""
    return "?" + session.observed_address.rpartition(":")[0]


def _size(operation: Operation) -> int:
    return OPERATION_OVERHEAD + (len(operation.body) if isinstance(operation, Append) else 0)
