"""The server of a world: the real hub over the memory store, and a disk that takes its time and can crash."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from quicmsg.protocol.frames import Kind
from quicmsg.protocol.server import ServerSession
from quicmsg.server.hub import Hub
from quicmsg.store import Append, Appended, GroupChanged, Operation, Refusal, Result, Store
from quicmsg.store.memory import MemoryStore
from simulation.history import History
from simulation.kernel import Kernel
from simulation.network import Link, Network


class Environment:
    """What the hub is given; signatures are hashes here."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._codes = 0

    def now(self) -> float:
        return self._kernel.now

    def time_ms(self) -> int:
        return 1_700_000_000_000 + int(self._kernel.now * 1000)

    def make_code(self) -> str:
        self._codes += 1
        return f"code-{self._codes}"

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        return signature == sign(public_key, message)

    def log(self, event: str, **fields: object) -> None:
        pass


def sign(public_key: bytes, message: bytes) -> bytes:
    return hashlib.sha512(public_key + message).digest()


class Disk:
    """How the server's commits behave."""

    def __init__(self) -> None:
        self.commit_max = 0.005
        self.stall_chance = 0.0
        self.queue_max = 10_000
        self.batch_max = 64
        self.mode = "durable"
        """A planted bug: "told early" (answered before the commit), "seen early" (read before it)."""


