"""What a check is: a numbered rule of the document, a sentence, and a function that tries it on a server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aioquic.tls import SessionTicket

from quicmsg.conformance import wire
from quicmsg.conformance.link import Gone, Link, SilenceError, connect
from quicmsg.conformance.peer import Device, Session, UnexpectedError
from quicmsg.conformance.wire import BadFrameError, Code, Type
from quicmsg.errors import CertificateError, ConnectError, SignInError

CHECK_TIMEOUT: Final = 60.0
"""One check, with everything it sets up."""
CHECKS_AT_ONCE: Final = 4
"""Checks use users of their own, so they do not meet; more at once would only measure this computer."""


class CheckError(Exception):
    """A check did not see what the document says."""

    def __init__(self, expected: object, got: object) -> None:
        super().__init__(f"expected {expected}, got {got}")


def expect(got: object, expected: object, what: str = "") -> None:
    """Raise CheckError unless they are equal."""
    if got != expected:
        raise CheckError(f"{what} {expected!r:.160}".strip(), f"{got!r:.160}")


class World:
    """The server under test, and connections to it that one check has made."""

    def __init__(self, host: str, port: int, ca_file: Path | None) -> None:
        self._where = (host, port, ca_file)
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> World:
        return self

    async def __aexit__(self, *failure: object) -> None:
        await self._stack.aclose()

    async def link(
        self, *, ticket: SessionTicket | None = None, early: Callable[[Link], None] | None = None
    ) -> Link:
        """A fresh connection; nothing was said on it, but what `early` says (see `connect`)."""
        return await self._stack.enter_async_context(connect(*self._where, ticket=ticket, early=early))

    async def session(self, device: Device | None = None, *, code: str = "") -> Session:
        """A device (a new user's, if none is given) that is signed in."""
        session = Session(await self.link(), device or Device())
        session.say_hello()
        session.authenticate(code=code)
        await session.welcomed()
        return session

    async def pair(self) -> tuple[Session, Session]:
        """Two new users."""
        return await self.session(), await self.session()


Run = Callable[[World], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Check:
    """`rule` is a number of section 12, as `M14`; `promise` says what was tried."""

    rule: str
    promise: str
    run: Run


@dataclass(frozen=True, slots=True)
class Result:
    """How a check went; `problem` is empty when it is ok."""

    check: Check
    problem: str


class Checks:
    """A list of checks, filled by a decorator."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def __call__(self, rule: str, promise: str) -> Callable[[Run], Run]:
        def add(run: Run) -> Run:
            self.all.append(Check(rule, promise, run))
            return run

        return add


async def preflight(world: World) -> None:
    """Can anything be checked here? Raises ConnectError, CertificateError, SignInError."""
    link = await world.link()
    session = Session(link, Device())
    session.say_hello()
    session.authenticate()
    try:
        await session.welcomed()
    except UnexpectedError as error:
        if isinstance(error.got, wire.Frame) and error.got.type is Type.CLOSE:
            code, text = error.got["code"], error.got["text"]
            advice = "; the checks need a server that takes new names" if code == Code.INVITE_NEEDED else ""
            raise SignInError(f"the server does not take a new user: {text}{advice}") from error
        raise SignInError(f"the server does not welcome a new user: {error}") from error
    except SilenceError:
        raise SignInError("the server does not answer a sign-in") from None


def start(checks: Iterable[Check], host: str, port: int, ca_file: Path | None) -> list[asyncio.Task[Result]]:
    """Run the checks, a few at once; one task each, in their order."""
    turn = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def run(check: Check) -> Result:
        async with turn:
            return Result(check, await _problem(check, host, port, ca_file))

    return [asyncio.create_task(run(check)) for check in checks]


async def _problem(check: Check, host: str, port: int, ca_file: Path | None) -> str:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT), World(host, port, ca_file) as world:
            await check.run(world)
    except (CheckError, UnexpectedError) as error:
        return str(error)
    except SilenceError:
        return "expected an answer, got silence"
    except BadFrameError as error:
        return f"expected a frame as in the document, got {error}"
    except (ConnectError, CertificateError) as error:
        return f"expected a connection, got {error.message}"
    except TimeoutError:
        return f"expected an end within {CHECK_TIMEOUT:.0f} s, got none"
    return ""


async def closed(session: Session, code: Code) -> None:
    """The server says why with a Close frame, then closes the connection with the same code."""
    said = await session.expect(Type.CLOSE)
    expect(Code(said["code"]), code, "Close with code")
    last = await session.control.next()
    while not isinstance(last, Gone):
        last = await session.control.next()
    expect(last.code, int(code), "CONNECTION_CLOSE with code")


def number() -> int:
    """A `ref` that was never used (M34)."""
    return secrets.randbits(62)
