"""Somebody without a key of this server's users, who says everything that a client could say all the same."""

from __future__ import annotations

from random import Random
from typing import Any

from quicmsg import limits
from quicmsg.protocol import frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.frames import CONTROL
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.session import Channel, SessionState
from quicmsg.protocol.signin import sign_in_message
from simulation.device import Device
from simulation.server import sign
from simulation.weather import Host

KINDS = ("no hello", "no signature", "forged", "replayed", "flood")


class StrangerSession(ClientSession):
    """Talks in the name of `victim`, whose public key it knows."""

    def __init__(self, kind: str, victim: Device, random: Random, now: float) -> None:
        mailbox = Mailbox(victim.user, victim.device)
        super().__init__(mailbox, sign=self._forge, agent="evil", foreground=False, now=now, early=False)
        self._kind = kind
        self._victim = victim
        self._random = random

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        self.state = SessionState.SIGNING_IN
        self._channels[CONTROL] = Channel(CONTROL, control=True)
        self.heartbeat.received(now)
        version = frames.PROTOCOL_VERSION
        if self._kind != "no hello":
            self._write(CONTROL, frames.Hello(version, version, "evil", (), False))
        if self._kind in ("forged", "replayed"):
            self._write(CONTROL, self._forge(channel_binding))
        if self._kind != "flood":
            self._write(CONTROL, frames.Create(1, "#evil", (self._victim.user,), True))
            self._write(CONTROL, frames.Leave(2, "#group0"))
            self._write(CONTROL, frames.Link(3))
        for number, name in enumerate((f"@{self._victim.user}", "#group0"), start=1):
            self._write(number, frames.Open(name, 1, 0, 0))
            for _ in range(3):
                self._write(number, frames.Send(self._random.randbytes(16), frames.Kind.TEXT, 0, b"evil"))
            self._write(number, frames.Read(1, True))
        if self._kind == "flood":
            for _ in range(limits.PARKED_SIZE_MAX // limits.BODY_SIZE_MAX + 2):
                body = bytes(limits.BODY_SIZE_MAX)
                self._write(1, frames.Send(self._random.randbytes(16), frames.Kind.TEXT, 0, body))

    def _forge(self, binding: bytes) -> frames.Authenticate:
        """A signature by another key; or a good one, of another connection."""
        victim = self._victim
        key = victim.public_key if self._kind == "replayed" else b"evil".ljust(32, b".")
        other = bytes(32) if self._kind == "replayed" else binding
        signature = sign(key, sign_in_message(victim.user, victim.public_key, other))
        return frames.Authenticate(victim.user, victim.public_key, signature, "evil", "")


class Stranger:
    """One connection of one."""

    def __init__(self, network: Any, number: int, victim: Device, random: Random) -> None:
        session = StrangerSession(random.choice(KINDS), victim, random, network.kernel.now)
        network.dial(Host(f"stranger {number}"), self, session)

    def on_input(self, link: Any) -> None:
        while link.client.session.next_event() is not None:
            pass
