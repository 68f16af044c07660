"""What must hold of the transport in a seed of the QUIC tier, beside the contract.

Everywhere: the server's accounts of its connections are right, and nothing stays unacknowledged. In a calm
world: no packet is lost or sent again, no message either. Where addresses change and nothing else is wrong
(point 7 of the contract): no connection ends, both ends know the client's address, nobody waits for long.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

from aioquic import tls
from quicpair import End

from quicmsg.limits import CONNECT_TIMEOUT, PTO_INTERVAL_MAX
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader
from simulation.history import Happening
from simulation.quic_network import QuicNetwork

if TYPE_CHECKING:
    from simulation.run import Simulation
    from simulation.settings import Settings

IN_FLIGHT_MAX = 2.0
"""Seconds in which, without faults, everything that was sent is acknowledged."""
RESTART_MAX = 2.0
"""Seconds from the server's start until a message that waited for it is stored."""
DISKS_MAX = 0.1
"""Seconds for the disks and timers that stand between a message and its tick, where disks are quick."""


def watch_closely(simulation: Simulation) -> None:
    """Before it begins: how long may a message wait here, and, if it is calm, how often is it sent?"""
    network = simulation.network
    if isinstance(network, QuicNetwork):
        network.stall_max = stall_max(simulation.settings)
        if simulation.settings.calm:
            network.watch = SendCounter()


def check_transport(simulation: Simulation) -> list[str]:
    """What is wrong; what begins with I6 may heal with time."""
    network = simulation.network
    if not isinstance(network, QuicNetwork):
        return []
    problems = _check_accounts(network)
    if simulation.settings.calm:
        problems += _check_calm(network, simulation.settings)
    if simulation.settings.only_moves:
        problems += _check_moved(simulation, network)
    return problems + _check_stalls(simulation, network)


class SendCounter:
    """Reads what is written to connections, and counts each message's Sends."""

    def __init__(self) -> None:
        self.sends: Counter[bytes] = Counter()
        self._readers: dict[tuple[Any, int], FrameReader] = {}

    def __call__(self, link: Any, upward: bool, item: Any) -> None:
        if not upward:
            return
        reader = self._readers.setdefault((link, item.channel), FrameReader(control=item.channel == 0))
        reader.feed(item.data)
        while (frame := reader.next_frame()) is not None:
            if isinstance(frame, frames.Send):
                self.sends[frame.message_id] += 1


# ---- private


def _check_accounts(network: QuicNetwork) -> list[str]:
    problems = []
    ends = network.served_ends
    half_open = sum(end.session is None for end in ends)
    admission = network.admission
    if admission is not None and (admission.total, admission.half_open) != (len(ends), half_open):
        counted = f"{admission.total} connections, {admission.half_open} half open"
        problems.append(f"I6: admission counts {counted}; there are {len(ends)}, {half_open}")
    for end in _all_ends(network):
        if _is_stuck(end, network.kernel.now):
            text = f"{end.connection.buffered} bytes to {end.peer_address} stay unacknowledged"
            problems += [f"I6: {text}"]
    return problems


def _all_ends(network: QuicNetwork) -> list[End]:
    ours = [link.quic for link in network.links if link.quic is not None and not link.quic.is_over]
    return [*network.served_ends, *ours]


def _is_stuck(end: End, now: float) -> bool:
    """Bytes wait that nothing in flight carries, or that have been in flight for long. (Some heartbeat may
    always be in flight when we look.)"""
    connection = end.connection
    if not connection.buffered:
        return False
    flight = connection._spaces[tls.Epoch.ONE_RTT].sent_packets.values()
    return min((packet.sent_time for packet in flight), default=0.0) < now - IN_FLIGHT_MAX


def _check_calm(network: QuicNetwork, settings: Settings) -> list[str]:
    assert isinstance(network.watch, SendCounter)
    problems = [f"calm: {sent.hex()} was sent {n} times" for sent, n in network.watch.sends.items() if n > 1]
    lost = sum(end.stats().packets_lost for end in _all_ends(network))
    if lost and not settings.weather.jitter:
        problems.append(f"calm: {lost} packets were taken for lost")
    return problems


