"""Hostile clients of all kinds against one address: `python hostile.py PORT CA_FILE SECONDS SEED`.

A process of its own, so that its work is not the honest clients'. Each kind signs in properly where it must,
since that is the attacker who can do most; those that are thrown out come back. Prints one JSON line.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicmsg.errors import QuicmsgError
from quicmsg.protocol import frames
from quicmsg.protocol.codec import encode
from quicmsg.protocol.frames import Frame
from quicmsg.protocol.signin import sign_in_message
from quicmsg.transport import Outgoing
from quicmsg.transport.connection import Connection, configuration
from quicmsg.transport.quic import Link, Trust, dial

PLAZA = "#plaza"
"""A group that anybody may join: honest people are in it, too."""
STEP = 0.02
WRITE_MAX = 256 * 1024
"""Bytes that a hostile client has on the way at most: more would be its own memory only."""


class Hostile:
    """A session that signs in, and then does one kind of harm at every step."""

    def __init__(self, kind: str, act: Callable[[Hostile], None], user: str, seed: int) -> None:
        self.kind = kind
        self.random = random.Random(seed)
        self.count = 0
        self.channel = 0
        self.answers = 0
        self.ended = asyncio.Event()
        self.link: Link | None = None
        self._act = act
        self._user = user
        self._key = Ed25519PrivateKey.from_private_bytes(self.random.randbytes(32))
        self._out: list[Outgoing] = []
        self._consumed: list[tuple[int, int]] = []
        self._timer: float | None = None
        self._backlog = 0

    # ---- for the kinds

    @property
    def has_room(self) -> bool:
        return self._backlog + sum(len(item.data) for item in self._out) < WRITE_MAX

    def say(self, channel: int, *said: Frame) -> None:
        self.write(channel, b"".join(map(encode, said)))

    def write(self, channel: int, data: bytes, *, reset: int | None = None) -> None:
        self._out.append(Outgoing(channel, data, False, reset))

    def fresh(self) -> int:
        """The next channel number, and the next count."""
        self.channel += 1
        return self.channel

    def open(self, name: str) -> None:
        self.say(self.fresh(), frames.Open(name, 0, 0, 0))

    # ---- Pumped

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        self.channel = 0
        self._timer = now + STEP
        public = self._key.public_key().public_bytes_raw()
        if self.kind == "mute":
            return
        signature = self._key.sign(sign_in_message(self._user, public, channel_binding))
        if self.kind == "liar":
            signature = bytes(64)
        self.say(0, frames.Hello(1, 1, "hostile", (), True))
        self.say(0, frames.Authenticate(self._user, public, signature, "", ""))

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        self.answers += len(data)
        if self.kind != "deaf":
            self._consumed.append((channel, len(data)))

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        self.answers += 1

    def path_changed(self, observed_address: str, now: float) -> None:
        """See Pumped."""

    def connection_lost(self, code: int, text: str, now: float) -> None:
        self._timer = None
        self.ended.set()

    def backlog_changed(self, size: int, now: float) -> bool:
        self._backlog = size
        return False

    def get_timer(self) -> float | None:
        return self._timer

    def handle_timer(self, now: float) -> None:
        self._timer = now + STEP
        self._act(self)
        self.count += 1

    def data_to_send(self) -> list[Outgoing]:
        out, self._out = self._out, []
        return out

    def take_consumed(self) -> list[tuple[int, int]]:
        consumed, self._consumed = self._consumed, []
        return consumed

    def take_close(self) -> tuple[int, str] | None:
        return None


# ---- the kinds


def messages(size: int, name: str) -> Callable[[Hostile], None]:
    def act(me: Hostile) -> None:
        if me.channel == 0:
            if name == PLAZA:
                me.say(0, frames.Join(1, PLAZA))
            me.open(name)
        elif me.has_room:
            for _ in range(max(1, 20_000 // (size + 40))):
                me.say(1, frames.Send(me.random.randbytes(16), 0, 0, bytes(size)))

    return act


def deaf(me: Hostile) -> None:
    if me.channel == 0:
        me.say(0, frames.Join(1, PLAZA), frames.Sync(0, 0))
        me.open(PLAZA)
    elif me.has_room:
        me.say(1, *(frames.Fetch(n, 0, 0, 100) for n in range(4)))


def silent(me: Hostile) -> None:
    me.write(me.fresh(), b"\0")


def claims(me: Hostile) -> None:
    me.open(PLAZA)
    me.say(me.channel, frames.Ack(me.random.choice((0, 1, 5, 2**40))), frames.Read(2**50, True))


def requests(me: Hostile) -> None:
    for number in range(4):
        me.say(0, frames.Join(me.count * 8 + number, PLAZA), frames.Leave(me.count * 8 + 4 + number, PLAZA))


def groups(me: Hostile) -> None:
    name = f"#spam{me.random.randrange(10**9)}"
    me.say(0, frames.Create(me.count, name, ("honest0", "honest1"), False))


def fetches(me: Hostile) -> None:
    if me.channel == 0:
        me.say(0, frames.Join(1, PLAZA))
        me.open(PLAZA)
    else:
        me.say(1, *(frames.Fetch(me.count, 0, 2**40, 100) for _ in range(8)))


def syncs(me: Hostile) -> None:
    me.say(0, *(frames.Sync(0, 0) for _ in range(8)))


def pings(me: Hostile) -> None:
    if me.has_room:
        me.say(0, *(frames.Ping(n) for n in range(2_000)))


def openings(me: Hostile) -> None:
    for _ in range(10):
        me.open(PLAZA)
        me.write(me.channel, b"", reset=0)


def garbage(me: Hostile) -> None:
    me.write(me.random.randrange(1, 60), me.random.randbytes(me.random.randrange(1, 3000)))


def lengths(me: Hostile) -> None:
    me.write(me.fresh(), b"\xff\xff\xff\xff" + bytes(1000))


def mover(me: Hostile) -> None:
    if me.link is not None and me.count % 5 == 0:
        me.say(0, frames.Ping(me.count))
        me.link.migrate(f"127.0.7.{me.random.randrange(1, 250)}")


def nothing(me: Hostile) -> None:
    """It connects, and that is all."""


KINDS: dict[str, Callable[[Hostile], None]] = {
    "flood": messages(50, PLAZA),
    "big": messages(16 * 1024, PLAZA),
    "diary": messages(1000, "@diary"),
    "deaf": deaf,
    "silent": silent,
    "claims": claims,
    "requests": requests,
    "groups": groups,
    "fetches": fetches,
    "syncs": syncs,
    "pings": pings,
    "openings": openings,
    "garbage": garbage,
    "lengths": lengths,
    "mover": mover,
    "mute": nothing,
    "liar": nothing,
}


# ---- below QUIC


async def datagrams(port: int, seed: int, sent: Counter[str]) -> None:
    """Junk and first packets with forged addresses (all of 127/8 is ours), some hundreds a second."""
    dice = random.Random(seed)
    sockets = []
    for number in range(50):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((f"127.0.{9 + number % 3}.{number + 1}", 0))
        one.setblocking(False)
        sockets.append(one)
    settings = configuration(is_client=True, server_name="localhost")
    client = Connection(configuration=settings, trust=Trust(fingerprint="00" * 32))
    client.connect(("127.0.0.1", port), 0.0)
    first = client.datagrams_to_send(0.0)[0][0]
    try:
        while True:
            for _ in range(20):
                one = dice.choice(sockets)
                knock = first[:6] + dice.randbytes(8) + first[14:]
                junk = dice.randbytes(dice.randrange(1, 1400))
                for kind, data in (
                    ("handshakes", knock),
                    ("junk", junk),
                    ("junk", b"\x40" + dice.randbytes(60)),
                ):
                    try:
                        one.sendto(data, ("127.0.0.1", port))
                        sent[kind] += 1
                    except OSError:
                        sent["not sent"] += 1
            await asyncio.sleep(0.05)
    finally:
        for one in sockets:
            one.close()


async def attack(kind: str, number: int, port: int, ca: Path, counts: Counter[str]) -> None:
    """One hostile client, which comes back whenever it is thrown out."""
    address = "127.0.0.1" if number % 2 else f"127.0.6.{number + 1}"
    while True:
        session = Hostile(kind, KINDS[kind], f"{kind}{number}", number)
        try:
            link = await dial(
                "127.0.0.1", port, server_name="localhost", trust=Trust(ca_file=ca), session=session,
                on_activity=lambda _: None, local_address=address, timeout=5.0,
            )  # fmt: skip
        except QuicmsgError:
            counts[f"{kind}: not let in"] += 1
            await asyncio.sleep(1.0)
            continue
        session.link = link
        counts[f"{kind}: connections"] += 1
        try:
            await session.ended.wait()
        finally:
            link.close(0, "")
        await asyncio.sleep(0.2)


async def main(port: int, ca: Path, seconds: float, seed: int) -> None:
    counts: Counter[str] = Counter()
    tasks = [asyncio.create_task(attack(kind, n, port, ca, counts)) for n, kind in enumerate(KINDS)]
    tasks.append(asyncio.create_task(datagrams(port, seed, counts)))
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
    sys.stdout.write(json.dumps(dict(sorted(counts.items()))) + "\n")


if __name__ == "__main__":
    os.nice(10)
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])))
