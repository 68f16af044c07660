"""Between an event loop and a blocking store: group commit in one thread, reads in another.

While a commit is on its way to the disk, operations gather; they are the next batch. So a disk that
needs 5 ms does not make 200 messages a second, but 200 batches a second. The results of a batch come back
in order, with one hop into the loop.

The hub knows only `StoreWriter`; the simulation has a writer of its own behind it, with a disk that it
can crash.
"""

from __future__ import annotations

import functools
import logging
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from quicmsg.errors import DiskFullError, StorageError
from quicmsg.limits import COMMIT_BATCH_MAX, STORE_FULL_RETRY, STORE_QUEUE_MAX, THREAD_SWITCH_INTERVAL
from quicmsg.store import Operation, Result, Store

logger = logging.getLogger(__name__)
T = TypeVar("T")
_Call = Callable[[], None]
_Submission = tuple[Operation, Callable[[Result], None]]


class StoreWriter(Protocol):
    """How the hub reaches the store. Nothing here blocks or raises; all of it, callbacks included, happens
    in one thread (the loop's)."""

    @property
    def full(self) -> bool:
        """Too much waits for the disk: stop reading from clients until there is room."""
        ...

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        """Run the operation; `callback` gets its result once it is durable, in the order of submission.
        When the store fails, it is never called."""
        ...

    def read(self, function: Callable[[Store], T], callback: Callable[[T], None]) -> None:
        """Call `function` with the store, for its read methods; `callback` gets what it returned, in the
        order of the reads. It sees at least everything whose result was delivered before this call."""
        ...


class Writer:
    """The real one: a store, a thread that commits, a thread that reads."""

    def __init__(
        self,
        store: Store,
        *,
        post: Callable[[_Call], object],
        on_failure: Callable[[StorageError], None],
        on_room: Callable[[], None] | None = None,
    ) -> None:
        """Start the threads; see to it that a busy loop lets them run (for the whole process).

        Args:
            post: runs a function in the loop's thread: `loop.call_soon_threadsafe`.
            on_failure: called once, in the loop's thread, when the store failed. Nothing is stored from
                then on and nothing is tried again; the process has to end (see `Store.execute`).
            on_room: called in the loop's thread when `full` has become false again.
        """
        self._store = store
        self._post = post
        self._on_failure = on_failure
        self._on_room = on_room
        self._full = False
        self._pending = 0  # handed in and not yet answered; touched by the loop's thread only
        self._closed = False
        self._failed = False
        self._reported = False
        self._ending = threading.Event()  # a full disk is not waited for any more
        self._submissions: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._reads: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        sys.setswitchinterval(min(sys.getswitchinterval(), THREAD_SWITCH_INTERVAL))
        # Daemons: a program that dies of something else is not kept alive by them. SQLite does not mind.
        self._threads = [
            threading.Thread(target=self._commit_batches, name="quicmsg-store-writer", daemon=True),
            threading.Thread(target=self._run_reads, name="quicmsg-store-reader", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # ---- the loop's side

    @property
    def full(self) -> bool:
        return self._full

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        if self._closed or self._failed:
            return
        self._count_in()
        self._submissions.put((operation, callback))

    def read(self, function: Callable[[Store], T], callback: Callable[[T], None]) -> None:
        if self._closed or self._failed:
            return
        self._count_in()
        self._reads.put(lambda: self._answer([callback], [function(self._store)]))

    def close(self) -> None:
        """Finish what is queued, deliver it, and end the threads; the store stays open. It blocks for as
        long as that takes, and may be called from any thread. Later submissions are ignored."""
        self._closed = True
        self._ending.set()
        self._submissions.put(None)
        self._reads.put(None)
        for thread in self._threads:
            thread.join()

    # ---- the threads

    def _commit_batches(self) -> None:
        while (first := self._submissions.get()) is not None:
            batch = [first]
            ended = self._take_queued(batch)
            if not self._guarded(functools.partial(self._commit, batch)) or ended:
                return

    def _take_queued(self, batch: list[_Submission]) -> bool:
        """Add what is queued already; whether the end was met."""
        while len(batch) < COMMIT_BATCH_MAX:
            try:
                submission = self._submissions.get_nowait()
            except queue.Empty:
                return False
            if submission is None:
                return True
            batch.append(submission)
        return False

    def _commit(self, batch: Sequence[_Submission]) -> None:
        results = self._execute([operation for operation, _ in batch])
        self._answer([callback for _, callback in batch], results)

    def _execute(self, operations: Sequence[Operation]) -> list[Result]:
        """Run them, as soon as the disk has room for them. Until then nobody gets an answer, which is the
        truth: clients keep their messages, and show that nothing confirms them. Reads go on;
        whoever has to sign in waits, too, since that is an operation."""
        waited = False
        while True:
            try:
                results = self._store.execute(operations)
            except DiskFullError as error:
                if not waited:
                    logger.error(
                        "! %s; until then nothing is stored, and nobody can sign in or open a conversation",
                        error,
                    )
                waited = True
                if self._ending.wait(STORE_FULL_RETRY):
                    raise
            else:
                if waited:
                    logger.warning("= there is room again: messages are stored")
                return results

    def _run_reads(self) -> None:
        while (call := self._reads.get()) is not None:
            if not self._guarded(call):
                return

    def _guarded(self, call: _Call) -> bool:
        """Run it; whether the store still works. What is no StorageError is a bug of ours, and ends the
        store as well: half of a batch must never be taken for the whole."""
        if self._failed:
            return False
        try:
            call()
        except Exception as error:
            self._fail(error)
            return False
        return True

    def _fail(self, error: Exception) -> None:
        if isinstance(error, StorageError):
            failure = error
        else:
            failure = StorageError(f"a bug in the store: {error!r}")
            failure.__cause__ = error
        self._to_loop(lambda: self._report(failure))
        self._failed = True

    # ---- back in the loop

    def _to_loop(self, call: _Call) -> None:
        try:
            self._post(call)
        except RuntimeError:
            # The loop is closed: the program ended without close(). What was stored is stored.
            self._closed = True

    def _answer(self, callbacks: Sequence[Callable[[Any], None]], results: Sequence[Any]) -> None:
        self._to_loop(lambda: self._deliver(callbacks, results))

    def _deliver(self, callbacks: Sequence[Callable[[Any], None]], results: Sequence[Any]) -> None:
        errors = []
        for callback, result in zip(callbacks, results, strict=True):
            # One that raises has a bug, which is for the loop to report; the others get their results.
            try:
                callback(result)
            except Exception as error:
                errors.append(error)
        self._count_out(len(callbacks))
        if errors:
            raise ExceptionGroup("callbacks of the store's writer failed", errors)

    def _report(self, failure: StorageError) -> None:
        if not self._reported:
            self._reported = True
            self._on_failure(failure)

    def _count_in(self) -> None:
        self._pending += 1
        if self._pending >= STORE_QUEUE_MAX:
            self._full = True

    def _count_out(self, count: int) -> None:
        self._pending -= count
        if self._full and self._pending < STORE_QUEUE_MAX // 2:
            self._full = False
            if self._on_room is not None:
                self._on_room()
