"""Named points of the product at which a process kills itself: put around the product's own functions from
outside, so that nothing in the product knows of them.

A `Trap` counts how often its point is passed, and at the given passage the process is gone: SIGKILL, in the
middle of whatever all of its threads are doing.
"""

from __future__ import annotations

import functools
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quicmsg import limits
from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.client.journal_file import JournalFile
from quicmsg.client.journal_writes import Processed, Queue, Stored
from quicmsg.server.hub import Hub
from quicmsg.store import schema
from quicmsg.store.sqlite import SqliteStore
from quicmsg.store.sqlite_tables import Tables
from quicmsg.store.writer import Writer
from quicmsg.transport.link import Link

SERVER = {
    "sign-in asked": "a sign-in was received, and nothing is written",
    "sign-in stored": "a sign-in is committed, and not answered",
    "before BEGIN": "a batch of operations is taken up",
    "after BEGIN": "a transaction has begun",
    "statements done": "all statements of a transaction were run",
    "before COMMIT": "all is ready for the commit",
    "in COMMIT": "some moment of the commit, checkpoint included",
    "committed": "the commit has returned, nobody was told",
    "answers waiting": "the answers are back in the loop, nobody was told",
    "answers given": "the answers are frames, nothing was sent",
    "before flush": "frames are about to become datagrams",
}
"""Where the server dies."""
SENDER = {
    "before BEGIN": "writes of the journal are taken up",
    "before COMMIT": "all is ready for the commit",
    "in COMMIT": "some moment of the commit",
    "committed": "the commit has returned, nobody was told",
    "Queue asked": "the program has sent, and nothing is on the disk",
    "Queue committed": "it is in the outbox on the disk, and not on the wire",
    "Stored asked": "the server has it, and the journal does not know",
    "Stored committed": "the journal knows, and the program was not told",
    "before flush": "frames are about to become datagrams",
}
"""Where the sending client dies."""
RECIPIENT = {
    "before BEGIN": "writes of the journal are taken up",
    "before COMMIT": "all is ready for the commit",
    "in COMMIT": "some moment of the commit",
    "committed": "the commit has returned, nobody was told",
    "shown": "the program has the message, and has not asked for the next",
    "processed": "it has asked, and nothing is on the disk",
    "Processed asked": "the journal is about to write that it was processed",
    "Processed committed": "it is on the disk, and not acknowledged",
    "before flush": "frames are about to become datagrams",
}
"""Where the receiving client dies."""
WRITES = {"Queue": Queue, "Stored": Stored, "Processed": Processed}
CHECKPOINT_PAGES = 8
"""So that most commits come with a checkpoint; the product's own bound would be met once in a minute."""
CONNECT_TIMEOUT = 1.0
RECONNECT_MAX = 0.3
"""Seconds; so that a server that dies at each sign-in is not left alone for long."""


@dataclass
class Trap:
    """Kills this process at the `passage`-th time that `point` is passed. `delay`: for a point that is a
    stretch of time, seconds after its beginning."""

    point: str
    passage: int
    delay: float = 0.0

    def at(self, point: str) -> None:
        """The process is at this point now."""
        if point == self.point:
            self.passage -= 1
            if self.passage == 0:
                die()

    def into(self, point: str) -> None:
        """The process enters this stretch: it dies on its way through."""
        if point == self.point:
            self.passage -= 1
            if self.passage == 0:
                threading.Thread(target=self._die_later, daemon=True).start()

    def _die_later(self) -> None:
        time.sleep(self.delay)
        die()


def die() -> None:
    """kill -9, by one's own hand."""
    os.kill(os.getpid(), signal.SIGKILL)


def arm_server(trap: Trap) -> None:
    """Put the trap into a server that is about to start in this process."""
    schema.STORE_CHECKPOINT_PAGES = CHECKPOINT_PAGES  # which the store sets itself, later
    _around(Hub, "_sign_in", trap, before="sign-in asked")
    _around(Hub, "_welcome", trap, before="sign-in stored")
    _around(Tables, "flush", trap, after="statements done")
    _around(Writer, "_deliver", trap, before="answers waiting", after="answers given")
    _around(Link, "flush", trap, before="before flush")
    defaults = SqliteStore.__init__.__kwdefaults__
    defaults["connect"] = _watched(defaults["connect"], trap)


def arm_client(trap: Trap) -> None:
    """Put the trap into a client that is about to start in this process."""
    limits.RECONNECT_MAX = RECONNECT_MAX  # type: ignore[misc]
    limits.CONNECT_TIMEOUT = CONNECT_TIMEOUT  # type: ignore[misc]
    _around(Bookkeeper, "processed", trap, before="processed")
    _around(Link, "flush", trap, before="before flush")
    defaults = JournalFile.__init__.__kwdefaults__
    defaults["connect"] = _watched(defaults["connect"], trap)
    apply = JournalFile.apply

    @functools.wraps(apply)
    def watched(file: JournalFile, writes: Any, *more: Any) -> Any:
        names = [name for name, kind in WRITES.items() if any(isinstance(write, kind) for write in writes)]
        for name in names:
            trap.at(f"{name} asked")
        result = apply(file, writes, *more)
        for name in names:
            trap.at(f"{name} committed")
        return result

    JournalFile.apply = watched  # type: ignore[method-assign]


def _around(owner: Any, name: str, trap: Trap, *, before: str = "", after: str = "") -> None:
    function = owner.__dict__[name]

    @functools.wraps(function)
    def watched(*args: Any, **options: Any) -> Any:
        trap.at(before)
        result = function(*args, **options)
        trap.at(after)
        return result

    setattr(owner, name, watched)


def _watched(connect: Callable[[Path], Any], trap: Trap) -> Callable[[Path], Any]:
    def connected(path: Path) -> _Watched:
        connection = connect(path)
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        return _Watched(connection, trap)

    return connected


class _Watched:
    """A connection that passes the points of a transaction."""

    def __init__(self, connection: sqlite3.Connection, trap: Trap) -> None:
        self._connection = connection
        self._trap = trap

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        match sql:
            case "BEGIN IMMEDIATE":
                self._trap.at("before BEGIN")
                result = self._connection.execute(sql)
                self._trap.at("after BEGIN")
                return result
            case "COMMIT":
                self._trap.at("before COMMIT")
                self._trap.into("in COMMIT")
                result = self._connection.execute(sql)
                self._trap.at("committed")
                return result
        return self._connection.execute(sql, parameters)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
