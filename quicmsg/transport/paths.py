"""Changes of address, and holes in the network: what makes a move quick.

aioquic switches paths correctly but goes on with the timers and the congestion state of the dead path: after
a 5 s outage a conversation stood still for 0.8 to 5.7 s more (measured). Here both ends resend at once
what was in flight when the path changed, and start afresh with RTT and congestion window when the IP
address changed (RFC 9000 section 9.4). The same resending happens when a peer is heard again after several
probe timeouts, and a client never probes more rarely than PTO_INTERVAL_MAX.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.quic.congestion.base import create_congestion_control
from aioquic.quic.connection import END_STATES, NetworkAddress, QuicNetworkPath, QuicReceiveContext
from aioquic.quic.events import QuicEvent
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketPacer, QuicPacketRecovery, QuicPacketSpace

from quicmsg.errors import ErrorCode
from quicmsg.limits import CHALLENGE_INTERVAL, KICK_AFTER_PTO, PATH_CHANGES_PER_MINUTE, PTO_INTERVAL_MAX
from quicmsg.transport.guards import GuardedConnection


@dataclass
class PathChanged(QuicEvent):
    """Server: the client is now at this address, and that is validated."""

    address: NetworkAddress


class _Recovery(QuicPacketRecovery):
    """aioquic's loss recovery, counting, and with the two resets that a new path needs."""

    packets_lost: int

    def _on_packets_lost(
        self,
        *,
        congestion_event: bool = True,
        now: float,
        packets: Iterable[QuicSentPacket],
        persistent_congestion: bool = False,
        space: QuicPacketSpace,
    ) -> None:
        packets = list(packets)
        if congestion_event:
            self.packets_lost += len(packets)
        super()._on_packets_lost(
            congestion_event=congestion_event,
            now=now,
            packets=packets,
            persistent_congestion=persistent_congestion,
            space=space,
        )

    def resend_flight(self, now: float, space: QuicPacketSpace) -> None:
        """Send again, now, what is unanswered. Says nothing about congestion: the path was gone."""
        flight = list(space.sent_packets.values())
        self._on_packets_lost(congestion_event=False, now=now, packets=flight, space=space)
        space.loss_time = None
        self._pto_count = 0

    def forget_path(self, algorithm: str, datagram_size: int) -> None:
        """RTT and congestion window belong to a path: start as a new connection would."""
        flight = self._cc.bytes_in_flight
        self._rtt_initialized = False
        self._rtt_min = math.inf
        self._rtt_latest = self._rtt_smoothed = self._rtt_variance = 0.0
        self._cc = create_congestion_control(algorithm, max_datagram_size=datagram_size)
        self._cc.bytes_in_flight = flight
        self._pacer = QuicPacketPacer(max_datagram_size=datagram_size)

    def cap_backoff(self, interval: float) -> None:
        """Keep the next probe within `interval` of the last, or at the unscaled timeout if that is longer."""
        while self._pto_count > 0 and self.get_probe_timeout() * 2**self._pto_count > interval:
            self._pto_count -= 1


class MovingConnection(GuardedConnection):
    """A connection that outlives its addresses without a pause."""

    _loss: _Recovery

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._loss.__class__ = _Recovery
        self._loss.packets_lost = 0
        self.packets_received = 0
        """Authenticated packets: the only proof that somebody is there."""
        self.silent_probes = 0
        """Probe timeouts since the last authenticated packet."""
        self.migrations = 0
        self._known_address: NetworkAddress | None = None
        self._pad_next_ping = False
        self._challenged_at = -math.inf
        self._switches: deque[float] = deque(maxlen=PATH_CHANGES_PER_MINUTE)

    # ---- commands

    def migrate(self, now: float) -> None:
        """Client: the local socket was replaced. Then flush."""
        self.change_connection_id()
        self._resend_flight(now)
        self._loss.forget_path(self._configuration.congestion_control_algorithm, self._max_datagram_size)
        # A full-size first packet lets the server answer with full-size packets at once: until the new
        # address is validated it may send three times what it got (50 ms less stall, measured).
        self._pad_next_ping = True
        self.migrations += 1

    # ---- input: overrides of aioquic

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        received, probes = self.packets_received, self.silent_probes
        before = self.get_peer_address()
        super().receive_datagram(data, addr, now)
        if self.packets_received == received or self._state in END_STATES or self._close_pending:
            return
        self.silent_probes = 0
        if before is not None and self.get_peer_address() != before:
            self._switched(now)
        elif probes >= KICK_AFTER_PTO and self._handshake_confirmed:
            self._resend_flight(now)
        self._announce_path()

    def handle_timer(self, now: float) -> None:
        probes = self._loss._pto_count
        super().handle_timer(now)
        if self._loss._pto_count > probes:
            self.silent_probes += 1
            if self._is_client:
                self._loss.cap_backoff(PTO_INTERVAL_MAX)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        self.packets_received += 1
        return super()._payload_received(context, plain, crypto_frame_required)

    # ---- private

    def _resend_flight(self, now: float) -> None:
        self._loss.resend_flight(now, self._spaces[tls.Epoch.ONE_RTT])
        if not self._handshake_confirmed:
            self._loss.reschedule_data(now=now)
        self._send_probe()

    def _switched(self, now: float) -> None:
        self._resend_flight(now)
        self._switches.append(now)
        if len(self._switches) == PATH_CHANGES_PER_MINUTE and now - self._switches[0] < 60.0:
            self.close(error_code=ErrorCode.LIMIT, reason_phrase="the address changes too often")

    def _announce_path(self) -> None:
        """Server: once the active path is validated, reset what belonged to another IP, and say so."""
        path = self._network_paths[0]
        if self._is_client or not self._handshake_confirmed or not path.is_validated:
            return
        if self._known_address is not None and path.addr != self._known_address:
            # A NAT that only changed the port leads over the same path: keep what is known about it.
            if path.addr[0] != self._known_address[0]:
                self._loss.forget_path(
                    self._configuration.congestion_control_algorithm, self._max_datagram_size
                )
            self.migrations += 1
            self._events.append(PathChanged(path.addr))
        self._known_address = path.addr

    def _write_application(
        self, builder: QuicPacketBuilder, network_path: QuicNetworkPath, now: float
    ) -> None:
        # A lost challenge is found late, and a lost answer never: PATH_RESPONSE is not repeated. Meanwhile
        # the client may have got an ACK for all it said, and fall silent, while we give up its address and
        # talk to a dead one (5.2 s with a 5 s heartbeat, for ever without; 3 of 2,000 random mixes).
        if not network_path.is_validated and now - self._challenged_at >= CHALLENGE_INTERVAL:
            network_path.local_challenge_sent = False
            # Like any probe it may exceed the congestion window, which is full of what got lost.
            builder.max_flight_bytes = max(builder.max_flight_bytes or 0, self._max_datagram_size)
        was_sent = network_path.local_challenge_sent
        try:
            super()._write_application(builder, network_path, now)
        finally:
            if network_path.local_challenge_sent and not was_sent:
                self._challenged_at = now

    def _write_ping_frame(
        self, builder: QuicPacketBuilder, uids: list[int] | None = None, comment: str = ""
    ) -> None:
        super()._write_ping_frame(builder, uids or [], comment)
        if self._pad_next_ping:
            self._pad_next_ping = False
            builder._datagram_needs_padding = True
