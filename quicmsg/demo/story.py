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
from quicmsg.errors import ConnectError

GROUPS = ("#music", "#plans", "#trip", "#work")
BURST = 4
"""Messages in each conversation and direction that are handed over at once, with the move among them."""
STEP_TIMEOUT = 15.0
"""A message is shown as failed after 12 s: what takes longer is a failure of the demo."""
NEW_ADDRESSES = ("127.0.0.2", "127.0.0.3")
MOVES_MAX = 20
"""On a busy computer a burst may be through, or not begun, when the move comes: then it is done again."""
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
        self._say(1)
        await self._everything_delivered()
        for number in range(MOVES_MAX):
            await self._move(NEW_ADDRESSES[number % len(NEW_ADDRESSES)], BURST * min(number + 1, 6))
            if self._was_everywhere_in_flight():
                break
            screen.progress("not every conversation had a message under way at that moment: once more")
        else:
            raise ConnectError("this computer is too busy to catch messages under way in each conversation")
        screen.progress("everything is delivered; both go on for a while at the new address")
        self._say(2)
        await self._everything_delivered()
        screen.progress("both read")
        for peer in (alice, self._bob):
            self._read(peer)
        await self._wait(
            lambda: sum(p.counts["state read"] for p in self._names) == self._said, "all of it was read"
        )

    # ---- private

    async def _move(self, address: str, burst: int) -> None:
        """Talk, and let alice move in the middle of it."""
        screen, alice = self._screen, self._alice
        screen.progress("both send several messages in each conversation at once ...")
        before, moves = self._arrived(), alice.counts["connection moved"]
        self._say(burst)
        await self._wait(lambda: self._arrived() > before, "the first of them arrived")
        note = ""
        if not _is_ours(address):
            address, note = "127.0.0.1", f" (this system has no {address}: only the port changes)"
        screen.progress(f"... and in the middle alice moves to {address}, new port{note}")
        alice.tell("migrate", address=address)
        await self._wait(
            lambda: alice.counts["connection moved"] > moves, "the server saw alice's new address"
        )
        await self._everything_delivered()

    def _was_everywhere_in_flight(self) -> bool:
        """Whether each conversation had a message under way in each direction when alice last moved."""
        account = take_account(list(self._names))
        flight = account.in_flight_at(moved_at(self._alice))
        return len({(life.conversation, life.sender) for life in flight}) == 2 * (len(GROUPS) + 1)

    def _say(self, count: int) -> None:
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
    moment = moved_at(alice)
    screen.conversations(account)
    screen.in_flight(account.in_flight_at(moment), moment)
    screen.line()
    for text in _the_move(server, alice, account, moment):
        screen.line(text)
    screen.verdict(account, len(account.lives), problems)
    return account.is_clean and not problems


def _the_move(server: ServerProcess, alice: PeerProcess, account: Account, moment: float) -> Iterator[str]:
    known = [event for event in alice.events if event.get("observed_address")]
    moved = next(event for event in known if event.get("state") == "moved" and event["at"] > moment)
    before = [event for event in known if event["at"] < moment][-1]
    yield f"The move: {before['observed_address']} -> {moved['observed_address']}, on the same connection."
    yield (
        f"Alice's client heard nothing for {moved['stall_ms']:.1f} ms; "
        f"the server confirmed the new address after {(moved['at'] - moment) * 1000:.1f} ms."
    )
    waits = [account.longest_wait(user, moment, moment + WINDOW) * 1000 for user in ("bob", "alice")]
    yield (
        f"Longest wait for the next message while some were under way: "
        f"{waits[0]:.1f} ms at bob, {waits[1]:.1f} ms at alice."
    )
    for line in server.log().splitlines():
        if " moved " in line:
            yield f"The server's log: {line[line.index('moved ') :]}"


def moved_at(alice: PeerProcess) -> float:
    """When alice's client began its last move."""
    return float(max(event["at"] for event in alice.events if event["event"] == "migrating"))


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
