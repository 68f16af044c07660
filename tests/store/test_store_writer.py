"""The writer: group commit in order, bounded, and a store that failed is never tried again."""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest
from given import EPOCH, Given, device

from quicmsg.errors import DiskFullError, StorageError
from quicmsg.limits import COMMIT_BATCH_MAX
from quicmsg.store import Appended, Operation, Result, writer
from quicmsg.store.memory import MemoryStore
from quicmsg.store.writer import Writer

PATIENCE = 10.0


class SlowStore(MemoryStore):
    """Commits when it is told to, and tells what it was given."""

    def __init__(self) -> None:
        super().__init__(EPOCH)
        self.batches: list[list[Operation]] = []
        self.go = threading.Semaphore(0)
        self.entered: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.error: Exception | None = None

    def execute(self, operations: Sequence[Operation]) -> list[Result]:
        self.batches.append(list(operations))
        self.entered.put(None)
        assert self.go.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error
        return super().execute(operations)

    def head(self) -> int:
        if self.error is not None:
            raise self.error
        return super().head()


class Loop:
    """The loop's thread is the test's: what is posted runs when the test says so."""

    def __init__(self) -> None:
        self.posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.failures: list[StorageError] = []
        self.rooms = 0
        self.store = SlowStore()
        self.store.go.release(3)
        self.given = Given(self.store, lambda store: store)
        self.given.users("ann", "bob")
        self.direct = self.given.direct("ann", "bob")
        self.store.batches.clear()
        while not self.store.entered.empty():
            self.store.entered.get()
        self.writer = Writer(
            self.store, post=self.posted.put, on_failure=self.failures.append, on_room=self.room
        )

    def room(self) -> None:
        self.rooms += 1

    def run_one(self) -> None:
        """Run the next thing that is posted."""
        self.posted.get(timeout=PATIENCE)()

    def say(self, text: str, results: list[Result]) -> None:
        self.writer.submit(self.given.message(self.direct, "ann", text), results.append)


@pytest.fixture
def loop() -> Iterator[Loop]:
    interval = sys.getswitchinterval()
    loop = Loop()
    yield loop
    loop.store.go.release(1000)
    loop.writer.close()
    sys.setswitchinterval(interval)


def test_what_gathers_during_a_commit_is_the_next_batch(loop: Loop) -> None:
    """In order, at most COMMIT_BATCH_MAX together, and each batch comes back with one hop."""
    results: list[Result] = []
    loop.say("first", results)
    loop.store.entered.get(timeout=PATIENCE)
    for number in range(COMMIT_BATCH_MAX + 5):
        loop.say(str(number), results)
    loop.store.go.release(3)
    loop.run_one()
    assert len(results) == 1
    loop.run_one()
    assert len(results) == 1 + COMMIT_BATCH_MAX
    loop.run_one()
    assert [len(batch) for batch in loop.store.batches] == [1, COMMIT_BATCH_MAX, 5]
    assert [r.seq for r in results if isinstance(r, Appended)] == list(range(1, COMMIT_BATCH_MAX + 7))


def test_nothing_is_answered_before_it_is_durable(loop: Loop) -> None:
    """The callback waits for the commit, and for the loop's own turn."""
    results: list[Result] = []
    loop.say("hi", results)
    loop.store.entered.get(timeout=PATIENCE)
    assert loop.posted.empty()
    loop.store.go.release()
    call = loop.posted.get(timeout=PATIENCE)
    assert results == []
    call()
    assert len(results) == 1


def test_reads_do_not_wait_for_commits(loop: Loop) -> None:
    """They have their own thread, and see what was answered before."""
    results: list[Result] = []
    loop.store.go.release()
    loop.say("hi", results)
    loop.run_one()
    loop.store.entered.get(timeout=PATIENCE)
    loop.say("stuck", results)
    loop.store.entered.get(timeout=PATIENCE)
    texts: list[list[str]] = []
    for user in ("bob", "ann"):
        loop.writer.read(
            lambda store, user=user: [
                user,
                *(e.body.decode() for e in store.entries(loop.direct, user, limit=9)),
            ],
            texts.append,
        )
        loop.run_one()
    assert texts == [["bob", "hi"], ["ann", "hi"]]


