"""What must hold of the transport at the end of a seed of the QUIC tier, beside the contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aioquic import tls
from quicpair import End

from simulation.quic_network import QuicNetwork

if TYPE_CHECKING:
    from simulation.run import Simulation

IN_FLIGHT_MAX = 2.0
"""Seconds in which, without faults, everything that was sent is acknowledged."""


def check_transport(simulation: Simulation) -> list[str]:
    """What is wrong; what begins with I6 may heal with time."""
    network = simulation.network
    if not isinstance(network, QuicNetwork):
        return []
    return _check_accounts(network)


def _check_accounts(network: QuicNetwork) -> list[str]:
    problems = []
    ends = network.served_ends
    half_open = sum(end.session is None for end in ends)
    admission = network.admission
    if admission is not None and (admission.total, admission.half_open) != (len(ends), half_open):
        counted = f"{admission.total} connections, {admission.half_open} half open"
        problems.append(f"I6: admission counts {counted}; there are {len(ends)}, {half_open}")
    for end in [*ends, *(link.quic for link in network.links if link.quic is not None)]:
        if not end.is_over and _is_stuck(end, network.kernel.now):
            text = f"{end.connection.buffered} bytes to {end.peer_address} stay unacknowledged"
            problems += [f"I6: {text}"]
    return problems


def _is_stuck(end: End, now: float) -> bool:
    """Bytes wait that nothing in flight carries, or that have been in flight for long. (A heartbeat may always
    be in flight when we look.)"""
    connection = end.connection
    if not connection.buffered:
        return False
    flight = connection._spaces[tls.Epoch.ONE_RTT].sent_packets.values()
    return min((packet.sent_time for packet in flight), default=0.0) < now - IN_FLIGHT_MAX