class WorldWriter:
    """Group commit in simulated time. What is executed is durable; answers follow a moment later, so that
    a crash can fall between the two."""

    def __init__(
        self, kernel: Kernel, random: Random, disk: Disk, store: MemoryStore, history: History,
        on_room: Callable[[], None],
    ) -> None:  # fmt: skip
        self._kernel = kernel
        self._random = random
        self._disk = disk
        self._store = store
        self._history = history
        self._on_room = on_room
        self._queue: deque[tuple[Operation, Callable[[Result], None]]] = deque()
        self._answers_at = 0.0
        self._reads_at = 0.0
        self._committing = False
        self._pending = 0
        self._reading = 0
        self._full = False
        self.dead = False
        self.durable: object = None
        if disk.mode != "durable":
            self.durable = store.snapshot()

    # ---- the interface of store.writer.StoreWriter

    @property
    def full(self) -> bool:
        return self._full

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        self._pending += 1
        self._full = self._full or self._pending >= self._disk.queue_max
        if self._disk.mode != "durable":
            self._submit_early(operation, callback)
            return
        self._queue.append((operation, callback))
        if not self._committing:
            self._start()

    @property
    def is_busy(self) -> bool:
        return self._pending + self._reading > 0

    def read(self, function: Callable[[Store], Any], callback: Callable[[Any], None]) -> None:
        self._reading += 1
        at = self._kernel.now + self._random.uniform(0.0001, self._disk.commit_max)
        self._reads_at = max(self._reads_at, at)
        self._kernel.call_at(self._reads_at, self._read, function, callback)

    # ---- private

    def _start(self) -> None:
        self._committing = True
        delay = self._random.uniform(0.0005, self._disk.commit_max)
        if self._disk.stall_chance and self._random.random() < self._disk.stall_chance:
            delay += self._random.uniform(0.2, 2.0)
        size = min(len(self._queue), self._random.randint(1, self._disk.batch_max))
        self._kernel.call_later(delay, self._commit, [self._queue.popleft() for _ in range(size)])

    def _commit(self, batch: list[tuple[Operation, Callable[[Result], None]]]) -> None:
        if self.dead:
            return
        results = execute(self._store, [operation for operation, _ in batch], self._history)
        # The answers come one hop later: a crash may fall in between.
        at = self._kernel.now + self._random.uniform(0.0, 0.002)
        self._answers_at = max(self._answers_at, at)
        self._kernel.call_at(self._answers_at, self._answer, batch, results)
        self._committing = False
        if self._queue:
            self._start()

    def _answer(self, batch: list[tuple[Operation, Callable[[Result], None]]], results: list[Result]) -> None:
        if self.dead:
            return
        for (_, callback), result in zip(batch, results, strict=True):
            callback(result)
        self._pending -= len(batch)
        if self._full and self._pending <= self._disk.queue_max // 2:
            self._full = False
            self._on_room()

    def _read(self, function: Callable[[Store], Any], callback: Callable[[Any], None]) -> None:
        if not self.dead:
            self._kernel.call_later(0.0002, self._answer_read, callback, function(self._store))

    def _answer_read(self, callback: Callable[[Any], None], result: Any) -> None:
        if not self.dead:
            self._reading -= 1
            callback(result)

    # ---- private: planted bugs

    def _submit_early(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        result = execute(self._store, [operation], self._history)[0]
        synced = self._kernel.now + self._random.uniform(0.001, 0.02)
        if self._random.random() < 0.1:
            synced += self._random.uniform(0.2, 2.0)
        told = self._kernel.now + 0.0001 if self._disk.mode == "told early" else synced
        self._answers_at = max(self._answers_at, told)
        self._kernel.call_at(self._answers_at, self._answer, [(operation, callback)], [result])
        self._kernel.call_at(synced, self._sync)

    def _sync(self) -> None:
        if not self.dead:
            self.durable = self._store.snapshot()


def execute(store: MemoryStore, operations: list[Operation], history: History) -> list[Result]:
    """Run operations, and note what they did to the logs."""
    results = store.execute(operations)
    for operation, result in zip(operations, results, strict=True):
        if isinstance(operation, Append) and isinstance(result, Appended) and not result.duplicate:
            history.note(
                "committed", operation.conversation, result.seq, operation.message_id, operation.device, 0
            )
        elif isinstance(result, GroupChanged):
            for entry in result.entries:
                history.note(
                    "committed",
                    entry.conversation,
                    entry.seq,
                    entry.message_id,
                    entry.device,
                    int(entry.kind),
                )
                user = entry.sender if entry.kind == Kind.CREATED else entry.body.decode()
                what = "left" if entry.kind == Kind.LEFT else "joined"
                oldest = 1 if len(result.entries) > 1 else entry.seq
                history.note(what, entry.conversation, user, oldest)
        elif type(operation).__name__ == "OpenConversation" and not isinstance(result, Refusal):
            history.note("opened", operation.conversation)
    return results


class Server:
    """The server's process, and what survives it."""

    def __init__(self, kernel: Kernel, network: Network, random: Random, history: History) -> None:
        self.disk = Disk()
        self.store = MemoryStore(1)
        self.hub: Hub | None = None
        self._kernel = kernel
        self._network = network
        self._random = random
        self._history = history
        self._environment = Environment(kernel)
        self._writer: WorldWriter | None = None
        self._backup: tuple[object, dict[str, int]] | None = None

    # ---- life

    def start(self) -> None:
        self._writer = WorldWriter(
            self._kernel,
            self._random,
            self.disk,
            self.store,
            self._history,
            lambda: self.hub and self.hub.room(),
        )
        self.hub = Hub(self._writer, self._environment, epoch=self.store.epoch, invite_only=False)
        self._network.listener = self

    @property
    def is_busy(self) -> bool:
        return self._writer is not None and self._writer.is_busy

    def crash(self) -> None:
        """Everything that was not committed is gone."""
        if self.hub is None:
            return
        assert self._writer is not None
        self._history.note("server crashed")
        self._writer.dead = True
        self.hub = None
        self._network.listener = None
        self._network.break_all_of(self)
        if self.disk.mode != "durable":
            self.store.restore(self._writer.durable)
            self._history.note("lost", self.lengths())

    def stop(self) -> None:
        """A restart in good order: clients are told."""
        if self.hub is not None:
            self.hub.drain(1.0)
            self._kernel.call_later(0.5, self._close)

    def _close(self) -> None:
        if self.hub is not None:
            self.hub.close()
            self._kernel.call_later(0.2, self.crash)

    def back_up(self) -> None:
        self._backup = (self.store.snapshot(), self.lengths())

    def restore(self) -> None:
        """While it is down: go back to the backup, with a new epoch."""
        if self._backup is None or self.hub is not None:
            return
        self.store.restore(self._backup[0])
        self.store.epoch += 1
        self._history.note("restored", self._backup[1], self.members())

    def lengths(self) -> dict[str, int]:
        return {key: len(log) for key, log in self.store._state.logs.items()}

    def members(self) -> dict[str, dict[str, int]]:
        """The first seq that each current member of each conversation may see."""
        return {
            key: {user: member.oldest for user, member in members.items() if member.oldest}
            for key, members in self.store._state.members.items()
        }

    # ---- connections

    def accept(self, link: Link) -> ServerSession:
        assert self.hub is not None
        session = ServerSession(now=self._kernel.now)
        link.establish(self, session)
        end = link.server
        assert end is not None
        self.hub.attach(session, lambda: self._network.touch(end))
        return session

    def on_input(self, link: Link) -> None:
        if self.hub is not None and link.server is not None:
            session = link.server.session
            assert isinstance(session, ServerSession)
            self.hub.pump(session)
