"""Changes of addresses, routes and links are noticed; nothing that the system refuses is fatal."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from types import ModuleType

import pytest

from quicmsg.client import network
from quicmsg.client.network import (
    ClockReading,
    NetworkWatcher,
    SleepDetector,
    current_source_address,
    read_clocks,
    slept,
)

try:
    import uvloop
except ImportError:
    uvloop = None  # type: ignore[assignment]

CLONE_NEWNET = 0x40000000
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


def in_new_network(scenario: Callable[[], Awaitable[None]], loops: ModuleType) -> None:
    """Run a scenario in a thread that has a network namespace of its own; it ends with the thread."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("making a network namespace needs root and the ip command")
    problems: list[BaseException] = []

    def run() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
                raise PermissionError(ctypes.get_errno(), "unshare")
            ip("link", "set", "lo", "up")
            with asyncio.Runner(loop_factory=loops.new_event_loop) as runner:
                runner.run(asyncio.wait_for(scenario(), 20))
        except BaseException as problem:
            problems.append(problem)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if problems and isinstance(problems[0], PermissionError):
        pytest.skip(f"this sandbox makes no network namespace: {problems[0]}")
    if problems:
        raise problems[0]


class Notices:
    """Collects what the watcher says."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._new = asyncio.Event()

    def __call__(self, what: str) -> None:
        self.heard.append(what)
        self._new.set()

    async def next(self) -> str:
        await self._new.wait()
        self._new.clear()
        return self.heard[-1]


loops_of_both_kinds = pytest.mark.parametrize(
    "loops",
    [asyncio, pytest.param(uvloop, marks=pytest.mark.skipif(uvloop is None, reason="no uvloop here"))],
    ids=["asyncio", "uvloop"],
)


@pytest.mark.root
@pytest.mark.slow
@linux_only
@loops_of_both_kinds
def test_kernel_tells_of_addresses_routes_and_links(loops: ModuleType) -> None:
    """A move is noticed at once, and a burst of changes is told once."""

    async def scenario() -> None:
        notices = Notices()
        watcher = NetworkWatcher(notices)
        watcher.start()
        assert not watcher.polling
        for change in (
            ("address", "addr", "add", "10.9.0.2/24", "dev", "lo"),
            ("route", "route", "add", "default", "dev", "lo"),
            ("address", "addr", "del", "10.9.0.2/24", "dev", "lo"),
            ("address", "addr", "add", "fd00::2/64", "dev", "lo", "nodad"),
            ("link", "link", "set", "lo", "down"),
        ):
            ip(*change[1:])
            assert change[0] in await notices.next(), notices.heard
        assert notices.heard[1] == "route"
        assert len(notices.heard) == 5, notices.heard
        watcher.close()
        ip("link", "set", "lo", "up")
        await asyncio.sleep(network.NETWORK_SETTLE * 2)
        assert len(notices.heard) == 5, "told after close"

    in_new_network(scenario, loops)


def forbidden() -> None:
    raise PermissionError(errno.EPERM, "no netlink here")


@pytest.mark.root
@pytest.mark.slow
@linux_only
def test_without_netlink_a_move_is_seen_by_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that forbids netlink costs promptness, not the notice."""
    monkeypatch.setattr(network, "_open_netlink", forbidden)

    async def scenario() -> None:
        ip("addr", "add", "10.9.0.2/24", "dev", "lo")
        ip("route", "add", "default", "dev", "lo", "src", "10.9.0.2")
        assert current_source_address("192.0.2.1", 9) == "10.9.0.2"
        notices = Notices()
        watcher = NetworkWatcher(notices, poll_interval=0.01)
        watcher.start()
        assert watcher.polling
        ip("addr", "add", "10.8.0.2/24", "dev", "lo")
        ip("route", "replace", "default", "dev", "lo", "src", "10.8.0.2")
        assert await notices.next() == "address"
        assert current_source_address("192.0.2.1", 9) == "10.8.0.2"
        watcher.close()

    in_new_network(scenario, asyncio)


