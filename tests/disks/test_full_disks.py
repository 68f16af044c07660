"""A disk that is full before a server starts, or before a backup is written: it is the disk that is named."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from disks import needs_mounts, on_mount, refused, server_words

from quicmsg.store import SignIn
from quicmsg.store.sqlite import SqliteStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120), needs_mounts]

STOPPED_AND_FULL = """
import os, pathlib, sys
from quicmsg.store.sqlite import SqliteStore
data, free, *command = sys.argv[1:]
SqliteStore(pathlib.Path(data) / "quicmsg.db", epoch_source=lambda: 7).close()
with open(pathlib.Path(data).parent / "filler", "wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        filler.truncate(filler.tell() - int(free))
os.execv(command[0], command)
"""
BACKUP = '"$@"; status=$?; ls disk >&2; exit $status'


@pytest.mark.parametrize("free", [0, 4096, 16_384, 28_672])
def test_a_server_that_was_stopped_does_not_start_on_a_full_disk(tmp_path: Path, free: int) -> None:
    """Its database is good: nobody is told to put a backup in its place."""
    (tmp_path / "disk").mkdir()
    data = tmp_path / "disk" / "data"
    server = [sys.executable, "-m", "quicmsg.server", *server_words(tmp_path, data)]
    command = [sys.executable, "-c", STOPPED_AND_FULL, str(data), str(free), *server]
    line = refused(tmp_path, on_mount(tmp_path, "size=1m", command))
    assert re.search(r"(no room left for|No space left on device).*make room on that disk", line), line
    assert "backup" not in line


def test_a_backup_onto_a_full_disk_names_that_disk(tmp_path: Path) -> None:
    """And leaves nothing behind there; the store is not what is at fault."""
    (tmp_path / "disk").mkdir()
    store = SqliteStore(tmp_path / "data" / "quicmsg.db", epoch_source=lambda: 7)
    for start in range(0, 1000, 100):
        store.execute([SignIn(f"ann{n}", b"%032d" % n, "", "", False, 1) for n in range(start, start + 100)])
    store.close()
    size = (tmp_path / "data" / "quicmsg.db").stat().st_size
    # With the last one there is room for the copy, and none for the files that SQLite makes beside it.
    for room in (16_384, size // 2, size + 8192):
        command = [sys.executable, "-m", "quicmsg", "backup", "disk/copy.db", "--data", "data"]
        done = subprocess.run(
            on_mount(tmp_path, f"size={room}", ["sh", "-c", BACKUP, "sh", *command]),
            capture_output=True, text=True, timeout=40, cwd=tmp_path, check=False,
        )  # fmt: skip
        assert done.returncode == 1, done
        assert done.stderr.startswith("= copying")
        *_, line = done.stderr.splitlines()
        words = (
            r"quicmsg: no room left for disk/copy\.db: data/quicmsg\.db and its log have 0\.\d MB; make room"
        )
        assert re.match(words, line), f"{line} should be the last, and no file follow it"
