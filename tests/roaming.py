"""Alice and bob in many conversations, as processes, while something happens to alice's network.

Used over loopback (`tests/end_to_end`) and in network namespaces (`tests/netns`). A test sends with `burst`
and `talking`, does its worst, and asks for `finish()`: every message accounted for, and compared with the
server's log and both journals.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from quicmsg.demo.account import Account, check_files, take_account
from quicmsg.demo.processes import PeerProcess, ServerProcess, until
from quicmsg.limits import REQUESTS_MAX

PATIENCE = 40.0
"""Seconds that anything may take before a test gives up; far above what it does take."""


@dataclass(frozen=True, slots=True)
class Places:
    """Command prefixes that put each process where it belongs."""

    server: Sequence[str] = ()
    alice: Sequence[str] = ()
    bob: Sequence[str] = ()


class Chat:
    """Two peers and a server. `alice` is the one who roams."""

    def __init__(self, server: ServerProcess, alice: PeerProcess, bob: PeerProcess, conversations: int):
        self.server = server
        self.alice = alice
        self.bob = bob
        groups = [f"#room{number}" for number in range(1, conversations)]
        self._names = {alice: ["@bob", *groups], bob: ["@alice", *groups]}
        self._said = 0

    @property
    def peers(self) -> list[PeerProcess]:
        return [self.alice, self.bob]

    @property
    def said(self) -> int:
        """Messages so far, of both."""
        return self._said

    def arrived(self, peer: PeerProcess) -> int:
        """Messages that this one's program got."""
        return peer.counts["message"]

    async def make_conversations(self) -> None:
        """All of them, open on both sides, with a message each way in each."""
        groups = self._names[self.alice][1:]
        for number, group in enumerate(groups):
            self.alice.tell("create", conversation=group, members=["bob"])
            # A client asks for fewer than REQUESTS_MAX things at once.
            await self.wait(
                lambda asked=number + 1: asked - self.alice.counts["done"] < REQUESTS_MAX - 1,  # type: ignore[misc]
                "groups were made",
            )
        await self.wait(lambda: self.alice.counts["done"] == len(groups), "the groups were made")
        self.burst(len(groups) + 1)
        await self.everything_delivered()

    def burst(self, count: int, *senders: PeerProcess) -> None:
        """Each of the senders (both) hands over so many messages, spread over all conversations."""
        for number in range(count):
            for sender in senders or self.peers:
                names = self._names[sender]
                self._say(sender, names[number % len(names)])

    @contextlib.asynccontextmanager
    async def filled(self, count: int) -> AsyncIterator[None]:
        """Inside, so many messages of each side and more are under way, and the server stands still, so that
        none of them arrives before what is to happen to them, however slow this machine is."""
        self.burst(count)
        await self.wait(lambda: min(map(self.arrived, self.peers)) > count // 10, "messages went both ways")
        os.kill(self.server.pid, signal.SIGSTOP)
        try:
            self.burst(count)
            await self.wait(
                lambda: all(peer.counts["queued"] >= len(peer.told) for peer in self.peers),
                f"{count} messages each way were under way",
            )
            yield
        finally:
            os.kill(self.server.pid, signal.SIGCONT)

    @contextlib.asynccontextmanager
    async def talking(self, interval: float, *senders: PeerProcess) -> AsyncIterator[None]:
        """Meanwhile each of the senders (both) says something every so many seconds."""

        async def talk() -> None:
            while True:
                for sender in senders or self.peers:
                    names = self._names[sender]
                    self._say(sender, names[self._said % len(names)])
                await asyncio.sleep(interval)

        task = asyncio.get_running_loop().create_task(talk())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def wait(self, condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
        """Until the condition is true; it is looked at whenever a peer told something. An operation that
        failed fails the test."""

        def is_so() -> bool:
            errors = [e for peer in self.peers if peer.counts["error"] for e in peer.events if "message" in e]
            assert not [e for e in errors if e["event"] == "error"], errors
            assert not [peer.user for peer in self.peers if peer.counts["state rejected"]]
            return condition()

        await until(self.peers, is_so, what, seconds)

    async def everything_delivered(self) -> None:
        """Each message has its two ticks."""
        await self.wait(
            lambda: sum(peer.counts["state delivered"] for peer in self.peers) >= self._said,
            "everything was delivered",
        )

    async def finish(self) -> Account:
        """Wait for every tick, end all processes, and give an account; its `problems` have those of the
        files as well."""
        await self.everything_delivered()
        await self.stop()
        account = take_account(self.peers)
        account.problems += check_files(account, self.server.database, self.peers)
        return account

    async def stop(self) -> None:
        """End all processes."""
        await asyncio.gather(*(peer.stop() for peer in self.peers))
        await self.server.stop()

    def _say(self, sender: PeerProcess, conversation: str) -> None:
        self._said += 1
        sender.tell("send", conversation=conversation, text=f"{sender.user}-{self._said}")


@contextlib.asynccontextmanager
async def chat(
    directory: Path,
    *,
    conversations: int = 50,
    listen: str = "127.0.0.1:0",
    names: Sequence[str] = (),
    reach: str | None = None,
    bobs_reach: str | None = None,
    places: Places = Places(),
    foreground: bool = False,
) -> AsyncIterator[Chat]:
    """Start everything; whatever happens inside, no process is left.

    `reach`, `bobs_reach`: the host by which alice and bob know the server, if not the one it listens at.
    """
    server = ServerProcess(directory, listen=listen, names=names, inside=places.server)
    processes: list[ServerProcess | PeerProcess] = [server]
    try:
        await server.start()
        host, _, port = server.address.rpartition(":")
        alice = PeerProcess(
            "alice", f"{reach or host}:{port}", server.ca, directory,
            inside=places.alice, foreground=foreground,
        )  # fmt: skip
        bob = PeerProcess(
            "bob", f"{bobs_reach or reach or host}:{port}", server.ca, directory, inside=places.bob
        )
        processes += [alice, bob]
        await asyncio.gather(alice.start(), bob.start())
        both = Chat(server, alice, bob, conversations)
        await both.make_conversations()
        yield both
    finally:
        for process in processes:
            process.kill()
            await process.wait()
