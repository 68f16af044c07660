"""Power cuts under the real SQLite: `python -m tests.power_cuts [--cuts N | --minutes M] [--jobs J]`.

The server's store and the client's journal run on a disk (`power.py`) that loses power at a random write or
sync, and have to go on from what survived. After each cut: everything acknowledged is there, once; what was
under way is there as a whole or not at all; SQLite finds no damage; the chain over the log holds. Some lives
end by `kill -9` instead, which are counted apart. One seed is five lives on one disk.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

if __package__:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "store")]

import proofs

with proofs.packages():
    import power
    from given import EPOCH, device, everything, key

    from quicmsg.client import journal
    from quicmsg.client.journal_file import JournalFile
    from quicmsg.protocol.frames import Entry
    from quicmsg.store import (
        Append,
        ChangeMember,
        CreateGroup,
        MovePosition,
        OpenConversation,
        Operation,
        SignIn,
        check,
        memory,
    )
    from quicmsg.store.sqlite import SqliteStore

LIVES = 5
KILLS = 0.15
"""Of all lives end by kill -9."""
USERS = ("ann", "bob", "cid")
CONVERSATIONS = ("@ann:bob", "#team")


class Life:
    """Several lives of a program on one disk. Subclasses have the program; `check` raises AssertionError."""

    def __init__(self, directory: Path, seed: int, synchronous: str) -> None:
        self.path = directory / f"{seed}.db"
        self.rng = random.Random(seed)
        name = f"{type(self).__name__}-{seed}-{synchronous}"
        self.disk = power.Disk(name, self.rng, synchronous=synchronous, loses_entries=True)
        self.counted: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        """Live and die; what was counted. Raises AssertionError for what must not be."""
        try:
            for _ in range(LIVES):
                kills = self.rng.random() < KILLS
                # Few writes hit the making of the file, many hit commits and checkpoints.
                self.disk.cut_after(self.rng.choice([1, 5, 40, 200]) + self.rng.randrange(200), kills=kills)
                self.live()
                self.disk.power_on()
                self.check()
                self.counted["kills" if kills else "cuts"] += 1
        finally:
            self.disk.unregister()
        return self.counted

    def live(self) -> None:
        raise NotImplementedError

    def check(self) -> None:
        raise NotImplementedError


class StoreLife(Life):
    """A server's store, beside a reference that knows what was acknowledged."""

    def __init__(self, directory: Path, seed: int, synchronous: str) -> None:
        super().__init__(directory, seed, synchronous)
        self.reference = memory.MemoryStore(EPOCH)
        self.before = self.reference.snapshot()
        self.number = 0

    def live(self) -> None:
        self.before = self.reference.snapshot()
        store = self.open()
        while not self.disk.dead:
            self.before = self.reference.snapshot()
            batch = [self.operation(self.number + n) for n in range(self.rng.choice([1, 3, 20]))]
            self.number += len(batch)
            assert store.execute(batch) == self.reference.execute(batch)
            # Returned before the power went: acknowledged. Else the batch may be there or not, as a whole.
            if not self.disk.dead:
                self.counted["acknowledged"] += len(batch)
                self.counted["commits"] += 1
        store.close()

    def check(self) -> None:
        with closing(self.open()) as store:
            assert check.whole(store._writer, str) == []
            found = list(everything(store, USERS, CONVERSATIONS))
        if found != list(everything(self.reference, USERS, CONVERSATIONS)):
            self.reference.restore(self.before)
            assert found == list(everything(self.reference, USERS, CONVERSATIONS)), (
                "not what was acknowledged"
            )

    def open(self) -> SqliteStore:
        return SqliteStore(self.path, epoch_source=lambda: EPOCH, connect=self.disk.connect)

    def operation(self, number: int) -> Operation:
        rng = self.rng
        user, conversation = rng.choice(USERS), rng.choice(CONVERSATIONS)
        request_id = number.to_bytes(16, "big")
        match rng.choice("SOGJAAAAMM"):
            case "S":
                return SignIn(user, key(user), rng.choice("xy"), "", False, number)
            case "O":
                return OpenConversation(conversation, user, device(user), EPOCH, rng.randrange(9), number)
            case "G":
                return CreateGroup("#team", user, device(user), USERS, True, number, request_id)
            case "J":
                change = rng.choice(["join", "leave"])
                return ChangeMember("#team", user, device(user), user, change, number, request_id)
            case "M":
                read = rng.randrange(99)
                return MovePosition(conversation, user, device(user), rng.randrange(99), read, True)
        body = rng.randbytes(rng.choice([0, 10, 600, 5000]))
        return Append(conversation, user, device(user), request_id, 0, 0, body, number)


