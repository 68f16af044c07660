"""Stdin and stdout of the line client: read and written beside the event loop, never in it.

A reader that does not read (a pager, a stopped terminal) must not stop the heartbeats, and asyncio's own
pipes neither take ordinary files nor leave a terminal that others share as it was. So each has a thread.
The threads are daemons: a program may end while one of them is stuck in a read or a write.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeVar

from quicmsg.errors import StorageError
from quicmsg.limits import READ_SIZE

STDIN: Final = 0
STDOUT: Final = 1
T = TypeVar("T")


class OutputClosedError(Exception):
    """Whoever read our stdout is gone: there is nobody left to tell anything."""


class Worker:
    """One thread that makes blocking calls for the event loop, one after the other."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """Call it in the thread, after all earlier calls; it is made also if the caller is cancelled."""
        answer: asyncio.Future[T] = self._loop.create_future()
        self._jobs.put((function, answer))
        return await answer

    def _run(self) -> None:
        while True:
            function, answer = self._jobs.get()
            result, error = None, None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_resolve, answer, result, error)


def _resolve(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if answer.done():
        return
    if isinstance(error, Exception):
        answer.set_exception(error)
    elif error is not None:
        answer.cancel()
    else:
        answer.set_result(result)


class LineReader:
    """Lines of a file descriptor, as they come; nothing is read ahead of who asks but one piece.

    Yields each line without its end, or None for one that was longer than `size_max` and was skipped.
    """

    def __init__(self, descriptor: int = STDIN, *, size_max: int) -> None:
        self._descriptor = descriptor
        self._size_max = size_max
        self._worker = Worker("quicmsg-stdin")
        self._lines: deque[bytes | None] = deque()
        self._rest = bytearray()
        self._too_long = False
        self._ended = False

    def __aiter__(self) -> AsyncIterator[bytes | None]:
        return self

    async def __anext__(self) -> bytes | None:
        while not self._lines:
            if self._ended:
                raise StopAsyncIteration
            self._take(await self._worker.call(self._read))
        return self._lines.popleft()

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, READ_SIZE)
        except OSError:
            return b""  # a terminal that hung up, or no stdin at all: the input is over

    def _take(self, data: bytes) -> None:
        if not data:
            self._ended = True
            if self._rest or self._too_long:
                self._end_line()
            return
        *whole, rest = data.split(b"\n")
        for piece in whole:
            self._rest += piece
            self._end_line()
        self._rest += rest
        if len(self._rest) > self._size_max:
            self._rest.clear()
            self._too_long = True

    def _end_line(self) -> None:
        fits = not self._too_long and len(self._rest) <= self._size_max
        self._lines.append(bytes(self._rest) if fits else None)
        self._rest.clear()
        self._too_long = False


class LineWriter:
    """Lines to a file descriptor, each flushed before `write` returns."""

    def __init__(self, descriptor: int = STDOUT) -> None:
        self._descriptor = descriptor
        self._worker = Worker("quicmsg-stdout")

    async def write(self, *lines: bytes) -> None:
        """Write lines, in the order of the calls; on return they are the reader's. A cancelled call writes
        all the same. Raises OutputClosedError, StorageError (a file on a full disk)."""
        data = b"\n".join((*lines, b""))
        await self._worker.call(lambda: write_all(self._descriptor, data))


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it. Raises OutputClosedError, StorageError."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            # Somebody who shares the descriptor made it non-blocking: wait until it takes more.
            _wait_writable(descriptor)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise OutputClosedError from error
        except OSError as error:
            raise StorageError(f"cannot write to stdout: {error.strerror or error}") from error


def _wait_writable(descriptor: int) -> None:
    import select  # rarely needed, and not everywhere

    select.select([], [descriptor], [])
