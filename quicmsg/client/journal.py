"""What this device must not forget, on its own disk: outbox, positions, messages. Start reading here.

`Journal` is the asyncio face: one thread owns the file, and everything that was asked while it was busy
is the next transaction (group commit: one fsync for all of it). `journal_file.py` is the file itself,
`journal_writes.py` says what can be written, `journal_reads.py` what can be asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from quicmsg.client.journal_file import JournalFile
from quicmsg.client.journal_writes import (
    Cancelled,
    Conversation,
    ConversationRow,
    Cursor,
    HistoryPage,
    Left,
    MessageRow,
    MessageState,
    OutboxRow,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Rejected,
    Requeued,
    Reset,
    Snapshot,
    Stored,
    Write,
)
from quicmsg.errors import QuicmsgError, RefusedError, StorageError
from quicmsg.limits import COMMIT_BATCH_MAX, JOURNAL_QUEUE_MAX

__all__ = [
    "Cancelled",
    "Conversation",
    "ConversationRow",
    "Cursor",
    "HistoryPage",
    "Journal",
    "JournalFile",
    "Left",
    "MessageRow",
    "MessageState",
    "OutboxRow",
    "Positions",
    "Processed",
    "Queue",
    "ReadUpTo",
    "Rejected",
    "Requeued",
    "Reset",
    "Snapshot",
    "Stored",
    "Write",
]

logger = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")
Callback = Callable[[QuicmsgError | None], object]


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A question to ask, then writes to commit, or only one of the two; `done` runs on the loop's thread."""

    writes: tuple[Write, ...]
    ask: Callable[[JournalFile], object] | None
    done: Callable[[object, BaseException | None], object]


Outcome = tuple[Request, object, BaseException | None]


