"""The journal behind its thread: group commit, order, callbacks, and what a `kill -9` leaves."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from quicmsg.client import journal as journal_module
from quicmsg.client.journal import Cancelled, Journal, JournalFile, Queue, Stored, Write
from quicmsg.errors import ConfigurationError, ErrorCode, QuicmsgError, RefusedError, StorageError

DEVICE = b"d" * 16


def queue(number: int, body: bytes = b"text") -> Queue:
    return Queue(number.to_bytes(16, "big"), "@bob", 0, 0, body, number)


async def open_journal(path: Path) -> Journal:
    return await Journal.open(path, user="alice", device=DEVICE)


async def numbers(journal: Journal) -> list[int]:
    rows = await journal.read(JournalFile.outbox)
    return [int.from_bytes(row.message_id, "big") for row in rows]


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = await open_journal(tmp_path / "journal.db")
    yield opened
    await opened.close()


class Busy:
    """Keeps the journal's thread busy until released, so that what is asked meanwhile queues up."""

    def __init__(self, journal: Journal) -> None:
        self._release = threading.Event()
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        self.started = started.wait

        def hold(_file: JournalFile) -> None:
            loop.call_soon_threadsafe(started.set)
            assert self._release.wait(30)

        self._task = asyncio.create_task(journal.read(hold))

    async def release(self) -> None:
        self._release.set()
        await self._task


@pytest.fixture
def transactions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the transactions that were committed."""
    sizes: list[int] = []
    apply = JournalFile.apply

    def counted(self: JournalFile, writes: Sequence[Write], *before: Any) -> list[RefusedError | None]:
        sizes.append(len(writes))
        return apply(self, writes, *before)

    monkeypatch.setattr(JournalFile, "apply", counted)
    return sizes


async def test_what_queues_up_is_one_transaction_in_order(journal: Journal, transactions: list[int]) -> None:
    """A hundred senders at once cost one fsync, and go out in the order in which they asked."""
    busy = Busy(journal)
    await busy.started()
    tasks = [asyncio.create_task(journal.write(queue(number))) for number in range(100)]
    await asyncio.sleep(0)
    await busy.release()
    await asyncio.gather(*tasks)
    assert transactions == [100]
    assert await numbers(journal) == list(range(100))


async def test_question_has_its_place_among_the_writes(journal: Journal, transactions: list[int]) -> None:
    """It sees what was asked before it and nothing of what came later, though all is one transaction:
    otherwise "delivered" could be told of a message before "stored"."""
    busy = Busy(journal)
    await busy.started()
    first = asyncio.create_task(journal.write(queue(1)))
    await asyncio.sleep(0)
    between = asyncio.create_task(journal.read(JournalFile.count_outbox))
    await asyncio.sleep(0)
    second = asyncio.create_task(journal.write(queue(2)))
    await asyncio.sleep(0)
    after = asyncio.create_task(journal.read(JournalFile.count_outbox))
    await asyncio.sleep(0)
    await busy.release()
    await asyncio.gather(first, second)
    assert (await between, await after) == (1, 2)
    assert transactions == [2]


async def test_transaction_is_bounded(
    journal: Journal, transactions: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long queue is cut into batches, so that one answer never waits for all of it."""
    monkeypatch.setattr(journal_module, "COMMIT_BATCH_MAX", 8)
    busy = Busy(journal)
    await busy.started()
    tasks = [asyncio.create_task(journal.write(queue(number))) for number in range(20)]
    await asyncio.sleep(0)
    await busy.release()
    await asyncio.gather(*tasks)
    assert transactions == [8, 8, 4]


async def test_refusal_reaches_its_caller_only(journal: Journal) -> None:
    """A conflict of one program's message is nobody else's trouble."""
    await journal.write(queue(1))
    busy = Busy(journal)
    await busy.started()
    calls = ((queue(2),), (queue(4), queue(1, b"other")), (queue(3),))
    tasks = [asyncio.create_task(journal.write(*writes)) for writes in calls]
    await asyncio.sleep(0)
    await busy.release()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RefusedError, type(None)]
    refused = results[1]
    assert isinstance(refused, RefusedError)
    assert refused.code is ErrorCode.CONFLICT
    assert await numbers(journal) == [1, 2, 4, 3]


async def test_callbacks_come_in_order_on_the_loop(journal: Journal) -> None:
    """What the protocol posts is answered in its order, on the loop's thread, and a failing callback harms
    no other."""
    answers: list[tuple[int, bool, QuicmsgError | None]] = []
    problems: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: problems.append(context))
    here = threading.get_ident()

    def failing(_error: QuicmsgError | None) -> None:
        raise ValueError("a bug of the program")

    journal.post(queue(1), failing)
    for number in (2, 3):
        journal.post(
            queue(number),
            lambda error, number=number: answers.append((number, threading.get_ident() == here, error)),
        )
    journal.post(Cancelled(queue(2).message_id))
    assert await numbers(journal) == [1, 3]
    assert answers == [(2, True, None), (3, True, None)]
    assert [str(problem["exception"]) for problem in problems] == ["a bug of the program"]


