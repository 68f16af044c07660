"""quicmsg: a messaging service over QUIC whose ticks are true, on networks that misbehave.

async with quicmsg.connect("localhost:4433", user="alice", ca="certs/ca.pem") as client:
    sent = await client.send("@bob", "hello")       # returns when stored durably
    await sent.delivered(timeout=10)                # bob's program has processed it
    async for message in client.messages():         # asking for the next one is the acknowledgement
        print(message.sender, message.text)
"""

from __future__ import annotations

from quicmsg.client import (
    Client,
    ClientEvent,
    Connection,
    ConnectionChanged,
    ConversationLost,
    Events,
    Lagged,
    MemberChanged,
    Message,
    OutboxMessage,
    ReceiptChanged,
    Sent,
    State,
    StateChanged,
    connect,
)
from quicmsg.errors import (
    CertificateError,
    ConfigurationError,
    ConnectError,
    DeliveryError,
    ErrorCode,
    OfflineError,
    ProtocolError,
    QuicmsgError,
    RefusedError,
    SignInError,
    StorageError,
)
from quicmsg.version import __version__

__all__ = [
    "CertificateError",
    "Client",
    "ClientEvent",
    "ConfigurationError",
    "ConnectError",
    "Connection",
    "ConnectionChanged",
    "ConversationLost",
    "DeliveryError",
    "ErrorCode",
    "Events",
    "Lagged",
    "MemberChanged",
    "Message",
    "OfflineError",
    "OutboxMessage",
    "ProtocolError",
    "QuicmsgError",
    "ReceiptChanged",
    "RefusedError",
    "Sent",
    "SignInError",
    "State",
    "StateChanged",
    "StorageError",
    "__version__",
    "connect",
]
