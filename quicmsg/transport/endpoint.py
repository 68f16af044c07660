"""Our UDP endpoint: sockets, routing by connection id, one flush per loop turn, lazy timers.

It moves datagrams and time between sockets and `Connection`s, and calls each connection's rider (the `Link`)
once per turn in which something happened. `aioquic.asyncio` is not used: it sends per event, answers from
the wrong address on a wildcard bind, and forgets timers when something raises (`facts/aioquic.md`).
An exception closes the one connection in which it was raised, is logged, and disturbs nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from quicmsg.errors import ErrorCode
from quicmsg.limits import RECEIVE_AHEAD, RECEIVE_BATCH, RECEIVE_WAITING_MAX, TIMER_LATENESS
from quicmsg.transport.connection import CONNECTION_ID_SIZE, Connection
from quicmsg.transport.fairness import FairQueue
from quicmsg.transport.socket import Address, Arrival, UdpSocket

logger = logging.getLogger(__name__)
# aioquic logs the peer's close reason verbatim at INFO, before anybody has signed in.
logging.getLogger("quic").setLevel(logging.WARNING)

_EARLY = TIMER_LATENESS / 2
"""uvloop rounds timers to milliseconds: one that is this close counts as due."""
_REARM_MIN = 0.0002
"""Between two timers of one connection, so that rounding can never make a busy loop."""


class Rider(Protocol):
    """What sits on a connection and knows the session."""

    def pump(self, now: float) -> None:
        """Take the connection's events, and give it what is to be sent."""
        ...

    def get_timer(self) -> float | None:
        """When `pump` is wanted, whatever the network does."""
        ...

    def fail(self, text: str, now: float) -> None:
        """The connection is over because of a bug on this side."""
        ...


class Peer:
    """One connection as its endpoint sees it."""

    __slots__ = (
        "connection",
        "due",
        "echoes",
        "farewell",
        "foreign",
        "ids",
        "ids_version",
        "local",
        "rider",
        "socket",
        "timer",
    )

    def __init__(self, connection: Connection, rider: Rider, socket: UdpSocket) -> None:
        self.connection = connection
        self.rider = rider
        self.socket = socket
        self.local: bytes | None = None
        self.foreign: frozenset[bytes] = frozenset()
        self.ids: set[bytes] = set()
        self.ids_version = -1
        self.timer: asyncio.TimerHandle | None = None
        self.due = 0.0
        self.farewell: list[tuple[bytes, Address]] = []
        self.echoes = 0


Stranger = Callable[[bytes, Address, UdpSocket, bytes], "Peer | None"]
"""Decides about a datagram whose connection id nobody has (bytes, sender, socket, local address as in
`Arrival`): a peer for it, or None when it was answered or dropped."""


