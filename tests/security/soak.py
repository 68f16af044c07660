"""Abuse soak: honest people talk through a real server, first alone, then beside hostile clients.

What counts: honest messages all arrive, once and in order; how long they take (p99 alone and under attack, in
the same run on the same machine); what the server's memory does; that it lives and logs no traceback.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import quicmsg
from quicmsg.errors import QuicmsgError

PAIRS = 2
PAUSE = 0.2
"""Between two messages of one honest person."""
SAMPLE_INTERVAL = 5.0
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Honest:
    """What honest people went through in one phase."""

    latencies: list[float] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)
    heard: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    errors: list[str] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else float("nan")

    def problems(self) -> list[str]:
        found = list(self.errors)
        for user, count in self.sent.items():
            texts = self.heard[user]
            if texts != [f"{user} {number}" for number in range(count)]:
                found.append(f"{count} of {user}'s messages became {len(texts)}: {texts[-3:]}")
        return found


async def talk(client: quicmsg.Client, to: str, until: float, seen: Honest) -> None:
    """Say something every PAUSE, and wait for nothing: each message is timed by a task of its own."""
    waiting: set[asyncio.Task[None]] = set()
    while time.monotonic() < until:
        text = f"{client.user} {seen.sent[client.user]}"
        seen.sent[client.user] += 1
        task = asyncio.create_task(deliver(client, to, text, seen))
        waiting.add(task)
        task.add_done_callback(waiting.discard)
        await asyncio.sleep(PAUSE)
    if waiting:
        await asyncio.wait(waiting, timeout=60)


async def deliver(client: quicmsg.Client, to: str, text: str, seen: Honest) -> None:
    started = time.monotonic()
    try:
        sent = await client.queue(to, text)
        await sent.delivered(timeout=60)
    except QuicmsgError as error:
        seen.errors.append(f"{text}: {error.message}")
        return
    seen.latencies.append(time.monotonic() - started)


async def listen(client: quicmsg.Client, phases: list[Honest]) -> None:
    messages = client.messages()
    async for message in messages:
        if message.conversation.startswith("@honest") and not message.own:
            phases[-1].heard[message.sender].append(message.text)
        messages.acknowledge()


class Memory:
    """The server's resident memory, sampled."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples: list[tuple[float, float]] = []

    async def watch(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_INTERVAL)

    def sample(self) -> None:
        status = Path(f"/proc/{self._pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+) kB", status)
        if found is not None:
            self.samples.append((time.monotonic(), int(found[1]) / 1024))

    def slope(self) -> float:
        """MB an hour over the second half: caches have filled by then."""
        late = self.samples[len(self.samples) // 2 :]
        if len(late) < 2:
            return float("nan")
        middle_t = sum(t for t, _ in late) / len(late)
        middle_m = sum(m for _, m in late) / len(late)
        spread = sum((t - middle_t) ** 2 for t, _ in late)
        return 3600 * sum((t - middle_t) * (m - middle_m) for t, m in late) / spread


def soak(minutes: float, seed: int) -> dict[str, object]:
    """Run it; `failed` is true when a message was lost, doubled, reordered or refused, or the server fell."""
    with tempfile.TemporaryDirectory(prefix="quicmsg-soak-") as folder:
        base = Path(folder)
        words = ["--listen", "127.0.0.1:0", "--data", str(base / "data"), "--certs", str(base / "certs")]
        with (base / "server.log").open("wb") as log:
            server = start("-m", "quicmsg.server", *words, errors=log)
            try:
                assert server.stdout is not None
                address = server.stdout.readline().split()[3]
                report = asyncio.run(scenes(address, base, minutes * 60, seed, server))
            finally:
                server.terminate()
                server.wait(30)
        text = (base / "server.log").read_text()
        report["log MB"] = round(len(text) / 1e6, 2)
        report["database MB"] = round(sum(f.stat().st_size for f in (base / "data").glob("*.db*")) / 1e6, 1)
    traceback = text.find("Traceback")
    report["traceback"] = text[traceback : traceback + 3000] if traceback >= 0 else ""
    report["server exit"] = server.returncode
    report["failed"] = bool(report["problems"] or report["traceback"] or server.returncode)
    return report


def line(report: dict[str, Any]) -> str:
    """A soak in one line."""
    return (
        f"{report['minutes']} minutes under attack: {report['honest messages']} honest messages, "
        f"{len(report['problems'])} problems, {'a' if report['traceback'] else 'no'} traceback, server "
        f"{report['server MB before/after/most'][2]} MB at most and exit {report['server exit']}: "
        f"{'FAILED' if report['failed'] else 'ok'}"
    )


def start(*words: str, errors: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    """A Python process of this checkout."""
    command = [sys.executable, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)


async def scenes(
    address: str, base: Path, seconds: float, seed: int, server: subprocess.Popen[str]
) -> dict[str, object]:
    ca = base / "certs" / "ca.pem"
    clients = [
        await quicmsg.connect(address, user=f"honest{number}", data=base / f"honest{number}", ca=ca)
        for number in range(2 * PAIRS)
    ]
    await clients[0].create("#plaza", open=True)
    phases = [Honest()]
    memory = Memory(server.pid)
    background = [asyncio.create_task(listen(client, phases)) for client in clients]
    background.append(asyncio.create_task(memory.watch()))
    alone = phases[0]
    await everybody_talks(clients, min(30.0, seconds / 4), alone)
    phases.append(Honest())
    before = memory.samples[-1][1]
    script = str(Path(__file__).parent / "hostile.py")
    attackers = start(script, address.rpartition(":")[2], str(ca), str(seconds), str(seed))
    await everybody_talks(clients, seconds, phases[1])
    said, complaints = await asyncio.to_thread(attackers.communicate, timeout=60)
    under = phases[1]
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)
    for client in clients:
        await client.close()
    return {
        "minutes": round(seconds / 60, 1),
        "honest messages": len(alone.latencies) + len(under.latencies),
        "alone ms p50/p99": [round(alone.percentile(p) * 1000, 1) for p in (0.5, 0.99)],
        "attacked ms p50/p99/max": [round(under.percentile(p) * 1000, 1) for p in (0.5, 0.99, 1.0)],
        "server MB before/after/most": [round(before, 1), round(memory.samples[-1][1], 1),
                                        round(max(m for _, m in memory.samples), 1)],
        "slope MB/h, second half": round(memory.slope(), 1),
        "server cpu s": round(cpu_of(server.pid), 1),
        "attackers": json.loads(said) if said else complaints[-2000:],
        "problems": (alone.problems() + under.problems())[:20],
    }  # fmt: skip


def cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def everybody_talks(clients: list[quicmsg.Client], seconds: float, seen: Honest) -> None:
    until = time.monotonic() + seconds
    names = [client.user for client in clients]
    pairs = [(clients[n], f"@{names[n ^ 1]}") for n in range(len(clients))]
    await asyncio.gather(*(talk(client, to, until, seen) for client, to in pairs))
