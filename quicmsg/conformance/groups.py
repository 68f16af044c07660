"""Checks of groups: made, invited to, joined, left; who sees what; and that requests are done once."""

from __future__ import annotations

import secrets

from quicmsg.conformance.checking import Checks, World, expect, number
from quicmsg.conformance.peer import Session
from quicmsg.conformance.wire import Code, Frame, Type

check = Checks()

CREATED, JOINED, LEFT = 1, 2, 3


def _name() -> str:
    return f"#conformance-{secrets.token_hex(8)}"


async def _done(session: Session, kind: Type, *fields: object) -> None:
    answer = await session.ask(kind, number(), *fields)
    expect(answer.type, Type.DONE, f"answer to {kind.name}: {answer}; it should be")


async def _failed(session: Session, code: Code, kind: Type, *fields: object) -> Frame:
    answer = await session.ask(kind, number(), *fields)
    expect(answer.type, Type.FAILED, f"answer to {kind.name}: {answer}; it should be")
    expect(Code(answer["code"]), code, "Failed with code")
    return answer


def _news(entry: Frame | dict[str, object]) -> tuple[object, object, object]:
    return entry["kind"], entry["sender"], entry["body"]


@check("M34", "a request that is repeated is done once and answered again")
async def repeated_request(world: World) -> None:
    alice, bob = await world.pair()
    group, made, invited = _name(), number(), number()
    for _ in range(2):
        answer = await alice.ask(Type.CREATE, made, group, [], False)
        expect(answer.type, Type.DONE, "answer")
    for _ in range(2):
        answer = await alice.ask(Type.INVITE, invited, group, bob.user)
        expect(answer.type, Type.DONE, "answer")
    chat = await alice.open(group)
    expect(chat.opened["head"], 2, "head: one CREATED, one JOINED:")


@check("M34", "a request that is refused changes nothing")
async def refused_request(world: World) -> None:
    alice, bob = await world.pair()
    group = _name()
    await _failed(alice, Code.UNKNOWN, Type.CREATE, group, ["nobody-" + secrets.token_hex(8)], False)
    await _done(bob, Type.CREATE, group, [], False)
    await _failed(alice, Code.EXISTS, Type.CREATE, group, [], False)
    await _failed(alice, Code.UNKNOWN, Type.INVITE, group, alice.user)
    await _failed(bob, Code.UNKNOWN, Type.INVITE, group, "nobody-" + secrets.token_hex(8))
    chat = await bob.open(group)
    expect(chat.opened["head"], 1, "head")


@check("M35", "a closed group cannot be joined, nor told from one that does not exist")
async def closed_group(world: World) -> None:
    alice, bob = await world.pair()
    closed, open_group = _name(), _name()
    await _done(alice, Type.CREATE, closed, [], False)
    await _done(alice, Type.CREATE, open_group, [], True)
    one = await _failed(bob, Code.UNKNOWN, Type.JOIN, closed)
    other = await _failed(bob, Code.UNKNOWN, Type.JOIN, _name())
    expect(one["text"], other["text"], "text of Failed")
    await _done(bob, Type.JOIN, open_group)
    await _done(bob, Type.JOIN, open_group)


@check("M36", "who leaves gets Refused on the open channel, and nothing after it")
async def leave(world: World) -> None:
    alice, bob = await world.pair()
    group = _name()
    await _done(alice, Type.CREATE, group, [bob.user], False)
    mine, theirs = await alice.open(group), await bob.open(group)
    await theirs.deliver(2)
    await _done(bob, Type.LEAVE, group)
    refused = await theirs.expect(Type.REFUSED, passing={Type.RECEIPT})
    expect(Code(refused["code"]), Code.UNKNOWN, "Refused with code")
    await theirs.expect_end()
    entry = (await mine.deliver(3))[-1]
    expect(_news(entry), (LEFT, bob.user, bob.user.encode()), "entry")
    await mine.store("now we are alone")
    again = bob.chat()
    again.say(Type.OPEN, group, 0, 0, 0)
    expect(Code((await again.expect(Type.REFUSED))["code"]), Code.UNKNOWN, "Refused with code")
    await bob.round_trip()
    late = [n for n in bob.notices if n["conversation"] == group and n["head"] > 3]
    expect(late, [], "notices about the group after leaving:")
    await _done(bob, Type.LEAVE, group)


@check("M37", "changes of membership are entries, and a newcomer sees the log from its own on")
async def newcomer(world: World) -> None:
    alice, bob = await world.pair()
    group = _name()
    await _done(alice, Type.CREATE, group, [], False)
    mine = await alice.open(group)
    await mine.store("before bob")
    await _done(alice, Type.INVITE, group, bob.user)
    await bob.notice(group)
    theirs = await bob.open(group)
    expect((theirs.opened["oldest"], theirs.opened["head"]), (3, 3), "oldest and head")
    expect(theirs.members(), {alice.user: (0, 0), bob.user: (2, 2)}, "members")
    await mine.store("after bob")
    first, second = await theirs.deliver(2)
    expect(_news(first), (JOINED, alice.user, bob.user.encode()), "entry")
    expect((second["seq"], second["body"]), (4, b"after bob"), "entry")
    expect([e["seq"] for e in await theirs.fetch()], [3, 4], "history")
    log = await mine.fetch()
    expect(_news(log[0]), (CREATED, alice.user, b""), "first entry")
    expect([e["kind"] for e in log], [CREATED, 0, JOINED, 0], "kinds")


@check("M37", "a message in a group reaches every member")
async def everybody(world: World) -> None:
    alice, bob = await world.pair()
    carol = await world.session()
    group = _name()
    await _done(alice, Type.CREATE, group, [bob.user, carol.user], False)
    chats = [await member.open(group) for member in (alice, bob, carol)]
    expect(set(chats[0].members()), {alice.user, bob.user, carol.user}, "members")
    for chat in chats:
        await chat.deliver(3)
    await chats[0].store("hello all")
    for chat in chats[1:]:
        (entry,) = await chat.deliver()
        expect((entry["seq"], entry["body"]), (4, b"hello all"), "entry")
        chat.say(Type.ACK, 4)
    waiting = {bob.user, carol.user}
    while waiting:
        receipt = await chats[0].expect(Type.RECEIPT)
        waiting -= {user for user, delivered, _ in receipt["members"] if delivered == 4}
