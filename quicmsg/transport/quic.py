"""The asyncio face of the transport: `listen` and `dial`, and what they give: a `Listener`, a `Link`.

Life of a byte: a session says it (`data_to_send`), `Link.flush()` lets it out (`link.py`), it becomes part of
a QUIC stream (`streams.py`) and of a datagram (`connection.py`), and the endpoint's socket sends it.
"""

from __future__ import annotations

from quicmsg.transport.connection import LinkStats
from quicmsg.transport.dialer import dial
from quicmsg.transport.link import Link
from quicmsg.transport.listener import Listener, listen
from quicmsg.transport.resuming import ClientTickets
from quicmsg.transport.trust import Trust

__all__ = ["ClientTickets", "Link", "LinkStats", "Listener", "Trust", "dial", "listen"]
