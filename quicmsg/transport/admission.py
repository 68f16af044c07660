"""Which strangers a server talks to: the checks before a new connection costs anything.

A spoofed first packet costs 1 to 2 ms and 88 KB in stock aioquic, and it is held for the idle timeout. Here
half-open handshakes are bounded in number and time, addresses must be proved (Retry) once there are many,
and answers to strangers are few and never bigger than the question.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from quicmsg.limits import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_ADDRESS_MAX,
    DATAGRAM_SIZE,
    HALF_OPEN_MAX,
    HANDSHAKES_BURST,
    HANDSHAKES_PER_SECOND,
    KNOCKS_BURST,
    KNOCKS_PER_SECOND,
    RETRY_ABOVE,
    UNKNOWN_REPLIES_BURST,
    UNKNOWN_REPLIES_PER_SECOND,
)
from quicmsg.transport.connection import (
    CONNECTION_ID_SIZE,
    RESET_SIZE_MIN,
    RESET_TOKEN_SIZE,
    Connection,
    reset_token,
)
from quicmsg.transport.rates import Bucket, Buckets, network_of
from quicmsg.transport.resuming import ServerTickets
from quicmsg.transport.socket import Address

RESET_SIZE_MAX = 43
"""Nobody can tell such a reset from an ordinary small packet."""


class _RetryTokens(QuicRetryTokenHandler):
    """Tokens that prove an address; one key for all workers, and over restarts."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(hashlib.sha256(key).digest())


class Admission:
    """Decides about datagrams that belong to no connection, and counts those that were let in."""

    def __init__(self, configuration: QuicConfiguration, *, reset_key: bytes, retry_key: bytes) -> None:
        self.configuration = configuration
        """Read for each new connection: replaced when the certificate is renewed."""
        self.tickets = ServerTickets()
        self.half_open = 0
        self.total = 0
        self._reset_key = reset_key
        self._tokens = _RetryTokens(retry_key)
        self._replies = Bucket(UNKNOWN_REPLIES_PER_SECOND, UNKNOWN_REPLIES_BURST)
        self._knocks = Buckets(KNOCKS_PER_SECOND, KNOCKS_BURST)
        self._handshakes = Buckets(HANDSHAKES_PER_SECOND, HANDSHAKES_BURST)
        self._per_network: Counter[str] = Counter()

    # ---- decisions

    def decide(self, data: bytes, sender: Address, now: float) -> Connection | bytes | None:
        """A new connection, a datagram to answer with, or None: say nothing."""
        if not self._knocks.take(network_of(sender[0]), now):
            return None  # before anything is parsed: junk costs two look-ups
        if not data[0] & 0x80:
            return self._reset(data, now)
        if len(data) < DATAGRAM_SIZE:
            return None
        try:
            header = pull_quic_header(Buffer(data=data), host_cid_length=CONNECTION_ID_SIZE)
        except ValueError:
            return None
        if header.packet_type is QuicPacketType.VERSION_NEGOTIATION:
            return None  # answering would let two servers be set on each other
        if header.version not in self.configuration.supported_versions:
            return self._other_version(header, now)
        if header.packet_type is not QuicPacketType.INITIAL:
            return None
        return self._handshake(header, sender, now)

    # ---- accounts

    def opened(self, host: str) -> None:
        """A handshake has begun."""
        self.half_open += 1
        self.total += 1
        self._per_network[network_of(host)] += 1

    def established(self) -> None:
        """A handshake is complete."""
        self.half_open -= 1

    def moved(self, old_host: str, new_host: str) -> None:
        """A client has another address now."""
        self._release(old_host)
        self._per_network[network_of(new_host)] += 1

    def closed(self, host: str, *, was_half_open: bool) -> None:
        """A connection is gone."""
        self.total -= 1
        self.half_open -= was_half_open
        self._release(host)

    # ---- private

    def _release(self, host: str) -> None:
        network = network_of(host)
        self._per_network[network] -= 1
        if self._per_network[network] <= 0:
            del self._per_network[network]

    def _handshake(self, header: QuicHeader, sender: Address, now: float) -> Connection | bytes | None:
        if header.token:
            try:
                original = self._tokens.validate_token(
                    address=sender,
                    destination_cid=header.destination_cid,
                    token=header.token,
                    now=time.time(),
                )
            except ValueError:
                return None
            return self._connection(header, sender, now, original, header.destination_cid)
        if self.half_open >= RETRY_ABOVE:
            return self._retry(header, sender, now)
        return self._connection(header, sender, now, header.destination_cid, None)

    def _connection(
        self,
        header: QuicHeader,
        sender: Address,
        now: float,
        original: bytes,
        retry_source: bytes | None,
    ) -> Connection | None:
        if self.half_open >= HALF_OPEN_MAX or self.total >= CONNECTIONS_MAX:
            return None
        network = network_of(sender[0])
        if self._per_network[network] >= CONNECTIONS_PER_ADDRESS_MAX:
            return None
        if not self._handshakes.take(network, now):
            return None  # the client's next attempt comes within a second or two
        return Connection(
            configuration=self.configuration,
            original_destination_connection_id=original,
            retry_source_connection_id=retry_source,
            reset_key=self._reset_key,
            tickets=self.tickets,
        )

    def _retry(self, header: QuicHeader, sender: Address, now: float) -> bytes | None:
        # Not taken from the bucket: a flood would then also lock out the honest clients, which Retry is
        # there to let in; a Retry is a twelfth of the packet that it answers and costs 30 us.
        source = os.urandom(CONNECTION_ID_SIZE)
        token = self._tokens.create_token(
            address=sender,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=source,
            now=time.time(),
        )
        assert header.version is not None
        return encode_quic_retry(
            version=header.version,
            source_cid=source,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )

    def _other_version(self, header: QuicHeader, now: float) -> bytes | None:
        if not self._replies.take(now):
            return None
        return encode_quic_version_negotiation(
            source_cid=header.destination_cid,
            destination_cid=header.source_cid,
            supported_versions=self.configuration.supported_versions,
        )

    def _reset(self, data: bytes, now: float) -> bytes | None:
        """A packet of a connection that this server does not know, perhaps from before a restart."""
        size = min(len(data) - 1, RESET_SIZE_MAX)  # shorter than its cause: two ends cannot loop
        if size < RESET_SIZE_MIN or not data[0] & 0x40 or not self._replies.take(now):
            return None
        noise = bytearray(os.urandom(size - RESET_TOKEN_SIZE))
        noise[0] = 0x40 | noise[0] & 0x3F
        return bytes(noise) + reset_token(self._reset_key, data[1 : 1 + CONNECTION_ID_SIZE])