class Journal:
    """One user's journal on one server, for the tasks of one event loop. Made by `Journal.open`."""

    def __init__(self, path: Path, *, user: str, device: bytes) -> None:
        self.path = path
        self._loop = asyncio.get_running_loop()
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self._closed: asyncio.Future[None] = self._loop.create_future()
        self._room = asyncio.Semaphore(JOURNAL_QUEUE_MAX)
        self._requests: deque[Request] = deque()
        self._wake = threading.Condition()
        self._closing = False
        # A daemon: what is committed is safe, so a program that forgets to close may still end.
        self._thread = threading.Thread(
            target=self._run, args=(user, device), name="quicmsg-journal", daemon=True
        )

    @classmethod
    async def open(cls, path: Path, *, user: str, device: bytes) -> Journal:
        """Open or make the file; the caller must `close` it. Raises ConfigurationError, StorageError."""
        journal = cls(path, user=user, device=device)
        journal._thread.start()
        try:
            await asyncio.shield(journal._opened)
        except BaseException:
            await journal.close()
            journal._opened.exception()  # asked for, so that nobody logs it as forgotten
            raise
        return journal

    async def write(self, *writes: Write) -> None:
        """Commit; on return it is durable. Several writes of one call are in one transaction.

        Once this is called the writes will be made, also if the caller is cancelled while it waits.
        Raises RefusedError (for the first one that was refused), StorageError.
        """
        await self._write(writes, None)

    async def write_after(self, question: Callable[[JournalFile], T], write: Write) -> T:
        """As `write`; returns what the question found right before it."""
        found: T = await self._write((write,), question)
        return found

    def post(self, write: Write, callback: Callback | None = None) -> None:
        """Commit without waiting; `callback` gets None once it is durable, else the error. In order with
        all other writes. Not held back when the disk is slow: for what the protocol's windows bound."""

        def done(_result: object, error: BaseException | None) -> None:
            assert error is None or isinstance(error, QuicmsgError)
            if callback is not None:
                callback(error)

        self._submit(Request((write,), None, done))

    def ask(
        self,
        question: Callable[[JournalFile], T],
        callback: Callable[[T | None, QuicmsgError | None], object],
    ) -> None:
        """Ask a question without waiting; `callback` gets the answer, or the error, in order with all writes
        before and after it."""

        def done(result: Any, error: BaseException | None) -> None:
            assert error is None or isinstance(error, QuicmsgError)
            callback(result, error)

        self._submit(Request((), question, done))

    async def read(
        self, function: Callable[Concatenate[JournalFile, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Ask a question, e.g. `read(JournalFile.history, "@bob", None, 50)`. The answer has everything that
        was written before. Raises StorageError."""
        answer: asyncio.Future[Any] = self._loop.create_future()

        def ask(file: JournalFile) -> T:
            return function(file, *args, **kwargs)

        self._submit(Request((), ask, partial(_resolve, answer)))
        result: T = await answer
        return result

    async def close(self) -> None:
        """Finish what was asked, close the file, end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        await asyncio.shield(self._closed)
        self._thread.join()

    # ---- private: the loop's side

    async def _write(self, writes: tuple[Write, ...], ask: Callable[[JournalFile], object] | None) -> Any:
        await self._room.acquire()
        answer: asyncio.Future[Any] = self._loop.create_future()

        def done(result: object, error: BaseException | None) -> None:
            self._room.release()
            _resolve(answer, result, error)

        self._submit(Request(writes, ask, done))
        return await answer

    def _submit(self, request: Request) -> None:
        with self._wake:
            if not self._closing:
                self._requests.append(request)
                self._wake.notify()
                return
        outcomes: list[Outcome] = [(request, None, self._closed_error())]
        self._loop.call_soon(self._deliver, outcomes)

    def _deliver(self, outcomes: list[Outcome]) -> None:
        for request, result, error in outcomes:
            try:
                request.done(result, error)
            except Exception as failure:  # one callback's bug must not keep the others from their answers
                context = {"message": "a journal callback failed", "exception": failure}
                self._loop.call_exception_handler(context)

    def _closed_error(self) -> StorageError:
        return StorageError(f"the journal {self.path} is closed")

    def _hand_over(self, function: Callable[..., object], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(function, *args)

    # ---- private: the thread's side

    def _run(self, user: str, device: bytes) -> None:
        try:
            file = JournalFile(self.path, user=user, device=device)
        except BaseException as error:
            with self._wake:
                self._closing = True
            self._hand_over(_resolve, self._opened, None, error)
            self._hand_over(_resolve, self._closed, None, None)
            return
        self._hand_over(_resolve, self._opened, None, None)
        try:
            while batch := self._next_batch():
                self._hand_over(self._deliver, work(file, batch))
        finally:
            file.close()
            with self._wake:
                self._closing = True
                forgotten: list[Outcome] = [
                    (request, None, self._closed_error()) for request in self._requests
                ]
                self._requests.clear()
            self._hand_over(self._deliver, forgotten)
            self._hand_over(_resolve, self._closed, None, None)

    def _next_batch(self) -> list[Request]:
        """What queued up while the last commit ran, at most a batch; empty: closing, and all is done."""
        with self._wake:
            while not self._requests and not self._closing:
                self._wake.wait()
            count = min(len(self._requests), COMMIT_BATCH_MAX)
            return [self._requests.popleft() for _ in range(count)]


def work(file: JournalFile, batch: list[Request]) -> list[Outcome]:
    """Commit the batch's writes as one transaction; each question is answered at its place among them, so
    that it sees what was asked before it, and nothing of what came later. For the thread (and for the
    simulation, which has one of its own)."""
    writes: list[Write] = []
    questions: dict[int, list[Request]] = {}
    for request in batch:
        if request.ask is not None:
            questions.setdefault(len(writes), []).append(request)
        writes.extend(request.writes)
    answers: dict[Request, Outcome] = {}

    def answer_before(place: int) -> None:
        for request in questions.get(place, ()):
            answers[request] = _answer(file, request)

    failure: Exception | None = None
    refusals: Iterator[RefusedError | None] = iter(())
    try:
        refusals = iter(file.apply(writes, answer_before)) if writes else refusals
    except Exception as error:
        failure = error
        answers.clear()  # of a transaction that never was
        if not isinstance(error, StorageError):
            # A bug of ours: nothing was written, and everybody who waits must hear of it.
            logger.exception("! a write to the journal %s failed", file.path)
    return [_outcome(file, request, failure, refusals, answers) for request in batch]


def _outcome(
    file: JournalFile,
    request: Request,
    failure: Exception | None,
    refusals: Iterator[RefusedError | None],
    answers: dict[Request, Outcome],
) -> Outcome:
    if request.writes and failure is not None:
        # One exception object per waiting task: each adds its own traceback to it.
        return request, None, StorageError(str(failure) or repr(failure))
    refused = [next(refusals) for _ in request.writes]
    error = next(filter(None, refused), None)
    if error is not None or request.ask is None:
        return request, None, error
    return answers.get(request) or _answer(file, request)


def _answer(file: JournalFile, request: Request) -> Outcome:
    assert request.ask is not None
    try:
        return request, request.ask(file), None
    except Exception as error:
        return request, None, error


def _resolve(future: asyncio.Future[T], result: T, error: BaseException | None) -> None:
    if future.done():  # whoever waited was cancelled
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
