"""Files that only their owner may read: the key, the journal, the pins, and the lock between processes."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from quicmsg.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # Windows: the journal then relies on SQLite's own exclusive lock
    fcntl = None  # type: ignore[assignment]

HAS_LOCKS = fcntl is not None


def make_directory(path: Path) -> None:
    """Make `path` and its parents, 0700, durably; an existing directory is left as it is.

    Raises ConfigurationError.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    try:
        for directory in reversed(missing):
            with contextlib.suppress(FileExistsError):  # another process was quicker
                directory.mkdir(mode=0o700)
            sync_directory(directory.parent)
        if not path.is_dir():
            raise NotADirectoryError(f"{path} is not a directory")
    except OSError as error:
        raise unusable(path, error) from error


def write_new(path: Path, content: bytes) -> bool:
    """Make a file that nobody else can read, whole or not at all. False: it was there already.

    Raises OSError.
    """
    temporary = _write_temporary(path, content)
    try:
        # A link never replaces, unlike a rename: of two processes that start together one wins, and the
        # loser reads a complete file.
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    sync_directory(path.parent)
    return True


def replace(path: Path, content: bytes) -> None:
    """Write a file that nobody else can read; after a crash it is the old one or the new one.

    Raises OSError.
    """
    temporary = _write_temporary(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def others_may_read(path: Path) -> bool:
    """Whether the mode lets group or others at it. Modes say nothing on Windows: False there."""
    return os.name == "posix" and bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


def lock(path: Path, *, wait: bool = False) -> int | None:
    """Take the lock that `path` stands for and write our process id into it. Returns the descriptor to
    close, which frees it, as does the end of the process; None: another process (or object) has it.

    The file is never deleted: a second process could lock the deleted one. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if HAS_LOCKS:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, b"%d\n" % os.getpid())
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def sync_directory(path: Path) -> None:
    """Make names in `path` durable: without it a power cut can take a new file whose content was synced."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unusable(path: Path, error: OSError) -> ConfigurationError:
    """The error for a person: which path, what the system says, what to do."""
    return ConfigurationError(
        f"{path} cannot be used ({error.strerror or error}): check owner and permissions, "
        "or give --data another directory"
    )


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return temporary
