"""Processes that start in milliseconds: one that has imported everything forks the ones that get killed.

Importing takes half a second, a fork ten milliseconds; so most of a test's time goes into what it is about.
The nursery keeps what a dead child leaves until it is asked: a number is not given to another process before.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]


class Nursery:
    """The driver's side."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = "import sys; sys.path.insert(0, sys.argv[1]); from kills import nursery; nursery.main()"
        # In a group of its own: Ctrl-C is the driver's to hear, and the nursery ends when its socket does.
        self._process = subprocess.Popen(
            [sys.executable, "-c", command, str(TESTS)],
            stdin=theirs.fileno(), stdout=subprocess.DEVNULL, process_group=0,
        )  # fmt: skip
        theirs.close()
        self._socket = ours

    def start(self, order: dict[str, Any]) -> tuple[int, int]:
        """A child that runs this order (see `programs.run`): its process id, and where its words arrive."""
        words, written = os.pipe()
        socket.send_fds(self._socket, [json.dumps(order).encode()], [written])
        os.close(written)
        return int(self._answer()), words

    def reap(self, process: int) -> int:
        """Wait until a child is gone, with all that it held open: its exit status, or minus its signal."""
        self._socket.send(json.dumps({"reap": process}).encode())
        return int(self._answer())

    def close(self) -> None:
        """End it; what it still had to care for is killed."""
        self._socket.close()
        self._process.wait(10)

    def _answer(self) -> bytes:
        answer = self._socket.recv(64)
        assert answer, "the nursery is gone"
        return answer


def main() -> None:
    """The nursery's side: fork on demand, until nobody asks any more."""
    from kills import programs

    parent = socket.socket(fileno=0)
    children: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(parent, 4096, 1)
        if not message:
            break
        order = json.loads(message)
        if "reap" in order:
            children.discard(order["reap"])
            parent.send(str(_status(order["reap"])).encode())
            continue
        process = os.fork()
        if process == 0:
            parent.close()
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(descriptors[0], 1)
            os.close(descriptors[0])
            _live(programs.run, order)
        os.close(descriptors[0])
        children.add(process)
        parent.send(str(process).encode())
    for process in children:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


def _live(run: Any, order: dict[str, Any]) -> None:
    status = 1
    try:
        run(order)
        status = 0
    except SystemExit as exit_:
        status = exit_.code if isinstance(exit_.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _status(process: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
