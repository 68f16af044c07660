"""A network of real QUIC connections, in simulated time: the second kind beside `network`.

The ends are those of `quicpair` (a `Connection` of quicmsg and its `Coupling`), the server admits strangers
with the real `Admission` (Retry and stateless resets included), and the datagrams go through `datagrams`.
A seed pins everything random, so its datagrams are the same in every run.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

from certificates import authority
from quicpair import SERVER, End, Server, client_configuration
from virtual_network import Address

from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.transport import Outgoing
from quicmsg.transport.connection import Connection
from quicmsg.transport.trust import Trust
from simulation.datagrams import Air
from simulation.kernel import Kernel
from simulation.weather import Host, Listener, Owner, Weather

TURNS_MAX = 10_000
"""Ends served in one event: more, and two of them wake each other for ever."""


class LinkEnd:
    """One end of a link, as its owner sees it."""

    def __init__(self, link: QuicLink, owner: Owner, session: Any, quic: End) -> None:
        self.link = link
        self.owner = owner
        self.session = session
        self.quic = quic

    @property
    def gone(self) -> bool:
        return self.quic.is_over


class QuicLink:
    """One connection, as its client knows it (`client`) or as the server does (`server`): two objects, since
    neither end knows more of the other than what arrives."""

    def __init__(self, network: QuicNetwork, host: Host, number: int) -> None:
        self.network = network
        self.host = host
        self.number = number
        self.client: LinkEnd | None = None
        self.server: LinkEnd | None = None
        self.accepted: QuicLink | None = None
        """The client's link knows the server's, for what a test does to both."""
        self.quic: End | None = None

    @property
    def address(self) -> str:
        assert self.quic is not None
        return self.quic.local_address

    def establish(self, owner: Owner, session: ServerSession) -> None:
        """The server has a session for it."""
        assert self.quic is not None
        self.server = LinkEnd(self, owner, session, self.quic)

    # ---- what is done to a client's link

    def move(self, *, aware: bool, only_socket: bool = False) -> None:
        """The host has another address (and a NAT may be all that changed), or the client takes another
        socket; `aware`: it goes on from there by itself."""
        assert self.quic is not None
        if self.quic.is_over:
            return
        network, before = self.network, self.quic.address
        if only_socket:
            self._rebind(self.quic.address[0], linger=True)
        else:
            network.move(self.host, ip=aware or network.random.random() < 0.5)
        if aware:
            network.moved.append((before, self.quic.address))
            self.quic.connection.migrate(network.kernel.now)
            self.quic.flush()

    def break_down(self, random: Random) -> None:
        """From now on its address is a black hole, as when a middlebox has forgotten it."""
        assert self.quic is not None
        self.network.air.kill(self.quic.address)

    def abandon(self, random: Random) -> None:
        """The client's process is gone. Its kernel says nothing: this is UDP."""
        assert self.quic is not None
        self.quic.kill()

    def abort_channel(self, channel: int, code: int) -> None:
        """The server gives a channel up."""
        server = self.accepted.server if self.accepted is not None else None
        if server is None or server.gone:
            return
        found = server.session._channels.get(channel)
        if found is not None:
            server.session._abort(found, code)
            server.session._channel_lost(found, code, self.network.kernel.now)
            server.owner.on_input(server.link)
            self.network.touch(server)

    # ---- private

    def _rebind(self, ip: str, *, linger: bool = False) -> None:
        """Another address; the old one is still read for a while if the client chose so, and else is gone."""
        assert self.quic is not None
        air, quic, old = self.network.air, self.quic, self.quic.address
        quic.rebind(ip)
        self.host.address += 1
        if linger:
            air.owners[old] = quic.receive
            air.kernel.call_later(limits.OLD_SOCKET_LINGER, air.owners.pop, old, None)


class _Listening(Server):
    """quicpair's server, whose sessions come from the world's."""

    def __init__(self, network: QuicNetwork) -> None:
        self._network = network
        super().__init__(network.air, lambda _: None, network.served, SERVER)  # type: ignore[arg-type]

    def _claim(self, end: End) -> ServerSession:
        self.admission.established()
        return self._network.accept(end)


