"""How a client of a world stays connected: dial, sign in, race, move, come back.

It mirrors `quicmsg/client/connector.py`: one connection at a time, a second one only as a race.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import device_of, sign_in_message
from simulation.history import History
from simulation.kernel import Kernel
from simulation.network import Host, Link, Network
from simulation.server import sign


class Connected:
    """The connected side of a device."""

    def __init__(
        self, user: str, number: int, kernel: Kernel, network: Network, random: Random, history: History
    ) -> None:
        self.user = user
        self.name = f"{user}/{number}"
        self.public_key = self.name.encode().ljust(32, b".")
        self.device = device_of(self.public_key)
        self.host = Host(self.name)
        self.foreground = False
        self.code = ""
        self.running = False
        self.revoked = False
        self.on_code: Callable[[str], None] = lambda code: None
        self.mailbox = Mailbox(user, self.device)
        self.link: Link | None = None
        self._kernel = kernel
        self._network = network
        self._random = random
        self._history = history
        self._life = 0
        self._attempt: Link | None = None
        self._racing: Link | None = None
        self._backoff = limits.RECONNECT_MIN
        self._rebound_at = float("-inf")

    @property
    def session(self) -> ClientSession | None:
        if self.link is None:
            return None
        session = self.link.client.session
        assert isinstance(session, ClientSession)
        return session

    @property
    def is_up(self) -> bool:
        return self.session is not None and self.session.state is SessionState.UP

    # ---- the network's side

    def on_input(self, link: Link) -> None:
        session = link.client.session
        assert isinstance(session, ClientSession)
        while (event := session.next_event()) is not None:
            match event:
                case events.SignedIn():
                    self._take_over(link)
                case events.SignInRefused():
                    self._refused(event)
                case events.SessionEnded():
                    self._ended(link, event)
                case _ if link is self.link:
                    self._about_link(session, event)
        self._drain()

    def rebind(self, *, aware: bool, only_socket: bool = False) -> None:
        """The address changed; `aware`: this client knows, and says so. `only_socket`: it did so itself."""
        if self.link is None:
            return
        self._history.note("moved", self.name, aware)
        self.link.move(aware=aware, only_socket=only_socket)
        if aware and self.session is not None:
            self.session.path_changed(self.link.address, self._kernel.now)
            self.on_input(self.link)
            if self.link is not None:
                self._network.touch(self.link.client)

    # ---- private: connections

    def _dial(self, *, early: bool) -> Link:
        session = ClientSession(
            self.mailbox, sign=self._sign, agent="world", foreground=self.foreground,
            now=self._kernel.now, early=early,
        )  # fmt: skip
        return self._network.dial(self.host, self, session)

    def _sign(self, binding: bytes) -> frames.Authenticate:
        signature = sign(self.public_key, sign_in_message(self.user, self.public_key, binding))
        return frames.Authenticate(self.user, self.public_key, signature, self.name, self.code)

    def _connect(self) -> None:
        if self.running and self.link is None and self._attempt is None and self._racing is None:
            self._attempt = self._dial(early=True)

    def _connect_later(self, delay: float) -> None:
        life = self._life

        def due() -> None:
            if life == self._life:
                self._connect()

        self._kernel.call_later(self._random.uniform(delay / 2, delay), due)

    def _race(self) -> None:
        if self.running and self.link is not None and self._racing is None:
            self._history.note("raced", self.name)
            self._racing = self._dial(early=False)

    def _take_over(self, link: Link) -> None:
        old = self.link
        self.link = link
        self._attempt = self._attempt if self._attempt is not link else None
        self._racing = self._racing if self._racing is not link else None
        self._backoff = limits.RECONNECT_MIN
        now = self._kernel.now
        if old is not None:
            old.client.session.close(ErrorCode.REPLACED, "a newer connection took over", now=now)
            self._network.touch(old.client)
        assert self.session is not None
        self.session.attach(now)
        self._history.note("up", self.name)
        self._network.touch(link.client)

    def _ended(self, link: Link, event: events.SessionEnded) -> None:
        if link is self._attempt:
            self._attempt = None
            self._back_off()
        elif link is self._racing:
            self._racing = None
            if self.session is None:
                self._back_off()
            elif self.session.heartbeat.misses:
                self._race_later()
        elif link is self.link:
            self.link = None
            self._history.note("down", self.name, event.text)
            if self._racing is None:
                if event.code == ErrorCode.REPLACED:
                    self._backoff = limits.REPLACED_DELAY
                self._back_off()

    def _back_off(self) -> None:
        delay = self._backoff
        self._backoff = min(delay * limits.RECONNECT_FACTOR, limits.RECONNECT_MAX)
        self._connect_later(delay)

    def _race_later(self) -> None:
        life = self._life

        def due() -> None:
            if life == self._life:
                self._race()

        self._kernel.call_later(self._random.uniform(0.1, 1.0), due)

    def _about_link(self, session: ClientSession, event: events.Event) -> None:
        match event:
            case events.PathSuspect():
                self._history.note("suspect", self.name)
                if self._kernel.now - self._rebound_at >= limits.REBIND_INTERVAL:
                    self._rebound_at = self._kernel.now
                    self.rebind(aware=True, only_socket=True)
            case events.RaceWanted():
                self._race()
            case events.LinkHeard():
                if self._racing is not None:
                    racing, self._racing = self._racing, None
                    racing.client.session.close(now=self._kernel.now)
                    self._network.touch(racing.client)
            case events.RequestDone() if event.text:
                self.on_code(event.text)
            case events.RequestFailed() | events.RequestDone() | events.PageArrived():
                self._history.note("answered", self.name, type(event).__name__, event.ref)
            case events.LinkSilent() | events.PongReceived() | events.AddressObserved() | events.GoingAway():
                pass
            case _:
                raise AssertionError(f"a client session reported {event}")

    def _drop_links(self) -> None:
        """The process is gone: nobody sends again what gets lost now; sometimes the kernel says goodbye."""
        for link in (self.link, self._attempt, self._racing):
            if link is not None:
                link.abandon(self._random)
        self.link = self._attempt = self._racing = None
        self._backoff = limits.RECONNECT_MIN

    def _refused(self, event: events.SignInRefused) -> None:
        """Only a device that was removed; it gives up for good."""
        assert event.code == ErrorCode.REVOKED, f"{self.name} was refused: {event.text}"
        self._history.note("gave up", self.name)
        self.revoked = True
        self.crash()

    def crash(self) -> None:
        raise AssertionError("a device has a process to end")

    def _drain(self) -> None:
        raise AssertionError("a device has a mailbox to drain")
