"""Carries bytes and time between a session and a network; knows no chat.

A session (`Pumped`) is a pure object: it is told the time and what arrived, and asked what to send. Start
reading at `quic.py` (`listen`, `dial`, `Link`), then `endpoint.py` (the UDP side), then `connection.py`
(our QuicConnection: one subclass on another, each with one idea: `streams.py`, `guards.py`, `paths.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Outgoing:
    """Bytes for one channel, and whether they are its last; or, with `reset`, its abortion with a code."""

    channel: int
    data: bytes
    end: bool = False
    reset: int | None = None


class OutgoingLike(Protocol):
    """The shape of `Outgoing`: protocol/ may not import this package, so it has a class of its own."""

    @property
    def channel(self) -> int: ...
    @property
    def data(self) -> bytes: ...
    @property
    def end(self) -> bool: ...
    @property
    def reset(self) -> int | None: ...


class Pumped(Protocol):
    """What a transport needs of a session. Channel n is the client-opened QUIC stream 4n.

    None of the methods raises because of what the peer did. Observed addresses are text, "127.0.0.1:4433" or
    "[::1]:4433"; on a server the client's address as seen here, on a client its own local address.
    """

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        """The handshake is complete; `channel_binding` is known to the two ends of this connection only."""
        ...

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """The next bytes of a channel; `end`: the peer will send no more on it."""
        ...

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        """The peer gave the channel up, or wants no more of it."""
        ...

    def path_changed(self, observed_address: str, now: float) -> None:
        """Server: the client's new address is validated. Client: our own migration took place."""
        ...

    def connection_lost(self, code: int, text: str, now: float) -> None:
        """Terminal, called once."""
        ...

    def backlog_changed(self, size: int, now: float) -> bool:
        """`size` bytes were taken from the session and are not acknowledged yet; whether this gave it
        something to do."""
        ...

    def get_timer(self) -> float | None:
        """When `handle_timer` wants to be called next."""
        ...

    def handle_timer(self, now: float) -> None: ...

    def data_to_send(self) -> Sequence[OutgoingLike]:
        """What is to be sent, in order; empties it."""
        ...

    def take_consumed(self) -> Sequence[tuple[int, int]]:
        """(channel, bytes) that were processed since the last call: credit for flow control."""
        ...

    def take_close(self) -> tuple[int, str] | None:
        """Code and text when the session wants the connection closed, once all was sent."""
        ...


def address_text(address: tuple[str, int] | tuple[str, int, int, int]) -> str:
    """A socket address for people and frames; IPv6 in brackets, IPv4 seen through an IPv6 socket as IPv4."""
    host, port = address[0].removeprefix("::ffff:") if "." in address[0] else address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
