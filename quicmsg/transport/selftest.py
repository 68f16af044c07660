"""Does the installed aioquic still fit? Asked once per process, before the first socket is opened.

Our connection class overrides private names of aioquic 1.7. A release that renames one of them would not
fail loudly: windows would double again, or a move would stall. So two ends in memory shake hands, talk, move,
compare what they export, and resume, in about 15 ms.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from typing import Any

import aioquic
from aioquic import tls
from aioquic.quic import connection as upstream
from aioquic.quic.events import StreamDataReceived
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStreamReceiver, QuicStreamSender
from aioquic.tls import Context
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from quicmsg.errors import ConfigurationError, QuicmsgError
from quicmsg.limits import DATAGRAM_SIZE
from quicmsg.transport.connection import Connection, configuration
from quicmsg.transport.guards import share_epochs
from quicmsg.transport.paths import PathChanged
from quicmsg.transport.resuming import ClientTickets, ServerTickets
from quicmsg.transport.trust import Trust, fingerprint

VERSIONS = ((1, 7, 2), (1, 8))
"""Built for aioquic from the first of these on, and below the second."""

_OVERRIDDEN = (
    "_handle_crypto_frame",
    "_handle_stream_frame",
    "_initialize",
    "_on_max_stream_data_delivery",
    "_payload_received",
    "_replenish_connection_ids",
    "_unblock_streams",
    "_update_traffic_key",
    "_write_ack_frame",
    "_write_application",
    "_write_connection_limits",
    "_write_ping_frame",
    "_write_stream_limits",
)
_NAMES: dict[Any, tuple[str, ...]] = {
    upstream.QuicConnection: (*_OVERRIDDEN, "_close_end", "_send_probe", "_stream_is_discarded"),
    QuicPacketRecovery: ("_on_packets_lost", "get_probe_timeout", "reschedule_data"),
    QuicStreamReceiver: ("handle_frame", "handle_reset", "on_stop_sending_delivery", "stop"),
    QuicStreamSender: ("on_data_delivery", "on_reset_delivery", "reset", "write"),
    Context: ("_set_peer_certificate",),
    upstream: ("EPOCHS",),
}
_CLIENT, _MOVED, _SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2), ("192.0.2.3", 3)
_STEP = 0.01


@functools.cache
def check_aioquic() -> None:
    """Raise ConfigurationError, in words, when the installed aioquic is not one that quicmsg fits."""
    version = tuple(int(part) for part in aioquic.__version__.split(".")[:3] if part.isdigit())
    if not VERSIONS[0] <= version < VERSIONS[1]:
        raise _does_not_fit("it was built for 1.7.2 up to 1.7.x")
    for owner, names in _NAMES.items():
        for name in names:
            if not hasattr(owner, name):
                raise _does_not_fit(f"{owner.__name__}.{name} is missing")
    share_epochs()
    try:
        _rehearse()
    except QuicmsgError:
        raise
    except Exception as error:
        raise _does_not_fit(f"two ends in memory fail with {type(error).__name__}: {error}") from error


def _does_not_fit(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"aioquic {aioquic.__version__} does not fit this version of quicmsg ({why}): "
        "install aioquic 1.7.2, or a newer quicmsg"
    )


class _Host:
    """What connections to one server have in common."""

    def __init__(self) -> None:
        key = ed25519.Ed25519PrivateKey.generate()
        certificate = _certificate(key)
        self.settings = configuration(is_client=False)
        self.settings.certificate, self.settings.private_key = certificate, key
        self.trust = Trust(fingerprint=fingerprint(certificate))
        self.tickets = ServerTickets()


class _Ends:
    """A client and a server that exchange datagrams in memory, 10 ms apart."""

    def __init__(self, host: _Host, tickets: ClientTickets) -> None:
        self.now = 0.0
        self.address = _CLIENT
        self.client = Connection(
            configuration=configuration(is_client=True, server_name="localhost"),
            trust=host.trust,
            resumes=tickets.take("localhost", host.trust),
            on_ticket=tickets.put,
        )
        self.server = Connection(
            configuration=host.settings,
            original_destination_connection_id=self.client.original_destination_connection_id,
            reset_key=hashlib.sha256(b"rehearsal").digest(),
            tickets=host.tickets,
        )
        self.client.connect(_SERVER, self.now)
        self.heard = b""
        self.moves = 0

    def exchange(self, rounds: int) -> None:
        """Let datagrams and time pass."""
        for _ in range(rounds):
            for data, _ in self.client.datagrams_to_send(self.now):
                self.server.receive_datagram(data, self.address, self.now)
            self._take_events()
            for data, to in self.server.datagrams_to_send(self.now):
                if to == self.address:
                    self.client.receive_datagram(data, _SERVER, self.now)
            self.now += _STEP

    def _take_events(self) -> None:
        while (event := self.server.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                self.heard += event.data
            self.moves += isinstance(event, PathChanged)


def _rehearse() -> None:
    host, tickets = _Host(), ClientTickets()
    ends = _shake_hands(host, tickets)
    _rehearse_traffic(ends)
    _expect(not ends.server.is_resumed, "a first connection claims to be a resumed one")
    ends.server.keep_ticket(b"rehearsal")
    again = _shake_hands(host, tickets)
    _expect(again.client.is_resumed and again.server.is_resumed, "a ticket does not resume")
    _expect(_exported(again.client) != _exported(ends.client), "a resumed connection exports the old keys")
    _expect(again.server.tls._max_early_data is None, "tickets invite early data")


def _shake_hands(host: _Host, tickets: ClientTickets) -> _Ends:
    ends = _Ends(host, tickets)
    ends.exchange(3)
    _expect(ends.client.is_established and ends.server.is_established, "the handshake does not complete")
    _expect(_exported(ends.client) == _exported(ends.server), "the ends export different keys")
    return ends


def _exported(end: Connection) -> bytes:
    return end.export_keying_material(b"EXPORTER-test", b"", 32)


def _rehearse_traffic(ends: _Ends) -> None:
    client, server = ends.client, ends.server
    for number in range(20):
        client.write(4 * number, b"a", False)
    ends.exchange(4)
    _expect(ends.heard == b"a" * 20, "stream data does not arrive")
    _expect(client.buffered == 0, "acknowledged data is not counted")
    _expect(not client._queue and not server._queue, "idle streams are not skipped")
    ends.address = _MOVED
    client.migrate(ends.now)
    sent = client.datagrams_to_send(ends.now)
    _expect([len(data) for data, _ in sent] == [DATAGRAM_SIZE], "the first packet of a move is not padded")
    for data, _ in sent:
        server.receive_datagram(data, ends.address, ends.now)
    client.write(0, b"b", False)
    ends.exchange(4)
    _expect(ends.heard.endswith(b"b") and ends.moves == 1, "the ends cannot migrate")


def _expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise _does_not_fit(otherwise)


def _certificate(key: ed25519.Ed25519PrivateKey) -> x509.Certificate:
    now = tls.utcnow()  # the clock by which aioquic will check it
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rehearsal")])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, None)
    )
