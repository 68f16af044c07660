"""What is between computers: hosts with addresses, NATs in front of some, and weather on the way.

Datagrams get lost, doubled, late (and so out of order) and broken; holes swallow them, both ways or one. A
host's own address may change, and its kernel says so; a NAT may forget, and nobody says so. Every datagram
goes into a hash: two runs of a seed are the same, or the hashes differ.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulation.shell.kernel_sockets import FakeSocket
    from simulation.shell.loop import VirtualLoop

Address = tuple[str, int]
MTU = 1500
FIRST_PORT = 32_768


@dataclass(slots=True)
class Weather:
    """What happens to a datagram. Seconds, and chances from 0 to 1."""

    delay: float = 0.02
    jitter: float = 0.0
    loss: float = 0.0
    double: float = 0.0
    corrupt: float = 0.0
    burst: float = 0.0
    """The chance that a loss is the first of several in a row."""
    refusals: bool = True
    """Whether a host without a listener says so (ICMP port unreachable)."""

    def clear(self) -> None:
        self.jitter = self.loss = self.double = self.corrupt = self.burst = 0.0


@dataclass(eq=False)
class Host:
    """A computer: its addresses, its sockets, perhaps a NAT before it, and how slow its disk is."""

    name: str
    addresses: dict[int, str]
    nat: str = ""
    """The public address of the NAT; "": none."""
    blocked_up: float = 0.0
    blocked_down: float = 0.0
    disk_slowness: float = 0.002
    clock_step: float = 0.0
    """What somebody has added to its wall clock."""
    asleep: float = 0.0
    sockets: dict[tuple[int, int], FakeSocket] = field(default_factory=dict)
    watchers: list[FakeSocket] = field(default_factory=list)
    mappings: dict[Address, Address] = field(default_factory=dict)

    def source(self, family: int) -> str:
        """The address that the routes say to send from; OSError when there is none."""
        try:
            return self.addresses[family]
        except KeyError:
            raise OSError(errno.ENETUNREACH, "Network is unreachable") from None


class Internet:
    """All hosts, and what is on its way between them."""

    def __init__(self, random: Random) -> None:
        self.loop: VirtualLoop
        self.weather = Weather()
        self.hosts: dict[str, Host] = {}
        self.names: dict[str, list[tuple[int, str]]] = {}
        self.sent = self.lost = self.doubled = self.corrupted = 0
        self.dead_families: set[int] = set()
        self.open_sockets: dict[int, FakeSocket] = {}
        self.trace: Callable[[str], None] | None = None
        self._random = random
        self._next_port = FIRST_PORT
        self._next_fd = 10_000
        self._losing = 0
        self._hash = hashlib.sha256()

    # ---- who is there

    def add(self, name: str, addresses: dict[int, str], *, nat: str = "") -> Host:
        host = self.hosts[name] = Host(name, addresses, nat)
        return host

    def resolve(self, host: str, port: int, kind: int) -> list[tuple[Any, ...]]:
        """As getaddrinfo: addresses of a name, or of an address itself."""
        known = self.names.get(host)
        if known is None:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                socket.inet_pton(family, host)
            except OSError as error:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from error
            known = [(family, host)]
        kind = kind or socket.SOCK_DGRAM
        return [(family, kind, 17, "", full(family, address, port)) for family, address in known]

    def fresh_port(self) -> int:
        self._next_port += 1
        return self._next_port

    def fresh_fd(self) -> int:
        self._next_fd += 1
        return self._next_fd

    def is_readable(self, fd: int) -> bool:
        found = self.open_sockets.get(fd)
        return found is not None and found.is_readable

    # ---- what happens to hosts

    def readdress(self, host: Host, family: int, address: str | None) -> None:
        """The host has another address now, or none; its kernel tells whoever watches."""
        if address is None:
            host.addresses.pop(family, None)
        else:
            host.addresses[family] = address
        host.mappings.clear()
        self.notice(host)

    def notice(self, host: Host) -> None:
        """Netlink: something about addresses or routes."""
        for watcher in list(host.watchers):
            watcher.arrive(b"\x10\0\0\0\x14\0\0\0", ("", 0), "")

    def forget(self, host: Host, public: str) -> None:
        """The NAT gives new ports (and perhaps another address) to what is sent from now on."""
        host.mappings.clear()
        host.nat = public

    def reported(self, host: Host, what: str) -> None:
        self._hash.update(f"{host.name} {what}".encode())

    # ---- datagrams

    def send(self, sender: FakeSocket, source: Address, to: Address, data: bytes) -> None:
        """From a socket of a host, which has chosen the address to send from."""
        host = sender.host
        public = self._public(host, source)
        self.sent += 1
        now = self.loop.now
        self._hash.update(repr((round(now, 7), public, to)).encode() + data)
        if self.trace is not None:
            self.trace(f"{host.name} {public[0]}:{public[1]} -> {to[0]}:{to[1]} {len(data)} bytes")
        dead = (socket.AF_INET6 if ":" in to[0] else socket.AF_INET) in self.dead_families
        if dead or now < host.blocked_up or len(data) > MTU or self._is_lost():
            self.lost += 1
            return
        draw, weather = self._random, self.weather
        if draw.random() < weather.corrupt:
            self.corrupted += 1
            place = draw.randrange(len(data))
            data = data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]
        copies = 2 if draw.random() < weather.double else 1
        self.doubled += copies - 1
        for _ in range(copies):
            delay = weather.delay + (draw.expovariate(1 / weather.jitter) if weather.jitter else 0.0)
            self.loop.call_later(delay, self._arrive, sender, public, to, data, context=sender.no_context)

    @property
    def hash(self) -> str:
        """Of every datagram so far."""
        return self._hash.hexdigest()

    # ---- private

    def _is_lost(self) -> bool:
        draw, weather = self._random, self.weather
        if self._losing:
            self._losing -= 1
            return True
        if draw.random() >= weather.loss:
            return False
        if draw.random() < weather.burst:
            self._losing = draw.randrange(1, 6)
        return True

    def _public(self, host: Host, source: Address) -> Address:
        if not host.nat or ":" in source[0]:
            return source
        known = host.mappings.get(source)
        if known is None:
            known = host.mappings[source] = (host.nat, self.fresh_port())
        return known

    def _arrive(self, sender: FakeSocket, source: Address, to: Address, data: bytes) -> None:
        found = self._owner(to)
        if found is None:
            return
        host, family, inner = found
        if self.loop.now < host.blocked_down:
            self.lost += 1
            return
        receiver = host.sockets.get((family, inner[1]))
        if receiver is not None and receiver.takes(inner[0]):
            receiver.arrive(data, full(family, *source), inner[0])
        elif self.weather.refusals and not host.nat and self.loop.now >= host.blocked_up:
            delay = self.weather.delay
            self.loop.call_later(delay, self._refuse, sender, context=sender.no_context)

    def _refuse(self, sender: FakeSocket) -> None:
        if self.loop.now >= sender.host.blocked_down:
            sender.fail(OSError(errno.ECONNREFUSED, "Connection refused"))

    def _owner(self, to: Address) -> tuple[Host, int, Address] | None:
        """The host that a public address leads to, and the address inside."""
        family = socket.AF_INET6 if ":" in to[0] else socket.AF_INET
        for host in self.hosts.values():
            if not host.nat or family == socket.AF_INET6:
                if host.addresses.get(family) == to[0]:
                    return host, family, to
                continue
            for inner, public in host.mappings.items():
                if public == to:
                    return (host, family, inner) if host.addresses.get(family) == inner[0] else None
        return None


def full(family: int, address: str, port: int) -> Any:
    """A socket address as the system writes it."""
    return (address, port, 0, 0) if family == socket.AF_INET6 else (address, port)
