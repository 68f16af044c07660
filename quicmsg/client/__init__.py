"""The client library: `connect` and `Client`; also `python -m quicmsg.client` (`__main__.py`).

`api.py` is what a program uses. Behind it: `postbox.py` (mailbox, journal and program), `connector.py` (the
link, whatever happens to it), `journal.py` (this device's disk), `network.py` (addresses and routes).
"""

from __future__ import annotations

from quicmsg.client.api import Client
from quicmsg.client.connecting import Connecting, connect
from quicmsg.client.tracking import Events, Sent
from quicmsg.client.values import (
    ClientEvent,
    Connection,
    ConnectionChanged,
    ConversationLost,
    Lagged,
    MemberChanged,
    Message,
    OutboxMessage,
    ReceiptChanged,
    State,
    StateChanged,
)

__all__ = [
    "Client",
    "ClientEvent",
    "Connecting",
    "Connection",
    "ConnectionChanged",
    "ConversationLost",
    "Events",
    "Lagged",
    "MemberChanged",
    "Message",
    "OutboxMessage",
    "ReceiptChanged",
    "Sent",
    "State",
    "StateChanged",
    "connect",
]
