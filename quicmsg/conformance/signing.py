"""Checks of section 4: who may speak at all, and who somebody is."""

from __future__ import annotations

import asyncio
import secrets

from quicmsg.conformance.checking import Checks, World, closed, expect, number
from quicmsg.conformance.peer import NEWS, Device, Session
from quicmsg.conformance.wire import PARKED_SIZE_MAX, SIGN_IN_TIMEOUT, Code, Type, encode

check = Checks()


async def _stranger(world: World) -> Session:
    return Session(await world.link(), Device())


@check("M6", "before sign-in everything else ends the connection with SIGN_IN_REQUIRED")
async def nothing_before_sign_in(world: World) -> None:
    early = (
        encode(Type.SYNC, 0, 0),
        encode(Type.STATE, True),
        encode(Type.JOIN, number(), "#team"),
        encode(Type.LINK, 1),
        encode(Type.AUTHENTICATE, "user", bytes(32), bytes(64), "", ""),
    )
    for data in early:
        session = await _stranger(world)
        session.channel.write(data)
        await closed(session, Code.SIGN_IN_REQUIRED)
    session = await _stranger(world)
    session.say_hello()
    session.say_hello()
    await closed(session, Code.SIGN_IN_REQUIRED)


@check("M6", "more than 4096 bytes on channel 0 before sign-in end the connection with LIMIT")
async def too_much_before_sign_in(world: World) -> None:
    session = await _stranger(world)
    for count in range(1000):
        session.say(Type.PING, 2**62 + count)
    await closed_after_pongs(session, Code.LIMIT)


async def closed_after_pongs(session: Session, code: Code) -> None:
    said = await session.expect(Type.CLOSE, passing={Type.PONG})
    expect(Code(said["code"]), code, "Close with code")


@check("M7", "conversation channels are answered after Welcome, not before")
async def parked(world: World) -> None:
    session = await _stranger(world)
    session.say_hello()
    chat = session.chat()
    message_id = secrets.token_bytes(16)
    chat.say(Type.OPEN, session.address, 0, 0, 0)
    chat.say(Type.SEND, message_id, 0, 0, b"early")
    await session.round_trip()
    await session.round_trip()
    expect(chat.channel.items.qsize(), 0, "frames before sign-in:")
    session.authenticate()
    await session.welcomed()
    await chat.expect(Type.OPENED)
    accepted = await chat.expect(Type.ACCEPTED, passing=NEWS)
    expect(accepted["message_id"], message_id, "Accepted for")


@check("M7", "more parked bytes than allowed end the connection with LIMIT")
async def parked_too_much(world: World) -> None:
    session = await _stranger(world)
    chat = session.chat()
    session.say_hello()
    chat.channel.write(bytes(PARKED_SIZE_MAX + 1))
    await closed(session, Code.LIMIT)


@check("M8", "a wrong signature is refused")
async def wrong_signature(world: World) -> None:
    session = await _stranger(world)
    session.say_hello()
    good = session.device.sign(session.link.binding)
    session.authenticate(signature=bytes([good[0] ^ 1]) + good[1:])
    await closed(session, Code.SIGN_IN_REFUSED)


@check("M8", "a signature that was made for another connection is refused")
async def relayed_signature(world: World) -> None:
    first = await _stranger(world)
    second = Session(await world.link(), first.device)
    second.say_hello()
    second.authenticate(signature=first.device.sign(first.link.binding))
    await closed(second, Code.SIGN_IN_REFUSED)


@check("M8", "a signature that was made for another name is refused")
async def other_names_signature(world: World) -> None:
    session = await _stranger(world)
    session.say_hello()
    session.authenticate(signature=session.device.sign(session.link.binding, user="somebody"))
    await closed(session, Code.SIGN_IN_REFUSED)


@check("M9", "a client that does not speak the server's version is refused with VERSION")
async def version(world: World) -> None:
    session = await _stranger(world)
    session.say_hello(2, 9)
    await closed(session, Code.VERSION)


@check("M9", "a client that speaks more versions is welcomed")
async def wider_versions(world: World) -> None:
    session = await _stranger(world)
    session.say_hello(1, 9)
    session.authenticate()
    await session.welcomed()
    expect(session.welcome["version"], 1, "version")
    expect(session.welcome["user"], session.user, "user")
    expect(session.welcome["device"], session.device.id, "device")


@check("M10", "another key for a known name is refused with NAME_TAKEN")
async def name_taken(world: World) -> None:
    owner = await world.session()
    thief = Session(await world.link(), Device(owner.user))
    thief.say_hello()
    thief.authenticate()
    await closed(thief, Code.NAME_TAKEN)
    await owner.round_trip()


@check("M10", "a link code lets another device in, once; a wrong one does not")
async def link_code(world: World) -> None:
    owner = await world.session()
    answer = await owner.ask(Type.LINK, number())
    expect(answer.type, Type.DONE, "answer to Link")
    for code, verdict in (("0" * 16, Code.CODE_INVALID), (answer["text"], None), (answer["text"], 1)):
        device = Session(await world.link(), Device(owner.user))
        device.say_hello()
        device.authenticate(code=code)
        if verdict is None:
            await device.welcomed()
            expect(device.welcome["device"], device.device.id, "device")
        else:
            await closed(device, Code.CODE_INVALID)
    await owner.round_trip()


@check("M10", "a link code of one account does not open another")
async def foreign_link_code(world: World) -> None:
    one, other = await world.pair()
    answer = await one.ask(Type.LINK, number())
    device = Session(await world.link(), Device(other.user))
    device.say_hello()
    device.authenticate(code=answer["text"])
    await closed(device, Code.CODE_INVALID)


@check("M10", "what is no name is MALFORMED")
async def invalid_names(world: World) -> None:
    for name in ("Upper", "", "-dash", "a" * 33, "sp ace", "nul\0", "line\n", "ümlaut"):
        device = Device()
        device.user = name
        session = Session(await world.link(), device)
        session.say_hello()
        session.authenticate()
        await closed(session, Code.MALFORMED)


@check("M11", "a newer session of a device replaces the older one")
async def replaced(world: World) -> None:
    older = await world.session()
    newer = await world.session(older.device)
    await closed(older, Code.REPLACED)
    await newer.round_trip()


@check("M11", "a sign-in that fails does not end the session that is there")
async def not_replaced(world: World) -> None:
    older = await world.session()
    newer = Session(await world.link(), older.device)
    newer.say_hello()
    newer.authenticate(signature=bytes(64))
    await closed(newer, Code.SIGN_IN_REFUSED)
    await older.round_trip()


@check("M12", "without a sign-in the connection is closed with TIMEOUT after 5 s")
async def sign_in_timeout(world: World) -> None:
    session = await _stranger(world)
    loop = asyncio.get_running_loop()
    began = loop.time()
    session.say_hello()
    await closed(session, Code.TIMEOUT)
    waited = loop.time() - began
    expect(SIGN_IN_TIMEOUT - 0.5 < waited < SIGN_IN_TIMEOUT + 2, True, f"{waited:.1f} s; about 5 s:")


@check("M33", "a Ping is answered, also before sign-in")
async def ping(world: World) -> None:
    session = await _stranger(world)
    await session.round_trip()
    session.say_hello()
    await session.round_trip()
    session.authenticate()
    await session.welcomed()
    await session.round_trip()
