"""Checks of sections 7 and 8: positions, receipts, resumption, several devices, the account feed, history."""

from __future__ import annotations

from typing import Any

from quicmsg.conformance.checking import Checks, World, expect, number
from quicmsg.conformance.peer import Chat, Device, Session
from quicmsg.conformance.wire import Code, Type

check = Checks()


async def _told(world: World, count: int) -> tuple[Session, Chat, Session, Chat]:
    """Alice has sent `count` messages, and bob has got them."""
    alice, bob = await world.pair()
    mine = await alice.open(bob.address)
    theirs = await bob.open(alice.address)
    for at in range(count):
        await mine.store(f"message {at}")
    await theirs.deliver(count)
    return alice, mine, bob, theirs


async def _linked(world: World, owner: Session) -> Session:
    """Another device of the same user."""
    code = (await owner.ask(Type.LINK, number()))["text"]
    return await world.session(Device(owner.user), code=code)


@check("M24", "an Ack that does not go forward changes nothing")
async def never_back(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 5)
    for position in (4, 2, 0, 4):
        theirs.say(Type.ACK, position)
    expect(await mine.receipt(bob.user), (4, 0), "receipt")
    await theirs.fetch()
    again = await world.session(alice.device)
    chat = await again.open(bob.address)
    expect(chat.members()[bob.user], (4, 0), "position")


@check("M25", "an Ack beyond what was told ends that channel with ACK_BEYOND, and moves nothing")
async def ack_beyond(world: World) -> None:
    alice, _mine, bob, theirs = await _told(world, 3)
    other = await bob.open(bob.address)
    theirs.say(Type.ACK, 4)
    await theirs.expect_reset(Code.ACK_BEYOND)
    await other.store("undisturbed")
    chat = await bob.open(alice.address)
    expect((chat.opened["position"], chat.members()[bob.user]), (0, (0, 0)), "position")


@check("M25", "a Read beyond what was told ends that channel with ACK_BEYOND")
async def read_beyond(world: World) -> None:
    _alice, _mine, _bob, theirs = await _told(world, 3)
    theirs.say(Type.READ, 4, True)
    await theirs.expect_reset(Code.ACK_BEYOND)


@check("M25", "entries that came as Accepted may be acknowledged")
async def ack_accepted(world: World) -> None:
    alice, bob = await world.pair()
    chat = await alice.open(bob.address)
    await chat.store("one")
    await chat.store("two")
    chat.say(Type.ACK, 2)
    expect(await chat.receipt(alice.user), (2, 0), "receipt")


@check("M26", "delivered follows an Ack and read a Read, neither comes before")
async def truthful(world: World) -> None:
    _alice, mine, bob, theirs = await _told(world, 2)
    await mine.fetch()
    early = [m for f in mine.drained if f.type is Type.RECEIPT for m in f["members"] if m[0] == bob.user]
    expect(early, [], "receipts before the Ack:")
    theirs.say(Type.ACK, 1)
    expect(await mine.receipt(bob.user), (1, 0), "receipt")
    theirs.say(Type.READ, 1, True)
    expect(await mine.receipt(bob.user), (1, 1), "receipt")
    theirs.say(Type.READ, 2, True)
    expect(await mine.receipt(bob.user), (2, 2), "receipt: read implies delivered")


@check("M27", "Opened lists every member with its positions")
async def members(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 3)
    theirs.say(Type.ACK, 3)
    theirs.say(Type.READ, 2, True)
    while await mine.receipt(bob.user) != (3, 2):
        pass
    again = await world.session(alice.device)
    chat = await again.open(bob.address)
    expect(chat.members(), {alice.user: (0, 0), bob.user: (3, 2)}, "members")


@check("M28", "after a reconnect delivery goes on after `received`, and `position` counts as Ack")
async def resume(world: World) -> None:
    alice, mine, bob, _theirs = await _told(world, 10)
    again = await world.session(bob.device)
    chat = await again.open(alice.address, position=5, received=8)
    expect((chat.opened["position"], chat.opened["reset"]), (5, False), "Opened")
    expect([e["seq"] for e in await chat.deliver(2)], [9, 10], "delivered")
    expect(await mine.receipt(bob.user), (5, 0), "receipt")
    chat.say(Type.ACK, 10)
    expect(await mine.receipt(bob.user), (10, 0), "receipt")


@check("M28", "what was not acknowledged is delivered again on the next connection")
async def redelivered(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 6)
    theirs.say(Type.ACK, 2)
    expect(await mine.receipt(bob.user), (2, 0), "receipt")
    again = await world.session(bob.device)
    chat = await again.open(alice.address, position=2)
    expect([e["seq"] for e in await chat.deliver(4)], [3, 4, 5, 6], "delivered")


@check("M28", "a device without memory goes on where it stood")
async def forgetful(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 6)
    theirs.say(Type.ACK, 4)
    expect(await mine.receipt(bob.user), (4, 0), "receipt")
    again = await world.session(bob.device)
    chat = await again.open(alice.address)
    expect((chat.opened["position"], chat.opened["reset"]), (4, False), "Opened")
    expect([e["seq"] for e in await chat.deliver(2)], [5, 6], "delivered")


@check("M29", "a position of another epoch, or above the head, is answered with reset")
async def reset(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 6)
    theirs.say(Type.ACK, 4)
    expect(await mine.receipt(bob.user), (4, 0), "receipt")
    for epoch, position in ((bob.epoch ^ 1, 5), (bob.epoch, 7), (0, 5)):
        again = await world.session(bob.device)
        chat = await again.open(alice.address, epoch=epoch, position=position)
        found = (chat.opened["reset"], chat.opened["position"], chat.opened["epoch"])
        expect(found, (True, 4, bob.epoch), f"Opened for epoch {epoch}, position {position}:")
        expect([e["seq"] for e in await chat.deliver(2)], [5, 6], "delivered")


