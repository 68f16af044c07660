"""The air between the hosts of a world: what happens to each datagram, and whose address is whose.

It has the shape of `quicpair.World`, so that the ends and the server of `quicpair` live in it, on the
simulation's kernel. A datagram may get lost (alone, or in a burst of its host's), come twice, late, before
an earlier one, or with one bit flipped; a host may be cut off in one direction or both; an address may turn
into a black hole for ever, as when a middlebox has forgotten it; and what is sent to an address that nobody
has any more is lost. Every datagram goes into `hash`: the same seed must send the same bytes.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

from virtual_network import Address

from quicmsg.transport.connection import CONNECTION_ID_SIZE
from simulation.kernel import Kernel
from simulation.weather import Host, Weather

BURST_MAX = 0.3
"""Seconds that a burst of losses lasts at most: below what a heartbeat takes for an outage."""


class Air:
    """Carries datagrams between addresses."""

    def __init__(self, kernel: Kernel, random: Random) -> None:
        self.kernel = kernel
        self.random = random
        self.weather = Weather()
        self.owners: dict[Address, Callable[[Address, bytes], None]] = {}
        self.dirty: dict[Any, None] = {}
        self.network = self
        self.counts: Counter[str] = Counter()
        """Datagrams by what befell them."""
        self.ids: dict[Address, set[bytes]] = {}
        """By which connection ids each client's address has addressed the server, in 1-RTT packets."""
        self._hosts: dict[str, Host] = {}
        self._ips = 0
        self._port = 10_000
        self._dead: set[Address] = set()
        self._bursts: dict[str, float] = {}
        self._hash = hashlib.sha256()

    # ---- as quicpair.World

    @property
    def now(self) -> float:
        return self.kernel.now

    def at(self, time: float, function: Callable[[], None]) -> None:
        self.kernel.call_at(time, function)

    def free_address(self, host: str) -> Address:
        self._port += 1
        return host, self._port

    def carry(self, sender: Address, to: Address, data: bytes) -> None:
        """Deliver a datagram, whole, once and soon, unless the weather has it otherwise."""
        self.counts["sent"] += 1
        self._hash.update(repr((round(self.now, 6), sender, to)).encode() + data)
        if sender[0] in self._hosts and not data[0] & 0x80:
            self.ids.setdefault(sender, set()).add(data[1 : 1 + CONNECTION_ID_SIZE])
        random, weather = self.random, self.weather
        if self._is_cut_off(sender, to) or random.random() < weather.loss or self._is_in_burst(sender, to):
            self.counts["lost"] += 1
            return
        if weather.corrupt and random.random() < weather.corrupt:
            self.counts["corrupted"] += 1
            bit = random.randrange(len(data) * 8)
            data = data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]
        copies = 1
        if weather.duplicate and random.random() < weather.duplicate:
            self.counts["doubled"] += 1
            copies = 2
        for _ in range(copies):
            delay = weather.delay + (random.expovariate(1 / weather.jitter) if weather.jitter else 0.0)
            self.kernel.call_later(delay, self._arrive, sender, to, data)

    # ---- hosts and their addresses

    def settle(self, host: Host) -> str:
        """A fresh IP address for a host."""
        self._ips += 1
        self._bursts[host.name] = 0.0
        ip = f"10.{1 + (self._ips >> 16)}.{self._ips >> 8 & 255}.{self._ips & 255}"  # 10.0 is the server's
        self._hosts[ip] = host
        return ip

    def host_of(self, ip: str) -> Host | None:
        return self._hosts.get(ip)

    def kill(self, address: Address) -> None:
        """Swallow all from and to this address, for ever."""
        self._dead.add(address)

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()

    # ---- private

    def _is_cut_off(self, sender: Address, to: Address) -> bool:
        if sender in self._dead or to in self._dead:
            return True
        host = self._hosts.get(sender[0])
        if host is not None:
            return self.now < host.up_blocked_until
        host = self._hosts.get(to[0])
        return host is not None and self.now < host.down_blocked_until

    def _is_in_burst(self, sender: Address, to: Address) -> bool:
        if not self.weather.burst:
            return False
        host = self._hosts.get(sender[0]) or self._hosts[to[0]]
        if self.random.random() < self.weather.burst:
            self._bursts[host.name] = self.now + self.random.uniform(0.02, BURST_MAX)
        return self.now < self._bursts[host.name]

    def _arrive(self, sender: Address, to: Address, data: bytes) -> None:
        owner = self.owners.get(to)
        if owner is None:
            self.counts["nobody"] += 1
        else:
            owner(sender, data)