def _check_moved(simulation: Simulation, network: QuicNetwork) -> list[str]:
    history = simulation.history
    wrong = [what for what in ("down", "raced", "failed") if history.count(what)]
    problems = [f"7: {', '.join(wrong)} though only addresses changed"] if wrong else []
    for device in simulation.devices:
        link = device.link
        if link is None:
            continue
        told = {"client": device.session.observed_address if device.session else "nothing"}
        server = link.accepted.server if link.accepted is not None else None
        told["server"] = server.session.observed_address if server is not None else "nothing"
        problems += [
            f"I6: 7: the {who} takes {device.name} to be at {where}, it is at {link.address}"
            for who, where in told.items()
            if where != link.address
        ]
    for old, new in network.moved:
        if network.air.ids.get(old, set()) & network.air.ids.get(new, set()):
            problems.append(f"7: whoever looks on can tell that {old} and {new} are the same client")
    return problems


def _check_stalls(simulation: Simulation, network: QuicNetwork) -> list[str]:
    happenings = simulation.history.happenings
    longest = longest_stall(
        happenings, network.listening_since, deliveries=not simulation.settings.only_restarts
    )
    if longest[0] <= network.stall_max:
        return []
    return [f"7: {longest[1]} waited {longest[0]:.2f} s, not {network.stall_max:.2f}"]


def stall_max(settings: Settings) -> float:
    """How long a message may need from its queue to its tick. After a change of address, and nothing else, a
    probe finds the new path, and round trips do the rest; each loss costs another probe."""
    weather = settings.weather
    if settings.only_restarts:
        return RESTART_MAX + 8 * weather.delay
    if not settings.only_moves:
        return math.inf
    round_trip = 2 * (weather.delay + 4 * weather.jitter)
    probes = 1 + 3 * (weather.loss > 0)
    return PTO_INTERVAL_MAX * probes + 4 * round_trip + DISKS_MAX


def longest_stall(
    happenings: list[Happening], listening_since: list[float], *, deliveries: bool = True
) -> tuple[float, str]:
    """The longest time between a message's queue and its tick, or between its commit and its place on another
    device's disk, in which network and server were there. A client that moved without knowing is not
    looked for (nor, without `deliveries`, one of a restarted server): nobody can find it until it speaks."""
    undisturbed: dict[str, float] = {}
    queued: dict[bytes, tuple[float, str]] = {}
    committed: dict[bytes, float] = {}
    reached: dict[str, float] = {}
    lost_sight: set[str] = set()
    up: set[str] = set()
    longest = (0.0, "")
    for now, what, details in happenings:
        match what, details:
            case "queued", (device, _, message_id):
                queued[message_id] = now, device
            case "up", (device,):
                undisturbed.setdefault(device, now)
                up.add(device)
            case "down", (device, *_):
                up.discard(device)
            case "server crashed", _:
                # In a handshake nothing says that the server is another one: it is given up in time.
                for device in undisturbed.keys() - up:
                    undisturbed[device] = max(now + CONNECT_TIMEOUT, undisturbed[device])
            case "moved", (device, aware):
                undisturbed[device] = max(now, undisturbed.get(device, 0.0))
                if not aware:
                    lost_sight.add(device)
                elif device in lost_sight:
                    lost_sight.remove(device)
            case "committed", (_, _, message_id, *_):
                if deliveries:
                    committed[message_id] = now
            case "kept", (device, *_, message_id) if message_id in committed and device not in lost_sight:
                served = max((start for start in listening_since if start <= now), default=now)
                since = max(committed[message_id], reached.get(device, 0.0))
                waited = now - max(since, undisturbed.get(device, now), served)
                longest = max(longest, (waited, f"{message_id.hex()} to {device}"))
            case "outage", (device, until):
                undisturbed[device] = max(until, undisturbed.get(device, 0.0))
                # A server's probes grow rare in a hole, so that dead clients cost little: one that says
                # nothing is reached after twice the hole's time at the latest.
                reached[device] = max(2 * until - now, reached.get(device, 0.0))
            case "stored", (*_, message_id) if message_id in queued:
                since, device = queued.pop(message_id)
                served = max((start for start in listening_since if start <= now), default=now)
                waited = now - max(since, undisturbed.get(device, now), served)
                longest = max(longest, (waited, f"{device}'s {message_id.hex()}"))
    return longest
