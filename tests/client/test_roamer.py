"""When the link moves by itself, and when it does not: with a made-up link and routing table."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from quicmsg import limits
from quicmsg.client import roamer
from quicmsg.client.roamer import Roamer
from quicmsg.errors import ConfigurationError


class Computer:
    """Where the kernel would send from, and what the roamer did about it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, local_address: str | None = None) -> None:
        self.source: str | None = "10.0.0.2"
        self.asked: set[tuple[str, int]] = set()
        self.moves: list[str | None] = []
        self.unusable: set[str] = set()
        self.waiting: list[str] = []
        self.tried_again = 0
        self.silence = 0.0
        self.notice: Callable[[str], None] = lambda _: None
        monkeypatch.setattr(roamer, "current_source_address", self._source)
        monkeypatch.setattr(roamer, "NetworkWatcher", self._watcher)
        monkeypatch.setattr(limits, "REBIND_INTERVAL", 0.02)
        self.heartbeat = SimpleNamespace(misses=0, silent_since=0.0)
        mailbox = SimpleNamespace(outbox=SimpleNamespace(conversations=lambda: self.waiting))
        session = SimpleNamespace(heartbeat=self.heartbeat, mailbox=mailbox)
        self.link = SimpleNamespace(peer_address="192.0.2.7:4433", migrate=self._migrate, on_send_error=None)
        self.roamer = Roamer(lambda: (self.link, session), self._again, local_address)  # type: ignore[arg-type, return-value]
        self.roamer.start()
        self.roamer.connected(self.link)  # type: ignore[arg-type]
        self.heard()

    def heard(self, ago: float = 0.0) -> None:
        self.heartbeat.silent_since = asyncio.get_running_loop().time() - ago

    def cannot_send(self) -> None:
        assert self.link.on_send_error is not None
        self.link.on_send_error(OSError(101, "Network is unreachable"))

    def _source(self, host: str, port: int) -> str | None:
        self.asked.add((host, port))
        return self.source

    def _watcher(self, notice: Callable[[str], None]) -> SimpleNamespace:
        self.notice = notice
        return SimpleNamespace(start=lambda: None, close=lambda: None)

    def _migrate(self, address: str | None) -> None:
        if address in self.unusable:
            raise ConfigurationError("it is gone")
        self.moves.append(address)

    def _again(self) -> None:
        self.tried_again += 1


@pytest.fixture
async def computer(monkeypatch: pytest.MonkeyPatch) -> Computer:
    return Computer(monkeypatch)


async def test_another_address_is_a_move_also_when_nothing_is_said(computer: Computer) -> None:
    """A listener must speak first from its new address, or the server goes on talking to the old one."""
    computer.source = "10.0.9.9"
    computer.notice("address")
    assert computer.moves == [None]
    assert computer.asked == {("192.0.2.7", 4433)}, "the server's address, whatever name was dialled"


async def test_a_notice_that_changes_nothing_is_no_move(computer: Computer) -> None:
    """An IPv6 router announces itself while messages are under way: the path is fine, it is left alone."""
    computer.waiting = ["@bob"]
    computer.notice("address")
    computer.waiting = []
    computer.heard(ago=60)
    computer.notice("route")
    assert computer.moves == []


@pytest.mark.parametrize("misses", [0, 1])
async def test_a_notice_during_silence_is_a_move(computer: Computer, misses: int) -> None:
    """Something is unanswered and nothing is heard: whatever changed is taken as the reason."""
    computer.waiting = [] if misses else ["@bob"]
    computer.heartbeat.misses = misses
    computer.heard(ago=limits.SILENCE_DOUBTED * 2)
    computer.notice("route")
    assert computer.moves == [None]


async def test_nothing_moves_while_there_is_no_way_out_and_once_when_there_is(computer: Computer) -> None:
    """Send errors in a tunnel cost no connection ids; the way back is taken at once."""
    computer.source = None
    for _ in range(5):
        computer.cannot_send()
        computer.notice("link")
    assert computer.moves == []
    assert computer.roamer.head_start() == limits.RECONNECT_MAX, (
        "a second connection would not get out either"
    )
    computer.source = "10.0.0.2"
    computer.notice("link")
    computer.notice("route")
    assert computer.moves == [None]
    assert 0 < computer.roamer.head_start() <= limits.RACE_HANDICAP, "the first connection may answer first"


async def test_a_second_change_within_the_interval_is_not_forgotten(computer: Computer) -> None:
    """At most one move in REBIND_INTERVAL; what comes sooner is done when it is over, if still needed."""
    computer.source = "10.0.0.3"
    computer.notice("address")
    computer.source = "10.0.0.4"
    computer.notice("address")
    computer.notice("address")
    assert computer.moves == [None]
    await asyncio.sleep(0.05)  # more than the interval; nothing else is waited for
    assert computer.moves == [None, None]


async def test_an_address_that_was_asked_for_is_kept_while_it_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program chose its address: another default route is no reason to leave it, its end is."""
    computer = Computer(monkeypatch, local_address="10.0.0.5")
    computer.source = "10.0.0.9"
    computer.notice("route")
    assert computer.moves == []
    computer.unusable.add("10.0.0.5")
    computer.cannot_send()
    assert computer.moves == [None]


async def test_without_a_link_a_change_only_says_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconnecting does not wait for its back-off when the network is back."""
    computer = Computer(monkeypatch)
    again: list[bool] = []
    alone = Roamer(lambda: None, lambda: again.append(True), None)
    alone.start()
    computer.notice("link")
    assert again == [True]
    alone.close()
