"""One connection bound to one session.

`Link.flush()` is the only way out: it marks the connection, and once per loop turn the endpoint lets the link
take events to its session, the session's output to the connection, and the datagrams to the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from quicmsg.errors import ConfigurationError, ConnectError, ErrorCode, QuicmsgError, error_code
from quicmsg.limits import OLD_SOCKET_LINGER
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.connection import Connection, LinkStats
from quicmsg.transport.coupling import Coupling
from quicmsg.transport.endpoint import Endpoint, Peer
from quicmsg.transport.socket import UdpSocket, source_address, wildcard

Activity = Callable[["Link"], None]
Claim = Callable[["Link"], Pumped | None]
"""Asked when the handshake is complete: the session for this link, or None when it is not wanted."""
Ended = Callable[["Link", QuicmsgError], None]


class Link:
    """One connection bound to one session."""

    def __init__(
        self,
        connection: Connection,
        endpoint: Endpoint,
        socket: UdpSocket,
        *,
        claim: Claim,
        on_activity: Activity,
        on_end: Ended,
    ) -> None:
        """Made by `listen` and `dial` only."""
        self.on_send_error: Callable[[OSError], None] | None = None
        """Told about errors of the socket, such as "network is unreachable"."""
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._endpoint = endpoint
        self._coupling = Coupling(
            connection,
            claim=lambda: claim(self),
            local_address=lambda: self.local_address,
            now=self._loop.time(),
        )
        self._on_activity = on_activity
        self._on_end = on_end
        self._has_ended = False
        self._waiters: list[asyncio.Future[None]] = []
        self.peer = Peer(connection, self, socket)
        """The endpoint's side of it."""
        if connection.is_client:
            socket.on_error = self._socket_failed

    # ---- what is known

    @property
    def session(self) -> Pumped:
        """The session; there is one as soon as the handshake is complete."""
        session = self._coupling.session
        assert session is not None, "the handshake is not complete"
        return session

    @property
    def is_open(self) -> bool:
        return self._coupling.session is not None and not self._has_ended

    @property
    def local_address(self) -> str:
        """Our own address, as far as this computer knows it."""
        peer = self.peer
        if peer.local and not self._connection.is_client:
            return address_text(peer.socket.local_address(peer.local))
        address = self._connection.get_peer_address()
        if address is None:
            return address_text(peer.socket.address)
        return address_text(source_address(peer.socket, address))

    @property
    def peer_address(self) -> str:
        """Where packets are sent now."""
        return self._coupling.peer_address

    def stats(self) -> LinkStats:
        """Numbers as they are now."""
        return self._connection.stats()

    # ---- commands

    def keep_ticket(self, owner: bytes) -> None:
        """Server: the client proved to be `owner`, and may resume this connection with the ticket it has."""
        self._connection.keep_ticket(owner)

    def flush(self) -> None:
        """Something was asked of the session: let what it says go out, before the loop's next turn."""
        self._endpoint.touch(self.peer)

    def close(self, code: int, text: str) -> None:
        """End it now: what can be sent at once still is, nothing is waited for."""
        if self._has_ended:
            return
        now = self._loop.time()
        self._coupling.give_output(now)
        self._endpoint.send(self.peer, self._connection.datagrams_to_send(now))
        self._connection.close(error_code=code, reason_phrase=text)
        self.flush()
        self._endpoint.flush_now()

    async def wait_closed(self) -> None:
        """Return when the connection is over and the session was told."""
        if not self._has_ended:
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter

    def migrate(self, local_address: str | None) -> None:
        """Client: go on from another local address (None: any), on a new port, over the same connection.

        Raises ConfigurationError when the address cannot be bound; then nothing has changed.
        """
        assert self._connection.is_client, "only the client's end can move"
        if self._has_ended:
            return
        old = self.peer.socket
        new = bind_client(local_address, old.family)
        new.on_error = self._socket_failed
        self._endpoint.add_socket(new)
        self.peer.socket = new
        # What is on its way to the old address is not thrown away; nor does a timer that fires in between
        # meet a closed socket.
        self._endpoint.remove_socket(old, after=OLD_SOCKET_LINGER)
        now = self._loop.time()
        self._connection.migrate(now)
        session = self._coupling.session
        if session is not None:
            session.path_changed(self.local_address, now)
            self._on_activity(self)
        self.flush()
        self._endpoint.flush_now()

    # ---- called by the endpoint

    def pump(self, now: float) -> None:
        """Connection -> session -> shell -> connection, in this order."""
        if self._has_ended:
            return
        fed = self._coupling.feed(now)
        if self._connection.has_ended:
            code, text = self._coupling.end()
            self._finish(code, text, now)
            return
        if fed and self._coupling.session is not None:
            self._on_activity(self)
        self._coupling.give_output(now)

    def get_timer(self) -> float | None:
        return None if self._has_ended else self._coupling.get_timer()

    def fail(self, text: str, now: float) -> None:
        self._finish(ErrorCode.INTERNAL, text, now)

    # ---- private

    def _finish(self, code: int, text: str, now: float) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._on_end(self, self._connection.certificate_error or ConnectError(text, code=error_code(code)))
        session = self._coupling.session
        if session is not None:
            session.connection_lost(code, text, now)
            self._on_activity(self)

    def _socket_failed(self, error: OSError) -> None:
        if self.on_send_error is not None:
            self.on_send_error(error)


def bind_client(local_address: str | None, family: int) -> UdpSocket:
    """A socket on a free port of a local address, or ConfigurationError."""
    host = wildcard(family) if local_address is None else local_address
    try:
        return UdpSocket((host, 0), report_errors=True)
    except OSError as error:
        raise ConfigurationError(
            f"the local address {host} cannot be used: {error.strerror or error}. "
            "It must be one of this computer's own addresses"
        ) from error
