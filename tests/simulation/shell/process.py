"""A process of the simulated world: what runs in it stops at once when it is killed.

All processes share one interpreter and one event loop. Which of them some code belongs to is a context
variable: asyncio copies the context into every callback and task, and the loop asks it before it runs one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.shell.internet import Host
    from simulation.shell.kernel_sockets import FakeSocket
    from simulation.shell.threads import Thread


class Process:
    """One life of a program on a host."""

    def __init__(self, name: str, host: Host | None = None) -> None:
        self.name = name
        self.host = host
        self.alive = True
        self.has_ended = False
        self.tasks: list[asyncio.Task[Any]] = []
        self.threads: list[Thread] = []
        self.sockets: list[FakeSocket] = []
        self.files: list[Callable[[], object]] = []
        """What the kernel closes when the process is gone; a second call does nothing."""
        self.ambush = ""
        """Be killed at the next write to the disk: "before" it, or "after" it and before anybody hears."""
        self.on_ambush: Callable[[], None] = lambda: None
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def __repr__(self) -> str:
        return f"Process({self.name})"

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a coroutine in this process."""
        return asyncio.get_running_loop().create_task(work, context=self.context)

    def call(self, function: Callable[..., Any], *arguments: object) -> Any:
        """Call something as this process does."""
        return self.context.copy().run(function, *arguments)

    @property
    def is_writing(self) -> bool:
        """Is something on its way to its disk?"""
        return any(thread.is_due for thread in self.threads)

    def kill(self) -> None:
        """As `kill -9`: no farewell, no cleaning up. What was written to its files stays."""
        if not self.alive:
            return
        self.alive = False
        for socket in list(self.sockets):
            socket.close()
        for thread in self.threads:
            thread.kill()
        for close in self.files:
            close()

    def bury(self) -> None:
        """Take apart what a killed process has left in memory, at the end of the world."""
        for task in self.tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            work = task.get_coro()
            for _ in range(5):  # each `await` in a `finally` refuses once
                with contextlib.suppress(BaseException):
                    self.context.copy().run(work.close)  # type: ignore[union-attr]
                    break
        self.tasks.clear()

    def leftovers(self) -> list[str]:
        """What a process that has ended by itself should have cleaned up."""
        left = [f"task {task.get_coro()}" for task in self.tasks if not task.done()]
        left += [f"socket {socket}" for socket in self.sockets]
        left += [f"thread {thread.name}" for thread in self.threads if not thread.has_ended]
        return [f"{self.name} has left behind {each}" for each in left]


PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("process")


def current() -> Process | None:
    """The process that is running now; None: the world itself."""
    return PROCESS.get(None)