async def test_polling_tells_of_changes_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel does not tell, a quiet network is quiet."""
    looks = [("a",), ("a",), ("a",), ("b",), ("b",), ("b",)]
    all_seen = asyncio.Event()

    def look() -> tuple[str]:
        if len(looks) == 1:
            all_seen.set()
            return looks[0]
        return looks.pop(0)

    monkeypatch.setattr(network, "_look", look)
    monkeypatch.setattr(network, "_open_netlink", forbidden)
    monkeypatch.setattr(network, "NETWORK_SETTLE", 0.0)
    notices = Notices()
    watcher = NetworkWatcher(notices, poll_interval=0.001)
    watcher.start()
    await all_seen.wait()
    assert notices.heard == ["address"]
    watcher.close()
    watcher.close()


class Netlink:
    """A netlink socket whose messages and errors the test makes."""

    def __init__(self, *answers: bytes | OSError) -> None:
        self.answers = [*answers, BlockingIOError()]
        self.closed = False
        self.pipe = os.pipe()
        os.write(self.pipe[1], b"x")

    def fileno(self) -> int:
        return self.pipe[0]

    def recv(self, _size: int) -> bytes:
        answer = self.answers.pop(0) if self.answers else BlockingIOError()
        if not self.answers:
            os.read(self.pipe[0], 1)
        if isinstance(answer, OSError):
            raise answer
        return answer

    def close(self) -> None:
        self.closed = True
        for descriptor in self.pipe:
            os.close(descriptor)


def header(kind: int) -> bytes:
    return (16).to_bytes(4, sys.byteorder) + kind.to_bytes(2, sys.byteorder) + bytes(10)


@pytest.mark.parametrize(
    ("answers", "told", "polls"),
    [
        ([header(20), header(24), header(21)], "address, route", False),
        ([header(99)], "unknown", False),
        ([b"", b"\0\0"], "unknown", False),
        ([header(16), OSError(errno.ENOBUFS, "overflow")], "link, overflow", False),
        ([OSError(errno.ENETDOWN, "gone")], "overflow", True),
    ],
)
async def test_whatever_netlink_says_is_one_notice(
    monkeypatch: pytest.MonkeyPatch, answers: list[bytes | OSError], told: str, polls: bool
) -> None:
    """A flood, an overflow or a dying socket is a change like any other, and never an error."""
    netlink = Netlink(*answers)
    monkeypatch.setattr(network, "_open_netlink", lambda: netlink)
    notices = Notices()
    watcher = NetworkWatcher(notices)
    watcher.start()
    assert await notices.next() == told
    assert watcher.polling is polls
    watcher.close()
    assert netlink.closed
    assert notices.heard == [told]


async def test_closed_watcher_tells_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change that was still settling is forgotten."""
    monkeypatch.setattr(network, "_open_netlink", lambda: Netlink(header(20)))
    monkeypatch.setattr(network, "NETWORK_SETTLE", 0.0)
    notices = Notices()
    watcher = NetworkWatcher(notices)
    watcher.start()
    watcher._receive()
    watcher.close()
    await asyncio.sleep(0.01)
    assert notices.heard == []


def test_source_address_is_what_the_kernel_would_use() -> None:
    """The answer names our own address, asks no name server, and no way is None."""
    assert current_source_address("127.0.0.1", 4433) == "127.0.0.1"
    assert current_source_address("::ffff:127.0.0.1", 4433) == "127.0.0.1"
    assert current_source_address("localhost", 4433) is None


def test_sleep_is_the_gap_between_the_clocks() -> None:
    """Sleep is noticed once, with its length; a busy machine is not taken for a sleeping one."""
    detector = SleepDetector(ClockReading(100.0, 50.0))
    assert detector.check(ClockReading(110.0, 60.0)) == 0.0
    assert detector.check(ClockReading(710.0, 61.0)) == pytest.approx(599.0)
    assert detector.check(ClockReading(710.9, 61.0)) == 0.0
    assert detector.check(ClockReading(711.0, 61.5)) == 0.0
    assert slept(read_clocks(), read_clocks()) == 0.0