@check("M30", "a private Read is told to the own devices only")
async def private_read(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 3)
    theirs.say(Type.ACK, 3)
    expect(await mine.receipt(bob.user), (3, 0), "receipt")
    second = await _linked(world, bob)
    there = await second.open(alice.address)
    theirs.say(Type.READ, 2, False)
    expect(await there.receipt(bob.user), (3, 2), "receipt at the own device")
    expect((await mine.store("a barrier"))["seq"], 4, "seq")
    await theirs.deliver()
    theirs.say(Type.ACK, 4)
    expect(await mine.receipt(bob.user), (4, 0), "receipt at the other user")
    theirs.say(Type.READ, 4, True)
    expect(await mine.receipt(bob.user), (4, 4), "receipt at the other user")


@check("M31", "news of a conversation without a channel come as a Notice")
async def notice(world: World) -> None:
    alice, bob = await world.pair()
    mine = await alice.open(bob.address)
    await mine.store("hello")
    await bob.notice(alice.address)
    later = await bob.open(alice.address)
    await later.deliver()
    later.channel.write(b"", end=True)
    await later.expect_end()
    bob.notices.clear()
    await mine.store("again")
    expect((await bob.notice(alice.address))["head"], 2, "head in the Notice")
    await _sync(bob, bob.epoch, 0)
    bob.notices.clear()
    await mine.store("after a Sync")
    expect((await bob.notice(alice.address))["head"], 3, "head in the Notice")


@check("M32", "Sync tells what changed after the cursor, once each, in order of change")
async def sync(world: World) -> None:
    alice, bob = await world.pair()
    direct, notes = await alice.open(bob.address), await alice.open(alice.address)
    for chat in (direct, notes, direct):
        await chat.store("x")
    page = await _sync(alice, alice.epoch, 0)
    entries = [(e[0], e[1]) for e in page[0]]
    expect(entries, [(alice.address, 1), (bob.address, 2)], "changed conversations")
    changes = [e[2] for e in page[0]]
    expect(changes, sorted(set(changes)), "changes in order")
    expect(await _sync(alice, alice.epoch, page[1]), ([], page[1]), "nothing new:")
    await notes.store("y")
    expect([e[0] for e in (await _sync(alice, alice.epoch, page[1]))[0]], [alice.address], "changed")
    expect(len((await _sync(alice, alice.epoch ^ 1, page[1]))[0]), 2, "with another epoch, all:")


async def _sync(session: Session, epoch: int, cursor: int) -> tuple[list[list[Any]], int]:
    entries: list[list[Any]] = []
    while True:
        session.say(Type.SYNC, epoch, cursor)
        page = await session.expect(Type.SYNC_PAGE)
        entries += page["entries"]
        cursor = page["cursor"]
        if not page["more"]:
            return entries, cursor
        epoch = page["epoch"]


@check("M38", "each device of a user has a position of its own")
async def devices(world: World) -> None:
    alice, mine, bob, theirs = await _told(world, 4)
    theirs.say(Type.ACK, 2)
    expect(await mine.receipt(bob.user), (2, 0), "receipt")
    second = await _linked(world, bob)
    there = await second.open(alice.address)
    expect(there.opened["position"], 2, "a new device starts at")
    expect([e["seq"] for e in await there.deliver(2)], [3, 4], "delivered")
    there.say(Type.ACK, 4)
    expect(await mine.receipt(bob.user), (4, 0), "receipt")
    again = await world.session(bob.device)
    chat = await again.open(alice.address, position=2)
    expect([e["seq"] for e in await chat.deliver(2)], [3, 4], "delivered to the first device")


@check("M38", "what one device sends is delivered to the other devices of the user")
async def own_devices(world: World) -> None:
    bob = await world.session()
    second = await _linked(world, bob)
    here, there = await bob.open(bob.address), await second.open(bob.address)
    message_id = (await here.store("from the laptop"))["message_id"]
    (entry,) = await there.deliver()
    found = (entry["message_id"], entry["sender"], entry["device"])
    expect(found, (message_id, bob.user, bob.device.id), "Deliver")


@check("M39", "Fetch answers both ways, ascending, whatever was acknowledged")
async def fetch(world: World) -> None:
    _alice, mine, _bob, theirs = await _told(world, 12)
    wanted = {
        (0, 0, 5): [1, 2, 3, 4, 5],
        (9, 0, 5): [10, 11, 12],
        (0, 13, 3): [10, 11, 12],
        (0, 5, 100): [1, 2, 3, 4],
        (2, 6, 2): [4, 5],
        (12, 0, 10): [],
        (0, 1, 10): [],
    }
    theirs.say(Type.ACK, 12)
    for chat in (mine, theirs):
        for (after, before, limit), seqs in wanted.items():
            found = await chat.fetch(after=after, before=before, limit=limit)
            expect([e["seq"] for e in found], seqs, f"after={after} before={before} limit={limit}:")


@check("M39", "an answer too big for one frame comes in several")
async def big_pages(world: World) -> None:
    alice = await world.session()
    chat = await alice.open(alice.address)
    for _ in range(10):
        await chat.store(bytes(16_384))
    expect([e["seq"] for e in await chat.fetch()], list(range(1, 11)), "entries")
