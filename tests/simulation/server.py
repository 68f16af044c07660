"""The server of a world: the real hub over a store (`stored.py`) that takes its time and can crash."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from quicmsg.protocol.frames import Kind
from quicmsg.protocol.server import ServerSession
from quicmsg.server.hub import Hub
from quicmsg.store import Operation, Refusal, Result, Store
from simulation.history import History
from simulation.kernel import Kernel
from simulation.network import Link, Network
from simulation.stored import Backup, Disk, Stored


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


class WorldWriter:
    """Group commit in simulated time; answers follow a moment after the commit, so that a crash can fall
    between the two."""

    def __init__(
        self, kernel: Kernel, random: Random, disk: Disk, stored: Stored, history: History,
        on_room: Callable[[], None], on_death: Callable[[], None],
    ) -> None:  # fmt: skip
        self._kernel = kernel
        self._random = random
        self._disk = disk
        self._stored = stored
        self._history = history
        self._on_room = on_room
        self._on_death = on_death
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
            self.durable = stored.reference.snapshot()

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
        results = self._stored.execute([operation for operation, _ in batch], self._history)
        if results is None:
            self._on_death()
            return
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
            self._kernel.call_later(0.0002, self._answer_read, callback, function(self._stored.store))

    def _answer_read(self, callback: Callable[[Any], None], result: Any) -> None:
        if not self.dead:
            self._reading -= 1
            callback(result)

    # ---- private: planted bugs

    def _submit_early(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        results = self._stored.execute([operation], self._history)
        assert results is not None, "planted in the memory store only"
        synced = self._kernel.now + self._random.uniform(0.001, 0.02)
        if self._random.random() < 0.1:
            synced += self._random.uniform(0.2, 2.0)
        told = self._kernel.now + 0.0001 if self._disk.mode == "told early" else synced
        self._answers_at = max(self._answers_at, told)
        self._kernel.call_at(self._answers_at, self._answer, [(operation, callback)], results)
        self._kernel.call_at(synced, self._sync)

    def _sync(self) -> None:
        if not self.dead:
            self.durable = self._stored.reference.snapshot()


class Server:
    """The server's process, and what survives it."""

    def __init__(
        self, kernel: Kernel, network: Network, random: Random, history: History,
        *, sqlite: bool = False,
    ) -> None:  # fmt: skip
        self.disk = Disk()
        self.stored = Stored(random, self.disk, sqlite=sqlite)
        self.hub: Hub | None = None
        self.on_crash: Callable[[], None] = lambda: None
        self._kernel = kernel
        self._network = network
        self._random = random
        self._history = history
        self._environment = Environment(kernel)
        self._writer: WorldWriter | None = None
        self._backup: Backup | None = None

    def prepare(self, *operations: Operation) -> None:
        """Before the world begins: what its people did earlier."""
        results = self.stored.execute(list(operations), self._history)
        assert results is not None
        assert not any(isinstance(result, Refusal) for result in results), results

    def ask(self, operation: Operation) -> None:
        """From beside, as the server's owner would."""
        if self._writer is not None and self.hub is not None:
            self._writer.submit(operation, lambda _result: None)
        else:
            self._kernel.call_later(0.5, self.ask, operation)

    # ---- life

    def start(self) -> None:
        if self.hub is not None:
            return
        if self.stored.store is self.stored.reference:
            self.stored.open(self._history)
        if self.stored.disk is not None and self.stored.disk.dead:
            self.stored.crash(power=False)
            self.on_crash()
            return
        self._writer = WorldWriter(
            self._kernel,
            self._random,
            self.disk,
            self.stored,
            self._history,
            lambda: self.hub and self.hub.room(),
            self.crash,
        )
        self.hub = Hub(self._writer, self._environment, epoch=self.stored.epoch, invite_only=False)
        self._network.listener = self

    @property
    def is_busy(self) -> bool:
        return self._writer is not None and self._writer.is_busy

    def crash(self, *, power: bool = False) -> None:
        """What was not committed is gone; with the power also what was not synced."""
        if self.hub is None:
            return
        assert self._writer is not None
        self._history.note("server crashed", power)
        self._writer.dead = True
        self.hub = None
        self._network.listener = None
        self._network.break_all_of(self)
        self.stored.crash(power=power)
        if self.disk.mode != "durable":
            self.stored.reference.restore(self._writer.durable)
            self._history.note("lost", self.lengths())
        self.on_crash()

    def close(self) -> None:
        """The world ends."""
        self.stored.end()

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
        if self.hub is not None:
            self._backup = self.stored.back_up()

    def restore(self) -> None:
        """While it is down: go back to the backup, with a new epoch."""
        if self._backup is None or self.hub is not None:
            return
        self.stored.restore(self._backup)
        self._history.note("restored", self._backup.lengths, self.members())

    @property
    def store(self) -> Store:
        return self.stored.store

    def lengths(self) -> dict[str, int]:
        return self.stored.lengths()

    def log(self, key: str) -> list[bytes]:
        """The texts of a conversation, without the ids that begin them."""
        entries = self.stored.reference._state.logs.get(key, [])
        return [entry.body[16:] for entry in entries if entry.kind == Kind.TEXT]

    def members(self) -> dict[str, dict[str, int]]:
        """The first seq that each current member of each conversation may see."""
        return {
            key: {user: member.oldest for user, member in members.items() if member.oldest}
            for key, members in self.stored.reference._state.members.items()
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
