"""The client library: `connect` and `Client`; also `python -m quicmsg.client` (`__main__.py`).

`api.py` is what a program uses. Behind it: `postbox.py` (mailbox, journal and program), `connector.py` (the
link, whatever happens to it), `journal.py` (this device's disk), `network.py` (addresses and routes). The
line client begins in `cli.py`. Names are imported when they are first used: `--help` need not wait for QUIC.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
        Synced,
    )
else:
    _ELSEWHERE = {
        **dict.fromkeys(("Client",), "api"),
        **dict.fromkeys(("Connecting", "connect"), "connecting"),
        **dict.fromkeys(("Events", "Sent"), "tracking"),
    }

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'values')}"), name)
        globals()[name] = value
        return value


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
    "Synced",
    "connect",
]
