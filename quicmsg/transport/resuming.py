"""Session tickets: a connection that resumes an earlier one, without a certificate on the wire.

A ticket puts a secret that both ends know from the earlier connection in the place of the certificate
(RFC 8446 section 2.2), beside a fresh key exchange. It says nothing about who the client is: every connection
signs in with its device's key, over its own channel binding. But the secret does stand for the *server*, so
a client has tickets in memory only (who read one from a disk could play the server to this client), and
judges the server's certificate once more, as if it had just been shown, before it uses one.

On the server a ticket counts from the sign-in on, is for one connection, and is the only one of its device.

Early data (0-RTT) is neither sent nor taken: `docs/decisions.md` says why.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aioquic import tls
from cryptography import x509

from quicmsg.errors import CertificateError
from quicmsg.limits import TICKET_LIFETIME, TICKETS_MAX
from quicmsg.transport.paths import MovingConnection
from quicmsg.transport.trust import Trust


class ServerTickets:
    """The tickets with which devices that signed in may resume their connections."""

    def __init__(self) -> None:
        self._tickets: dict[bytes, tls.SessionTicket] = {}
        self._owners: dict[bytes, bytes] = {}

    def __len__(self) -> int:
        return len(self._tickets)

    def keep(self, owner: bytes, ticket: tls.SessionTicket) -> None:
        """`owner` may use this ticket from now on, and no older one."""
        self._tickets.pop(self._owners.pop(owner, b""), None)
        self._tickets[ticket.ticket], self._owners[owner] = ticket, ticket.ticket
        if len(self._owners) > TICKETS_MAX:
            # Who signed in longest ago goes first; used ones leave an owner behind, and go with it.
            self._tickets.pop(self._owners.pop(next(iter(self._owners))), None)

    def take(self, name: bytes) -> tls.SessionTicket | None:
        """The ticket of this name, once: a recorded first flight that comes again finds nothing."""
        return self._tickets.pop(name, None)

    def clear(self) -> None:
        """The certificate is another: let everybody look at it."""
        self._tickets.clear()
        self._owners.clear()


@dataclass(frozen=True, slots=True)
class Resumption:
    """A ticket, and what made the client believe the server that gave it."""

    ticket: tls.SessionTicket = field(repr=False)
    server_name: str | None
    trust: Trust
    leaf: x509.Certificate
    chain: tuple[x509.Certificate, ...]


class ClientTickets:
    """A client's newest ticket for one server; never written to a disk."""

    def __init__(self) -> None:
        self._newest: Resumption | None = None

    def put(self, resumption: Resumption) -> None:
        """A server gave it: the older one is void there."""
        self._newest = resumption

    def take(self, server_name: str | None, trust: Trust) -> Resumption | None:
        """The ticket, once, if what is trusted now would still lead to the connection that gave it."""
        found, self._newest = self._newest, None
        if found is None or found.trust != trust or found.server_name != server_name:
            return None
        try:
            trust.check(found.leaf, found.chain, server_name)
        except CertificateError:
            return None  # a full handshake finds out what is the matter, and says it
        return found

    def put_back(self, resumption: Resumption) -> None:
        """No server was reached with it. Without this the first attempt in a dead network would spend it."""
        if self._newest is None:
            self._newest = resumption


class ResumingConnection(MovingConnection):
    """A connection that gets or gives a ticket, and may begin with one.

    Client: `resumes` is used up by it, and `on_ticket` is told what the server gives for the next time.
    Server: `tickets` are those that it takes; the one that it gives counts from `keep_ticket` on.
    """

    def __init__(
        self,
        *,
        trust: Trust | None = None,
        tickets: ServerTickets | None = None,
        resumes: Resumption | None = None,
        on_ticket: Callable[[Resumption], None] | None = None,
        **arguments: Any,
    ) -> None:
        self._trust = trust
        self._tickets = tickets
        self._resumes = resumes
        self._on_ticket = on_ticket
        self._given: tls.SessionTicket | None = None
        if tickets is not None or on_ticket is not None:
            arguments["session_ticket_handler"] = self._ticket_made
        if tickets is not None:
            arguments["session_ticket_fetcher"] = tickets.take
        super().__init__(**arguments)
        if resumes is not None:
            self._configuration.session_ticket = resumes.ticket

    @property
    def is_resumed(self) -> bool:
        """A ticket took the place of the certificate."""
        return self.tls.session_resumed

    def keep_ticket(self, owner: bytes) -> None:
        """Server: the client is `owner`, and may resume this connection. Cheap, may be called often."""
        if self._given is not None and self._tickets is not None:
            self._tickets.keep(owner, self._given)
            self._given = None

    # ---- private

    def _ticket_made(self, ticket: tls.SessionTicket) -> None:
        # The transport parameters beside it are for early data, and most of its size.
        until = ticket.not_valid_before + datetime.timedelta(seconds=TICKET_LIFETIME)
        ticket = dataclasses.replace(
            ticket, not_valid_after=until, max_early_data_size=None, other_extensions=[]
        )
        if self._trust is None:
            self._given = ticket
            return
        assert self._on_ticket is not None
        if self._resumes is not None and self.is_resumed:
            # No certificate was shown on this connection: its trust is that of the first one.
            self._on_ticket(dataclasses.replace(self._resumes, ticket=ticket))
            return
        leaf = self.tls._peer_certificate
        assert leaf is not None
        chain = tuple(self.tls._peer_certificate_chain)
        name = self._configuration.server_name
        self._on_ticket(Resumption(ticket, name, self._trust, leaf, chain))

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._max_early_data = None  # goes into the tickets: do not try

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if epoch is tls.Epoch.ZERO_RTT:
            # A client that tries all the same: aioquic would take early data with any ticket. Without the
            # key those packets are nothing, and the client is told to send their contents again.
            self.tls.early_data_accepted = False
            return
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
