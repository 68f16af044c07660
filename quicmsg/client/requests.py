"""Questions to the server that have one answer: groups, link codes, history.

A group request outlives a connection: it is asked again on the next one, under the same ref, which makes
it the same request. A fetch belongs to its connection and fails with it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable

from quicmsg import limits
from quicmsg.errors import ConnectError, ErrorCode, QuicmsgError, RefusedError, error_code
from quicmsg.protocol import events
from quicmsg.protocol.client import ClientSession, Request
from quicmsg.protocol.frames import Entry

_WORTH_RETRYING = frozenset(
    {ErrorCode.NO_ERROR, ErrorCode.BUSY, ErrorCode.UNREACHABLE, ErrorCode.GOING_AWAY, ErrorCode.REPLACED}
)


class Requests:
    """All questions under way.

    Args:
        session: the session to ask, or None while there is no connection. A silent one is asked too: the
            stream is reliable, and a session that takes over is asked anew.
        asked: called after something was asked, so that it goes out.
    """

    def __init__(self, session: Callable[[], ClientSession | None], asked: Callable[[], None]) -> None:
        self._session = session
        self._asked = asked
        self._loop = asyncio.get_running_loop()
        self._requests: dict[int, tuple[Request, asyncio.Future[str]]] = {}
        self._fetches: dict[int, tuple[list[Entry], asyncio.Future[list[Entry]]]] = {}

    async def request(self, make: Callable[[int], Request]) -> str:
        """Ask on channel 0; returns the answer's text. Raises RefusedError, or ConnectError when nothing
        answered in time (it may have been done: asking again is safe)."""
        # The server counts the session's own Sync as well, and closes the connection of who asks for more:
        # the same requests would be asked again on the next one, and end that.
        if len(self._requests) >= limits.REQUESTS_MAX - 1:
            raise RefusedError("too many requests at once: wait for an answer", code=ErrorCode.LIMIT)
        ref = secrets.randbits(62)
        request = make(ref)
        future: asyncio.Future[str] = self._loop.create_future()
        self._requests[ref] = (request, future)
        session = self._session()
        if session is not None:
            session.request(request)
            self._asked()
        try:
            async with asyncio.timeout(limits.FAILED_AFTER):
                return await future
        except TimeoutError as error:
            raise ConnectError(
                f"no answer within {limits.FAILED_AFTER:g} s; it may have been done: asking again is safe"
            ) from error
        finally:
            self._requests.pop(ref, None)

    async def fetch(self, conversation: str, *, before: int, limit: int) -> list[Entry]:
        """The newest `limit` entries below `before` (0: the newest), ascending. Raises ConnectError,
        RefusedError."""
        session = self._session()
        if session is None:
            raise ConnectError("not connected")
        ref = secrets.randbits(62)
        future: asyncio.Future[list[Entry]] = self._loop.create_future()
        self._fetches[ref] = ([], future)
        now = self._loop.time()
        session.fetch(conversation, ref=ref, after=0, before=before, limit=limit, now=now)
        self._asked()
        try:
            async with asyncio.timeout(limits.FAILED_AFTER):
                return await future
        except TimeoutError as error:
            raise ConnectError(f"no history within {limits.FAILED_AFTER:g} s") from error
        finally:
            self._fetches.pop(ref, None)

    # ---- what the session reports

    def connected(self, session: ClientSession) -> None:
        """A new connection: ask again what was not answered."""
        for request, _ in self._requests.values():
            session.request(request)

    def done(self, event: events.RequestDone) -> None:
        """Answered."""
        waiting = self._requests.get(event.ref)
        if waiting is not None and not waiting[1].done():
            waiting[1].set_result(event.text)

    def page(self, event: events.PageArrived) -> list[Entry] | None:
        """Part of a fetch; returns all of it with the last part."""
        waiting = self._fetches.get(event.ref)
        if waiting is None:
            return None
        entries, future = waiting
        entries.extend(event.entries)
        if not event.last or future.done():
            return None
        future.set_result(entries)
        return entries

    def failed(self, event: events.RequestFailed) -> None:
        """Refused, or its channel is gone."""
        code = error_code(event.code)
        error: QuicmsgError = RefusedError(event.text, code=code)
        if code in _WORTH_RETRYING:
            error = ConnectError(event.text, code=code)
        request = self._requests.get(event.ref)
        if request is not None and not request[1].done():
            request[1].set_exception(error)
        fetch = self._fetches.get(event.ref)
        if fetch is not None and not fetch[1].done():
            fetch[1].set_exception(error)

    def disconnected(self, code: int) -> None:
        """The connection ended: fetches with it."""
        for ref in list(self._fetches):
            self.failed(events.RequestFailed(ref, code, "the connection ended"))

    def abandon(self, error: QuicmsgError) -> None:
        """No connection will come: everything that waits gets this error."""
        for _, answer in self._requests.values():
            if not answer.done():
                answer.set_exception(error)
        for _, page in self._fetches.values():
            if not page.done():
                page.set_exception(error)