class QuicNetwork:
    """All links, and the air between them."""

    def __init__(self, kernel: Kernel, random: Random) -> None:
        self.kernel = kernel
        self.random = random
        self.air = Air(kernel, random)
        self.links: list[QuicLink] = []
        self.watch: Callable[[Any, bool, Any], None] | None = None
        """Told everything that a session says (upward or not), for a trace."""
        self.stall_max = float("inf")
        """How long a message may wait for its tick, where nothing but addresses changes (`quic_checks`)."""
        self.listening_since: list[float] = []
        """When the server was started."""
        self.moved: list[tuple[Address, Address]] = []
        """From where to where clients moved that know that they did."""
        self._listener: Listener | None = None
        self._server: _Listening | None = None
        self._served: dict[End, QuicLink] = {}
        self._made = 0
        self._ips: dict[str, str] = {}
        kernel.settled = self.flush

    @property
    def weather(self) -> Weather:
        return self.air.weather

    @weather.setter
    def weather(self, weather: Weather) -> None:
        self.air.weather = weather

    # ---- the server

    @property
    def listener(self) -> Listener | None:
        return self._listener

    @listener.setter
    def listener(self, listener: Listener | None) -> None:
        self._listener = listener
        if listener is None:
            return
        self.listening_since.append(self.kernel.now)
        if self._server is None:
            self._server = _Listening(self)
        else:
            self._server.start()

    @property
    def admission(self) -> Any:
        return self._server.admission if self._server is not None else None

    @property
    def served_ends(self) -> list[End]:
        """The server's ends that are not over."""
        return [end for end in self._served if not end.is_over]

    def break_all_of(self, _server: Listener) -> None:
        """The server's process is gone, and all connections with it. Nobody is told."""
        assert self._server is not None
        self._server.stop()
        self._served.clear()

    def accept(self, end: End) -> ServerSession:
        """A handshake is complete: the server makes a session."""
        assert self._listener is not None
        client = self._client_of(end)
        link = QuicLink(self, client.host if client else Host("somebody"), client.number if client else 0)
        link.quic = end
        self._served[end] = link
        if client is not None:
            client.accepted = link
        if self.watch is not None:
            _overhear(end, self.watch, link, upward=False)
        return self._listener.accept(link)

    def served(self, end: End) -> None:
        """An end of the server was fed."""
        link = self._served.get(end)
        if link is not None and link.server is not None:
            link.server.owner.on_input(link)
        if end.is_over:
            self._served.pop(end, None)

    # ---- clients

    def dial(self, host: Host, owner: Owner, session: ClientSession) -> QuicLink:
        """A new connection; its session is told when the handshake is complete, or that it never will be."""
        if host.name not in self._ips:
            self._ips[host.name] = self.air.settle(host)
        self._made += 1
        link = QuicLink(self, host, self._made)
        connection = Connection(configuration=client_configuration(), trust=_trust())
        quic = _Dialling(self.air, connection, self.air.free_address(self._ips[host.name]), link, session)
        link.quic = quic
        link.client = LinkEnd(link, owner, session, quic)
        self.links = [known for known in self.links if known.quic is not None and not known.quic.is_over]
        self.links.append(link)
        if self.watch is not None:
            _overhear(quic, self.watch, link, upward=True)
        self.air.owners[quic.address] = quic.receive
        connection.connect(SERVER, self.kernel.now)
        quic.flush()
        self.kernel.call_later(limits.CONNECT_TIMEOUT, quic.give_up_dialling)
        return link

    def move(self, host: Host, *, ip: bool) -> None:
        """All connections of a host come from elsewhere now; not `ip`: only from other ports."""
        if ip:
            self._ips[host.name] = self.air.settle(host)
        for link in self.links:
            if link.host is host and link.quic is not None and not link.quic.is_over:
                link._rebind(self._ips[host.name])

    # ---- time

    def touch(self, end: LinkEnd) -> None:
        """An end's session may have something to say, after the present event."""
        if isinstance(end.quic, _Dialling):
            end.quic.give_up_if_closed()
        end.quic.flush()

    def flush(self) -> None:
        dirty, turns = self.air.dirty, 0
        while dirty:
            end = next(iter(dirty))
            del dirty[end]
            end.serve()
            turns += 1
            assert turns < TURNS_MAX, "two ends wake each other for ever"

    # ---- private

    def _client_of(self, end: End) -> QuicLink | None:
        for link in self.links:
            if link.quic is not None and end.peer_address == link.quic.local_address:
                return link
        return None


class _Dialling(End):
    """A client's end. As `dialer.dial` does, it gives up a handshake that takes too long."""

    def __init__(
        self, air: Air, connection: Connection, address: Any, link: QuicLink, session: ClientSession
    ) -> None:
        super().__init__(air, connection, address, lambda _: self._wanted(), self._fed, None)  # type: ignore[arg-type]
        self._link = link
        self._own_session = session

    def give_up_dialling(self) -> None:
        if not self.is_over and self.session is None:
            self.kill()
            self._lose(ErrorCode.UNREACHABLE, "nothing answers")

    def give_up_if_closed(self) -> None:
        """The session was closed before it was connected: nobody else would close the connection."""
        if not self.is_over and self.session is None and self._own_session.state is SessionState.CLOSED:
            self.connection.close(error_code=ErrorCode.NO_ERROR)

    # ---- private

    def _wanted(self) -> ClientSession | None:
        return None if self._own_session.state is SessionState.CLOSED else self._own_session

    def _fed(self, _: End) -> None:
        self._owner.on_input(self._link)

    def _finish(self, now: float) -> None:
        early = self.session is None
        super()._finish(now)
        if early:
            assert self.end is not None
            self._lose(*self.end)

    def _lose(self, code: int, text: str) -> None:
        self._own_session.connection_lost(code, text, self._world.now)
        self._owner.on_input(self._link)

    @property
    def _owner(self) -> Owner:
        assert self._link.client is not None
        return self._link.client.owner


def _overhear(end: End, watch: Callable[[Any, bool, Any], None], link: QuicLink, *, upward: bool) -> None:
    """Show what is written to a connection to a trace."""
    connection = end.connection
    write, abort = connection.write, connection.abort

    def overheard_write(stream_id: int, data: bytes, end: bool) -> bool:
        watch(link, upward, Outgoing(stream_id // 4, data, end))
        return write(stream_id, data, end)

    def overheard_abort(stream_id: int, code: int) -> None:
        watch(link, upward, Outgoing(stream_id // 4, b"", reset=code))
        abort(stream_id, code)

    connection.write, connection.abort = overheard_write, overheard_abort  # type: ignore[method-assign]


@cache
def _trust() -> Trust:
    return Trust(fingerprint=authority().fingerprint)