class JournalLife(Life):
    """A client's journal, beside what it held after each acknowledged transaction."""

    TABLES = ("account", "outbox", "cancelled", "message", "conversation", "member")

    def __init__(self, directory: Path, seed: int, synchronous: str) -> None:
        super().__init__(directory, seed, synchronous)
        self.acknowledged: list[Any] | None = None
        self.under_way: list[Any] | None = None
        self.queued: set[bytes] = set()
        self.queuing: set[bytes] = set()
        self.number = 0
        self.heads = dict.fromkeys(("@bob", "#team"), 0)

    def live(self) -> None:
        file = self.open()
        if not self.disk.dead:
            self.acknowledged = self.under_way = self.content(file)
        while not self.disk.dead:
            batch = [self.write() for _ in range(self.rng.choice([1, 2, 10]))]
            self.queuing = {write.message_id for write in batch if isinstance(write, journal.Queue)}
            refused = file.apply(batch)
            assert not any(refused), refused
            self.under_way = self.content(file)
            if not self.disk.dead:
                self.acknowledged = self.under_way
                self.queued |= self.queuing
                self.counted["acknowledged"] += len(batch)
                self.counted["commits"] += 1
        file.close()

    def check(self) -> None:
        with closing(self.open()) as file:
            assert file._all("PRAGMA integrity_check") == [("ok",)]
            found = self.content(file)
            places = Counter(
                bytes(message_id)
                for table, where in (("outbox", "1"), ("cancelled", "1"), ("message", "own = 1"))
                for (message_id,) in file._all(f"SELECT message_id FROM {table} WHERE {where}")
            )
        if self.acknowledged is None:
            self.acknowledged = found  # it died while it was made: there is nothing that must be there
        assert found in (self.acknowledged, self.under_way), "not what was acknowledged"
        assert set(places.values()) <= {1}, "a message in two places"
        assert self.queued <= places.keys() <= self.queued | self.queuing, "a message that is nowhere"
        self.queued = set(places)

    def open(self) -> JournalFile:
        return JournalFile(self.path, user="ann", device=device("ann"), connect=self.disk.connect)

    def content(self, file: JournalFile) -> list[Any]:
        return [file._all(f"SELECT * FROM {table} ORDER BY 1, 2") for table in self.TABLES]

    def write(self) -> journal.Write:
        rng = self.rng
        self.number += 1
        name = rng.choice(list(self.heads))
        known = rng.choice(sorted(self.queued)) if self.queued else bytes(16)
        match rng.choice("QQQQSSPPPRXCVUO"):
            case "S":
                self.heads[name] += 1
                return journal.Stored(known, self.heads[name], self.number, EPOCH)
            case "P":
                self.heads[name] += 1
                seq, body = self.heads[name], rng.randbytes(rng.choice([0, 50, 3000]))
                entry = Entry(
                    seq, b"p" + self.number.to_bytes(15, "big"), "bob", device("bob"), 0, 0, body, 5
                )
                return journal.Processed(name, seq, (entry,), EPOCH)
            case "R":
                return journal.ReadUpTo(name, rng.randrange(self.heads[name] + 1), rng.random() < 0.5)
            case "X":
                return journal.Rejected(known, 0x22, "no")
            case "C":
                return journal.Cancelled(known)
            case "V":
                return journal.Requeued(known)
            case "U":
                return journal.Positions(name, (("bob", rng.randrange(9), rng.randrange(9)),))
            case "O":
                return journal.Conversation(name, EPOCH, self.heads[name], 1, stale=False)
        body = rng.randbytes(rng.choice([0, 10, 600, 5000]))
        return journal.Queue(self.number.to_bytes(16, "big"), name, 0, 0, body, self.number)


