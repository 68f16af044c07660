"""One non-blocking UDP socket: batches in and out, and the local address that each datagram came to.

On a wildcard bind the kernel would answer from an address of its own choice, and a client that used another
one drops the answer: so each arrival carries its destination (IP_PKTINFO) and answers name it as source.
Equal-sized runs leave in one system call where the kernel has UDP_SEGMENT, and arrive in one with UDP_GRO.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Callable
from typing import Final

from quicmsg.limits import RECEIVE_BATCH, SOCKET_BUFFER

Address = tuple[str, int] | tuple[str, int, int, int]
Arrival = tuple[bytes, Address, bytes]
"""Bytes, sender, and the ready-made control message data that makes an answer leave from the same address."""

# Linux numbers that Python 3.11 does not name.
_IP_PKTINFO: Final = 8
_IP_RECVERR: Final = 11
_IPV6_RECVERR: Final = 25
_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_GSO_SEGMENTS_MAX: Final = 40  # 48 kB: below what one UDP datagram may carry, whatever the headers
_DATAGRAM_MAX: Final = 65535
_NO_GSO: Final = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EMSGSIZE})


class UdpSocket:
    """A bound UDP socket of one family. IPv6 sockets are IPv6 only: listen on both to serve both."""

    def __init__(self, address: Address, *, report_errors: bool = False) -> None:
        """Bind, or raise OSError. `report_errors`: also learn of ICMP errors (clients: a server would let
        strangers feed it with them)."""
        self.family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.on_error: Callable[[OSError], None] | None = None
        self._gso = True
        self._buffer = bytearray(_DATAGRAM_MAX)
        self._socket = socket.socket(self.family, socket.SOCK_DGRAM)
        try:
            self._configure(report_errors)
            self._socket.bind(address)
        except BaseException:
            self._socket.close()
            raise

    # ---- what is known

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def address(self) -> Address:
        """Where it is bound: the real port, perhaps a wildcard host."""
        name: Address = self._socket.getsockname()
        return name

    def local_address(self, local: bytes) -> Address:
        """The local address that an arrival came to."""
        if self.family == socket.AF_INET:
            host = socket.inet_ntop(socket.AF_INET, local[4:8])
        else:
            host = socket.inet_ntop(socket.AF_INET6, local[:16])
        return host, self.address[1]

    # ---- input and output

    def receive(self) -> list[Arrival]:
        """At most a batch of what has arrived; empty when there is nothing."""
        arrivals: list[Arrival] = []
        while len(arrivals) < RECEIVE_BATCH:
            try:
                size, control, _, sender = self._socket.recvmsg_into([self._buffer], 128)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self._report(error)  # which may have closed this socket
                break
            segment, local = self._read_control(control, size)
            view = memoryview(self._buffer)[:size]
            arrivals.extend(
                (bytes(view[start : start + segment]), sender, local)
                for start in range(0, size, segment or 1)
            )
        return arrivals

    def send(self, datagrams: list[bytes], address: Address, local: bytes | None) -> None:
        """Send, from the local address that `local` names. What cannot be sent counts as lost.

        That is also the answer to a full send buffer: QUIC repeats what was lost and slows down, which is
        right when the local link is the bottleneck, while a queue of ours would be one more thing to bound.
        """
        start = 0
        while start < len(datagrams):
            stop = self._run_of_equals(datagrams, start)
            self._send_run(datagrams[start:stop], address, local)
            start = stop

    def close(self) -> None:
        self._socket.close()

    # ---- private

    def _configure(self, report_errors: bool) -> None:
        sock = self._socket
        sock.setblocking(False)
        is_ipv4 = self.family == socket.AF_INET
        if is_ipv4:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        with contextlib.suppress(OSError):  # a smaller buffer or single datagrams work too
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
            sock.setsockopt(_SOL_UDP, _UDP_GRO, 1)
        if report_errors:
            with contextlib.suppress(OSError):
                if is_ipv4:
                    sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
                else:
                    sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)

    def _read_control(self, control: list[tuple[int, int, bytes]], size: int) -> tuple[int, bytes]:
        segment, local = size, b""
        for level, kind, data in control:
            if level == _SOL_UDP and kind == _UDP_GRO:
                segment = int.from_bytes(data[:4], "little")
            elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                # struct in_pktinfo: interface, local address, header's destination. As source: the middle.
                local = bytes(4) + data[4:8] + bytes(4)
            elif level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO:
                # An interface is only needed where the address alone is not unique.
                local = data if data[:2] == b"\xfe\x80" else data[:16] + bytes(4)
        return segment, local

    def _run_of_equals(self, datagrams: list[bytes], start: int) -> int:
        """End of a run of datagrams of one size, of which only the last may be shorter."""
        stop = start + 1
        size = len(datagrams[start])
        if not self._gso:
            return stop
        limit = min(len(datagrams), start + _GSO_SEGMENTS_MAX)
        while stop < limit and len(datagrams[stop - 1]) == size and len(datagrams[stop]) <= size:
            stop += 1
        return stop

    def _send_run(self, run: list[bytes], address: Address, local: bytes | None) -> None:
        if len(run) > 1:
            segment = [(_SOL_UDP, _UDP_SEGMENT, struct.pack("@H", len(run[0])))]
            try:
                self._socket.sendmsg(run, self._source(local) + segment, 0, address)
                return
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_GSO:
                    self._gso = False
        for datagram in run:
            self._send_one(datagram, address, local)

    def _send_one(self, datagram: bytes, address: Address, local: bytes | None) -> None:
        try:
            self._socket.sendmsg([datagram], self._source(local), 0, address)
        except BlockingIOError:
            return
        except OSError as first:
            # The error may be that of an earlier datagram (ICMP), which the kernel reports once, here; or
            # the local address is gone. Both are no reason not to try once more.
            try:
                self._socket.sendto(datagram, address)
            except BlockingIOError:
                return
            except OSError as error:
                self._report(error)
            else:
                self._report(first)

    def _source(self, local: bytes | None) -> list[tuple[int, int, bytes]]:
        if not local:
            return []
        if self.family == socket.AF_INET:
            return [(socket.IPPROTO_IP, _IP_PKTINFO, local)]
        return [(socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, local)]

    def _report(self, error: OSError) -> None:
        with contextlib.suppress(OSError):
            while True:  # a queued error keeps the socket readable until it is taken
                self._socket.recvmsg(64, 512, socket.MSG_ERRQUEUE)
        if self.on_error is not None:
            self.on_error(error)


def wildcard(family: int) -> str:
    """The address that means any address of a family."""
    return "::" if family == socket.AF_INET6 else "0.0.0.0"


def source_address(sock: UdpSocket, peer: Address) -> Address:
    """The local address from which `sock` talks to `peer`: on a wildcard bind, what the routes say now."""
    name = sock.address
    if name[0] not in ("0.0.0.0", "::"):
        return name
    with socket.socket(sock.family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(peer)  # sends nothing: only asks the routing table
            return probe.getsockname()[0], name[1]
        except OSError:
            return name
