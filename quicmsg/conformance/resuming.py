"""Checks of section 1: session tickets and early data. A server that gives no tickets passes them."""

from __future__ import annotations

import dataclasses

from aioquic.tls import SessionTicket

from quicmsg.conformance.checking import Checks, World, closed, expect
from quicmsg.conformance.link import Link
from quicmsg.conformance.peer import NEWS, Chat, Session
from quicmsg.conformance.wire import Code, Type

check = Checks()

EARLY_DATA_ALLOWED = 0xFFFFFFFF
"""RFC 9001 section 4.6.1: the one value that a ticket may have."""


@check("M42", "a ticket resumes at most one connection, and signs nobody in")
async def ticket_once(world: World) -> None:
    first = await world.session()
    ticket = await _ticket(first)
    if ticket is None:
        return
    second = Session(await world.link(ticket=ticket), first.device)
    second.say_hello()
    second.authenticate(signature=first.device.sign(first.link.binding))
    await closed(second, Code.SIGN_IN_REFUSED)
    third = Session(await world.link(ticket=ticket), first.device)
    resumed = [_resumed(one.link) for one in (second, third)]
    expect(resumed.count(True) <= 1, True, "connections that one ticket resumed are at most one:")
    third.say_hello()
    third.authenticate()
    await third.welcomed()


@check("M42", "early data is not invited, and refused: what was in it is handled once, after the sign-in")
async def early_data(world: World) -> None:
    first = await world.session()
    ticket = await _ticket(first)
    if ticket is None:
        return
    expect(ticket.max_early_data_size, None, "early data that a ticket allows:")
    eager = dataclasses.replace(ticket, max_early_data_size=EARLY_DATA_ALLOWED)
    said: list[tuple[Session, Chat]] = []

    def speak(link: Link) -> None:
        session = Session(link, first.device)
        session.say_hello()
        chat = session.chat()
        chat.say(Type.OPEN, session.address, 0, 0, 0)
        chat.say(Type.SEND, bytes(16), 0, 0, b"early")
        said.append((session, chat))

    link = await world.link(ticket=eager, early=speak)
    assert link.handshake is not None
    expect(link.handshake.early_data_accepted, False, "early data taken:")
    session, chat = said[0]
    session.authenticate()
    await session.welcomed()
    await chat.expect(Type.OPENED)
    accepted = await chat.expect(Type.ACCEPTED, passing=NEWS)
    expect(accepted["seq"], 1, "stored at")
    await session.round_trip()


def _resumed(link: Link) -> bool:
    assert link.handshake is not None
    return link.handshake.session_resumed


async def _ticket(session: Session) -> SessionTicket | None:
    """What the server gave; it has come before the answer to a Ping."""
    await session.round_trip()
    return session.link.tickets[-1] if session.link.tickets else None
