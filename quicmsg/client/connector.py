"""Keeps a client connected: dial, sign in, watch, move, race, come back.

One task reconnects whenever there is no session. While there is one, trouble is met in steps, each
milder than the next: rebind the socket (the connection lives on at a new address), let a second
connection race the first (it takes over only when it is confirmed), and only then give up the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine

from quicmsg import limits
from quicmsg.client.roamer import Roamer
from quicmsg.client.scout import Scout
from quicmsg.client.target import Target
from quicmsg.client.values import Connection, ConnectionChanged
from quicmsg.errors import (
    CertificateError,
    ConfigurationError,
    ConnectError,
    ErrorCode,
    QuicmsgError,
    SignInError,
    error_code,
)
from quicmsg.protocol import events
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.session import SessionState
from quicmsg.transport.quic import ClientTickets, Link, Trust, dial

logger = logging.getLogger(__name__)


class Connector:
    """The client's link, whatever happens to it.

    Args:
        make_session: a new ClientSession on the client's mailbox; `early` as there.
        handle: told every event of the attached session that is not about the link itself.
        changed: told when the link's state changed.
        active: called after every input to a session: the mailbox may have news.
    """

    def __init__(
        self,
        target: Target,
        *,
        make_session: Callable[[bool], ClientSession],
        handle: Callable[[events.Event], None],
        changed: Callable[[ConnectionChanged], None],
        active: Callable[[], None],
        local_address: str | None,
    ) -> None:
        self.link: Link | None = None
        self.session: ClientSession | None = None
        self.fatal: QuicmsgError | None = None
        self.last_error: QuicmsgError | None = None
        self.state = Connection.DOWN
        self._told: Connection | None = None
        self._target = target
        self._tickets = ClientTickets()
        self._make_session = make_session
        self._handle = handle
        self._changed = changed
        self._active = active
        self._moved = False
        self._loop = asyncio.get_running_loop()
        self._welcomed: dict[ClientSession, asyncio.Future[None]] = {}
        self._wake = asyncio.Event()
        self._race: asyncio.Task[None] | None = None
        self._racing: ClientSession | None = None
        self._race_until_heard = False
        self._runner: asyncio.Task[None] | None = None
        self._roamer = Roamer(self._current, self._network_changed, local_address)
        self._ended_code = ErrorCode.NO_ERROR
        self._closing = False

    # ---- life

    def start(self) -> None:
        """Begin to connect, and stay connected until `close`."""
        self._runner = self._loop.create_task(self._guarded(self._run()))
        self._roamer.start()

    async def close(self) -> None:
        """Say goodbye and end everything; what was given to the link still goes out, within a bound."""
        self._closing = True
        self._roamer.close()
        for task in (self._race, self._runner):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self.session is not None and self.link is not None:
            self.session.close(now=self._loop.time())
            self.link.flush()
            await self.link.wait_closed()

    # ---- commands

    def flush(self) -> None:
        """The session was given something to say."""
        if self.session is not None and self.link is not None:
            self.session.service(self._loop.time())
            self.pump()

    def migrate(self, local_address: str | None) -> None:
        """Go on from another local address. Raises ConfigurationError when it cannot be bound, ConnectError
        when there is no connection (the next one will use the address)."""
        if self.link is not None:
            self.link.migrate(local_address)
            self._roamer.moved_by_hand(self.link)
        self._roamer.local_address, self._moved = local_address, True
        if self.link is None:
            raise ConnectError("not connected; the next connection will use this address")

    def race(self) -> None:
        """Let a second connection race the present one."""
        self._start_race()

    def pump(self) -> None:
        """The session was called outside of its transport: take its events."""
        link = self.link
        if link is not None and self.session is not None:
            self._on_activity(link)  # which may end it; what the session said last still goes out
            link.flush()

    # ---- private: the reconnecting task

    async def _run(self) -> None:
        delay = limits.RECONNECT_MIN
        while not self._closing:
            try:
                link = await self._connect(early=True)
            except (CertificateError, SignInError, ConfigurationError) as error:
                if self._moved and isinstance(error, ConfigurationError):
                    self._moved, self._roamer.local_address = (
                        False,
                        None,
                    )  # it moved there, and the address is gone
                    continue
                self._give_up(error)
                return
            except QuicmsgError as error:
                self.last_error = error
                self._set(Connection.DOWN, reason=str(error))
            else:
                await self._while_connected(link)
                delay = limits.RECONNECT_MIN
                if self._ended_code is ErrorCode.GOING_AWAY:
                    # A server that stops, or comes back, tells all its clients at the same moment.
                    delay = limits.RECONNECT_SPREAD
                elif self._ended_code is ErrorCode.REPLACED:
                    delay = limits.REPLACED_DELAY
            await self._pause(random.uniform(0, delay))
            delay = min(max(delay, limits.RECONNECT_MIN) * limits.RECONNECT_FACTOR, limits.RECONNECT_MAX)

    async def _guarded(self, work: Coroutine[None, None, None]) -> None:
        """A bug in here ends the client in words: nobody would notice a task that died."""
        try:
            await work
        except Exception as error:
            logger.debug("! the connection's task failed", exc_info=True)
            self._give_up(QuicmsgError(f"a fault in quicmsg, and the connection is given up: {error!r}"))
            for task in (self._race, self._runner):
                if task is not None and task is not asyncio.current_task():
                    task.cancel()
            if self.session is not None and self.link is not None:
                self.session.close(ErrorCode.INTERNAL, "a fault in the client", now=self._loop.time())
                self.link.flush()

    def _give_up(self, error: QuicmsgError) -> None:
        self.fatal, self._told = error, None  # told, also where "down" was told before
        self._set(Connection.DOWN, reason=str(error))

    async def _while_connected(self, link: Link | None) -> None:
        while link is not None and not self._closing:
            await link.wait_closed()
            if self._race is not None and not self._race.done():
                await asyncio.wait([self._race])
            link = self.link if self.link is not link else None

    async def _pause(self, seconds: float) -> None:
        self._wake.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    async def _connect(self, *, early: bool) -> Link:
        """One attempt: handshake and sign-in. The session is attached on return."""
        session = self._make_session(early)
        welcomed: asyncio.Future[None] = self._loop.create_future()
        self._welcomed[session] = welcomed
        self._racing = None if early else session
        link: Link | None = None
        try:
            async with asyncio.timeout(limits.CONNECT_TIMEOUT * 2):
                link = await self._dial(session)
                await welcomed
        except TimeoutError as error:
            raise ConnectError(f"{self._where()} does not answer the sign-in") from error
        finally:
            self._racing = None
            del self._welcomed[session]
            if link is not None and self.link is not link:
                link.close(ErrorCode.NO_ERROR, "")
            if welcomed.done() and not welcomed.cancelled():
                welcomed.exception()
        return link

    async def _dial(self, session: ClientSession | Scout) -> Link:
        target = self._target
        # A scout does not sign in, so that the server would not know its ticket again.
        tickets = self._tickets if isinstance(session, ClientSession) else None

        def dial_trusting(trust: Trust) -> Awaitable[Link]:
            return dial(
                target.host,
                target.port,
                server_name=target.host,
                trust=trust,
                session=session,
                on_activity=self._on_activity,
                local_address=self._roamer.local_address,
                tickets=tickets,
                timeout=limits.CONNECT_TIMEOUT,
            )

        return await target.dial(dial_trusting)

    # ---- private: what a session reports

    def _on_activity(self, link: Link) -> None:
        session = link.session
        if isinstance(session, Scout):
            return
        assert isinstance(session, ClientSession)
        while (event := session.next_event()) is not None:
            match event:
                case events.SignedIn():
                    self._take_over(link, session, event)
                case events.SignInRefused():
                    self._fail(session, SignInError(event.text, code=error_code(event.code)))
                case events.SessionEnded():
                    self._ended(link, session, event)
                case _ if session is self.session:
                    self._about_link(link, event)
        if session is self.session and not session.heartbeat.misses:
            self._call_off_race()
        self._active()

    def _take_over(self, link: Link, session: ClientSession, event: events.SignedIn) -> None:
        old_link, old_session = self.link, self.session
        self.link, self.session = link, session
        self._roamer.connected(link)
        now = self._loop.time()
        if old_session is not None and old_session is not session:
            old_session.close(ErrorCode.REPLACED, "a newer connection took over", now=now)
            if old_link is not None:
                old_link.close(ErrorCode.REPLACED, "")
        session.attach(now)
        self._handle(event)
        self._set(Connection.UP, link=link, observed=event.observed_address)
        welcomed = self._welcomed.get(session)
        if welcomed is not None and not welcomed.done():
            welcomed.set_result(None)

    def _fail(self, session: ClientSession, error: QuicmsgError) -> None:
        welcomed = self._welcomed.get(session)
        if welcomed is not None and not welcomed.done():
            welcomed.set_exception(error)

    def _ended(self, link: Link, session: ClientSession, event: events.SessionEnded) -> None:
        text = event.text or "the connection ended"
        self._fail(session, ConnectError(f"{self._where()}: {text}", code=error_code(event.code)))
        if session is not self.session:
            return
        self._ended_code = error_code(event.code)
        if self._race is not None and not self._race.done():
            if self._ended_code is ErrorCode.REPLACED:
                # By our own second connection, whose welcome is on its way. Should that get lost, there is
                # nobody to make room for.
                self._ended_code = ErrorCode.NO_ERROR
            else:
                # Something is known of the server again: a fresh attempt is quicker than one in its back-off.
                self._race.cancel()
        self.link = self.session = None
        self.last_error = ConnectError(f"{self._where()}: {text}", code=self._ended_code)
        self._handle(event)
        if self._race is None or self._race.done():
            self._set(Connection.DOWN, reason=text)

    def _about_link(self, link: Link, event: events.Event) -> None:
        match event:
            case events.AddressObserved():
                self.state = self._told = Connection.UP
                self._changed(
                    ConnectionChanged(
                        Connection.MOVED, link.local_address, event.observed_address, event.stall * 1000
                    )
                )
            case events.PathSuspect():
                self._roamer.move("no answer")
            case events.RaceWanted():
                self._start_race()
            case events.LinkSilent():
                self._set(Connection.DOWN, link=link, reason="nothing is heard of the server")
            case events.LinkHeard():
                self._set(Connection.UP, link=link)
            case events.GoingAway():
                logger.info("= the server goes away")
            case _:
                self._handle(event)

    def _set(
        self, state: Connection, *, link: Link | None = None, observed: str = "", reason: str = ""
    ) -> None:
        if state is self._told is Connection.DOWN:
            return
        self.state = self._told = state
        address = link.local_address if link is not None else ""
        if link is not None and not observed and self.session is not None:
            observed = self.session.observed_address
        self._changed(ConnectionChanged(state, address, observed, 0.0, reason))

    # ---- private: another path, another connection

    def _start_race(self) -> None:
        if self._closing or (self._race is not None and not self._race.done()):
            return
        # When it is about silence, the first word of the server ends it; else only its own result does.
        self._race_until_heard = self.session is not None and self.session.heartbeat.misses > 0
        self._race = self._loop.create_task(self._guarded(self._run_race()))

    async def _run_race(self) -> None:
        """A second connection beside the first. It wins by being welcomed; it is called off when the first is
        heard again."""
        logger.info("= racing a second connection to %s", self._where())
        delay = limits.RECONNECT_MIN
        while True:
            while (seconds := self._roamer.head_start()) > 0:
                await self._pause(seconds)
            try:
                if self._race_until_heard:
                    await self._scout()
                await self._connect(early=False)
            except QuicmsgError as error:
                logger.info("= the second connection failed: %s", error)
            else:
                return
            if self.session is None or not self.session.heartbeat.misses:
                return
            await self._pause(random.uniform(delay / 2, delay))
            delay = min(delay * limits.RECONNECT_FACTOR, limits.RECONNECT_MAX)

    async def _scout(self) -> None:
        """Before a second connection signs in, which ends the first: if the server answers a newcomer, the
        network may just have come back, and the first is given the time to notice. Raises ConnectError."""
        link = await self._dial(Scout())
        link.close(ErrorCode.NO_ERROR, "")
        await asyncio.sleep(limits.RACE_HANDICAP)

    def _call_off_race(self) -> None:
        """The first connection lives: the second is not needed. Unless that has asked to sign in: then the
        server may have ended the first already, and the second must win."""
        if self._race is None or self._race.done() or not self._race_until_heard:
            return
        if self._racing is None or self._racing.state is SessionState.CONNECTING:
            self._race.cancel()

    def _current(self) -> tuple[Link, ClientSession] | None:
        if self.link is None or self.session is None:
            return None
        return self.link, self.session

    def _network_changed(self) -> None:
        self._wake.set()

    def _where(self) -> str:
        return f"{self._target.host}:{self._target.port}"
