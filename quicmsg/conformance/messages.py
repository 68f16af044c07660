"""Checks of sections 6 and 7 about messages: stored once, in order, delivered once, within windows."""

from __future__ import annotations

import asyncio
import secrets

from quicmsg.conformance.checking import CheckError, Checks, World, expect, number
from quicmsg.conformance.peer import NEWS, Chat
from quicmsg.conformance.wire import (
    BODY_SIZE_MAX,
    DELIVER_WINDOW_MESSAGES,
    DELIVER_WINDOW_SIZE,
    Code,
    Frame,
    Type,
    encode,
)

check = Checks()


@check("M13", "seq counts from 1 without gaps")
async def seq(world: World) -> None:
    alice, bob = await world.pair()
    mine = await alice.open(bob.address)
    expect(mine.opened["head"], 0, "head of a new conversation")
    found = [(await mine.store(f"message {count}"))["seq"] for count in range(5)]
    theirs = await bob.open(alice.address)
    expect(theirs.opened["head"], 5, "head")
    found.append((await theirs.store("mine"))["seq"])
    expect(found, [1, 2, 3, 4, 5, 6], "seq")


@check("M14", "the same message again: the original seq and time, stored once")
async def repeated(world: World) -> None:
    alice, bob = await world.pair()
    chat = await alice.open(bob.address)
    first = await chat.store("once")
    await chat.store("between")
    again = await chat.store("once", first["message_id"])
    expect((again["seq"], again["stored_at_ms"]), (first["seq"], first["stored_at_ms"]), "Accepted")
    later = await world.session(alice.device)
    reopened = await later.open(bob.address)
    again = await reopened.store("once", first["message_id"])
    expect((again["seq"], again["stored_at_ms"]), (first["seq"], first["stored_at_ms"]), "Accepted")
    expect(len(await reopened.fetch()), 2, "entries")


@check("M14", "the same message twice in one write: two answers, stored once")
async def repeated_at_once(world: World) -> None:
    alice = await world.session()
    chat = await alice.open(alice.address)
    data = encode(Type.SEND, secrets.token_bytes(16), 0, 0, b"twice")
    chat.channel.write(data * 3)
    for _ in range(3):
        expect((await chat.expect(Type.ACCEPTED, passing=NEWS))["seq"], 1, "seq")
    expect(len(await chat.fetch()), 1, "entries")


@check("M15", "the same message_id with anything else: CONFLICT, nothing is stored")
async def conflict(world: World) -> None:
    alice, bob = await world.pair()
    chat = await alice.open(bob.address)
    message_id = (await chat.store("the first"))["message_id"]
    for body, kind, encoding in ((b"another", 0, 0), (b"the first", 0, 1), (b"the first", 77, 0)):
        chat.send(body, message_id, kind=kind, encoding=encoding)
        refused = await chat.expect(Type.REJECTED, passing=NEWS)
        expect((refused["message_id"], refused["code"]), (message_id, Code.CONFLICT), "Rejected")
    elsewhere = await alice.open(alice.address)
    elsewhere.send(b"the first", message_id)
    expect((await elsewhere.expect(Type.REJECTED, passing=NEWS))["code"], Code.CONFLICT, "Rejected")
    expect([e["body"] for e in await chat.fetch()], [b"the first"], "entries")
    expect(await elsewhere.fetch(), [], "entries")


@check("M15", "message_ids of different users are independent")
async def ids_per_user(world: World) -> None:
    alice, bob = await world.pair()
    mine, theirs = await alice.open(bob.address), await bob.open(alice.address)
    message_id = (await mine.store("mine"))["message_id"]
    expect((await theirs.store("theirs", message_id))["seq"], 2, "seq")


@check("M16", "the Sends of a channel are stored in their order")
async def order(world: World) -> None:
    alice, bob = await world.pair()
    chat = await alice.open(bob.address)
    ids = []
    for _ in range(10):
        batch = [secrets.token_bytes(16) for _ in range(50)]
        chat.channel.write(b"".join(encode(Type.SEND, one, 0, 0, b"x") for one in batch))
        ids += batch
        for one in batch:
            expect((await chat.expect(Type.ACCEPTED, passing=NEWS))["message_id"], one, "Accepted")
    expect([e["message_id"] for e in await _whole_log(chat)], ids, "log")


@check("M17", "all members see the same entries under the same seq")
async def same_log(world: World) -> None:
    alice, bob = await world.pair()
    mine, theirs = await alice.open(bob.address), await bob.open(alice.address)
    for count in range(30):
        mine.send(f"a{count}")
        theirs.send(f"b{count}")
    for chat in (mine, theirs):
        for _ in range(30):
            await chat.expect(Type.ACCEPTED, passing=NEWS)
    one, other = await _whole_log(mine), await _whole_log(theirs)
    expect(one == other, True, "the same log for both:")
    expect([e["seq"] for e in one], list(range(1, 61)), "seqs")
    expect({e["sender"] for e in one}, {alice.user, bob.user}, "senders")


@check("M18", "every entry is told exactly once on a channel: by Accepted or by Deliver, in order")
async def told_once(world: World) -> None:
    alice, bob = await world.pair()
    chats = [await alice.open(bob.address), await bob.open(alice.address)]
    told: list[list[tuple[int, Type]]] = await asyncio.gather(*(_chatter(chat, 25) for chat in chats))
    for heard in told:
        expect(sorted(seq for seq, _ in heard), list(range(1, 51)), "told")
        delivered = [seq for seq, how in heard if how is Type.DELIVER]
        expect((len(delivered), delivered), (25, sorted(delivered)), "delivered")