async def test_cancelled_writer_is_still_written(journal: Journal) -> None:
    """A program that gives up waiting has not unsent its message: the outbox says what is true."""
    problems: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: problems.append(context))
    busy = Busy(journal)
    await busy.started()
    task = asyncio.create_task(journal.write(queue(1)))
    await asyncio.sleep(0)
    task.cancel()
    await busy.release()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await numbers(journal) == [1]
    assert problems == []


async def test_writers_wait_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow disk holds the writers back, in order, instead of filling the memory."""
    monkeypatch.setattr(journal_module, "JOURNAL_QUEUE_MAX", 2)
    journal = await open_journal(tmp_path / "journal.db")
    busy = Busy(journal)
    await busy.started()
    tasks = [asyncio.create_task(journal.write(queue(number))) for number in range(6)]
    await asyncio.sleep(0)
    assert len(journal._requests) == 2
    await busy.release()
    await asyncio.gather(*tasks)
    assert await numbers(journal) == list(range(6))
    await journal.close()


async def test_failing_disk_is_said_to_everybody_who_waits(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is confirmed that is not on the disk, and the thread lives on to say so."""

    def broken(_self: JournalFile, _writes: Sequence[Write], *_before: Any) -> list[RefusedError | None]:
        raise StorageError("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(JournalFile, "apply", broken)
        errors: list[QuicmsgError | None] = []
        journal.post(queue(1), errors.append)
        results = await asyncio.gather(
            journal.write(queue(2)), journal.write(queue(3)), return_exceptions=True
        )
        assert [str(error) for error in (*errors, *results)] == ["disk I/O error"] * 3
    await journal.write(queue(4))
    assert await numbers(journal) == [4]


async def test_close_finishes_what_was_asked_and_refuses_the_rest(tmp_path: Path) -> None:
    """Closing loses nothing and leaves no thread; afterwards the answer is an error, not silence."""
    path = tmp_path / "journal.db"
    journal = await open_journal(path)
    answers: list[QuicmsgError | None] = []
    for number in range(5):
        journal.post(queue(number), answers.append)
    await journal.close()
    await journal.close()
    assert answers == [None] * 5
    assert not journal._thread.is_alive()
    with pytest.raises(StorageError, match="is closed"):
        await journal.write(queue(9))
    with pytest.raises(StorageError, match="is closed"):
        await journal.read(JournalFile.outbox)
    again = await open_journal(path)
    assert await numbers(again) == list(range(5))
    await again.close()


async def test_directory_in_use_is_an_error_of_open(journal: Journal) -> None:
    """A second client is told so at once, and leaves nothing running."""
    threads = threading.active_count()
    with pytest.raises(ConfigurationError, match="another quicmsg client"):
        await open_journal(journal.path)
    assert threading.active_count() == threads


async def test_open_can_be_cancelled(tmp_path: Path) -> None:
    """Giving up while it opens leaves neither thread nor lock behind."""
    task = asyncio.create_task(open_journal(tmp_path / "journal.db"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await (await open_journal(tmp_path / "journal.db")).close()


CHILD = """
import asyncio, sys
from pathlib import Path
from quicmsg.client.journal import Journal, Queue, Stored

async def main(path, first):
    journal = await Journal.open(Path(path), user="alice", device=b"d" * 16)

    async def send(number):
        message_id = number.to_bytes(16, "big")
        await journal.write(Queue(message_id, "@bob", 0, 0, b"x" * (number % 3000), number))
        print("queued", number, flush=True)
        if number % 3 == 0:
            await journal.write(Stored(message_id, number + 1, number, 7))
            print("stored", number, flush=True)

    while True:
        await asyncio.gather(*(send(number) for number in range(first, first + 20)))
        first += 20

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


@pytest.mark.slow
def test_nothing_confirmed_is_lost_to_kill_9(tmp_path: Path) -> None:
    """Whatever the journal confirmed is there after `kill -9`, in order, in one place, and it opens."""
    path = tmp_path / "journal.db"
    queued: set[int] = set()
    stored: set[int] = set()
    first = 0
    for lines_wanted in (1, 90, 333):
        with subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(first)], stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdout is not None
            lines = [child.stdout.readline() for _ in range(lines_wanted)]
            child.send_signal(signal.SIGKILL)
            lines += child.stdout.readlines()
        for what, number in (line.split() for line in lines if line.endswith("\n")):
            (queued if what == "queued" else stored).add(int(number))

        file = JournalFile(path, user="alice", device=DEVICE)
        waiting = [int.from_bytes(row.message_id, "big") for row in file.outbox()]
        own = {int.from_bytes(number, "big") for number, _ in file.own_between("@bob", 0, 10**9)}
        assert waiting == sorted(waiting)
        assert queued <= own | set(waiting)
        assert stored <= own
        assert not own & set(waiting)
        assert file._all("PRAGMA integrity_check") == [("ok",)]
        first = max([*waiting, *own]) + 1
        file.close()
    assert len(queued) > 100
    assert stored


async def test_one_call_is_one_transaction(journal: Journal, transactions: list[int]) -> None:
    """Entries and the position over them are never apart on the disk."""
    await journal.write(queue(1), Stored(queue(1).message_id, 1, 5, 7), queue(2))
    await journal.write()
    assert transactions == [3]
    assert await numbers(journal) == [2]
