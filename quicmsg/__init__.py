"""quicmsg: a messaging service over QUIC whose ticks are true, on networks that misbehave.

async with quicmsg.connect("localhost:4433", user="alice", ca="certs/ca.pem") as client:
    sent = await client.send("@bob", "hello")       # returns when stored durably
    await sent.delivered(timeout=10)                # bob's program has processed it
    async for message in client.messages():         # asking for the next one is the acknowledgement
        print(message.sender, message.text)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from quicmsg.version import __version__

if TYPE_CHECKING:
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
        Synced,
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
else:

    def __getattr__(name: str) -> object:
        # Imported when first used: `quicmsg version` and `quicmsg health` must not wait for all of it.
        if name in ("client", "errors"):
            return importlib.import_module(f"{__name__}.{name}")
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        where = "errors" if name == "ErrorCode" or name.endswith("Error") else "client"
        value = getattr(importlib.import_module(f"{__name__}.{where}"), name)
        globals()[name] = value
        return value


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
    "Synced",
    "__version__",
    "connect",
]
