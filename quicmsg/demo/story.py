"""What happens in the demo, in the order in which it happens."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from quicmsg.demo.account import Account, check_files, take_account
from quicmsg.demo.processes import PeerProcess, ServerProcess, until
from quicmsg.demo.screen import Screen

GROUPS = ("#music", "#plans", "#trip", "#work")
BURST = 4
"""Messages in each conversation and direction that are handed over at once, with the move among them."""
STEP_TIMEOUT = 15.0
"""A message is shown as failed after 12 s: what takes longer is a failure of the demo."""
NEW_ADDRESS = "127.0.0.2"
WINDOW = 1.0
"""After the move: where a wait counts as its doing, in seconds."""


async def tell_story(directory: Path, screen: Screen) -> bool:
    """Run it; whether everything was as promised."""
    server = ServerProcess(directory)
    processes: list[ServerProcess | PeerProcess] = [server]
    try:
        screen.progress("starting a server with SQLite, on loopback")
        await server.start()
        screen.progress(f"it listens at {server.address} over UDP; starting alice and bob")
        alice = PeerProcess("alice", server.address, server.ca, directory)
        bob = PeerProcess("bob", server.address, server.ca, directory)
        processes += [alice, bob]
        await asyncio.gather(alice.start(), bob.start())
        await _Story(alice, bob, screen).run()
        screen.progress("both disconnect, the server stops")
        await asyncio.gather(alice.stop(), bob.stop())
        await server.stop()
        return _report(server, alice, bob, screen)
    finally:
        for process in reversed(processes):
            process.kill()
            await asyncio.shield(process.wait())


class _Story:
    """Two people in five conversations."""

    def __init__(self, alice: PeerProcess, bob: PeerProcess, screen: Screen) -> None:
        self._alice = alice
        self._bob = bob
        self._screen = screen
        self._said = 0
        self._names = {alice: ("@bob", *GROUPS), bob: ("@alice", *GROUPS)}

    async def run(self) -> None:
        """The main job."""
        screen, alice = self._screen, self._alice
        for group in GROUPS:
            alice.tell("create", conversation=group, members=["bob"])
        await alice.until(lambda: alice.counts["done"] == len(GROUPS), "the groups were made", STEP_TIMEOUT)
        screen.progress(f"alice made {len(GROUPS)} groups with bob; both say hello in all five conversations")
        await self._say(1)
        await self._everything_delivered()
        screen.progress(f"both send {BURST} messages in each conversation at once ...")
        before = self._arrived()
        await self._say(BURST)
        await self._wait(lambda: self._arrived() > before, "the first of them arrived")
        address = NEW_ADDRESS if _is_ours(NEW_ADDRESS) else "127.0.0.1"
        note = "" if address == NEW_ADDRESS else " (this system has no 127.0.0.2: only the port changes)"
        screen.progress(f"... and in the middle alice moves from 127.0.0.1 to {address}, new port{note}")
        alice.tell("migrate", address=address)
        await self._wait(lambda: bool(alice.counts["connection moved"]), "the server saw alice's new address")
        await self._everything_delivered()
        screen.progress("everything is delivered; both go on for a while at the new address")
        await self._say(2)
        await self._everything_delivered()
        screen.progress("both read")
        for peer in (alice, self._bob):
            self._read(peer)
        await self._wait(
            lambda: sum(p.counts["state read"] for p in self._names) == self._said, "all of it was read"
        )

    # ---- private

    async def _say(self, count: int) -> None:
        for _ in range(count):
            for peer, conversations in self._names.items():
                for conversation in conversations:
                    self._said += 1
                    peer.tell("send", conversation=conversation, text=f"{peer.user[0]}-{self._said}")

    def _arrived(self) -> int:
        return sum(peer.counts["message"] for peer in self._names)

    async def _everything_delivered(self) -> None:
        await self._wait(
            lambda: sum(p.counts["state delivered"] for p in self._names) == self._said,
            "all of it was delivered",
        )

    async def _wait(self, condition: Callable[[], bool], what: str) -> None:
        await until(list(self._names), condition, what, STEP_TIMEOUT)

    def _read(self, peer: PeerProcess) -> None:
        newest: dict[str, int] = defaultdict(int)
        for event in peer.events:
            if event["event"] == "message":
                newest[event["conversation"]] = max(newest[event["conversation"]], event["seq"])
        for conversation, seq in newest.items():
            peer.tell("read", conversation=conversation, seq=seq)


def _report(server: ServerProcess, alice: PeerProcess, bob: PeerProcess, screen: Screen) -> bool:
    """Show what happened; whether it was as promised."""
    account = take_account([alice, bob])
    problems = account.problems + check_files(account, server.database, [alice, bob])
    problems += _check_connection(server, alice, bob)
    moved_at = next(event["at"] for event in alice.events if event["event"] == "migrating")
    screen.conversations(account)
    screen.in_flight(account.in_flight_at(moved_at), moved_at)
    screen.line()
    for text in _the_move(server, alice, account, moved_at):
        screen.line(text)
    screen.verdict(account, len(account.lives), problems)
    return account.is_clean and not problems


def _the_move(server: ServerProcess, alice: PeerProcess, account: Account, moved_at: float) -> Iterator[str]:
    moved = next(event for event in alice.events if event.get("state") == "moved")
    before = next(event for event in alice.events if event["event"] == "ready")["observed_address"]
    yield f"The move: {before} -> {moved['observed_address']}, on the same connection."
    yield (
        f"Alice's client heard nothing for {moved['stall_ms']:.1f} ms; "
        f"the server confirmed the new address after {(moved['at'] - moved_at) * 1000:.1f} ms."
    )
    waits = [account.longest_wait(user, moved_at, moved_at + WINDOW) * 1000 for user in ("bob", "alice")]
    yield (
        f"Longest wait for the next message while some were under way: "
        f"{waits[0]:.1f} ms at bob, {waits[1]:.1f} ms at alice."
    )
    for line in server.log().splitlines():
        if " moved " in line:
            yield f"The server's log: {line[line.index('moved ') :]}"


def _check_connection(server: ServerProcess, alice: PeerProcess, bob: PeerProcess) -> list[str]:
    """One connection each, from the first message to the last, and the server knows of the move."""
    problems = []
    log = server.log()
    if log.count(" signed in ") != 2:
        problems.append(f"{log.count(' signed in ')} sign-ins instead of 2: a connection did not survive")
    if " moved user=alice " not in log:
        problems.append("the server did not log the move")
    shown_down = [peer.user for peer in (alice, bob) if peer.counts["connection down"]]
    return problems + [f"{user}'s link was shown as down" for user in shown_down]


def _is_ours(address: str) -> bool:
    """Whether this system lets us use the address: Linux has all of 127.0.0.0/8, others may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
