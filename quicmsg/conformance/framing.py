"""Checks of sections 1 and 2: bytes, frames, what is malformed, what is skipped."""

from __future__ import annotations

import secrets
from typing import Final

import msgpack

from quicmsg.conformance.checking import Checks, World, closed, expect, number
from quicmsg.conformance.link import Ended
from quicmsg.conformance.peer import NEWS, Device, Session
from quicmsg.conformance.wire import (
    BODY_SIZE_MAX,
    FRAME_SIZE_MAX,
    NUMBER_MAX,
    SEQ_MAX,
    Code,
    Type,
    encode,
    prefixed,
)

check = Checks()

_ID: Final = bytes(16)
MALFORMED: Final[dict[str, bytes]] = {
    "no array": prefixed(msgpack.packb("text")),
    "a map": prefixed(msgpack.packb({34: 1})),
    "an empty array": prefixed(b"\x90\x90"),
    "a length of 0": bytes(4),
    "a length of 1": prefixed(b"\x90"),
    "a type that is no positive fixint": prefixed(b"\x92\xcc\x26\x01"),
    "a negative type": prefixed(b"\x92\xff\x01"),
    "a type that is text": prefixed(b"\x92\xa1a\x01"),
    "a field too few": encode(Type.SEND, _ID, 0, 0),
    "text for bytes": encode(Type.SEND, "a" * 16, 0, 0, b"x"),
    "nil for bytes": encode(Type.SEND, None, 0, 0, b"x"),
    "an ext for bytes": encode(Type.SEND, msgpack.ExtType(5, _ID), 0, 0, b"x"),
    "a message_id of 15 bytes": encode(Type.SEND, bytes(15), 0, 0, b"x"),
    "a message_id of 17 bytes": encode(Type.SEND, bytes(17), 0, 0, b"x"),
    "a kind of 256": encode(Type.SEND, _ID, 256, 0, b"x"),
    "a negative kind": encode(Type.SEND, _ID, -1, 0, b"x"),
    "a float for an int": encode(Type.ACK, 1.0),
    "a bool for an int": encode(Type.ACK, True),
    "an int for a bool": encode(Type.READ, 0, 1),
    "a position above the highest": encode(Type.ACK, SEQ_MAX + 1),
    "a body above the limit": encode(Type.SEND, _ID, 0, 0, bytes(BODY_SIZE_MAX + 1)),
    "a limit of 0": encode(Type.FETCH, 1, 0, 0, 0),
    "a limit of 101": encode(Type.FETCH, 1, 0, 0, 101),
    "a number above 2^63 - 1": encode(Type.FETCH, NUMBER_MAX + 1, 0, 0, 1),
    "bytes behind the array": prefixed(msgpack.packb([int(Type.ACK), 0]) + b"\x00"),
    "an array that claims 4 G elements": prefixed(b"\xdd\xff\xff\xff\xff\x26"),
    "bytes that claim 4 G": prefixed(b"\x95\x22\xc6\xff\xff\xff\xff"),
    "the byte that msgpack does not use": prefixed(b"\x92\x26\xc1"),
    "text that is not UTF-8": prefixed(b"\x95\x20\xa4\x40\xff\xfe\xfd\x00\x00\x00"),
    "a deep nest": prefixed(b"\x93\x26\x00" + b"\x91" * 60_000 + b"\xc0"),
}


@check("M1", "every byte in a packet of its own: the same frames")
async def split(world: World) -> None:
    session = Session(await world.link(), Device())
    signature = session.device.sign(session.link.binding)
    hello = encode(Type.HELLO, 1, 1, "conformance/1", [], False)
    named = (session.user, session.device.public_key, signature, "", "")
    for octet in hello + encode(Type.AUTHENTICATE, *named):
        session.channel.write(bytes([octet]))
    await session.welcomed()
    chat = session.chat()
    message_id = secrets.token_bytes(16)
    data = encode(Type.OPEN, session.address, 0, 0, 0) + encode(Type.SEND, message_id, 0, 0, b"split")
    for octet in data:
        chat.channel.write(bytes([octet]))
    await chat.expect(Type.OPENED)
    accepted = await chat.expect(Type.ACCEPTED, passing=NEWS)
    expect(accepted["message_id"], message_id, "Accepted for")


@check("M1", "many frames in one write: each is handled")
async def coalesced(world: World) -> None:
    session = await world.session()
    chat = session.chat()
    ids = [secrets.token_bytes(16) for _ in range(50)]
    sends = b"".join(encode(Type.SEND, message_id, 0, 0, b"one of many") for message_id in ids)
    chat.channel.write(encode(Type.OPEN, session.address, 0, 0, 0) + sends)
    await chat.expect(Type.OPENED)
    for seq, message_id in enumerate(ids, 1):
        accepted = await chat.expect(Type.ACCEPTED, passing=NEWS)
        expect((accepted["message_id"], accepted["seq"]), (message_id, seq), "Accepted")


@check("M2", "malformed frames end their channel with MALFORMED, and no other")
async def malformed(world: World) -> None:
    session = await world.session()
    good = await session.open(session.address)
    group = f"#{session.user}"
    await session.ask(Type.CREATE, number(), group, [], False)
    for name, data in MALFORMED.items():
        chat = await session.open(group)
        chat.channel.write(data)
        try:
            await chat.expect_reset(Code.MALFORMED)
        except Exception as error:
            error.args = (f"{name}: {error}",)
            raise
        await good.store(name)


