"""Is this computer's network still the one that the connection was made on?

`NetworkWatcher` says that something changed, not what it means: on Linux the kernel's own notices of
addresses, routes and links, elsewhere a look every two seconds. Whoever is told asks
`current_source_address` whether it concerns the connection. False alarms are cheap and usual (an IPv6
router announces itself, a container starts); a missed change costs seconds of silence.

Of netlink only the wake-up is used, through a plain socket of the standard library: every message means
that something changed, and only its type is looked at, for the log. pyroute2 0.9 was tried instead: `IPRoute`
raises inside a running event loop, `AsyncIPRoute` works under asyncio and fails under uvloop (its UDP
transport does not take the netlink family), and importing it costs 370 modules.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from quicmsg.limits import NETWORK_POLL_INTERVAL, NETWORK_SETTLE, RECEIVE_BATCH, SLEEP_NOTICED

logger = logging.getLogger(__name__)

_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE of linux/rtnetlink.h."""
_SUBJECTS: Final = {16: "link", 17: "link", 20: "address", 21: "address", 24: "route", 25: "route"}
"""RTM_NEWLINK, RTM_DELLINK and so on."""
_FAR_AWAY: Final = ("192.0.2.1", "2001:db8::1")
"""Documentation addresses (RFC 5737, RFC 3849): nothing is ever sent there, but the route to them is the
default route, and its source address is the one that this computer shows to the world."""


class NetworkWatcher:
    """Calls `on_change(what)` on the loop's thread, once for changes that come together.

    Nothing that the system refuses is an error here: without netlink it polls.

    Args:
        on_change: gets words for the log, e.g. "address, route".
        poll_interval: how often to look where the kernel does not tell.
    """

    def __init__(
        self, on_change: Callable[[str], None], *, poll_interval: float = NETWORK_POLL_INTERVAL
    ) -> None:
        self._on_change = on_change
        self._poll_interval = poll_interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._socket: socket.socket | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._subjects: set[str] = set()
        self._seen: tuple[object, ...] = ()

    @property
    def polling(self) -> bool:
        """Whether it has to look for itself."""
        return self._timer is not None

    def start(self) -> None:
        """Watch from now on; the caller must `close`. Needs the running loop."""
        assert self._loop is None, "started already"
        self._loop = asyncio.get_running_loop()
        try:
            self._socket = _open_netlink()
            self._loop.add_reader(self._socket.fileno(), self._receive)
        except (OSError, NotImplementedError) as error:  # not Linux, a sandbox, Windows' proactor loop
            self._poll_instead(error)

    def close(self) -> None:
        """Stop; `on_change` is not called any more. Again is fine."""
        self._close_socket()
        for timer in (self._timer, self._settling):
            if timer is not None:
                timer.cancel()
        self._timer = self._settling = self._loop = None

    # ---- private

    def _receive(self) -> None:
        assert self._socket is not None
        for _ in range(RECEIVE_BATCH):
            try:
                message = self._socket.recv(65536)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # ENOBUFS: more happened than the socket could hold. Anything else: it is of no more use,
                # and a reader left on it would spin.
                self._changed("overflow")
                if error.errno != errno.ENOBUFS:
                    self._poll_instead(error)
                return
            self._changed(_subject(message))

    def _poll_instead(self, error: Exception) -> None:
        logger.info("= no netlink (%s): looking every %g s", error, self._poll_interval)
        self._close_socket()
        self._seen = _look()
        assert self._loop is not None
        self._timer = self._loop.call_later(self._poll_interval, self._poll)

    def _poll(self) -> None:
        assert self._loop is not None
        self._timer = self._loop.call_later(self._poll_interval, self._poll)
        now = _look()
        if now != self._seen:
            self._seen = now
            self._changed("address")

    def _changed(self, subject: str) -> None:
        self._subjects.add(subject)
        if self._settling is None and self._loop is not None:
            # Counted from the first of them, so that a link which flaps all the time is told of, too.
            self._settling = self._loop.call_later(NETWORK_SETTLE, self._tell)

    def _tell(self) -> None:
        self._settling = None
        what = ", ".join(sorted(self._subjects))
        self._subjects.clear()
        self._on_change(what)

    def _close_socket(self) -> None:
        if self._socket is None:
            return
        if self._loop is not None:
            with contextlib.suppress(NotImplementedError):
                self._loop.remove_reader(self._socket.fileno())
        self._socket.close()
        self._socket = None


def current_source_address(host: str, port: int) -> str | None:
    """The address that the kernel would send from to this (numeric) address now; None: no way there.

    Nothing is sent and no name is resolved: connecting a UDP socket only asks the routing table.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
        family, _, _, _, target = found[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            address = ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except (OSError, ValueError):
        return None
    if address.is_unspecified:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A clock that counts the time asleep, and one that does not, read together."""

    with_sleep: float
    without_sleep: float


def read_clocks() -> ClockReading:
    """Both clocks now. Where the system has no such pair they are one, and no sleep is ever noticed."""
    if sys.platform == "linux":
        return ClockReading(time.clock_gettime(time.CLOCK_BOOTTIME), time.clock_gettime(time.CLOCK_MONOTONIC))
    if sys.platform == "darwin":
        return ClockReading(
            time.clock_gettime(time.CLOCK_MONOTONIC), time.clock_gettime(time.CLOCK_UPTIME_RAW)
        )
    now = time.monotonic()
    return ClockReading(now, now)


def slept(before: ClockReading, after: ClockReading) -> float:
    """Seconds that the computer slept between two readings; 0.0 for what may be reading them apart."""
    asleep = (after.with_sleep - before.with_sleep) - (after.without_sleep - before.without_sleep)
    return asleep if asleep >= SLEEP_NOTICED else 0.0


class SleepDetector:
    """Tells how long the computer slept since it was last asked: timers of the event loop stood still."""

    def __init__(self, reading: ClockReading) -> None:
        self._last = reading

    def check(self, reading: ClockReading) -> float:
        """Seconds slept since the last check (0.0: none)."""
        asleep = slept(self._last, reading)
        self._last = reading
        return asleep


def _open_netlink() -> socket.socket:
    """A socket that the kernel writes to whenever links, addresses or routes change. Raises OSError."""
    if sys.platform != "linux":
        raise OSError("only Linux has netlink")
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        opened.setblocking(False)
        opened.bind((0, _GROUPS))
    except OSError:
        opened.close()
        raise
    return opened


def _subject(message: bytes) -> str:
    """What the first message in a datagram is about: the type follows the length in its header."""
    if len(message) < 6:
        return "unknown"
    (kind,) = struct.unpack_from("=H", message, 4)
    return _SUBJECTS.get(kind, "unknown")


def _look() -> tuple[object, ...]:
    """What can be seen of the network without waiting: getaddrinfo of the own name would ask a DNS server,
    and that takes longest when the network has just gone."""
    try:
        links = tuple(socket.if_nameindex())
    except OSError:
        links = ()
    return (links, *(current_source_address(host, 9) for host in _FAR_AWAY))
