"""The kernel's sockets, as far as quicmsg uses them: UDP with its control messages, and netlink.

`FakeSocket` stands in for `socket.socket` in the modules that make sockets, so that the product's own code
for batches, segments (GSO, GRO), local addresses (PKTINFO) and queued errors runs unchanged.
"""

from __future__ import annotations

import contextvars
import errno
import socket
import struct
from collections import deque
from collections.abc import Sequence
from typing import Any

from simulation.shell import internet
from simulation.shell.process import current

QUEUE_MAX = 500
"""Datagrams that wait in a socket's buffer; the kernel drops what comes then."""
IP_PKTINFO, IP_RECVERR, IPV6_RECVERR, SOL_UDP, UDP_SEGMENT, UDP_GRO = 8, 11, 25, 17, 103, 104
MERGED_MAX = 16
Control = list[tuple[int, int, bytes]]

world: internet.Internet | None = None
"""Of the world that runs now."""


class FakeSocket:
    """As `socket.socket`, for AF_INET and AF_INET6 datagrams and for AF_NETLINK."""

    def __init__(self, family: int, kind: int, protocol: int = 0) -> None:
        assert world is not None
        process = current()
        assert process is not None
        assert process.alive
        assert process.host is not None
        self.host = process.host
        self.family = int(family)
        self.no_context = contextvars.Context()
        self._world = world
        self._process = process
        self._fd = world.fresh_fd()
        self._local: internet.Address = ("::" if family == socket.AF_INET6 else "0.0.0.0", 0)
        self._peer: internet.Address | None = None
        self._queue: deque[tuple[bytes, Any, str]] = deque()
        self._errors: deque[OSError] = deque()
        self._wants_errors = self._merges = False
        self._closed = False
        world.open_sockets[self._fd] = self
        process.sockets.append(self)

    def __repr__(self) -> str:
        return f"{self.host.name}:{self._local}"

    def __enter__(self) -> FakeSocket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- as a socket

    def fileno(self) -> int:
        return -1 if self._closed else self._fd

    def setblocking(self, flag: bool) -> None:
        assert not flag, "nothing may block"

    def setsockopt(self, level: int, option: int, _value: int) -> None:
        if (level, option) in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
            self._wants_errors = True
        if (level, option) == (SOL_UDP, UDP_GRO):
            self._merges = True

    def bind(self, address: Any) -> None:
        if self.family == socket.AF_NETLINK:
            self.host.watchers.append(self)
            return
        host, port = address[:2]
        if host not in ("0.0.0.0", "::") and self.host.addresses.get(self.family) != host:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        port = port or self._world.fresh_port()
        if (self.family, port) in self.host.sockets:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self._local = (host, port)
        self.host.sockets[self.family, port] = self

    def connect(self, address: Any) -> None:
        """Sends nothing: asks the routes."""
        self._local = (self.host.source(self.family), self._world.fresh_port())
        self._peer = address

    def getsockname(self) -> Any:
        return internet.full(self.family, *self._local)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._world.open_sockets.pop(self._fd, None)
        self._process.sockets.remove(self)
        if self in self.host.watchers:
            self.host.watchers.remove(self)
        if self.host.sockets.get((self.family, self._local[1])) is self:
            del self.host.sockets[self.family, self._local[1]]

    def sendto(self, data: bytes, address: Any) -> int:
        return self.sendmsg([data], [], 0, address)

    def sendmsg(self, buffers: Sequence[bytes], control: Control, _flags: int, address: Any) -> int:
        self._check()
        self._raise_queued()
        data, segment, source = b"".join(buffers), 0, self._local[0]
        for level, kind, content in control:
            if (level, kind) == (SOL_UDP, UDP_SEGMENT):
                (segment,) = struct.unpack("@H", content)
            elif (level, kind) == (socket.IPPROTO_IP, IP_PKTINFO):
                source = socket.inet_ntop(socket.AF_INET, content[4:8])
            elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
                source = socket.inet_ntop(socket.AF_INET6, content[:16])
        if source in ("0.0.0.0", "::"):
            source = self.host.source(self.family)
        elif self.host.addresses.get(self.family) != source:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        step = segment or max(len(data), 1)
        for start in range(0, len(data), step):
            self._world.send(self, (source, self._local[1]), address[:2], data[start : start + step])
        return len(data)

    def recvmsg_into(self, buffers: Sequence[bytearray], _size: int) -> tuple[int, Control, int, Any]:
        self._check()
        self._raise_queued()
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "would block")
        data, sender, to = self._queue.popleft()
        pieces = [data]
        while self._merges and len(pieces) < MERGED_MAX and self._continues(len(data), sender, to):
            pieces.append(self._queue.popleft()[0])
            if len(pieces[-1]) < len(data):
                break
        control = [self._destination(to)]
        if len(pieces) > 1:
            control.append((SOL_UDP, UDP_GRO, struct.pack("@i", len(data))))
        whole = b"".join(pieces)
        buffers[0][: len(whole)] = whole
        return len(whole), control, 0, sender

    def recvmsg(self, _size: int, _control: int, flags: int) -> Any:
        assert flags == socket.MSG_ERRQUEUE
        raise BlockingIOError(errno.EAGAIN, "would block")

    def recv(self, _size: int) -> bytes:
        self._check()
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "would block")
        return self._queue.popleft()[0]

    # ---- for the world

    @property
    def is_readable(self) -> bool:
        return bool(self._queue or self._errors)

    def takes(self, address: str) -> bool:
        """Is it bound so that what is sent to this address comes here?"""
        return self._local[0] in (address, "0.0.0.0", "::")

    def arrive(self, data: bytes, sender: Any, to: str) -> None:
        if not self._closed and len(self._queue) < QUEUE_MAX:
            self._queue.append((data, sender, to))
            self._world.loop.wake(self._fd)

    def fail(self, error: OSError) -> None:
        """ICMP: what was sent could not be delivered. The kernel reports it once, at the next call."""
        if self._wants_errors and not self._closed:
            self._errors.append(error)
            self._world.loop.wake(self._fd)

    # ---- private

    def _check(self) -> None:
        if self._closed:
            raise OSError(errno.EBADF, "Bad file descriptor")

    def _raise_queued(self) -> None:
        if self._errors:
            raise self._errors.popleft()

    def _continues(self, size: int, sender: Any, to: str) -> bool:
        return bool(self._queue) and self._queue[0][1:] == (sender, to) and len(self._queue[0][0]) <= size

    def _destination(self, to: str) -> tuple[int, int, bytes]:
        packed = socket.inet_pton(self.family, to)
        if self.family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, packed + struct.pack("@i", 2)
        return socket.IPPROTO_IP, IP_PKTINFO, struct.pack("@i", 2) + packed + packed
