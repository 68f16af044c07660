"""Who is connected: sessions, their users and devices, and what the hub must be given from outside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from quicmsg.protocol.server import ServerSession
from quicmsg.server.topics import Topic
from quicmsg.store import Operation, Result
from quicmsg.store.writer import StoreWriter


class Environment(Protocol):
    """What the hub must be given, since it reads no clock and draws no random numbers."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def time_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    def make_code(self) -> str:
        """A fresh one-time code of CODE_BITS bits."""
        ...

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        """Is this an Ed25519 signature of the message?"""
        ...

    def log(self, event: str, **fields: object) -> None:
        """One line an event; ids and addresses, never content."""
        ...


@dataclass(slots=True, eq=False)
class Peer:
    """A connected session, how to flush it, and the topics that it has open (by channel number)."""

    session: ServerSession
    wake: Callable[[], None]
    topics: dict[int, Topic] = field(default_factory=dict)


class Directory:
    """All peers, by session and by user and device."""

    def __init__(self) -> None:
        self.peers: dict[ServerSession, Peer] = {}
        self._users: dict[str, dict[bytes, Peer]] = {}

    def of(self, user: str) -> list[Peer]:
        """The signed-in devices of a user (a copy: telling one may end another)."""
        return list(self._users.get(user, {}).values())

    def sign_in(self, peer: Peer, user: str, device: bytes) -> Peer | None:
        """From now on `peer` is this device; returns the peer that it replaces."""
        devices = self._users.setdefault(user, {})
        older = devices.get(device)
        devices[device] = peer
        return older

    def remove(self, peer: Peer) -> None:
        """The session ended."""
        self.peers.pop(peer.session, None)
        devices = self._users.get(peer.session.user, {})
        if devices.get(peer.session.device) is peer:
            del devices[peer.session.device]
            if not devices:
                del self._users[peer.session.user]


class Submitter:
    """The store's queue, with waiting in order when it is full. What can wait here is bounded by the
    windows of the sessions: a channel with unanswered requests is not read on."""

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer
        self._held: deque[tuple[Operation, Callable[[Result], None]]] = deque()

    def submit(self, operation: Operation, callback: Callable[[Result], None]) -> None:
        """Queue an operation; its result comes back through `callback`, after the commit."""
        if self._held or self._writer.full:
            self._held.append((operation, callback))
        else:
            self._writer.submit(operation, callback)

    def room(self) -> None:
        """The queue is short again."""
        while self._held and not self._writer.full:
            self._writer.submit(*self._held.popleft())