def run_seeds(seeds: Iterable[int], synchronous: str = "FULL") -> Counter[str]:
    """Each seed once with the store and once with the journal. Raises AssertionError, naming the seed."""
    counted: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="quicmsg-power-") as directory:
        for seed in seeds:
            for life in (StoreLife, JournalLife):
                try:
                    counted += life(Path(directory), seed, synchronous).run()
                except Exception as error:
                    raise AssertionError(f"{life.__name__}, seed {seed}: {error!r}") from error
    return counted


# ---- the command -------------------------------------------------------------------------------

SEEDS_AT_ONCE = 20


def _work(first: int) -> tuple[int, Counter[str], str]:
    logging.disable()  # positions that cannot be are drawn here on purpose
    try:
        return first, run_seeds(range(first, first + SEEDS_AT_ONCE)), ""
    except AssertionError as error:
        return first, Counter(), str(error)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.power_cuts", description=__doc__)
    parser.add_argument(
        "--cuts",
        type=proofs.count,
        default=0,
        help="at least so many: up to the end of 20 seeds (default: 10,000)",
    )
    parser.add_argument("--minutes", type=proofs.minutes, default=0.0, help="as many as there is time for")
    parser.add_argument("--first-seed", type=proofs.whole, default=1)
    parser.add_argument("--seed", type=proofs.whole, help="only this one")
    parser.add_argument("--jobs", type=proofs.count, default=1)
    arguments = parser.parse_args(words)
    if arguments.seed is not None:
        _say(_summary(run_seeds([arguments.seed]), 0.0))
        return 0
    goal = arguments.cuts or (0 if arguments.minutes else 10_000)
    began = time.monotonic()
    total: Counter[str] = Counter()
    failures: list[str] = []
    interrupted = False
    try:
        _cut(arguments, goal, total, failures)
    except KeyboardInterrupt:
        interrupted = True
    for failure in failures:
        seed = failure.partition("seed ")[2].partition(":")[0]
        _say(f"FAILED {failure}\n  again: python -m tests.power_cuts --seed {seed}")
    asked = f" ({goal} cuts were asked for, and are rounded up to {SEEDS_AT_ONCE} seeds)" if goal else ""
    _say(_summary(total, time.monotonic() - began) + f", {len(failures)} failed{asked}")
    if interrupted:
        raise KeyboardInterrupt
    return 1 if failures else 0


def _cut(arguments: argparse.Namespace, goal: int, total: Counter[str], failures: list[str]) -> None:
    began = told = time.monotonic()

    def firsts() -> Iterator[int]:
        first = arguments.first_seed
        while not (goal and total["cuts"] >= goal) and not (
            arguments.minutes and time.monotonic() > began + arguments.minutes * 60
        ):
            yield first
            first += SEEDS_AT_ONCE

    with multiprocessing.get_context("spawn").Pool(arguments.jobs, proofs.deaf) as pool:
        pending: list[Any] = []
        for first in firsts():
            pending.append(pool.apply_async(_work, (first,)))
            if len(pending) > arguments.jobs:
                _, counted, failure = pending.pop(0).get()
                total.update(counted)
                failures += [failure] if failure else []
            if time.monotonic() > told + 10:
                told = time.monotonic()
                _say(_summary(total, told - began))
        for _, counted, failure in (late.get() for late in pending):
            total.update(counted)
            failures += [failure] if failure else []


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _summary(counted: Counter[str], seconds: float) -> str:
    return (
        f"{counted['cuts']} power cuts, {counted['kills']} kills, {counted['commits']} commits, "
        f"{counted['acknowledged']} acknowledged writes, {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(proofs.run(main))
