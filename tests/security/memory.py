"""What peers cost a server process in resident memory: `python -m tests.security --memory`."""

from __future__ import annotations

import asyncio
import random
import socket
import tempfile
from pathlib import Path

from hostile import PLAZA, STEP, Hostile
from soak import Memory, start

from quicmsg.protocol import frames
from quicmsg.transport.connection import Connection, configuration
from quicmsg.transport.quic import Link, Trust, dial

IDLE = 200
JUNK = 100_000
HANDSHAKES = 20_000
DEAF = 10
BODIES = 4_000


async def measure() -> dict[str, float]:
    """KB or MB of the server process for each kind of peer."""
    with tempfile.TemporaryDirectory(prefix="quicmsg-memory-") as folder:
        base = Path(folder)
        words = ["--listen", "127.0.0.1:0", "--data", str(base / "data"), "--certs", str(base / "certs")]
        with (base / "log").open("wb") as log:
            server = start("-m", "quicmsg.server", *words, errors=log)
            try:
                assert server.stdout is not None
                port = int((await asyncio.to_thread(server.stdout.readline)).split()[3].rpartition(":")[2])
                return await scenes(port, base / "certs" / "ca.pem", Memory(server.pid))
            finally:
                server.terminate()
                await asyncio.to_thread(server.wait, 30)


async def scenes(port: int, ca: Path, memory: Memory) -> dict[str, float]:
    found: dict[str, float] = {}

    def cost(name: str, unit: float) -> None:
        memory.sample()
        found[name] = round((memory.samples[-1][1] - memory.samples[-2][1]) / unit, 2)

    warm = [await connect("warm", n, port, ca) for n in range(20)]
    memory.sample()
    idle = [await connect("idle", n, port, ca) for n in range(IDLE)]
    await asyncio.sleep(1)
    cost("KB of an idle connection that is signed in", IDLE / 1024)
    with_socket(port, [random.Random(1).randbytes(60) for _ in range(200)] * (JUNK // 200))
    await asyncio.sleep(1)
    cost(f"MB of {JUNK} junk datagrams", 1)
    with_socket(port, first_packets(port))
    await asyncio.sleep(1)
    cost(f"MB of {HANDSHAKES} first packets that nobody goes on with", 1)
    await asyncio.sleep(11)
    memory.sample()
    deaf = [await connect("deaf", n, port, ca, plaza) for n in range(DEAF)]
    await asyncio.sleep(1)
    memory.sample()
    writer = await connect("writer", 0, port, ca, flood)
    await asyncio.sleep(3 * BODIES / 20 * STEP + 2)
    cost(
        f"MB for {BODIES} messages of 1 KB in a group with {DEAF} deaf members, the store's caches included",
        1,
    )
    for link in (*deaf, writer, *idle, *warm):
        link.close(0, "")
    await asyncio.sleep(5)
    cost("MB given back when all of them were gone", -1)
    return found


def plaza(me: Hostile) -> None:
    if me.count == 0:
        me.say(0, frames.Create(1, PLAZA, (), True), frames.Join(2, PLAZA))
    elif me.count == 20:
        for _ in range(5):
            me.open(PLAZA)


def flood(me: Hostile) -> None:
    if me.count == 0:
        me.say(0, frames.Join(2, PLAZA))
        me.open(PLAZA)
    else:
        me.say(1, *(frames.Send(me.random.randbytes(16), 0, 0, bytes(1000)) for _ in range(20)))


async def connect(kind: str, number: int, port: int, ca: Path, act: object = None) -> Link:
    session = Hostile(kind, act or (lambda _: None), f"{kind}{number}", hash((kind, number)) & 0xFFFF)  # type: ignore[arg-type]
    link = await dial(
        "127.0.0.1", port, server_name="localhost", trust=Trust(ca_file=ca), session=session,
        on_activity=lambda _: None, timeout=10.0,
    )  # fmt: skip
    session.link = link
    return link


def first_packets(port: int) -> list[bytes]:
    settings = configuration(is_client=True, server_name="localhost")
    client = Connection(configuration=settings, trust=Trust(fingerprint="00" * 32))
    client.connect(("127.0.0.1", port), 0.0)
    packet = client.datagrams_to_send(0.0)[0][0]
    return [packet[:6] + n.to_bytes(8, "big") + packet[14:] for n in range(HANDSHAKES)]


def with_socket(port: int, datagrams: list[bytes]) -> None:
    """From many addresses of our own, so that no single one is the bound."""
    sockets = []
    for number in range(200):
        one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        one.bind((f"127.0.20.{number + 1}", 0))
        sockets.append(one)
    for number, data in enumerate(datagrams):
        sockets[number % len(sockets)].sendto(data, ("127.0.0.1", port))
    for one in sockets:
        one.close()
