"""What both kinds of simulated network have in common: the weather, and a place for each client in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from quicmsg.protocol.server import ServerSession


@dataclass(slots=True)
class Weather:
    """What the network does to everybody. `stall`, `split` and `window` are of the fake streams, what stands
    below them is of the datagrams."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    stall: float = 0.0
    split: float = 0.0
    window: int = 256 * 1024
    duplicate: float = 0.0
    corrupt: float = 0.0
    burst: float = 0.0
    """How likely each datagram begins a burst of losses of its host."""

    def clear_up(self) -> None:
        """All faults stop."""
        self.loss = self.stall = self.jitter = 0.0
        self.duplicate = self.corrupt = self.burst = 0.0


class Host:
    """A place in the network: for each direction, until when nothing arrives."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.address = 0
        self.up_blocked_until = 0.0
        self.down_blocked_until = 0.0


class Owner(Protocol):
    """Who holds one end of a link, and what it is told."""

    def on_input(self, link: Any) -> None: ...


class Listener(Owner, Protocol):
    """A running server."""

    def accept(self, link: Any) -> ServerSession: ...
