"""A server whose log went back to a backup, and clients that saw more: nothing twice, nothing in silence."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import quicmsg
from quicmsg.server import Server
from quicmsg.server.settings import Settings
from quicmsg.store import backup, check

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


class Shown:
    """A client, and everything that its program was given, in order; `until` waits for a text."""

    def __init__(self, client: quicmsg.Client) -> None:
        self.client = client
        self.entries: list[tuple[int, str]] = []
        self.ids: list[str] = []
        self._news = asyncio.Condition()
        self._listening = asyncio.create_task(self._listen())

    @property
    def texts(self) -> list[str]:
        return [text for _, text in self.entries]

    async def until(self, text: str) -> None:
        async with asyncio.timeout(40), self._news:
            await self._news.wait_for(lambda: text in self.texts)

    async def stop(self) -> None:
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)

    async def _listen(self) -> None:
        async for message in self.client.messages():
            if message.kind == 0:
                self.entries.append((message.seq, message.text))
                self.ids.append(message.message_id)
            async with self._news:
                self._news.notify_all()


class World:
    """A server that can be stopped, put back and started, and people who stay."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.database = base / "data" / "quicmsg.db"
        self.port = 0
        self._server: Server | None = None

    async def start(self) -> None:
        where = (("127.0.0.1", self.port),)
        self._server = await Server.start(Settings(where, self.base / "data", self.base / "certs"))
        self.port = self._server.addresses[0][1]

    async def stop(self) -> None:
        assert self._server is not None
        await self._server.stop(0.2)
        self._server = None

    def connect(self, user: str) -> quicmsg.Client:
        return quicmsg.connect(
            f"127.0.0.1:{self.port}",
            user=user,
            data=self.base / user,
            ca=self.base / "certs" / "ca.pem",
            foreground=True,
        )


def by_command(world: World, copy: Path) -> None:
    backup.restore(copy, world.database, str)


def by_hand(world: World, copy: Path) -> None:
    shutil.copyfile(copy, world.database)


def with_its_witness(world: World, copy: Path) -> None:
    """As a snapshot of the whole directory would: nothing here can notice it."""
    shutil.copyfile(copy, world.database)
    world.database.with_name("quicmsg.db.witness").unlink()


async def story(base: Path, put_back: Callable[[World, Path], None], *, copy_is_marked: bool) -> list[str]:
    """Bob stays, carol sees five messages that the restored log does not have, and comes back when it is
    longer again than what she has seen. What carol was shown, in order."""
    world = World(base)
    copy = base / "copy.db"
    await world.start()
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(world.connect("alice"))
        bob = Shown(await stack.enter_async_context(world.connect("bob")))
        stack.push_async_callback(bob.stop)
        async with world.connect("carol") as client:
            carol = Shown(client)
            await alice.create("#team", ["bob", "carol"])
            sent = [await alice.send("#team", f"kept {n}") for n in range(5)]
            await sent[-1].delivered(timeout=20)
            if copy_is_marked:
                backup.backup(world.database, copy, str)
            else:
                await world.stop()
                shutil.copyfile(world.database, copy)
                await world.start()
            lost = [await alice.send("#team", f"lost {n}") for n in range(5)]
            await lost[-1].delivered(timeout=20)
            await carol.until("lost 4")
            await carol.stop()
        seen = carol.texts
        await world.stop()
        waiting = [await alice.queue("#team", f"after {n}") for n in range(3)]
        put_back(world, copy)
        await world.start()
        for message in waiting:
            assert await message.stored(timeout=40)
        for number in range(3, 12):
            await alice.send("#team", f"after {number}")
        if put_back is not with_its_witness:
            await bob.until("after 11")
            every = [
                f"{word} {n}"
                for word, count in (("kept", 5), ("lost", 5), ("after", 12))
                for n in range(count)
            ]
            assert bob.texts == every
            assert len(set(bob.ids)) == len(bob.ids)
            # Carol's position in the log that is gone says nothing about this one.
            assert await alice.state(waiting[0].message_id) is quicmsg.State.STORED
            # Of what the restored log does not have, nothing more can be told than that it was stored.
            assert await alice.state(lost[0].message_id) is quicmsg.State.STORED
        async with world.connect("carol") as client:
            carol = Shown(client)
            await carol.until("after 11")
            await carol.stop()
            if put_back is not with_its_witness:
                await waiting[-1].delivered(timeout=20)
            history = [m.text for m in await client.history("#team") if m.kind == 0]
        assert [row.text for row in await alice.outbox()] == []
        assert history == [f"kept {n}" for n in range(5)] + [f"after {n}" for n in range(12)]
    await world.stop()
    with check.reading(world.database) as connection:
        assert check.whole(connection, str) == []
    return [*seen, *carol.texts]


EVERYTHING = (
    [f"kept {n}" for n in range(5)] + [f"lost {n}" for n in range(5)] + [f"after {n}" for n in range(12)]
)


async def test_clients_come_back_after_quicmsg_restore(tmp_path: Path) -> None:
    """Each message once on every screen, those of the outbox stored, none behind a number that was reused."""
    assert await story(tmp_path, by_command, copy_is_marked=True) == EVERYTHING


async def test_clients_come_back_after_a_copy_was_put_back_by_hand(tmp_path: Path) -> None:
    """The same without any command: the witness notices."""
    assert await story(tmp_path, by_hand, copy_is_marked=False) == EVERYTHING


async def test_without_a_new_epoch_messages_would_be_missed_in_silence(tmp_path: Path) -> None:
    """What the two tests above test, and what nobody can notice here: docs/guarantees.md says so."""
    shown = await story(tmp_path, with_its_witness, copy_is_marked=False)
    assert "after 0" not in shown
    assert shown[-1] == "after 11"
