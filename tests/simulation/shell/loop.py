"""An event loop in virtual time: nothing waits, time jumps to the next thing that is scheduled.

It is asyncio's own base loop without a selector. Readers are the simulated kernel's sockets, executors its
threads, names its name table. What belongs to a process that was killed is not run.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import contextvars
import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from simulation.shell import threads
from simulation.shell.internet import Internet
from simulation.shell.process import PROCESS, current

SAME_INSTANT_MAX = 3_000
"""More turns than this without time moving on: something wakes itself for ever."""
LATENESS = 1e-6
"""A timer fires this much after its time, as in the real world (and aioquic relies on it)."""
START = 1_000.0


class DeadlockError(Exception):
    """Nothing is scheduled, and somebody waits."""


class _Handle(asyncio.Handle):
    """A callback that only runs while its process lives."""

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or process.alive:
            super()._run()


class _TimerHandle(asyncio.TimerHandle):
    """The same, at a time."""

    def _run(self) -> None:
        process = self._context.get(PROCESS)  # type: ignore[attr-defined]
        if process is None or process.alive:
            super()._run()


class _Jump:
    """In the selector's place: instead of waiting, the clock is moved."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._turns = 0

    def select(self, timeout: float | None) -> list[object]:
        loop = self._loop
        if timeout is None:
            raise DeadlockError("deadlock: nothing is scheduled")
        if timeout > 0:
            self._turns = 0
            loop.now += timeout + LATENESS
        else:
            self._turns += 1
            if self._turns > SAME_INSTANT_MAX:
                ready = [repr(handle) for handle in list(loop._ready)[:3]]  # type: ignore[attr-defined]
                raise DeadlockError(f"time stands still at {loop.now}: {ready}")
        return []


class VirtualLoop(asyncio.base_events.BaseEventLoop):
    """See the module. `problems` has what went to the exception handler."""

    def __init__(self, internet: Internet, random: Random) -> None:
        super().__init__()
        self.now = START
        self.internet = internet
        self.problems: list[str] = []
        self.turns = 0
        self._random = random
        self._selector = _Jump(self)
        self._clock_resolution = 1e-9
        self._readers: dict[int, _Handle] = {}
        self._woken: set[int] = set()
        self.set_exception_handler(lambda _, context: self.problems.append(_in_words(context)))
        internet.loop = self

    # ---- time

    def time(self) -> float:
        return self.now

    async def until(self, when: float) -> None:
        """Wait for a point in time."""
        await asyncio.sleep(max(0.0, when - self.now))

    # ---- what BaseEventLoop asks of a real one

    def _process_events(self, _events: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], args: tuple[Any, ...], context: contextvars.Context | None
    ) -> asyncio.Handle:
        handle = _Handle(callback, args, self, context)
        self._ready.append(handle)  # type: ignore[attr-defined]
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        self._check_closed()  # type: ignore[attr-defined]
        timer = _TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        thread = threads.running()
        if thread is None:
            return self.call_soon(callback, *args, context=context)
        return self.call_at(thread.next_answer(), callback, *args, context=context)

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:  # type: ignore[override]
        task = super().create_task(coro, **options)
        process = options["context"].get(PROCESS) if options.get("context") else current()
        if process is not None:
            if len(process.tasks) > 64:
                process.tasks = [each for each in process.tasks if not each.done()]
            process.tasks.append(task)
        return task

    # ---- sockets, names, threads

    def add_reader(self, fd: int, callback: Callable[..., object], *args: Any) -> None:
        self._readers[fd] = _Handle(callback, args, self, None)
        self.wake(fd)

    def remove_reader(self, fd: int) -> bool:
        handle = self._readers.pop(fd, None)
        if handle is not None:
            handle.cancel()
        return handle is not None

    def wake(self, fd: int) -> None:
        """A socket may have become readable."""
        handle = self._readers.get(fd)
        if handle is not None and fd not in self._woken and self.internet.is_readable(fd):
            self._woken.add(fd)
            self.call_soon(self._read, fd, context=handle._context)  # type: ignore[attr-defined]

    def _read(self, fd: int) -> None:
        self._woken.discard(fd)
        handle = self._readers.get(fd)
        if handle is not None:
            handle._callback(*handle._args)  # type: ignore[attr-defined]
            self.wake(fd)  # as a selector does, as long as something is left

    async def getaddrinfo(self, host: str, port: int, **options: Any) -> Any:  # type: ignore[override]
        await asyncio.sleep(self._random.uniform(0.0, 0.002))
        return self.internet.resolve(host, port, options.get("type", 0))

    def run_in_executor(  # type: ignore[override]
        self, executor: object, function: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        answer: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                result = function(*args)
            except Exception as error:
                self.call_soon_threadsafe(answer.set_exception, error)
            else:
                self.call_soon_threadsafe(answer.set_result, result)

        threads.Thread(target=work, name="executor").start()
        return answer


def _in_words(context: dict[str, Any]) -> str:
    error = context.get("exception")
    about = context.get("task") or context.get("future") or context.get("handle") or ""
    return f"{context.get('message')}: {error!r} {about}"
