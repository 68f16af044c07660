"""How fast is the store? Prints one JSON line: appends per second and CPU time per append, by batch size.

    python benchmarks/store.py [--directory DIR] [--seconds S] [--body BYTES]

SQLite with synchronous=FULL, in DIR (a temporary directory there); 100 conversations in turn.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sqlite3
import subprocess
import tempfile
import time
from pathlib import Path

from quicmsg.store import Append, OpenConversation, SignIn, rules
from quicmsg.store.sqlite import SqliteStore

BATCHES = (1, 10, 100)
CONVERSATIONS = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--directory", default=".", help="on the disk to be measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each batch size")
    parser.add_argument("--body", type=int, default=100, help="bytes of one message")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory, prefix="quicmsg-bench-") as folder:
        store = SqliteStore(Path(folder) / "server.db", epoch_source=lambda: 1)
        conversations = prepare(store)
        result = {
            "benchmark": "store",
            "commit": commit(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
            "sqlite": f"{sqlite3.sqlite_version} WAL FULL",
            "body": arguments.body,
            "batch": {
                size: measure(store, conversations, size, arguments.body, arguments.seconds)
                for size in BATCHES
            },
        }
        store.close()
    print(json.dumps(result))


def prepare(store: SqliteStore) -> list[str]:
    key = b"ann".ljust(32)
    users = [f"u{number:03}" for number in range(CONVERSATIONS)]
    store.execute([SignIn("ann", key, "", "", False, 1)])
    store.execute([SignIn(user, user.encode().ljust(32), "", "", False, 1) for user in users])
    conversations = [f"@ann:{user}" for user in users]
    device = rules.device_id(key)
    store.execute([OpenConversation(name, "ann", device, 0, 0, 1) for name in conversations])
    return conversations


def measure(
    store: SqliteStore, conversations: list[str], size: int, body: int, seconds: float
) -> dict[str, float]:
    device = rules.device_id(b"ann".ljust(32))
    names = itertools.cycle(conversations)
    count, wall, cpu = 0, 0.0, 0.0
    while wall < seconds:
        # Time-ordered ids, as clients make them: they are kinder to the index than random ones.
        batch = [
            Append(
                next(names),
                "ann",
                device,
                time.time_ns().to_bytes(8, "big") + os.urandom(8),
                0,
                0,
                os.urandom(body),
                1,
            )
            for _ in range(size)
        ]
        wall_before, cpu_before = time.perf_counter(), time.process_time()
        store.execute(batch)
        wall += time.perf_counter() - wall_before
        cpu += time.process_time() - cpu_before
        count += size
    return {"appends_per_second": round(count / wall), "cpu_us_per_append": round(cpu / count * 1e6, 1)}


def commit() -> str:
    try:
        command = ["git", "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
