"""Messages through a server process: `python -m benchmarks.end_to_end --pairs 1 --window 64 --seconds 5`.

Each pair is a sender and a recipient of one conversation, clients of the library with their journals on
disk. A message counts when its sender knows that it was delivered, that is: two journals and one server
commit later. Prints one JSON line: messages/s, latency percentiles, CPU per message of server and clients.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import quicmsg

TICKS = os.sysconf("SC_CLK_TCK")


def server_cpu(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def own_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def consume(client: quicmsg.Client) -> None:
    async for _ in client.messages():
        pass


async def send_one(client: quicmsg.Client, to: str, body: str, latencies: list[float]) -> None:
    started = time.perf_counter()
    sent = await client.queue(to, body)
    await sent.delivered()
    latencies.append(time.perf_counter() - started)


async def keep_sending(client: quicmsg.Client, to: str, until: float, latencies: list[float]) -> None:
    while time.perf_counter() < until:
        await send_one(client, to, "x" * 100, latencies)


async def measure(url: str, ca: Path, base: Path, options: argparse.Namespace, pid: int) -> dict[str, object]:
    clients = [
        await quicmsg.connect(url, user=f"{side}{number}", data=base / f"{side}{number}", ca=ca)
        for number in range(options.pairs)
        for side in ("sender", "taker")
    ]
    pairs = list(zip(clients[::2], clients[1::2], strict=True))
    takers = [asyncio.create_task(consume(taker)) for _, taker in pairs]
    for number, (sender, _) in enumerate(pairs):
        await send_one(sender, f"@taker{number}", "warm", [])
    latencies: list[float] = []
    server_before, own_before, started = server_cpu(pid), own_cpu(), time.perf_counter()
    await asyncio.gather(
        *(
            keep_sending(sender, f"@taker{number}", started + options.seconds, latencies)
            for number, (sender, _) in enumerate(pairs)
            for _ in range(options.window)
        )
    )
    elapsed = time.perf_counter() - started
    server_used, own_used = server_cpu(pid) - server_before, own_cpu() - own_before
    for task in takers:
        task.cancel()
    for client in clients:
        await client.close()
    latencies.sort()
    count = len(latencies)
    return {
        "pairs": options.pairs,
        "window": options.window,
        "messages": count,
        "per_second": round(count / elapsed),
        "p50_ms": round(latencies[count // 2] * 1000, 2),
        "p99_ms": round(latencies[count * 99 // 100] * 1000, 2),
        "server_cpu_us": round(server_used / count * 1e6),
        "clients_cpu_us": round(own_used / count * 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--window", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        command = [sys.executable, "-m", "quicmsg.server", "--listen", "127.0.0.1:0"]
        command += ["--data", str(base / "data"), "--certs", str(base / "certs")]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[3]
            work = measure(url, base / "certs" / "ca.pem", base, options, server.pid)
            result = asyncio.run(work)
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    machine = f"{platform.machine()} x{os.cpu_count()} python {platform.python_version()}"
    print(json.dumps({"benchmark": "end_to_end", **result, "commit": commit, "machine": machine}))


if __name__ == "__main__":
    main()
