"""The library against a real server on loopback: what a program sees."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import quicmsg
from quicmsg import (
    Connection,
    ConnectionChanged,
    ErrorCode,
    MemberChanged,
    ReceiptChanged,
    State,
    StateChanged,
)
from quicmsg.limits import BODY_SIZE_MAX
from quicmsg.server import Server
from quicmsg.server.settings import Settings


class World:
    """One server, and clients by name; `start` after `stop` takes the same port and data."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.port = 0
        self.server: Server | None = None
        self.clients = AsyncExitStack()

    async def start(self) -> None:
        listen = (("127.0.0.1", self.port),)
        self.server = await Server.start(Settings(listen, self.base / "server", self.base / "certs"))
        self.port = self.server.addresses[0][1]

    async def stop(self) -> None:
        assert self.server is not None
        server, self.server = self.server, None
        await server.stop()

    async def join(self, user: str, **options: object) -> quicmsg.Client:
        """A client of this user; `data` names its device's directory."""
        data = self.base / str(options.pop("data", user))
        ca = self.base / "certs" / "ca.pem"
        return await self.clients.enter_async_context(
            quicmsg.connect(f"127.0.0.1:{self.port}", user=user, data=data, ca=ca, **options)  # type: ignore[arg-type]
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    await world.start()
    yield world
    await world.clients.aclose()
    if world.server is not None:
        await world.stop()


async def texts(client: quicmsg.Client, count: int, conversation: str | None = None) -> list[str]:
    """The next messages; each is acknowledged."""
    consumer = client.messages(conversation)
    found = []
    async with asyncio.timeout(10):
        while len(found) < count:
            found.append((await anext(consumer)).text)
            consumer.acknowledge()
    return found


async def until(events: quicmsg.Events, fits: Callable[[quicmsg.ClientEvent], bool]) -> quicmsg.ClientEvent:
    """The next event that fits."""
    async with asyncio.timeout(20):
        async for event in events:
            if fits(event):
                return event
    raise AssertionError("the events ended")


async def test_states_follow_what_has_happened(world: World) -> None:
    """queued, stored, delivered, read: each when it is so, and in this order."""
    alice, bob = await world.join("alice"), await world.join("bob")
    events = alice.events()
    sent = await alice.send("@bob", "hello")
    assert (sent.state, sent.seq) == (State.STORED, 1)
    assert await texts(bob, 1) == ["hello"]
    await sent.delivered(timeout=5)
    await bob.read("@alice", 1)
    await sent.read(timeout=5)
    seen = []
    while (event := events.get_nowait()) is not None:
        if isinstance(event, StateChanged):
            seen.append(event.state)
    assert seen == [State.QUEUED, State.STORED, State.DELIVERED, State.READ]
    assert await alice.state(sent.message_id) is State.READ


async def test_nothing_is_delivered_before_the_program_has_processed_it(world: World) -> None:
    """Bob's client has the message in memory; only asking for the next one makes it delivered."""
    alice, bob = await world.join("alice"), await world.join("bob")
    sent = await alice.send("@bob", "hello")
    consumer = bob.messages()
    assert (await anext(consumer)).text == "hello"
    second = await alice.send("@bob", "again")
    assert sent.state is State.STORED
    assert (await anext(consumer)).text == "again"
    await sent.delivered(timeout=5)
    assert second.state is State.STORED


async def test_offline_recipient_gets_everything_later_in_order_once(world: World) -> None:
    """150 messages (more than a window) wait for bob, who has been here only once before."""
    alice, bob = await world.join("alice"), await world.join("bob")
    await bob.close()
    for number in range(150):
        await alice.queue("@bob", str(number))
    bob = await world.join("bob")
    assert await texts(bob, 150) == [str(number) for number in range(150)]
    await bob.close()
    bob = await world.join("bob")
    last = await alice.send("@bob", "last")
    assert await texts(bob, 1) == ["last"]
    await last.delivered(timeout=5)


async def test_a_server_restart_loses_nothing_and_needs_no_hand(world: World) -> None:
    """Messages queued while the server is away are stored when it is back, under the ids they had."""
    alice, bob = await world.join("alice"), await world.join("bob")
    events = alice.events()
    await alice.send("@bob", "before")
    await world.stop()
    await until(events, lambda e: isinstance(e, ConnectionChanged) and e.state is Connection.DOWN)
    waiting = [await alice.queue("@bob", text) for text in ("while", "away")]
    assert [row.text for row in await alice.outbox()] == ["while", "away"]
    await world.start()
    for sent in waiting:
        await sent.stored(timeout=10)
    assert await texts(bob, 3) == ["before", "while", "away"]
    assert await alice.outbox() == []


async def test_outbox_survives_the_client(world: World) -> None:
    """A client that is closed with a full outbox sends it when it is started again."""
    alice = await world.join("alice")
    bob = await world.join("bob")
    await alice.send("@bob", "first")
    await world.stop()
    sent = await alice.queue("@bob", "second")
    await alice.close()
    await world.start()
    alice = await world.join("alice")
    assert await texts(bob, 2) == ["first", "second"]
    assert await alice.state(sent.message_id) in (State.STORED, State.DELIVERED)


async def test_the_same_id_is_the_same_message(world: World) -> None:
    """Sent twice: one seq. With another text: refused, and nothing is stored."""
    alice, bob = await world.join("alice"), await world.join("bob")
    message_id = "01a1fb0cd735715ea057c1253d86722c"
    first = await alice.send("@bob", "hello", message_id=message_id)
    again = await alice.send("@bob", "hello", message_id=message_id)
    assert first.seq == again.seq == 1
    with pytest.raises(quicmsg.RefusedError) as refused:
        await alice.send("@bob", "other", message_id=message_id)
    assert refused.value.code is ErrorCode.CONFLICT
    await alice.send("@bob", "end")
    assert await texts(bob, 2) == ["hello", "end"]


async def test_refused_message_waits_in_the_outbox_for_a_person(world: World) -> None:
    """Nobody of that name: rejected, kept, resent by hand once the user exists, and never doubled."""
    alice = await world.join("alice")
    sent = await alice.queue("@dora", "hello")
    with pytest.raises(quicmsg.RefusedError, match="no such"):
        await sent.stored(timeout=5)
    (row,) = await alice.outbox()
    assert (row.message_id, row.state) == (sent.message_id, State.REJECTED)
    dora = await world.join("dora")
    again = await alice.resend(sent.message_id)
    await again.stored(timeout=5)
    assert await texts(dora, 1) == ["hello"]
    with pytest.raises(quicmsg.RefusedError, match="outbox"):
        await alice.cancel(sent.message_id)


async def test_cancelled_message_is_never_sent(world: World) -> None:
    """Taken out of the outbox while the server is away: it does not come back with it."""
    alice, bob = await world.join("alice"), await world.join("bob")
    await world.stop()
    gone = await alice.queue("@bob", "gone")
    kept = await alice.queue("@bob", "kept")
    await alice.cancel(gone.message_id)
    assert await alice.state(gone.message_id) is State.CANCELLED
    await world.start()
    await kept.stored(timeout=10)
    assert await texts(bob, 1) == ["kept"]


async def test_groups_are_made_joined_and_left(world: World) -> None:
    """create, invite, leave, open groups; who is not a member is told what a stranger is told."""
    alice, bob, carol = [await world.join(name) for name in ("alice", "bob", "carol")]
    await alice.create("#team", ["bob"])
    first = await alice.send("#team", "for two")
    with pytest.raises(quicmsg.RefusedError) as refused:
        await carol.send("#team", "let me in")
    with pytest.raises(quicmsg.RefusedError) as unknown:
        await carol.send("#nowhere", "hello?")
    assert refused.value.code is unknown.value.code is ErrorCode.UNKNOWN
    with pytest.raises(quicmsg.RefusedError):
        await carol.join("#team")
    assert await texts(bob, 1) == ["for two"]
    await first.delivered(timeout=5)
    joined = carol.events()
    await bob.invite("#team", "carol")
    await alice.send("#team", "for three")
    assert await texts(carol, 1) == ["for three"]
    seen = list(iter(joined.get_nowait, None))
    assert any(isinstance(e, MemberChanged) and (e.user, e.change) == ("carol", "joined") for e in seen)
    await bob.leave("#team")
    with pytest.raises(quicmsg.RefusedError):
        await bob.send("#team", "still here?")
    await alice.create("#open", [], open=True)
    await carol.join("#open")
    await carol.send("#open", "hello all")
    assert await texts(alice, 1, "#open") == ["hello all"]
    with pytest.raises(quicmsg.RefusedError) as exists:
        await bob.create("#open", [])
    assert exists.value.code is ErrorCode.EXISTS


async def test_a_group_message_is_delivered_when_every_member_has_it(world: World) -> None:
    """One of two is not enough."""
    alice, bob, carol = [await world.join(name) for name in ("alice", "bob", "carol")]
    await alice.create("#team", ["bob", "carol"])
    events = alice.events()
    sent = await alice.send("#team", "hello")
    assert await texts(bob, 1) == ["hello"]
    await until(events, lambda e: isinstance(e, ReceiptChanged) and e.user == "bob" and e.delivered > 2)
    assert sent.state is State.STORED
    assert await texts(carol, 1) == ["hello"]
    await sent.delivered(timeout=5)


async def test_each_device_of_a_user_has_its_own_position(world: World) -> None:
    """A second device, linked by a one-time code, gets what comes from then on, also own messages."""
    alice, bob = await world.join("alice"), await world.join("bob")
    await alice.send("@bob", "old")
    assert await texts(bob, 1) == ["old"]
    code = await bob.link_code()
    tablet = await world.join("bob", data="tablet", code=code)
    sent = await alice.send("@bob", "new")
    assert await texts(tablet, 1) == ["new"]
    await sent.delivered(timeout=5)  # one device is enough
    assert await texts(bob, 1) == ["new"]  # the other gets it all the same
    await tablet.send("@alice", "from the tablet")
    own = await anext(bob.messages())
    assert (own.text, own.sender, own.own) == ("from the tablet", "bob", True)
    assert [message.text for message in await tablet.history("@alice")] == ["old", "new", "from the tablet"]


async def test_history_is_there_with_and_without_the_server(world: World) -> None:
    """Newest first back, across pages; offline: what this device has."""
    alice, bob = await world.join("alice"), await world.join("bob")
    for number in range(1, 231):
        await alice.queue("@bob", str(number))
    await (await alice.queue("@bob", "231")).stored()
    page = await bob.history("@alice", limit=120)
    assert [message.seq for message in page] == list(range(112, 232))
    older = await bob.history("@alice", before=112, limit=500)
    assert [message.text for message in older] == [str(number) for number in range(1, 112)]
    events = bob.events()
    await world.stop()
    await until(events, lambda e: isinstance(e, ConnectionChanged) and e.state is Connection.DOWN)
    assert [message.seq for message in await bob.history("@alice", limit=5)] == [227, 228, 229, 230, 231]


async def test_fail_fast_programs_are_told_at_once(world: World) -> None:
    """offline="fail": no waiting, and nothing is queued behind the program's back."""
    alice = await world.join("alice", offline="fail")
    await world.join("bob")
    events = alice.events()
    await alice.send("@bob", "up")
    await world.stop()
    await until(events, lambda e: isinstance(e, ConnectionChanged) and e.state is Connection.DOWN)
    with pytest.raises(quicmsg.OfflineError):
        await alice.send("@bob", "down")
    assert await alice.outbox() == []


async def test_bad_input_is_refused_in_words_before_anything_is_queued(world: World) -> None:
    """Oversize text, bad names, bad ids."""
    alice = await world.join("alice")
    for conversation, text in (
        ("@bob", "x" * (BODY_SIZE_MAX + 1)),
        ("bob", "x"),
        ("@Bob!", "x"),
        ("@bob", "\ud800"),
    ):
        with pytest.raises(quicmsg.RefusedError):
            await alice.send(conversation, text)
    with pytest.raises(quicmsg.RefusedError):
        await alice.resend("no-such-id")
    with pytest.raises(quicmsg.RefusedError):
        await alice.create("team", [])
    with pytest.raises(quicmsg.ConfigurationError):
        quicmsg.connect("localhost", user="Not A Name")
    assert await alice.outbox() == []


async def test_leaving_a_loop_and_starting_another_loses_nothing(world: World) -> None:
    """What was not acknowledged comes again, before everything else."""
    alice, bob = await world.join("alice"), await world.join("bob")
    for text in ("one", "two", "three"):
        await alice.send("@bob", text)
    async for message in bob.messages():
        if message.text == "two":
            break
    assert await texts(bob, 2) == ["two", "three"]


async def test_one_slow_conversation_does_not_hold_up_another(world: World) -> None:
    """The program never takes #slow's messages; @bob's go on, far beyond a window."""
    alice, bob = await world.join("alice"), await world.join("bob")
    await alice.create("#slow", ["bob"])
    for number in range(200):
        await alice.queue("#slow", str(number))
        await alice.queue("@bob", str(number))
    assert await texts(bob, 200, "@alice") == [str(number) for number in range(200)]
    assert await texts(bob, 200, "#slow") == [str(number) for number in range(200)]


async def test_more_conversations_than_open_channels(world: World) -> None:
    """150 groups, 100 channels: each message arrives, channels are closed and opened as needed."""
    alice, bob = await world.join("alice"), await world.join("bob")
    names = [f"#g{number}" for number in range(150)]
    for name in names:
        await alice.create(name, ["bob"])
    last = [await alice.queue(name, f"to {name}") for name in names]
    assert sorted(await texts(bob, 150)) == sorted(f"to {name}" for name in names)
    for sent in last:
        await sent.delivered(timeout=20)


async def test_a_large_backlog_in_many_conversations_gets_through(world: World) -> None:
    """All windows together are more than a connection holds: the rest waits, and nothing is closed for it."""
    alice = await world.join("alice")
    bob = await world.join("bob")
    await bob.close()
    body = "x" * BODY_SIZE_MAX
    names = [f"#g{number}" for number in range(18)]
    for name in names:
        await alice.create(name, ["bob"])
    events = alice.events()
    sent = [await alice.queue(name, body) for _ in range(17) for name in names]
    for one in sent:
        await one.stored(timeout=20)
    bob = await world.join("bob")
    assert len(await texts(bob, len(sent))) == len(sent)
    assert not [e for e in iter(events.get_nowait, None) if isinstance(e, ConnectionChanged)]


async def test_several_big_pages_of_history_at_once(world: World) -> None:
    """Four pages of 1.6 MB are asked for at the same moment, and all come."""
    alice, _ = await world.join("alice"), await world.join("bob")
    sent = [await alice.queue("@bob", "x" * BODY_SIZE_MAX) for _ in range(100)]
    await sent[-1].stored(timeout=20)
    pages = await asyncio.gather(*(alice.history("@bob", limit=100) for _ in range(4)))
    assert [len(page) for page in pages] == [100] * 4


async def test_history_of_more_conversations_than_open_channels(world: World) -> None:
    """A channel for each would be too many: idle ones are closed for it."""
    alice = await world.join("alice")
    names = [f"#g{number}" for number in range(140)]
    for name in names:
        await alice.create(name, [])
    assert [len(await alice.history(name)) for name in names] == [1] * len(names)


async def test_only_conversations_that_one_is_in_are_listed(world: World) -> None:
    """Not those that were refused, also not after a restart with the refused message still in the outbox."""
    alice = await world.join("alice")
    await world.join("bob")
    await alice.send("@bob", "hello")
    with pytest.raises(quicmsg.RefusedError):
        await alice.send("#nowhere", "hello?")
    assert alice.conversations() == ["@bob"]
    await alice.close()
    alice = await world.join("alice")
    events = alice.events()
    await alice.send("@bob", "again")
    assert alice.conversations() == ["@bob"]
    assert [row.state for row in await alice.outbox()] == [State.REJECTED]
    assert not [e for e in iter(events.get_nowait, None) if isinstance(e, quicmsg.ConversationLost)]
