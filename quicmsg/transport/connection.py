"""Our QuicConnection: identities, acknowledgements that ride on data, the TLS exporter, and its settings.

The layers below it each have one idea: `streams.py` (cost, windows), `guards.py` (bounds), `paths.py`
(moves), `resuming.py` (tickets). All of them use private names of aioquic 1.7; `selftest.py` refuses to
start with one that differs.
"""

from __future__ import annotations

import hmac
import ssl
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    NetworkAddress,
    QuicConnectionId,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.tls import hkdf_expand_label
from cryptography.hazmat.primitives import hashes

from quicmsg.errors import CertificateError, ConfigurationError
from quicmsg.limits import (
    ACK_DELAY,
    ACK_PACKETS_MAX,
    CONNECTION_WINDOW,
    DATAGRAM_SIZE,
    IDLE_TIMEOUT,
    KEY_UPDATE_PACKETS,
    STREAM_WINDOW,
)
from quicmsg.protocol.frames import ALPN
from quicmsg.transport.resuming import ResumingConnection
from quicmsg.transport.trust import Trust

CONNECTION_ID_SIZE = 8
RESET_TOKEN_SIZE = 16
RESET_SIZE_MIN = 21
"""RFC 9000 section 10.3: anything shorter cannot be a stateless reset."""
_ONE_RTT = tls.Epoch.ONE_RTT


@dataclass(frozen=True, slots=True)
class LinkStats:
    """A snapshot of one connection, for metrics and for people who look for a slow path."""

    rtt_s: float
    rtt_min_s: float
    packets_sent: int
    packets_lost: int
    bytes_in_flight: int
    congestion_window: int
    pto_count: int
    migrations: int
    buffered: int


def reset_token(key: bytes, connection_id: bytes) -> bytes:
    """The stateless reset token of a connection id of ours: needs no memory, outlives a restart."""
    return hmac.digest(key, connection_id, "sha256")[:RESET_TOKEN_SIZE]


def configuration(*, is_client: bool, server_name: str | None = None) -> QuicConfiguration:
    """Settings of both ends; a server adds its certificate.

    Reno, not cubic: with little in flight aioquic's cubic sets its window from the flight, so that single
    random losses leave a quiet conversation with two packets (`facts/performance.md` section 4).
    """
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        congestion_control_algorithm="reno",
        connection_id_length=CONNECTION_ID_SIZE,
        idle_timeout=IDLE_TIMEOUT,
        is_client=is_client,
        max_data=CONNECTION_WINDOW,
        max_datagram_size=DATAGRAM_SIZE,
        max_stream_data=STREAM_WINDOW,
        server_name=server_name,
    )