async def _chatter(chat: Chat, count: int) -> list[tuple[int, Type]]:
    """Send `count` messages and acknowledge what comes, until each side's `count` were told."""
    heard: list[tuple[int, Type]] = []
    for number_ in range(count):
        chat.send(f"message {number_}")
    while len(heard) < 2 * count:
        frame = await chat.expect(Type.ACCEPTED, Type.DELIVER, passing={Type.RECEIPT})
        heard.append((frame["seq"], frame.type))
    return heard


@check("M18", "entries of an earlier connection come as Deliver, with their sender and device")
async def own_entries(world: World) -> None:
    alice = await world.session()
    await (await alice.open(alice.address)).store("note to myself")
    again = await world.session(alice.device)
    chat = await again.open(again.address)
    (entry,) = await chat.deliver()
    found = (entry["seq"], entry["sender"], entry["device"], entry["body"])
    expect(found, (1, alice.user, alice.device.id, b"note to myself"), "Deliver")


@check("M19", "at most 64 entries are delivered without an Ack, and Acks open the window")
async def window(world: World) -> None:
    alice, bob = await world.pair()
    await _fill(await alice.open(bob.address), 150, b"x")
    chat = await bob.open(alice.address)
    await chat.deliver(DELIVER_WINDOW_MESSAGES)
    await _nothing_more(chat)
    chat.say(Type.ACK, 10)
    expect([e["seq"] for e in await chat.deliver(10)], list(range(65, 75)), "delivered")
    await _nothing_more(chat)
    chat.say(Type.ACK, 74)
    expect((await chat.deliver(64))[-1]["seq"], 138, "last delivered")
    chat.say(Type.ACK, 138)
    expect((await chat.deliver(12))[-1]["seq"], 150, "last delivered")


@check("M19", "at most 256 KiB of bodies are delivered without an Ack, and one entry more")
async def window_size(world: World) -> None:
    alice, bob = await world.pair()
    await _fill(await alice.open(bob.address), 20, bytes(BODY_SIZE_MAX))
    chat = await bob.open(alice.address)
    await chat.deliver(DELIVER_WINDOW_SIZE // BODY_SIZE_MAX)
    await _nothing_more(chat)
    chat.say(Type.ACK, 2)
    expect([e["seq"] for e in await chat.deliver(2)], [17, 18], "delivered")
    await _nothing_more(chat)


@check("M20", "more Sends than the window are slowed, not lost: each is answered")
async def submit_window(world: World) -> None:
    alice = await world.session()
    chat = await alice.open(alice.address)
    chat.channel.write(
        b"".join(encode(Type.SEND, secrets.token_bytes(16), 0, 0, b"flood") for _ in range(1000))
    )
    for seq in range(1, 1001):
        expect((await chat.expect(Type.ACCEPTED, passing=NEWS))["seq"], seq, "seq")


@check("M21", "the largest body is stored; a larger one is not")
async def body_size(world: World) -> None:
    alice = await world.session()
    expect(alice.welcome["body_size_max"] <= BODY_SIZE_MAX, True, "body_size_max within the limit:")
    chat = await alice.open(alice.address)
    await chat.store(bytes(alice.welcome["body_size_max"]))
    await chat.store(b"")
    chat.send(bytes(BODY_SIZE_MAX + 1))
    await chat.expect_reset(Code.MALFORMED)
    again = await alice.open(alice.address)
    expect(again.opened["head"], 2, "head")


@check("M22", "no such conversation and not my conversation: the same answer")
async def unknown(world: World) -> None:
    alice, bob = await world.pair()
    theirs = f"#{bob.user}"
    await bob.ask(Type.CREATE, number(), theirs, [], False)
    answers = []
    for address in ("@" + secrets.token_hex(8), "#" + secrets.token_hex(8), theirs):
        chat = alice.chat()
        chat.say(Type.OPEN, address, 0, 0, 0)
        chat.send(b"early")
        refused: Frame = await chat.expect(Type.REFUSED)
        answers.append((refused["code"], refused["text"], refused["retry_after_ms"]))
        await chat.expect_end()
    expect(set(answers), {(int(Code.UNKNOWN), answers[0][1], 0)}, "Refused")


@check("M23", "a conversation is open once: a second channel is reset, the first goes on")
async def opened_twice(world: World) -> None:
    alice = await world.session()
    first = await alice.open(alice.address)
    second = alice.chat()
    second.say(Type.OPEN, alice.address, 0, 0, 0)
    await second.expect_reset(Code.UNEXPECTED)
    await first.store("still here")


@check("M41", "kinds that only the server writes are not taken from a client")
async def reserved_kinds(world: World) -> None:
    alice, bob = await world.pair()
    chat = await alice.open(bob.address)
    for kind in (1, 2, 3):
        message_id = chat.send(bob.user, kind=kind)
        refused = await chat.expect(Type.REJECTED, Type.ACCEPTED, passing=NEWS)
        if refused.type is Type.ACCEPTED:
            raise CheckError(f"Rejected for kind {kind}", refused)
        expect((refused["message_id"], refused["code"]), (message_id, Code.FORBIDDEN), "Rejected")
    await chat.store("after them")
    expect(len(await chat.fetch()), 1, "entries")


async def _fill(chat: Chat, count: int, body: bytes) -> None:
    for _ in range(count):
        await chat.store(body)


async def _nothing_more(chat: Chat) -> None:
    """Two answers to Fetch come behind whatever was on its way."""
    for _ in range(2):
        await chat.fetch(limit=1)
        beyond = [frame["seq"] for frame in chat.drained if frame.type is Type.DELIVER]
        expect(beyond, [], "delivered beyond the window:")


async def _whole_log(chat: Chat) -> list[dict[str, object]]:
    log: list[dict[str, object]] = []
    while found := await chat.fetch(after=len(log)):
        log += found
    return log