def test_a_full_queue_says_so_and_says_when_there_is_room(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It never blocks or drops; room is announced once, below half."""
    monkeypatch.setattr(writer, "STORE_QUEUE_MAX", 6)
    monkeypatch.setattr(writer, "COMMIT_BATCH_MAX", 2)
    results: list[Result] = []
    loop.say("0", results)
    loop.store.entered.get(timeout=PATIENCE)
    for number in range(1, 7):
        assert not loop.writer.full or number == 6
        loop.say(str(number), results)
    assert loop.writer.full
    loop.store.go.release(4)
    rooms = []
    for _ in range(4):
        loop.run_one()
        rooms.append((len(results), loop.writer.full, loop.rooms))
    assert rooms == [(1, True, 0), (3, True, 0), (5, False, 1), (7, False, 1)]


@pytest.mark.parametrize("error", [StorageError("disk gone"), ZeroDivisionError("a bug")])
def test_a_failed_commit_is_the_end(loop: Loop, error: Exception) -> None:
    """It is reported once, in the loop; nothing waiting is tried, nothing later is taken."""
    results: list[Result] = []
    loop.say("lost", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.say("waiting", results)
    loop.store.error = error
    loop.store.go.release(9)
    loop.run_one()
    assert len(loop.failures) == 1
    assert loop.failures[0] is error or loop.failures[0].__cause__ is error
    loop.say("later", results)
    loop.writer.read(lambda store: store.head(), results.append)  # type: ignore[arg-type]
    loop.writer.close()
    assert loop.posted.empty()
    assert (len(loop.failures), len(loop.store.batches), results) == (1, 1, [])


def test_a_failed_read_is_the_end_as_well(loop: Loop) -> None:
    """A store that cannot be read is not one to write to."""
    loop.store.error = StorageError("bad sector")
    results: list[object] = []
    for _ in range(3):
        loop.writer.read(lambda store: store.head(), results.append)
    loop.run_one()
    loop.say("later", results)  # type: ignore[arg-type]
    loop.writer.close()
    assert (loop.failures, loop.store.batches, results) == ([loop.store.error], [], [])


def test_a_failure_of_both_threads_is_one_failure(loop: Loop) -> None:
    """While a read fails a commit is under way: it is the last one, and the report is made once."""
    results: list[Result] = []
    loop.say("under way", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.say("waiting", results)
    loop.store.error = StorageError("bad disk")
    loop.writer.read(lambda store: store.head(), results.append)  # type: ignore[arg-type]
    report = loop.posted.get(timeout=PATIENCE)
    loop.store.go.release(9)
    loop.writer.close()
    report()
    while not loop.posted.empty():
        loop.run_one()
    assert (loop.failures, len(loop.store.batches), results) == ([loop.store.error], 1, [])


def test_a_commit_that_waits_while_a_read_fails_is_not_begun(loop: Loop) -> None:
    """Also when the commit before it came through: that one is stored, and answered."""
    results: list[Result] = []
    loop.say("under way", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.say("waiting", results)
    loop.writer.read(broken_read, results.append)  # type: ignore[arg-type]
    loop.run_one()
    loop.store.go.release(9)
    loop.run_one()
    loop.writer.close()
    assert (len(loop.failures), len(loop.store.batches), len(results)) == (1, 1, 1)


def broken_read(store: object) -> None:
    raise StorageError("bad sector")


def test_close_finishes_what_is_queued(loop: Loop) -> None:
    """Everything handed in is committed and answered; what comes after that is ignored."""
    results: list[Result] = []
    loop.store.go.release(10)
    for number in range(5):
        loop.say(str(number), results)
    loop.writer.read(lambda store: store.members(loop.direct), results.append)  # type: ignore[arg-type]
    loop.writer.close()
    loop.say("late", results)
    while not loop.posted.empty():
        loop.run_one()
    assert len(results) == 6
    assert loop.given.texts(loop.direct, "bob") == ["0", "1", "2", "3", "4"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("quicmsg-store")]
    loop.writer.close()


def test_a_callback_with_a_bug_does_not_take_the_others_results(loop: Loop) -> None:
    """The others are called, then the loop is told."""
    results: list[Result] = []

    def broken(result: Result) -> None:
        raise ZeroDivisionError

    loop.say("0", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.writer.submit(loop.given.message(loop.direct, "ann", "1"), broken)
    loop.say("2", results)
    loop.store.go.release(2)
    loop.run_one()
    with pytest.raises(ExceptionGroup) as caught:
        loop.run_one()
    assert caught.group_contains(ZeroDivisionError)
    assert len(results) == 2


async def test_it_works_with_a_real_loop() -> None:
    """Callbacks run in the loop's thread; a loop that is gone does no harm."""
    store = MemoryStore(EPOCH)
    given = Given(store, lambda store: store)
    running = asyncio.get_running_loop()
    real = Writer(store, post=running.call_soon_threadsafe, on_failure=pytest.fail)
    done: asyncio.Future[tuple[Result, int]] = running.create_future()
    real.submit(given.sign_in("ann"), lambda result: done.set_result((result, threading.get_ident())))
    result, thread = await done
    assert (result.device, thread) == (device("ann"), threading.get_ident())  # type: ignore[union-attr]
    await asyncio.to_thread(real.close)

    closed = asyncio.new_event_loop()
    closed.close()
    orphan = Writer(store, post=closed.call_soon_threadsafe, on_failure=pytest.fail)
    orphan.submit(given.sign_in("bob"), pytest.fail)
    await asyncio.to_thread(orphan.close)
    assert len(store.devices("bob")) == 1


def test_a_full_disk_is_waited_for(
    loop: Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is answered until there is room; then everybody is, in order. Said once, and once when it is
    over; reads go on."""
    monkeypatch.setattr(writer, "STORE_FULL_RETRY", 0.0)
    results: list[Result] = []
    loop.store.error = DiskFullError("no room left for it")
    loop.say("first", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.say("second", results)
    for _ in range(3):
        loop.store.go.release()
        loop.store.entered.get(timeout=PATIENCE)
    members: list[list[str]] = []
    loop.writer.read(lambda store: store.members(loop.direct), members.append)
    loop.run_one()
    assert members == [["ann", "bob"]]
    assert results == []
    loop.store.error = None
    loop.store.go.release(2)
    loop.run_one()
    loop.run_one()
    assert [r.seq for r in results if isinstance(r, Appended)] == [1, 2]
    assert loop.failures == []
    assert [record.getMessage() for record in caplog.records] == [
        "! no room left for it; until then nothing is stored, and nobody can sign in or open a conversation",
        "= there is room again: messages are stored",
    ]


def test_the_end_does_not_wait_for_room(loop: Loop) -> None:
    """What could not be stored was never answered, and the failure is reported."""
    results: list[Result] = []
    loop.store.error = DiskFullError("no room left for it")
    loop.say("first", results)
    loop.store.entered.get(timeout=PATIENCE)
    loop.store.go.release(100)
    loop.writer.close()
    loop.run_one()
    assert results == []
    assert [str(failure) for failure in loop.failures] == ["no room left for it"]
