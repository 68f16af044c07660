"""The UDP socket alone: offload with its fallback, full buffers, and where an answer leaves from."""

from __future__ import annotations

import errno
import select
from collections.abc import Iterator
from typing import Any

import pytest

from quicmsg.transport.socket import UdpSocket


class Kernel:
    """A real socket whose sendmsg can be made to fail."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.calls: list[int] = []
        self.fail_with: list[int] = []

    def sendmsg(self, buffers: list[bytes], *arguments: Any) -> int:
        self.calls.append(len(buffers))
        if self.fail_with:
            number = self.fail_with.pop(0)
            raise BlockingIOError if number == errno.EAGAIN else OSError(number, "planted")
        return int(self._real.sendmsg(buffers, *arguments))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


@pytest.fixture
def pair() -> Iterator[tuple[UdpSocket, Kernel, UdpSocket]]:
    sender, receiver = UdpSocket(("127.0.0.1", 0)), UdpSocket(("127.0.0.1", 0))
    kernel = Kernel(sender._socket)
    sender._socket = kernel  # type: ignore[assignment]
    yield sender, kernel, receiver
    sender.close()
    receiver.close()


def received(receiver: UdpSocket, count: int) -> list[bytes]:
    arrivals: list[bytes] = []
    while len(arrivals) < count and select.select([receiver], [], [], 1)[0]:
        arrivals += [data for data, _, _ in receiver.receive()]
    return arrivals


RUN = [bytes([number]) * 1200 for number in range(5)] + [b"short", b"x" * 1200]


def test_a_run_of_equals_leaves_in_one_call_and_arrives_in_order(
    pair: tuple[UdpSocket, Kernel, UdpSocket],
) -> None:
    """UDP_SEGMENT and UDP_GRO, invisible to both ends."""
    sender, kernel, receiver = pair
    sender.send(RUN, receiver.address, None)
    assert kernel.calls == [6, 1]
    assert received(receiver, 7) == RUN


def test_without_offload_every_datagram_still_leaves(pair: tuple[UdpSocket, Kernel, UdpSocket]) -> None:
    """A device that cannot segment: tried once, then never again."""
    sender, kernel, receiver = pair
    kernel.fail_with = [errno.EIO]
    sender.send(RUN, receiver.address, None)
    sender.send(RUN, receiver.address, None)
    assert kernel.calls == [6] + [1] * 14
    assert received(receiver, 14) == RUN + RUN


def test_a_full_buffer_is_loss_and_not_an_error(pair: tuple[UdpSocket, Kernel, UdpSocket]) -> None:
    """QUIC repeats it."""
    sender, kernel, receiver = pair
    errors: list[OSError] = []
    sender.on_error = errors.append
    kernel.fail_with = [errno.EAGAIN, errno.EAGAIN]
    sender.send(RUN, receiver.address, None)
    sender.send([b"later"], receiver.address, None)
    assert received(receiver, 1) == [b"later"]
    assert errors == []


def test_an_old_error_does_not_cost_a_datagram(pair: tuple[UdpSocket, Kernel, UdpSocket]) -> None:
    """The kernel reports ICMP errors at the next send: reported, and sent again."""
    sender, kernel, receiver = pair
    errors: list[OSError] = []
    sender.on_error = errors.append
    kernel.fail_with = [errno.ECONNREFUSED]
    sender.send([b"hello"], receiver.address, None)
    assert received(receiver, 1) == [b"hello"]
    assert [error.errno for error in errors] == [errno.ECONNREFUSED]