class Connection(ResumingConnection):
    """One QUIC connection of quicmsg, either end. Pure: sans-I/O, the time is passed in."""

    def __init__(
        self, *, reset_key: bytes | None = None, trust: Trust | None = None, **arguments: Any
    ) -> None:
        self._reset_key = reset_key
        self._exporter: tuple[hashes.HashAlgorithm, bytes] | None = None
        self._unacknowledged = 0
        self._keys_until = KEY_UPDATE_PACKETS
        self.certificate_error: CertificateError | None = None
        """Client: why the server's certificate was refused, in words."""
        self.reset_received = False
        """Client: the server said, by a stateless reset, that it does not know this connection."""
        self.ids_version = 0
        """Changes whenever `connection_ids` does."""
        super().__init__(trust=trust, **arguments)
        assert self._is_client == (trust is not None), "a client needs a Trust, a server must not have one"
        self._ack_delay = ACK_DELAY
        self._own_reset_tokens()

    # ---- what is known

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def is_established(self) -> bool:
        """The handshake is complete on this side."""
        return self._handshake_complete

    @property
    def has_ended(self) -> bool:
        """Closing, draining or terminated: nothing will be sent or received any more."""
        return self._state in END_STATES

    @property
    def is_terminated(self) -> bool:
        """Also the closing period is over."""
        return self._state is QuicConnectionState.TERMINATED

    @property
    def end(self) -> ConnectionTerminated | None:
        """Why it ended or is about to end."""
        return self._close_event

    @property
    def connection_ids(self) -> list[bytes]:
        """Ids by which the peer may address this end now."""
        return [connection_id.cid for connection_id in self._host_cids]

    def stats(self) -> LinkStats:
        """Numbers as they are now."""
        loss = self._loss
        return LinkStats(
            rtt_s=loss._rtt_smoothed,
            rtt_min_s=loss._rtt_min if loss._rtt_initialized else 0.0,
            packets_sent=self._packet_number,
            packets_lost=loss.packets_lost,
            bytes_in_flight=loss.bytes_in_flight,
            congestion_window=loss.congestion_window,
            pto_count=self.silent_probes,
            migrations=self.migrations,
            buffered=self.buffered,
        )

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """A secret that only the two ends of this connection can derive (RFC 8446 section 7.5)."""
        assert self._exporter is not None, "the handshake is not complete"
        algorithm, master = self._exporter
        derived = hkdf_expand_label(algorithm, master, label, _digest(algorithm, b""), algorithm.digest_size)
        return hkdf_expand_label(algorithm, derived, b"exporter", _digest(algorithm, context), length)

    # ---- input

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        if self._is_client and self._is_stateless_reset(data):
            self._end_by_reset()
            return
        space = self._spaces.get(_ONE_RTT)
        before = space.largest_received_packet if space is not None else -1
        super().receive_datagram(data, addr, now)
        if space is not None and space.ack_at is not None:
            self._unacknowledged += 1
            # Out of order, or many: say so at once, so that loss is found and the window grows.
            is_next = space.largest_received_packet == before + 1
            if not is_next or self._unacknowledged >= ACK_PACKETS_MAX:
                space.ack_at = min(space.ack_at, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        # aioquic counts no packets per key. One end renews the keys of both directions.
        packets = self._packet_number + self.packets_received
        if self._is_client and packets >= self._keys_until and self._handshake_confirmed:
            self._keys_until = packets + KEY_UPDATE_PACKETS
            self.request_key_update()
        return super().datagrams_to_send(now)

    # ---- private: overrides of aioquic

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        # An ACK is written when it is due. When something else leaves anyway it is due now: that halves the
        # packets of a conversation.
        space = self._spaces[_ONE_RTT]
        if space.ack_at is not None and space.ack_at > now and self._has_something_to_send(network_path, now):
            space.ack_at = now
        super()._write_application(builder, network_path, now)

    def _has_something_to_send(self, path: QuicNetworkPath, now: float) -> bool:
        if self._loss._pacer.next_send_time(now=now) is not None:
            return False
        return bool(
            self._ping_pending
            or self._probe_pending
            or path.remote_challenges
            or any(not stream.is_blocked and not stream.sender.buffer_is_empty for stream in self._queue)
        )

    def _write_ack_frame(self, builder: QuicPacketBuilder, space: QuicPacketSpace, now: float) -> None:
        super()._write_ack_frame(builder, space, now)
        if space.is_application_data:
            self._unacknowledged = 0

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if self._trust is not None:
            check_of_aioquic = self.tls._set_peer_certificate

            def check(message: tls.Certificate) -> None:
                check_of_aioquic(message)
                self._check_certificate()

            self.tls._set_peer_certificate = check  # type: ignore[method-assign,assignment]

    def _check_certificate(self) -> None:
        """Before the server's signature is looked at: is this a certificate that we trust?"""
        assert self._trust is not None
        leaf = self.tls._peer_certificate
        assert leaf is not None
        try:
            self._trust.check(leaf, self.tls._peer_certificate_chain, self._configuration.server_name)
        except CertificateError as error:
            self.certificate_error = error
            raise tls.AlertBadCertificate(error.message) from error
        if self._trust.ca_file is None:
            # aioquic can only check against files. The pin was checked, so its own check is done with;
            # nowhere else is it ever switched off.
            self.tls._verify_mode = ssl.CERT_NONE

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        # The server's 1-RTT secret is made exactly when the transcript is ClientHello..server Finished,
        # which is also what the exporter's master secret is made of.
        server_writes = tls.Direction.DECRYPT if self._is_client else tls.Direction.ENCRYPT
        if epoch is _ONE_RTT and direction is server_writes:
            schedule = self.tls.key_schedule
            assert schedule is not None
            if schedule.derive_secret(b"s ap traffic") != secret:
                raise ConfigurationError(
                    "this aioquic derives TLS keys in an order that quicmsg does not know"
                )
            self._exporter = (schedule.algorithm, schedule.derive_secret(b"exp master"))
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    # ---- private: stateless reset

    def _replenish_connection_ids(self) -> None:
        super()._replenish_connection_ids()  # aioquic calls it whenever an id was retired
        self._own_reset_tokens()
        self.ids_version += 1

    def _own_reset_tokens(self) -> None:
        if self._reset_key is not None:
            for connection_id in self._host_cids:
                connection_id.stateless_reset_token = reset_token(self._reset_key, connection_id.cid)

    def _is_stateless_reset(self, data: bytes) -> bool:
        if len(data) < RESET_SIZE_MIN or data[0] & 0x80:
            return False
        addressed = data[1 : 1 + CONNECTION_ID_SIZE]
        if any(addressed == connection_id.cid for connection_id in self._host_cids):
            return False
        tail = data[-RESET_TOKEN_SIZE:]
        return any(
            hmac.compare_digest(tail, peer.stateless_reset_token)
            for peer in self._peer_ids()
            if len(peer.stateless_reset_token) == RESET_TOKEN_SIZE
        )

    def _peer_ids(self) -> list[QuicConnectionId]:
        return [self._peer_cid, *self._peer_cid_available]

    def _end_by_reset(self) -> None:
        if self.has_ended:
            return
        self.reset_received = True
        self._close_event = ConnectionTerminated(
            error_code=0, frame_type=None, reason_phrase="stateless reset"
        )
        self._close_end()


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()
