"""A disk that loses power, below a real SQLite: what was not synced survives in parts, or not at all.

Each file has what is on the platter, and what readers see. A write waits until the file is synced; when
the power goes, every 512-byte sector of every waiting write survives with a chance of one half. When only
the process is killed, everything survives that it has written so far: the kernel has it (and a power cut that
comes next may still take it).

With `loses_entries` a power cut may also take the names of files that were made, and bring back those that
were removed, until their directory is synced: as SQLite's unix VFS does it, with the first sync of a new log
(one directory holds everything here), and with a removal that asks for it. Not modelled: a disk that
lies about a sync, writes that reach other places, and what other systems than Linux do about directories.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw

SECTOR = 512


@dataclass
class Content:
    """One file. `waiting` has writes (offset, data) and truncations (size, None)."""

    durable: bytes = b""
    cache: bytearray = field(default_factory=bytearray)
    waiting: list[tuple[int, bytes | None]] = field(default_factory=list)
    named: bool = True  # its name is on the platter

    def copy(self) -> Content:
        return Content(self.durable, bytearray(self.cache), list(self.waiting), self.named)


class Disk:
    """All files; `cut_after(n)` lets the power go (or kills) at the n-th write, truncation or sync from now.

    With `marked` each commit writes its number, `commits`, in its own transaction: `read_mark` says
    afterwards which was the last that survived.
    """

    def __init__(
        self, name: str, rng: random.Random, *, synchronous: str = "FULL", loses_entries: bool = False
    ) -> None:
        self.files: dict[str, Content] = {}
        self.dead = False
        self.synchronous = synchronous
        self.loses_entries = loses_entries
        self.marked = False
        self.commits = 0
        self._rng = rng
        self._countdown = 0
        self._kills = False
        self._survivors: dict[str, Content] = {}
        self._removed: dict[str, Content] = {}
        self._vfs = _Vfs(name, self)
        self._connection: _Connection | None = None

    def connect(self, path: Path) -> _Connection:
        """The one connection (there is no shared memory here, so the reader is the writer)."""
        if self._connection is None or self._connection.closed:
            self._connection = _Connection(path, self)
        return self._connection

    def cut_after(self, count: int, *, kills: bool = False) -> None:
        """`kills`: not the power goes then, but the process is killed."""
        self._countdown = count
        self._kills = kills

    def cut(self, *, kills: bool = False) -> None:
        """The power goes now, or the process is killed."""
        if not self.dead:
            self._kills = kills
            self._lose()

    def power_on(self) -> None:
        """Have again what survived; what the dead process did after its death never happened. Its connection
        must be closed by now."""
        if not self.dead:
            self._lose()
        self.files, self.dead, self._countdown, self._kills = self._survivors, False, 0, False
        self._removed.clear()

    def copy(self) -> dict[str, Content]:
        """A backup of all files; `files` may be set to it while nothing is open."""
        return {name: content.copy() for name, content in self.files.items()}

    def read_mark(self) -> int:
        """The number of the last commit that is here; 0: none was marked."""
        assert self._connection is not None
        rows = self._connection.execute("SELECT number FROM commit_mark").fetchall()
        return rows[0][0] if rows else 0

    def mark_commits(self) -> None:
        """From now on each commit is marked; a connection must be open."""
        assert self._connection is not None
        self._connection.execute("CREATE TABLE IF NOT EXISTS commit_mark (id INTEGER PRIMARY KEY, number)")
        self.marked = True

    def unregister(self) -> None:
        self._vfs.unregister()

    @property
    def vfs_name(self) -> str:
        return self._vfs.name

    def tick(self) -> None:
        """Something is about to reach the disk, or is on its way."""
        self._countdown -= 1
        if self._countdown == 0 and not self.dead:
            self._lose()

    def open(self, name: str) -> Content:
        """The file of this name, made if it is not there."""
        if name not in self.files:
            self.files[name] = Content(named=not self.loses_entries)
        return self.files[name]

    def remove(self, name: str) -> None:
        removed = self.files.pop(name, None)
        if removed is not None and removed.named and self.loses_entries:
            self._removed[name] = removed

    def sync_directory(self) -> None:
        """From now on names are as they are."""
        if not self.dead:
            self._removed.clear()
            for content in self.files.values():
                content.named = True

    def _lose(self) -> None:
        self.dead = True
        if self._kills:
            self._survivors = {name: content.copy() for name, content in self.files.items()}
            return
        back = {name: gone for name, gone in self._removed.items() if self._rng.random() < 0.5}
        there = {
            name: content for name, content in self.files.items() if content.named or self._rng.random() < 0.5
        }
        self._survivors = {name: self._after_cut(content) for name, content in (back | there).items()}

    def _after_cut(self, content: Content) -> Content:
        kept = bytearray(content.durable)
        for offset, data in content.waiting:
            if data is None:
                if self._rng.random() < 0.5:
                    del kept[offset:]
                continue
            for start in range(0, len(data), SECTOR):
                if self._rng.random() < 0.5:
                    _write(kept, offset + start, data[start : start + SECTOR])
        return Content(bytes(kept), bytearray(kept))


def _write(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class _File:
    """What SQLite asks of an open file; locks are for several processes, and there is one."""

    def __init__(self, disk: Disk, content: Content, *, syncs_directory: bool) -> None:
        self._disk = disk
        self._content = content
        self._syncs_directory = syncs_directory

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802
        return bytes(self._content.cache[offset : offset + amount])

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        _write(self._content.cache, offset, data)
        self._content.waiting.append((offset, bytes(data)))
        self._disk.tick()

    def xTruncate(self, size: int) -> None:  # noqa: N802
        del self._content.cache[size:]
        self._content.waiting.append((size, None))
        self._disk.tick()

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.tick()
        self._content.durable = bytes(self._content.cache)
        self._content.waiting.clear()
        if self._syncs_directory:
            self._syncs_directory = False
            self._disk.sync_directory()

    def xFileSize(self) -> int:  # noqa: N802
        return len(self._content.cache)

    def xFileControl(self, op: int, pointer: int) -> bool:  # noqa: N802
        return False

    def xClose(self) -> None:  # noqa: N802
        pass

    def xLock(self, level: int) -> None:  # noqa: N802
        pass

    def xUnlock(self, level: int) -> None:  # noqa: N802
        pass

    def xCheckReservedLock(self) -> bool:  # noqa: N802
        return False

    def xSectorSize(self) -> int:  # noqa: N802
        return SECTOR

    def xDeviceCharacteristics(self) -> int:  # noqa: N802
        return 0


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name, base="")
        self.name = name
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        key = name.filename() if isinstance(name, apsw.URIFilename) else name
        is_log = bool(flags[0] & (apsw.SQLITE_OPEN_WAL | apsw.SQLITE_OPEN_MAIN_JOURNAL))
        content = Content() if key is None else self._disk.open(key)
        flags[1] = flags[0]
        makes = bool(flags[0] & apsw.SQLITE_OPEN_CREATE)
        return _File(self._disk, content, syncs_directory=is_log and makes)

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        self._disk.remove(name)
        if self._disk.dead:
            return
        self._disk.tick()
        if sync_directory:
            self._disk.sync_directory()

    def xAccess(self, name: str, flags: int) -> bool:  # noqa: N802
        return name in self._disk.files

    def xFullPathname(self, name: str) -> str:  # noqa: N802
        return name


class _Rows:
    """What a statement gives back, with sqlite3's `rowcount`."""

    __slots__ = ("_cursor", "rowcount")

    def __init__(self, cursor: Any, rowcount: int) -> None:
        self._cursor = cursor
        self.rowcount = rowcount

    def fetchall(self) -> list[Any]:
        rows: list[Any] = self._cursor.fetchall()
        return rows

    def fetchone(self) -> Any:
        return self._cursor.fetchone()

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cursor)


