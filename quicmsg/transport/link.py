"""One connection bound to one session.

`Link.flush()` is the only way out: it marks the connection, and once per loop turn the endpoint lets the link
take events to its session, the session's output to the connection, and the datagrams to the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from aioquic.quic import events

from quicmsg.errors import ConfigurationError, ConnectError, ErrorCode, QuicmsgError, error_code
from quicmsg.limits import (
    CLOSE_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    OLD_SOCKET_LINGER,
    SEND_BUFFER_MAX,
    TEXT_SIZE_MAX,
)
from quicmsg.protocol.frames import EXPORTER_LABEL
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.connection import Connection, LinkStats
from quicmsg.transport.endpoint import Endpoint, Peer
from quicmsg.transport.paths import PathChanged
from quicmsg.transport.socket import Address, UdpSocket, source_address, wildcard

CHANNEL_BINDING_SIZE: Final = 32

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
        self._connection = connection
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(connection, self, socket)
        """The endpoint's side of it."""
        if connection.is_client:
            socket.on_error = self._socket_failed
        self._claim = claim
        self._on_activity = on_activity
        self._on_end = on_end
        self._session: Pumped | None = None
        self._handshake_until = self._loop.time() + HANDSHAKE_TIMEOUT
        self._closing: tuple[int, str] | None = None
        self._close_until = 0.0
        self._has_ended = False
        self._waiters: list[asyncio.Future[None]] = []

    # ---- what is known

    @property
    def session(self) -> Pumped:
        """The session; there is one as soon as the handshake is complete."""
        assert self._session is not None, "the handshake is not complete"
        return self._session

    @property
    def is_open(self) -> bool:
        return self._session is not None and not self._has_ended

    @property
    def local_address(self) -> str:
        """Our own address, as far as this computer knows it."""
        return address_text(self._local())

    @property
    def peer_address(self) -> str:
        """Where packets are sent now."""
        address = self._connection.get_peer_address()
        return "" if address is None else address_text(address)

    def stats(self) -> LinkStats:
        """Numbers as they are now."""
        return self._connection.stats()

    # ---- commands

    def flush(self) -> None:
        """Something was asked of the session: let what it says go out, before the loop's next turn."""
        self._endpoint.touch(self.peer)

    def close(self, code: int, text: str) -> None:
        """End it now: what can be sent at once still is, nothing is waited for."""
        if self._has_ended:
            return
        now = self._loop.time()
        self._give_output(now)
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
        if self._has_ended:
            return
        old = self.peer.socket
        new = bind_client(local_address, old.family)
        self._endpoint.add_socket(new)
        new.on_error = self._socket_failed
        self.peer.socket = new
        # What is on its way to the old address is not thrown away; nor does a timer that fires in between
        # meet a closed socket.
        self._endpoint.remove_socket(old, after=OLD_SOCKET_LINGER)
        now = self._loop.time()
        self._connection.migrate(now)
        if self._session is not None:
            self._session.path_changed(self.local_address, now)
            self._on_activity(self)
        self.flush()
        self._endpoint.flush_now()

    # ---- called by the endpoint

    def pump(self, now: float) -> None:
        """Connection -> session -> shell -> connection, in this order."""
        if self._has_ended:
            return
        fed = self._take_events(now)
        if self._run_timers(now):
            fed = True
        if self._connection.has_ended:
            self._end(now)
            return
        if fed and self._session is not None:
            self._on_activity(self)
        self._give_output(now)

    def get_timer(self) -> float | None:
        if self._has_ended:
            return None
        if self._session is None:
            return self._handshake_until
        timer = self._session.get_timer()
        if self._closing is not None:
            timer = self._close_until if timer is None else min(timer, self._close_until)
        return timer

    def fail(self, text: str, now: float) -> None:
        self._finish(ErrorCode.INTERNAL, text, now)

    # ---- private: input

    def _take_events(self, now: float) -> bool:
        connection, fed = self._connection, False
        while (event := connection.next_event()) is not None:
            match event:
                case events.HandshakeCompleted():
                    self._establish(now)
                case _ if self._session is None:
                    continue
                case events.StreamDataReceived():
                    self._receive_data(event, now)
                case events.StreamReset() | events.StopSendingReceived():
                    if not connection.is_aborted(event.stream_id):
                        self._session.receive_reset(event.stream_id // 4, event.error_code, now)
                case PathChanged():
                    self._session.path_changed(address_text(event.address), now)
                case _:
                    continue
            fed = True
        return fed

    def _establish(self, now: float) -> None:
        session = self._claim(self)
        if session is None:
            self._connection.close(error_code=ErrorCode.NO_ERROR)
            return
        self._session = session
        binding = self._connection.export_keying_material(EXPORTER_LABEL, b"", CHANNEL_BINDING_SIZE)
        observed = self.local_address if self._connection.is_client else self.peer_address
        session.connected(channel_binding=binding, observed_address=observed, now=now)

    def _receive_data(self, event: events.StreamDataReceived, now: float) -> None:
        assert self._session is not None
        if self._connection.is_aborted(event.stream_id):
            self._connection.consume(event.stream_id, len(event.data))
            return
        self._session.receive_data(event.stream_id // 4, event.data, event.end_stream, now)

    def _run_timers(self, now: float) -> bool:
        if self._session is None:
            if now >= self._handshake_until:
                self._connection.close(error_code=ErrorCode.TIMEOUT, reason_phrase="handshake timeout")
            return False
        timer = self._session.get_timer()
        if timer is None or timer > now:
            return False
        self._session.handle_timer(now)
        return True

    # ---- private: output

    def _give_output(self, now: float) -> None:
        session, connection = self._session, self._connection
        if session is None:
            return
        for channel, size in session.take_consumed():
            connection.consume(channel * 4, size)
        for item in session.data_to_send():
            if item.reset is not None:
                connection.abort(item.channel * 4, item.reset)
            else:
                connection.write(item.channel * 4, item.data, item.end)
        if self._closing is None and (wanted := session.take_close()) is not None:
            self._closing = wanted
            self._close_until = now + CLOSE_TIMEOUT
        if connection.buffered > SEND_BUFFER_MAX:
            connection.close(error_code=ErrorCode.SLOW_READER, reason_phrase="too much is unacknowledged")
        # aioquic throws queued data away when it closes, so the last words are waited for.
        elif self._closing is not None and (connection.buffered == 0 or now >= self._close_until):
            code, text = self._closing
            connection.close(error_code=code, reason_phrase=text)

    # ---- private: endings

    def _end(self, now: float) -> None:
        code, text = self._reason()
        self._finish(code, text, now)

    def _finish(self, code: int, text: str, now: float) -> None:
        if self._has_ended:
            return
        self._has_ended = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()
        self._on_end(self, self._connection.certificate_error or ConnectError(text, code=error_code(code)))
        if self._session is not None:
            self._session.connection_lost(code, text, now)
            self._on_activity(self)

    def _reason(self) -> tuple[int, str]:
        """Our number and a text for people, without what a peer could do to a terminal with it."""
        if self._connection.reset_received:
            return ErrorCode.GOING_AWAY, "the server does not know this connection any more: it was restarted"
        end = self._connection.end
        assert end is not None
        text = "".join(c for c in end.reason_phrase if c.isprintable())[:TEXT_SIZE_MAX]
        if end.frame_type is None:
            return end.error_code, text
        if end.reason_phrase == "Idle timeout":
            return ErrorCode.UNREACHABLE, "nothing was heard for too long"
        return ErrorCode.UNEXPECTED, f"transport error 0x{end.error_code:x}: {text}"

    def _local(self) -> Address:
        peer = self.peer
        if self._connection.is_client or not peer.local:
            address = self._connection.get_peer_address()
            return peer.socket.address if address is None else source_address(peer.socket, address)
        return peer.socket.local_address(peer.local)

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