class Endpoint:
    """Sockets and the connections that live on them."""

    def __init__(self, stranger: Stranger, *, follows_path: bool) -> None:
        """`follows_path`: answer through the socket and address at which the peer was last heard."""
        self._loop = asyncio.get_running_loop()
        self._stranger = stranger
        self._follows_path = follows_path
        self._sockets: set[UdpSocket] = set()
        self._lingering: dict[UdpSocket, asyncio.TimerHandle] = {}
        self._peers: set[Peer] = set()
        self._routes: dict[bytes, Peer] = {}
        self._dirty: dict[Peer, None] = {}
        self._is_flushing = False
        self._is_scheduled = False
        self._waiting: FairQueue[Peer | None, tuple[bytes, Address, UdpSocket, bytes]] = FairQueue(
            RECEIVE_WAITING_MAX
        )
        self._is_working = False
        self.is_closed = False

    # ---- sockets and peers

    def add_socket(self, socket: UdpSocket) -> None:
        """Read this socket from now on; the endpoint closes it in the end."""
        self._sockets.add(socket)
        self._loop.add_reader(socket.fileno(), self._readable, socket)

    def remove_socket(self, socket: UdpSocket, *, after: float = 0.0) -> None:
        """Stop reading it, and close it: now, or after some time."""
        if after > 0:
            self._lingering[socket] = self._loop.call_later(after, self.remove_socket, socket)
            return
        timer = self._lingering.pop(socket, None)
        if timer is not None:
            timer.cancel()
        if socket in self._sockets:
            self._sockets.discard(socket)
            self._loop.remove_reader(socket.fileno())
            socket.close()

    def attach(self, peer: Peer, *ids: bytes) -> None:
        """Serve this connection; `ids` are connection ids that its peer uses beside our own."""
        self._peers.add(peer)
        peer.foreign = frozenset(ids)
        self._reroute(peer)

    def detach(self, peer: Peer) -> None:
        """Forget a connection; costs as much as it has ids, whatever the number of others."""
        self._peers.discard(peer)
        self._dirty.pop(peer, None)
        for connection_id in peer.ids:
            self._routes.pop(connection_id, None)
        peer.ids.clear()
        if peer.timer is not None:
            peer.timer.cancel()
            peer.timer = None

    def touch(self, peer: Peer) -> None:
        """Something is to be done for this connection: before the loop's next turn, once."""
        if peer not in self._peers:
            return
        self._dirty[peer] = None
        if not self._is_flushing and not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def flush_now(self) -> None:
        """Do at once what the next turn would do: for the last words before a close."""
        if not self._is_flushing:
            self._flush()

    def close(self) -> None:
        """Drop everything: no timer, reader or file descriptor stays."""
        self.is_closed = True
        self._waiting.clear()
        for peer in list(self._peers):
            self.detach(peer)
        for socket in list(self._sockets):
            self.remove_socket(socket)

    # ---- input

    def _readable(self, socket: UdpSocket) -> None:
        arrivals = socket.receive()
        if len(arrivals) >= RECEIVE_BATCH or self._waiting:
            self._line_up(arrivals, socket)
            return
        now = self._loop.time()
        for data, sender, local in arrivals:
            if data:
                self._receive(data, sender, socket, local, now)
        self.flush_now()

    def _line_up(self, arrivals: list[Arrival], socket: UdpSocket) -> None:
        """More has come than one turn can process: read on, so that who sends little does not lose it in the
        kernel's buffer, which is full of what others send; and let everybody's turn come round."""
        for batches_left in reversed(range(RECEIVE_AHEAD)):
            for data, sender, local in arrivals:
                # All strangers together are one: a flood of junk must not cost a connection its turn.
                peer = self._routes.get(addressed_id(data))
                self._waiting.push(peer, (data, sender, socket, local))
            if len(arrivals) < RECEIVE_BATCH or not batches_left:
                break
            arrivals = socket.receive()
        if not self._is_working:
            self._is_working = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        now = self._loop.time()
        for _ in range(min(RECEIVE_BATCH, len(self._waiting))):
            data, sender, socket, local = self._waiting.pop()
            if data and socket in self._sockets:
                self._receive(data, sender, socket, local, now)
        self.flush_now()
        self._is_working = bool(self._waiting)
        if self._is_working:
            self._loop.call_soon(self._work)

    def _receive(self, data: bytes, sender: Address, socket: UdpSocket, local: bytes, now: float) -> None:
        peer = self._routes.get(addressed_id(data))
        if peer is None:
            peer = self._ask_about(data, sender, socket, local)
            if peer is None:
                return
        connection = peer.connection
        if connection.has_ended:
            self._repeat_farewell(peer)
            return
        heard = connection.packets_received
        try:
            connection.receive_datagram(data, sender, now)
        except Exception as error:
            self._fail(peer, error, now)
            return
        # Only an authentic packet on the path in use may say where answers leave from.
        is_authentic = connection.packets_received != heard
        if self._follows_path and is_authentic and connection.get_peer_address() == sender:
            peer.socket, peer.local = socket, local
        self._dirty[peer] = None

    def _ask_about(self, data: bytes, sender: Address, socket: UdpSocket, local: bytes) -> Peer | None:
        try:
            peer = self._stranger(data, sender, socket, local)
        except Exception:
            logger.exception("! a stranger's datagram was dropped because of a bug on this side")
            return None
        if peer is not None and peer.local is None:
            peer.local = local
        return peer

    def _repeat_farewell(self, peer: Peer) -> None:
        """The peer did not hear our close: say it again, at growing distance (RFC 9000 section 10.2.1)."""
        peer.echoes += 1
        if peer.echoes & (peer.echoes - 1) == 0:
            self.send(peer, peer.farewell)

    # ---- output

    def _flush(self) -> None:
        self._is_scheduled = False
        self._is_flushing = True
        try:
            while self._dirty:
                turn = list(self._dirty)
                self._dirty.clear()
                for peer in turn:
                    if peer in self._peers:
                        self._serve(peer)
        finally:
            self._is_flushing = False

    def _serve(self, peer: Peer) -> None:
        now = self._loop.time()
        connection = peer.connection
        try:
            peer.rider.pump(now)
            if peer not in self._peers:
                return
            datagrams = connection.datagrams_to_send(now)
            self._reroute(peer)
            self.send(peer, datagrams)
            if connection.has_ended:
                self._end(peer, datagrams, now)
            if peer in self._peers:
                self._arm(peer)
        except Exception as error:
            self._fail(peer, error, now)

    def send(self, peer: Peer, datagrams: list[tuple[bytes, Address]]) -> None:
        """Put a connection's datagrams on the wire."""
        start = 0
        while start < len(datagrams):
            address = datagrams[start][1]
            stop = start + 1
            while stop < len(datagrams) and datagrams[stop][1] == address:
                stop += 1
            local = peer.local if self._follows_path else None
            peer.socket.send([data for data, _ in datagrams[start:stop]], address, local)
            start = stop

    def _reroute(self, peer: Peer) -> None:
        """Ids are routable before they are on the wire, and gone when the peer retired them."""
        connection = peer.connection
        if peer.ids_version == connection.ids_version:
            return
        peer.ids_version = connection.ids_version
        current = peer.foreign.union(connection.connection_ids)
        for gone in peer.ids - current:
            self._routes.pop(gone, None)
        for new in current - peer.ids:
            self._routes[new] = peer
        peer.ids = set(current)

    # ---- endings

    def _end(self, peer: Peer, farewell: list[tuple[bytes, Address]], now: float) -> None:
        peer.rider.pump(now)
        # A server stays to repeat its close to a client that did not hear it. A client leaves at once: its
        # program may be about to exit, and the server has timers of its own.
        # An unproved address gets it once at most: each spoofed packet would get the whole of it again.
        if farewell and peer.connection.is_address_proved:
            peer.farewell = farewell
        if peer.connection.is_terminated or not peer.farewell or not self._follows_path:
            self.detach(peer)

    def _fail(self, peer: Peer, error: Exception, now: float) -> None:
        logger.error("! connection closed because of a bug on this side", exc_info=error)
        try:
            peer.connection.close(error_code=ErrorCode.INTERNAL, reason_phrase="internal error")
            self.send(peer, peer.connection.datagrams_to_send(now))
        except Exception:
            logger.exception("! its close could not be sent either")
        self.detach(peer)
        try:
            peer.rider.fail("internal error", now)
        except Exception:
            logger.exception("! its session could not be told either")

    # ---- time

    def _arm(self, peer: Peer) -> None:
        due = peer.connection.get_timer()
        if due is not None:
            due += TIMER_LATENESS
        wanted = peer.rider.get_timer()
        if wanted is not None and (due is None or wanted < due):
            due = wanted
        if due is None:
            return
        # Lazy: a later deadline is found when the earlier timer fires, so that steady traffic, which pushes
        # deadlines back with every packet, costs no timers.
        if peer.timer is None or due < peer.due:
            self._set_timer(peer, due)

    def _set_timer(self, peer: Peer, due: float) -> None:
        if peer.timer is not None:
            peer.timer.cancel()
        peer.due = due
        peer.timer = self._loop.call_at(max(due, self._loop.time() + _REARM_MIN), self._fire, peer)

    def _fire(self, peer: Peer) -> None:
        peer.timer = None
        now = self._loop.time()
        try:
            if not self._is_due(peer, now):
                self._arm(peer)
                return
        except Exception as error:
            self._fail(peer, error, now)
            return
        self._dirty[peer] = None
        self.flush_now()

    def _is_due(self, peer: Peer, now: float) -> bool:
        """Whether something is to be done now; lets the connection do its part."""
        due = peer.connection.get_timer()
        if due is not None and due + TIMER_LATENESS - now <= _EARLY:
            peer.connection.handle_timer(now)
            return True
        wanted = peer.rider.get_timer()
        return wanted is not None and wanted <= now


def addressed_id(data: bytes) -> bytes:
    """The connection id that a datagram is for. Short headers do not carry its length: ours have all one."""
    if data[0] & 0x80 and len(data) > 6:
        return data[6 : 6 + data[5]]
    return data[1 : 1 + CONNECTION_ID_SIZE]