class _Connection:
    """An apsw connection with the manners of sqlite3, as far as store and journal need them."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self.closed = False
        self._disk = disk
        self._connection = apsw.Connection(str(path), vfs=disk.vfs_name)
        self.execute("PRAGMA locking_mode = EXCLUSIVE")
        self.execute("PRAGMA wal_autocheckpoint")

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        if sql.startswith("PRAGMA"):
            sql = self._adapted(sql)
        elif sql == "COMMIT" and self._disk.marked:
            self._disk.commits += 1
            self._connection.execute("REPLACE INTO commit_mark VALUES (1, ?)", (self._disk.commits,))
        try:
            cursor = self._connection.execute(sql, tuple(parameters))
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
        return _Rows(cursor, self._connection.changes())

    def close(self) -> None:
        self.closed = True
        self._connection.close()

    def _adapted(self, sql: str) -> str:
        if sql.startswith("PRAGMA wal_autocheckpoint"):
            return "PRAGMA wal_autocheckpoint = 20"  # so that checkpoints are cut as well
        if sql.startswith("PRAGMA query_only"):
            return "SELECT 1 WHERE 0"  # the reader is the writer
        if sql == "PRAGMA synchronous = FULL":
            return f"PRAGMA synchronous = {self._disk.synchronous}"
        return sql
