"""How many new names one address may claim: on an open server a name costs nothing else.

Who has a name signs in as often as it likes; only names that nobody had are counted, after they were made.
"""

from __future__ import annotations

import ipaddress

from quicmsg.limits import NEW_NAMES_ADDRESSES_MAX, NEW_NAMES_BURST, NEW_NAMES_RATE
from quicmsg.protocol.budget import Tokens
from quicmsg.server.directory import Environment


class Newcomers:
    """Tokens for each network address; those that were used longest ago are forgotten first."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._networks: dict[str, Tokens] = {}

    def may_come(self, address: str) -> bool:
        """May somebody with this address and port claim a new name now?"""
        tokens = self._networks.get(network_of(address))
        return tokens is None or tokens.level(self._environment.now()) >= 1

    def came(self, address: str) -> None:
        """Somebody did."""
        now = self._environment.now()
        network = network_of(address)
        tokens = self._networks.pop(network, None) or Tokens(NEW_NAMES_RATE, NEW_NAMES_BURST, now)
        tokens.spend(1, now)
        self._networks[network] = tokens
        if len(self._networks) > NEW_NAMES_ADDRESSES_MAX:
            del self._networks[next(iter(self._networks))]


def network_of(address: str) -> str:
    """An IPv4 address without its port, or the /64 of an IPv6 one: what one customer has."""
    host = address.rpartition(":")[0]
    if not host.startswith("["):
        return host
    return ipaddress.IPv6Address(host[1:-1]).packed[:8].hex()
