"""A server whose disk is full, read-only, gone or broken, as a real process: clear words, and no lies."""

from __future__ import annotations

import asyncio
import re
import resource
import shutil
import sys
from pathlib import Path

import pytest
from disks import needs_mounts, on_mount, people, refused, running, server_words, small_disk, state

import quicmsg
from quicmsg.server.settings import Settings
from quicmsg.store import check
from quicmsg.store.sqlite import SqliteStore

HERE = Path(__file__).parent
pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@needs_mounts
async def test_a_full_disk_is_waited_for_and_nothing_is_lost(tmp_path: Path) -> None:
    """Clock, red cross, and ticks once there is room: what was stored before stays, reading goes on."""
    async with small_disk(tmp_path) as server:
        async with people(tmp_path, server.address) as (alice, bob):
            arriving = bob.messages()
            first = await alice.send("@bob", "before")
            assert (await anext(arriving)).text == "before"
            server.fill()
            events = alice.events()
            second = await alice.queue("@bob", "x" * 16_000)
            await server.says(r"! no room left for .*quicmsg\.db.*until then nothing is stored")
            news = set(quicmsg.State) - {quicmsg.State.QUEUED}
            assert await state(events, second.message_id, *news) is quicmsg.State.FAILED
            assert [row.state for row in await alice.outbox()] == [quicmsg.State.FAILED]
            assert [m.text for m in await bob.history("@alice")] == ["before"]
            assert server.process.returncode is None
            server.make_room()
            await server.says("= there is room again")
            assert await state(events, second.message_id, quicmsg.State.STORED) is quicmsg.State.STORED
            message = await anext(arriving)
            assert (message.seq, len(message.text)) == (2, 16_000)
            assert (first.seq, await alice.outbox()) == (1, [])
        assert sum("no room" in line for line in server.said) == 1
        assert await server.stop() == 0


@needs_mounts
async def test_a_server_that_is_stopped_with_a_full_disk_says_what_it_did_not_store(tmp_path: Path) -> None:
    """It ends, though its disk is still full, with a line and a status; the message is the client's."""
    async with small_disk(tmp_path) as server, people(tmp_path, server.address) as (alice, _):
        await alice.send("@bob", "before")
        server.fill()
        queued = await alice.queue("@bob", "x" * 16_000)
        await server.says("! no room left")
        assert await server.stop() == 1
        assert any(line.startswith("quicmsg: the store failed") for line in server.said)
        assert [row.message_id for row in await alice.outbox()] == [queued.message_id]


@needs_mounts
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=64k", r"quicmsg: no room left for .*quicmsg\.db: make room on that disk"),
        ("size=64k,nr_inodes=2", r"quicmsg: cannot use .*(No space left on device; make room on that disk)"),
        ("ro", r"quicmsg: cannot use .*Read-only file system; name a data directory"),
    ],
)
def test_a_server_does_not_start_without_a_disk_to_write_to(tmp_path: Path, options: str, words: str) -> None:
    """Full, without room for one more file, read-only: one line that says what to do."""
    (tmp_path / "disk").mkdir()
    server = [sys.executable, "-m", "quicmsg.server", *server_words(tmp_path, tmp_path / "disk" / "data")]
    line = refused(tmp_path, on_mount(tmp_path, options, server))
    assert re.search(words, line), line


@needs_mounts
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=48k", r"quicmsg: no room left for .*journal\.db: make room on that disk, then try again"),
        ("size=64k,nr_inodes=3", r"quicmsg: .* cannot be used \(No space left on device\)"),
        ("ro", r"quicmsg: .* cannot be used \(Read-only file system\): check owner and permissions"),
    ],
)
def test_a_client_without_a_disk_to_write_to_says_so(tmp_path: Path, options: str, words: str) -> None:
    """It takes no message that it could not keep; nothing is sent from memory only."""
    (tmp_path / "disk").mkdir()
    client = [sys.executable, "-m", "quicmsg.client", "--server", "127.0.0.1:9", "--user", "bob"]
    client += ["--data", str(tmp_path / "disk" / "data"), "send", "--to", "@ann", "hello"]
    line = refused(tmp_path, on_mount(tmp_path, options, client))
    assert re.search(words, line), line


def test_a_server_that_may_open_few_files_says_so(tmp_path: Path) -> None:
    """Where the event loop would fail with a traceback."""
    server = [sys.executable, "-m", "quicmsg.server", *server_words(tmp_path, tmp_path / "data")]
    for allowed in (12, 40):
        line = refused(
            tmp_path,
            server,
            preexec_fn=lambda n=allowed: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n)),
        )
        assert f"may have {allowed} open files, and needs 64: raise the limit (ulimit -n 64)" in line


async def test_files_that_vanish_under_a_server_end_it(tmp_path: Path) -> None:
    """SQLite would go on writing into files without names; nothing of that may be called stored."""
    data = tmp_path / "data"
    server_command = [sys.executable, "-m", "quicmsg.server", *server_words(tmp_path, data)]
    async with (
        running(tmp_path, server_command, lambda pid: data) as server,
        people(tmp_path, server.address) as (alice, _),
    ):
        await alice.send("@bob", "before")
        shutil.rmtree(data)
        queued = await alice.queue("@bob", "after")
        assert await server.ends() == 1
        (line,) = [line for line in server.said if line.startswith("quicmsg: ")]
        assert "quicmsg.db was removed or replaced while the server ran" in line
        assert [row.message_id for row in await alice.outbox()] == [queued.message_id]


async def told(client: quicmsg.Client) -> None:
    """Wait until nothing is in the outbox."""
    events = client.events()
    while await client.outbox():
        await anext(events)


async def test_a_failed_fsync_ends_the_server_and_is_never_repeated(tmp_path: Path) -> None:
    """After it nobody knows what the disk has, and a second one would succeed without writing: no tick, one
    clear line, an exit status; what was stored is there at the next start, and the message gets through."""
    data = tmp_path / "data"
    words = server_words(tmp_path, data)
    command = [sys.executable, str(HERE / "failing_fsync.py"), str(tmp_path / "trigger"), *words]
    async with (
        running(tmp_path, command, lambda pid: data) as server,
        people(tmp_path, server.address) as (alice, _),
    ):
        await alice.send("@bob", "before")
        (tmp_path / "trigger").touch()
        queued = await alice.queue("@bob", "after")
        assert await server.ends() == 1
        (line,) = [line for line in server.said if line.startswith("quicmsg: ")]
        assert "the store failed, nothing more is accepted" in line
        assert [row.message_id for row in await alice.outbox()] == [queued.message_id]
    assert (tmp_path / "trigger").read_text().splitlines() == ["COMMIT: sync failed"]
    again = [sys.executable, "-m", "quicmsg.server", *server_words(tmp_path, data, server.port)]
    async with running(tmp_path, again, lambda pid: data) as server:
        async with people(tmp_path, server.address) as (alice, bob):
            texts = []
            async for message in bob.messages():
                texts.append((message.seq, message.text))
                if len(texts) == 2:
                    break
            assert texts == [(1, "before"), (2, "after")]
            await asyncio.wait_for(told(alice), 20)
        assert await server.stop() == 0
    with check.reading(Settings((), data, data).store_path()) as connection:
        assert check.whole(connection, str) == []
    SqliteStore(Settings((), data, data).store_path(), epoch_source=lambda: 1).close()
