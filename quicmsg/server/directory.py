"""Who is connected: sessions, their users and devices, and what the hub must be given from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from quicmsg.limits import BUDGETS_MAX
from quicmsg.protocol.budget import Budget
from quicmsg.protocol.server import ServerSession
from quicmsg.server.topics import Topic


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
        self._budgets: dict[str, Budget] = {}

    def of(self, user: str) -> list[Peer]:
        """The signed-in devices of a user (a copy: telling one may end another)."""
        return list(self._users.get(user, {}).values())

    def sign_in(self, peer: Peer, user: str, device: bytes) -> Peer | None:
        """From now on `peer` is this device; returns the peer that it replaces."""
        devices = self._users.setdefault(user, {})
        older = devices.get(device)
        devices[device] = peer
        return older

    def device(self, user: str, device: bytes) -> Peer | None:
        """The session of one device."""
        return self._users.get(user, {}).get(device)

    def budget(self, user: str, now: float) -> Budget:
        """What this user may still do, whichever device asks, also after it was away."""
        budget = self._budgets.get(user)
        if budget is None:
            if len(self._budgets) >= BUDGETS_MAX:
                self._forget_budgets(now)
            budget = self._budgets[user] = Budget(now)
        return budget

    def _forget_budgets(self, now: float) -> None:
        kept = {
            user: budget
            for user, budget in self._budgets.items()
            if user in self._users or not budget.is_full(now)
        }
        # All of them spent something: the oldest half is given a fresh start rather than more memory.
        surplus = [user for user in kept if user not in self._users][: len(kept) // 2]
        for user in surplus if len(kept) >= BUDGETS_MAX else ():
            del kept[user]
        self._budgets = kept

    def remove(self, peer: Peer) -> None:
        """The session ended."""
        self.peers.pop(peer.session, None)
        devices = self._users.get(peer.session.user, {})
        if devices.get(peer.session.device) is peer:
            del devices[peer.session.device]
            if not devices:
                del self._users[peer.session.user]
