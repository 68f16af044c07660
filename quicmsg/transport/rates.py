"""Token buckets: so many at once, so many a second after that; of one thing, or of each network."""

from __future__ import annotations

import socket

from quicmsg.limits import BUCKETS_MAX


class Bucket:
    """`rate` per second in the long run, `burst` at once."""

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = self._level = burst
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more is within the rate."""
        self._level = min(self._burst, self._level + (now - self._at) * self._rate)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


class Buckets:
    """A bucket for each network; those that were asked about longest ago are forgotten first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._buckets: dict[str, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, network: str, now: float) -> bool:
        """Whether one more of this network is within the rate."""
        bucket = self._buckets.pop(network, None)
        if bucket is None:
            bucket = Bucket(self._rate, self._burst)
            if len(self._buckets) >= BUCKETS_MAX:
                del self._buckets[next(iter(self._buckets))]
        self._buckets[network] = bucket
        return bucket.take(now)


def network_of(host: str) -> str:
    """What counts as one address: an IPv4 address, or the /64 of an IPv6 one (a customer has all of it)."""
    if ":" not in host:
        return host
    return socket.inet_pton(socket.AF_INET6, host.partition("%")[0])[:8].hex()