@check("M2", "a length above the limit ends the channel with FRAME_TOO_BIG, before the frame is there")
async def oversize(world: World) -> None:
    session = await world.session()
    for size in (FRAME_SIZE_MAX + 1, 2**32 - 1):
        chat = await session.open(session.address)
        chat.channel.write(size.to_bytes(4, "big"))
        await chat.expect_reset(Code.FRAME_TOO_BIG)
    await session.round_trip()


@check("M2", "a frame of the largest size is taken")
async def largest(world: World) -> None:
    session = await world.session()
    chat = await session.open(session.address)
    data = encode(Type.ACK, 0, bytes(FRAME_SIZE_MAX - 6))
    expect(len(data), FRAME_SIZE_MAX + 4, "our own frame has")
    chat.channel.write(data)
    await chat.store("after it")


@check("M2", "FIN within a frame ends the channel with MALFORMED")
async def cut_short(world: World) -> None:
    session = await world.session()
    chat = await session.open(session.address)
    chat.channel.write(encode(Type.ACK, 0)[:-1], end=True)
    await chat.expect_reset(Code.MALFORMED)


@check("M2", "a malformed frame on channel 0 ends the connection with MALFORMED")
async def malformed_control(world: World) -> None:
    for data in (encode(Type.PING, -1), prefixed(b"text"), encode(Type.SYNC, 0)):
        session = await world.session()
        session.channel.write(data)
        await closed(session, Code.MALFORMED)


@check("M2", "an oversize frame on channel 0 ends the connection with FRAME_TOO_BIG")
async def oversize_control(world: World) -> None:
    session = await world.session()
    session.channel.write(b"\xff\xff\xff\xff")
    await closed(session, Code.FRAME_TOO_BIG)


@check("M2", "a frame that only the server sends is UNEXPECTED")
async def servers_frames(world: World) -> None:
    session = await world.session()
    chat = await session.open(session.address)
    chat.say(Type.ACCEPTED, _ID, 1, 0)
    await chat.expect_reset(Code.UNEXPECTED)
    unopened = session.chat()
    unopened.say(Type.ACK, 0)
    await unopened.expect_reset(Code.UNEXPECTED)
    session.say(Type.NOTICE, "@nobody", 1, 1)
    await closed(session, Code.UNEXPECTED)


@check("M3", "frames of unknown type are skipped, whatever is in them")
async def unknown_types(world: World) -> None:
    session = await world.session()
    for kind in (0, 20, 31, 32, 127):
        session.channel.write(encode(kind, "news", {"a": [1, 2.5, None]}))
    session.channel.write(prefixed(b"\x92\x7e\xc1\xff"))
    await session.round_trip()
    chat = await session.open(session.address)
    for kind in (0, 1, 44, 99, 127):
        chat.channel.write(encode(kind, b"news"))
    chat.channel.write(prefixed(b"\xdc\x00\x02\x7e\xc1"))
    await chat.store("after them")


@check("M4", "elements behind the last known field are ignored")
async def extra_fields(world: World) -> None:
    session = Session(await world.link(), Device())
    session.say(Type.HELLO, 1, 1, "conformance/1", ["a feature"], False, "more", {"a": 1})
    signature = session.device.sign(session.link.binding)
    session.say(Type.AUTHENTICATE, session.user, session.device.public_key, signature, "", "", [None])
    await session.welcomed()
    chat = session.chat()
    chat.say(Type.OPEN, session.address, 0, 0, 0, 7)
    await chat.expect(Type.OPENED)
    chat.say(Type.SEND, secrets.token_bytes(16), 0, 0, b"x", {"reply": [1, 2]}, 5, -1, 2.5)
    await chat.expect(Type.ACCEPTED, passing=NEWS)


@check("M5", "the frames of a channel are handled in their order")
async def in_order(world: World) -> None:
    session = await world.session()
    session.channel.write(b"".join(encode(Type.PING, count) for count in range(100)))
    for count in range(100):
        expect((await session.expect(Type.PONG))["number"], count, "Pong")


@check("M40", "an Open with FIN right behind it is answered")
async def fin_at_once(world: World) -> None:
    session = await world.session()
    chat = session.chat()
    chat.channel.write(encode(Type.OPEN, session.address, 0, 0, 0), end=True)
    await chat.expect(Type.OPENED)
    await chat.expect_end()
    unknown = session.chat()
    unknown.channel.write(encode(Type.OPEN, "@" + secrets.token_hex(8), 0, 0, 0), end=True)
    await unknown.expect(Type.REFUSED)
    await unknown.expect_end()


@check("M40", "after FIN the server answers everything before it, and ends its side")
async def fin(world: World) -> None:
    session = await world.session()
    chat = session.chat()
    sends = b"".join(encode(Type.SEND, secrets.token_bytes(16), 0, 0, b"last words") for _ in range(20))
    page = encode(Type.FETCH, 1, 0, 0, 5)
    chat.channel.write(encode(Type.OPEN, session.address, 0, 0, 0) + sends + page, end=True)
    await chat.expect(Type.OPENED)
    answers = 0
    while not isinstance(await chat.next(), Ended):
        answers += 1
    expect(answers >= 21, True, "20 Accepted and a Page before FIN:")
    again = await session.open(session.address)
    expect(again.opened["head"], 20, "head")
    again.channel.write(b"", end=True)
    await again.expect_end()
