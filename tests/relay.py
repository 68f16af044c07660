"""A UDP relay on loopback that tests put between clients and a server, to make the network misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

Address = tuple[str, int]


def is_initial(data: bytes) -> bool:
    """Does this datagram begin a connection (QUIC v1 long header, type Initial)?"""
    return bool(data) and data[0] & 0xF0 == 0xC0


class _Upstream(asyncio.DatagramProtocol):
    def __init__(self, relay: Relay, client: Address) -> None:
        self.relay = relay
        self.client = client
        self.transport: asyncio.DatagramTransport | None = None
        self.waiting: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        for data in self.waiting:
            self.transport.sendto(data)
        self.waiting.clear()

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self.waiting.append(data)
        else:
            self.transport.sendto(data)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if self.relay.passes(self.client, data, False):
            self.relay.reply(data, self.client)

    def error_received(self, exc: Exception) -> None:
        """The server is away: the datagram is lost, as on any network."""


class Relay(asyncio.DatagramProtocol):
    """Forwards datagrams between clients and one server; each client address is one flow.

    `passes(client, data, to_server)` decides for each datagram; replace it to lose some.
    """

    def __init__(self, server: Address) -> None:
        self.server = server
        self.passes: Callable[[Address, bytes, bool], bool] = lambda client, data, to_server: True
        self.flows: dict[Address, _Upstream] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[object]] = set()

    async def start(self) -> int:
        """Listen; returns the port."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: self, local_addr=("127.0.0.1", 0))
        self._transport = transport
        return int(transport.get_extra_info("sockname")[1])

    async def close(self) -> None:
        """Leave nothing open."""
        assert self._transport is not None
        self._transport.abort()
        await asyncio.gather(*self._tasks)
        for flow in self.flows.values():
            if flow.transport is not None:
                flow.transport.abort()
        await asyncio.sleep(0)  # closing takes a turn of the loop

    def block_old_connections(self) -> None:
        """From now on only connections that begin after this moment get through, whatever their address:
        a rebound socket does not help, only a new connection does."""
        fresh: set[Address] = set()

        def passes(client: Address, data: bytes, to_server: bool) -> bool:
            if to_server and is_initial(data):
                fresh.add(client)
            return client in fresh

        self.passes = passes

    def block_everything(self) -> None:
        """A silent hole."""
        self.passes = lambda client, data, to_server: False

    def unblock(self) -> None:
        """The network is back."""
        self.passes = lambda client, data, to_server: True

    def reply(self, data: bytes, client: Address) -> None:
        assert self._transport is not None
        self._transport.sendto(data, client)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        if not self.passes(addr, data, True):
            return
        flow = self.flows.get(addr)
        if flow is None:
            flow = self.flows[addr] = _Upstream(self, addr)
            loop = asyncio.get_running_loop()
            upstream = flow
            task = loop.create_task(loop.create_datagram_endpoint(lambda: upstream, remote_addr=self.server))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        flow.send(data)
