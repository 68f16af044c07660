"""Copies of a store's file: made beside a running server, put in place of a stopped one's.

A copy is one file, for its owner only, checked before anybody may rely on it, and marked: whoever starts a
server on it begins a new epoch (see `witness.py`), so that no number of the log is given twice in silence.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from quicmsg.errors import ConfigurationError, StorageError
from quicmsg.store import chain, check, schema
from quicmsg.store.lock import FileLock
from quicmsg.store.witness import MARK, RESTORING, make_directory, sync_directory


def backup(source: Path, target: Path, report: check.Report) -> None:
    """Copy the store to a new file; a server may use it meanwhile.

    Raises ConfigurationError (nothing there, a target that exists), StorageError (no room, damage).
    """
    _refuse_existing(target)
    fresh = target.with_name(target.name + ".partial")
    with _written(fresh), check.reading(source) as connection:
        report(f"copying {source}")
        with _enough_room(target, source):
            _copy(connection, fresh)
            _check(fresh, f"{source} is damaged, so there is no backup", report)
        try:
            os.link(fresh, target)  # unlike a rename it replaces nothing
        except FileExistsError:
            _refuse_existing(target)
        except OSError:  # a file system without links
            _refuse_existing(target)
            fresh.rename(target)
    sync_directory(target.parent)


def restore(source: Path, target: Path, report: check.Report) -> Path | None:
    """Put a copy in place of the store of a stopped server; answers where the old files are now.

    Raises ConfigurationError (a server is running, nothing there), StorageError (no room, damage).
    """
    if not source.is_file():
        raise ConfigurationError(f"there is no {source}")
    check.refuse_empty(source)
    lock = _lock(target)
    fresh = target.with_name(target.name + RESTORING)
    was_interrupted = fresh.exists()
    try:
        with _written(fresh):
            report(f"copying {source}")
            with contextlib.closing(_open(source)) as connection:
                schema.refuse_others(connection, source)
                check.refuse_empty(source, connection)
                with _enough_room(target, source):
                    _copy(connection, fresh)
            _check(fresh, f"{source} is damaged, nothing was changed", report)
            aside = _put_aside(target)
            fresh.replace(target)
            sync_directory(target.parent)
            return aside
    except BaseException:
        if was_interrupted:
            fresh.touch(0o600)  # what is there may be half of the old files: still no server starts on it
        raise
    finally:
        lock.release()


def begin_epoch(target: Path) -> None:
    """Let the next start on this store begin a new epoch. Raises ConfigurationError, StorageError."""
    check.refuse_missing(target)
    lock = _lock(target)
    try:
        with _in_words(target), contextlib.closing(schema.connect(target)) as connection:
            check.refuse_empty(target, connection)
            schema.prepare(connection, target)
            connection.execute(MARK)
    finally:
        lock.release()


def accept(target: Path) -> None:
    """Take the messages of a stopped server's store as they now are, for want of a backup: hash them anew.
    What is missing stays missing. Raises ConfigurationError, StorageError (nothing was changed)."""
    lock = _lock(target)
    try:
        with _in_words(target), contextlib.closing(schema.connect(target)) as connection:
            schema.prepare(connection, target)
            found = connection.execute("PRAGMA integrity_check(1)").fetchall()[0][0]
            if found != "ok":
                raise StorageError(f"{target} cannot be accepted, its pages are damaged: {found}")
            connection.execute("BEGIN IMMEDIATE")
            chain.compute_all(connection)
            connection.execute("COMMIT")
    finally:
        lock.release()


# ---- private -----------------------------------------------------------------------------------


def _lock(target: Path) -> FileLock:
    try:
        make_directory(target.parent)  # of a new machine
        return FileLock(target.with_name(target.name + ".lock"), purpose=str(target))
    except OSError as error:
        raise ConfigurationError(f"cannot use {target}: {error.strerror}") from error


def _open(path: Path) -> sqlite3.Connection:
    """To be read only. A file without a log is all there is: SQLite is told to make none beside it."""
    alone = not any(path.with_name(path.name + end).exists() for end in ("-wal", "-journal"))
    how = "mode=ro&immutable=1" if alone else "mode=ro"
    with _in_words(path):
        return sqlite3.connect(f"{path.resolve().as_uri()}?{how}", uri=True, isolation_level=None)


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise ConfigurationError(f"{target} exists, and backups are never overwritten: choose another name")


@contextlib.contextmanager
def _in_words(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"cannot write {error.filename or path}: {error.strerror or error}") from error
    except schema.ERRORS as error:
        raise StorageError(f"cannot read or write {path}: {error}") from error


@contextlib.contextmanager
def _enough_room(target: Path, source: Path) -> Iterator[None]:
    """It is the copy's disk that is full, and not the file that is bad."""
    try:
        yield
    except (OSError, *schema.ERRORS) as error:
        number = getattr(error, "errno", None)
        if number not in schema.NO_ROOM and not (
            isinstance(error, sqlite3.Error) and schema.lacks_room(error, target.parent)
        ):
            raise
        raise StorageError(
            f"no room left for {target}: {source} and its log have {_size(source) / 1e6:.1f} MB; make room "
            "on the disk of the copy"
        ) from error


def _size(path: Path) -> int:
    names = (path, path.with_name(path.name + "-wal"))
    return sum(name.stat().st_size for name in names if name.exists())


@contextlib.contextmanager
def _written(fresh: Path) -> Iterator[None]:
    """A file that is not ready yet, and goes away unless it was moved to its place."""
    with _in_words(fresh):
        fresh.unlink(missing_ok=True)  # of an earlier attempt that was killed
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        try:
            yield
        finally:
            for end in ("", "-wal", "-shm", "-journal"):  # SQLite cannot always remove its own
                fresh.with_name(fresh.name + end).unlink(missing_ok=True)


def _copy(connection: schema.Connection, fresh: Path) -> None:
    """All of the database into the new file, brought to the newest schema, marked, and on the disk."""
    assert isinstance(connection, sqlite3.Connection)
    with contextlib.closing(schema.connect(fresh)) as copy:
        assert isinstance(copy, sqlite3.Connection)
        connection.backup(copy)
        schema.prepare(copy, fresh)
        copy.execute(MARK)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    with fresh.open("rb+") as file:
        os.fsync(file.fileno())


def _check(fresh: Path, otherwise: str, report: check.Report) -> None:
    with check.reading(fresh) as connection:
        damages = check.whole(connection, report)
    if damages:
        raise StorageError(f"{otherwise}: {damages[0]} (quicmsg fsck names all {len(damages)})")


def _put_aside(target: Path) -> Path | None:
    """Give the old files another name, as they are: who wants to save something needs database and log.
    Between this and its end a restore leaves half of them; no server starts on that (see SqliteStore)."""
    if not target.exists():
        return None
    aside = target.with_name(f"{target.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    log = target.with_name(target.name + "-wal")
    _refuse_existing(aside)
    for name, to in ((target, aside), (log, aside.with_name(aside.name + "-wal"))):
        if name.exists():
            try:
                os.link(name, to)
            except OSError:  # a file system without links
                shutil.copyfile(name, to)
    # A log that stayed would be taken for that of the new file.
    log.unlink(missing_ok=True)
    target.with_name(target.name + "-shm").unlink(missing_ok=True)
    sync_directory(target.parent)
    return aside
