"""Puts the simulated kernel under the product's modules, and takes it away again.

Every name that is replaced is listed here: what a module of quicmsg reads of the system it reads through
the standard library's modules, and those are what is replaced, never code of quicmsg. The two exceptions only
look on: a store and a journal that note what they have committed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import queue
import secrets
import socket
import threading as real_threading
import time
from collections.abc import Iterator
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from certificates import EPOCH
from pinned import _Forward, pinned_aioquic

import quicmsg.client.api as api_module
import quicmsg.client.connector as connector_module
import quicmsg.client.journal as journal_module
import quicmsg.client.network as network_module
import quicmsg.client.postbox as postbox_module
import quicmsg.client.private_files as private_files_module
import quicmsg.client.requests as requests_module
import quicmsg.client.values as values_module
import quicmsg.server as server_module
import quicmsg.store.writer as writer_module
import quicmsg.transport.admission as admission_module
import quicmsg.transport.socket as socket_module
from quicmsg.transport.selftest import check_aioquic
from simulation.shell import kernel_sockets, threads
from simulation.shell.internet import Internet
from simulation.shell.loop import START, VirtualLoop
from simulation.shell.process import current

TODAY = EPOCH + datetime.timedelta(days=300)


class Clocks:
    """`time`, as the present process sees it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def time(self) -> float:
        process = current()
        step = process.host.clock_step if process is not None and process.host is not None else 0.0
        return TODAY.timestamp() + self._loop.now - START + step

    def time_ns(self) -> int:
        return int(self.time() * 1000) * 1_000_000

    def monotonic(self) -> float:
        return self._loop.now

    def clock_gettime(self, clock: int) -> float:
        process = current()
        asleep = process.host.asleep if process is not None and process.host is not None else 0.0
        return self._loop.now + (asleep if clock == time.CLOCK_BOOTTIME else 0.0)


@contextlib.contextmanager
def simulated(
    seed: int, loop: VirtualLoop, internet: Internet, *, journal_file: type, sqlite_store: type
) -> Iterator[None]:
    """Everything that is not a function of the seed is replaced while the context lasts."""
    check_aioquic()  # once in a process, and with random numbers: before they are the seed's
    clocks = Clocks(loop)
    draw = Random(f"secrets {seed}")
    clock = _Forward(
        time,
        time=clocks.time,
        time_ns=clocks.time_ns,
        monotonic=clocks.monotonic,
        clock_gettime=clocks.clock_gettime,
    )
    secret = _Forward(
        secrets,
        token_bytes=draw.randbytes,
        token_hex=lambda size: draw.randbytes(size).hex(),
        randbits=draw.getrandbits,
    )
    sockets = _Forward(
        socket,
        socket=kernel_sockets.FakeSocket,
        getaddrinfo=lambda host, port, **options: internet.resolve(host, port, options.get("type", 0)),
        gethostname=lambda: "computer",
    )
    workers = _Forward(real_threading, Thread=threads.Thread, Condition=threads.Condition)
    replaced: list[tuple[Any, str, object]] = [
        (api_module, "socket", sockets),
        (network_module, "socket", sockets),
        (socket_module, "socket", sockets),
        (network_module, "time", clock),
        (postbox_module, "time", clock),
        (values_module, "time", clock),
        (server_module, "time", clock),
        (admission_module, "time", clock),
        (values_module, "secrets", secret),
        (requests_module, "secrets", secret),
        (private_files_module, "secrets", secret),
        (server_module, "secrets", secret),
        (connector_module, "random", Random(f"connector {seed}")),
        (journal_module, "threading", workers),
        (writer_module, "threading", workers),
        (writer_module, "queue", SimpleNamespace(SimpleQueue=threads.SimpleQueue, Empty=queue.Empty)),
        (journal_module, "JournalFile", journal_file),
        (server_module, "SqliteStore", sqlite_store),
        (kernel_sockets, "world", internet),
        (threads, "pace", threads.Pace(loop, Random(f"disks {seed}").uniform)),
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_aioquic(seed))
        for owner, name, replacement in replaced:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        stack.callback(asyncio.set_event_loop, None)
        yield


class Complaints(logging.Handler):
    """Everything that the product or asyncio logs as an error: in this world each is a find."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        self.found.append(f"{record.name}: {record.getMessage()}" + (f": {error!r}" if error else ""))

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        loggers = [logging.getLogger(name) for name in ("quicmsg", "asyncio")]
        before = [(logger, logger.propagate) for logger in loggers]
        for logger in loggers:
            logger.addHandler(self)
            logger.propagate = False
        quic = logging.getLogger("quic")  # it complains of every damaged packet
        was_disabled, quic.disabled = quic.disabled, True
        try:
            yield
        finally:
            quic.disabled = was_disabled
            for logger, propagate in before:
                logger.removeHandler(self)
                logger.propagate = propagate
