"""A server, clients and a NAT on real loopback sockets, for the endpoint's tests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from certificates import Files
from talk import Talk

from quicmsg.errors import ErrorCode
from quicmsg.transport.quic import Link, Listener, Trust, dial, listen


class Stage:
    """A server, its sessions, and clients; everything is closed in the end, and that is checked."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.sessions: list[Any] = []
        self.make_session: Callable[[str], Any] = self._make_session
        self.listener: Listener
        self.links: list[Link] = []
        self._changed = asyncio.Event()

    async def serve(self, *addresses: tuple[str, int]) -> int:
        self.listener = await listen(
            addresses or [("127.0.0.1", 0)],
            certificate_file=self.files.certificate,
            private_key_file=self.files.key,
            make_session=lambda address: self.make_session(address),
            on_activity=self.activity,
            reset_key=b"reset",
            retry_key=b"retry",
        )
        return self.listener.addresses[0][1]

    async def dial(self, port: int, session: Any, host: str = "127.0.0.1", **options: Any) -> Link:
        options.setdefault("trust", Trust(ca_file=self.files.ca))
        options.setdefault("server_name", "localhost")
        options.setdefault("timeout", 5.0)
        link = await dial(host, port, session=session, on_activity=self.activity, **options)
        self.links.append(link)
        return link

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def activity(self, _link: Link | None = None) -> None:
        self._changed.set()

    async def close(self) -> None:
        for link in self.links:
            link.close(ErrorCode.NO_ERROR, "")
        if hasattr(self, "listener"):
            await self.listener.close()

    def _make_session(self, _address: str) -> Talk:
        self.sessions.append(Talk())
        return self.sessions[-1]


Scene = Callable[[Stage], Awaitable[None]]
Play = Callable[[Scene], None]


class Relay:
    """A NAT between one client and the server; lets nothing in but from the address it sends to."""

    def __init__(self, server_port: int) -> None:
        self.target = "127.0.0.1"
        self._server_port = server_port
        self._client: tuple[str, int] | None = None
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        self._loop = asyncio.get_running_loop()
        for one in self._sockets:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        self.port = self._sockets[0].getsockname()[1]
        self._loop.add_reader(self._sockets[0], self._from_client)
        self._loop.add_reader(self._sockets[1], self._from_server)

    def close(self) -> None:
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()

    def _from_client(self) -> None:
        data, self._client = self._sockets[0].recvfrom(2048)
        self._sockets[1].sendto(data, (self.target, self._server_port))

    def _from_server(self) -> None:
        data, sender = self._sockets[1].recvfrom(2048)
        if sender[0] == self.target and self._client is not None:
            self._sockets[0].sendto(data, self._client)


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
