"""One process per data file: a lock that the kernel lets go when its holder dies, however it dies."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from quicmsg.errors import ConfigurationError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class FileLock:
    """Holds `path` locked until `release`. The file stays: removing it would let two processes lock two
    files of one name."""

    def __init__(self, path: Path, *, purpose: str) -> None:
        """Lock now. Raises ConfigurationError when another process holds it, and says which."""
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            _lock(self._file)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace") if hasattr(os, "pread") else ""
            os.close(self._file)
            raise ConfigurationError(
                f"another process{f' ({holder.strip()})' if holder else ''} uses {purpose}: "
                "stop it, or name another data directory"
            ) from error
        os.ftruncate(self._file, 0)
        os.write(self._file, f"pid {os.getpid()}\n".encode())

    def release(self) -> None:
        """Let others have it."""
        with contextlib.suppress(OSError):
            os.close(self._file)


def _lock(file: int) -> None:
    if sys.platform == "win32":
        # Beyond the text, since Windows keeps others from reading what is locked.
        os.lseek(file, 1024, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)
    else:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
