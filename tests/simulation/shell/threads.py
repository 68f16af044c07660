"""Threads in lock-step with the event loop: at any moment exactly one of them all runs.

The product's own thread functions run, on real threads (SQLite wants one thread per connection), but when one
of them would wait it hands control back to the loop, and when it would be woken it is resumed by a virtual
timer, after a while that is drawn: the time that the disk takes. What it hands to the loop arrives another
while later. So the order of everything is a matter of the seed alone, and a process can be killed between
a commit and the moment at which anybody hears of it.
"""

from __future__ import annotations

import contextlib
import contextvars
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.shell.process import current

if TYPE_CHECKING:
    from simulation.shell.loop import VirtualLoop

_here = threading.local()


class KilledError(BaseException):
    """The process of this thread is gone."""


class Pace:
    """How long the disk takes: drawn for each write from what the present weather says."""

    def __init__(self, loop: VirtualLoop, draw: Callable[[float, float], float]) -> None:
        self.loop = loop
        self._draw = draw

    def delay(self, slowness: float) -> float:
        return self._draw(0.000_2, slowness)


pace: Pace | None = None
"""Of the world that runs now."""


def running() -> Thread | None:
    """The simulated thread whose code runs now; None: the loop's."""
    thread: Thread | None = getattr(_here, "thread", None)
    return thread


class Thread:
    """As `threading.Thread`."""

    def __init__(
        self,
        *,
        target: Callable[..., object],
        args: tuple[Any, ...] = (),
        name: str = "",
        daemon: bool = True,
    ) -> None:
        assert pace is not None
        self.name = name
        self.has_ended = False
        self.is_due = False
        self._pace = pace
        self._target, self._args = target, args
        self._process = current()
        assert self._process is not None, "the world itself has no threads"
        self._context = self._process.context.copy()
        self._killed = False
        self._real: threading.Thread | None = None
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        self._busy_until = 0.0
        self._joiners: list[Thread] = []
        self._failure: BaseException | None = None

    def start(self) -> None:
        assert self._process is not None
        self._process.threads.append(self)
        self.wake()

    def join(self) -> None:
        """From a thread: wait. From the loop: it has to be over already, or ends without waiting."""
        me = running()
        if me is None:
            if not self.has_ended:
                self._resume()
            assert self.has_ended, f"the loop would block until {self.name} ends"
            return
        while not self.has_ended:
            self._joiners.append(me)
            me.park()

    # ---- for the loop and what wakes threads

    def wake(self) -> None:
        """Something is there for it: it goes on after a while."""
        if self.is_due or self.has_ended or self._killed:
            return
        self.is_due = True
        loop = self._pace.loop
        when = max(loop.now, self._busy_until) + self._delay()
        # In no process's context: whoever ambushes it there is the world.
        loop.call_at(when, self._resume, context=contextvars.Context())

    def next_answer(self) -> float:
        """When what it hands to the loop now arrives there: in order, and after the disk's time."""
        loop = self._pace.loop
        self._busy_until = max(self._busy_until + 1e-7, loop.now + self._delay())
        return self._busy_until

    def kill(self) -> None:
        """The process is gone: end it at the place where it waits."""
        self._killed = True
        if self._real is not None and not self.has_ended:
            self._switch()
        self.has_ended = True

    # ---- for code in the thread

    def park(self) -> None:
        """Hand control back, until `wake` has come true."""
        self._back.release()
        self._go.acquire()
        if self._killed:
            raise KilledError

    # ---- private

    def _delay(self) -> float:
        assert self._process is not None
        return self._pace.delay(self._process.host.disk_slowness if self._process.host else 0.001)

    def _resume(self) -> None:
        self.is_due = False
        process = self._process
        assert process is not None
        if self.has_ended or not process.alive:
            return
        if process.ambush == "before":
            process.on_ambush()
            return
        self._switch()
        if process.ambush == "after":
            process.on_ambush()
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _switch(self) -> None:
        """Let it run until it waits or ends."""
        if self._real is None:
            self._real = threading.Thread(target=self._run, name=self.name, daemon=True)
            self._real.start()
        else:
            self._go.release()
        self._back.acquire()

    def _run(self) -> None:
        _here.thread = self
        try:
            self._context.run(self._target, *self._args)
        except KilledError:
            pass
        except BaseException as error:
            self._failure = error
        finally:
            self.has_ended = True
            for joiner in self._joiners:
                joiner.wake()
            self._back.release()


class Condition:
    """As `threading.Condition`, for one thread that waits and a loop that notifies. There is nothing to
    lock: control changes hands only where somebody waits."""

    def __init__(self) -> None:
        self._waiting: list[Thread] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass

    def wait(self) -> None:
        thread = running()
        assert thread is not None, "the loop must not wait"
        self._waiting.append(thread)
        try:
            thread.park()
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(thread)

    def notify(self) -> None:
        for thread in self._waiting[:1]:
            thread.wake()


class SimpleQueue:
    """As `queue.SimpleQueue`, for one thread that takes."""

    def __init__(self) -> None:
        self._items: deque[Any] = deque()
        self._taker: Thread | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._taker is not None:
            self._taker.wake()

    def get(self) -> Any:
        thread = running()
        assert thread is not None, "the loop must not wait"
        while not self._items:
            self._taker = thread
            try:
                thread.park()
            finally:
                self._taker = None
        return self._items.popleft()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()
