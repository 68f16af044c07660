"""A server whose fsync fails once a file is there: `failing_fsync.py TRIGGER [words of quicmsg serve]`.

The VFS is SQLite's own with one call replaced; what fails, and each sync that is tried after it during a
transaction, is written into the trigger file.
"""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path
from typing import Any

import apsw

import quicmsg.server
from quicmsg.server.__main__ import serve
from quicmsg.store.sqlite import SqliteStore

trigger = Path(sys.argv.pop(1))
statement = ""


class FailingFile(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int]) -> None:
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if not trigger.exists():
            super().xSync(flags)
        elif statement:
            with trigger.open("a") as file:
                file.write(f"{statement}: sync failed\n")
            raise apsw.IOError("the disk does not answer")


class FailingDisk(apsw.VFS):
    def __init__(self) -> None:
        super().__init__("failing", base="")

    def xOpen(self, name: Any, flags: list[int]) -> FailingFile:  # noqa: N802
        return FailingFile(name, flags)


class Connection:
    """apsw with the manners of sqlite3, as far as the store needs them."""

    def __init__(self, path: Path) -> None:
        self._connection = apsw.Connection(str(path), vfs="failing")

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        global statement
        statement = sql
        try:
            return self._connection.execute(sql, tuple(parameters))
        except apsw.Error as error:
            failed = sqlite3.OperationalError(str(error))
            failed.sqlite_errorcode = apsw.SQLITE_IOERR
            raise failed from error
        finally:
            statement = ""

    def close(self) -> None:
        self._connection.close()


def open_store(path: Path, *, epoch_source: Any) -> SqliteStore:
    return SqliteStore(path, epoch_source=epoch_source, connect=Connection)


if __name__ == "__main__":
    disk = FailingDisk()
    quicmsg.server.SqliteStore = open_store
    serve()
