"""What sessions, mailboxes and hub hold in memory has its bounds (I12); looked at again and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quicmsg import limits
from quicmsg.protocol import channels
from quicmsg.protocol.channels import ServerChannel
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.frames import CONTROL
from quicmsg.protocol.server import ServerSession
from quicmsg.server import topics

if TYPE_CHECKING:
    from simulation.run import Simulation

SLACK = limits.BODY_SIZE_MAX + 1024
"""A bound of bytes is seen to be passed by the frame that passes it."""


def check_bounds(simulation: Simulation) -> list[str]:
    """What is held beyond its bound at this moment."""
    problems: list[str] = []
    hub = simulation.server.hub
    if hub is not None:
        for session in hub._directory.peers:
            problems += [f"I12: {what} of a server's session" for what in _server_session(session)]
        cached = hub._conversations._topics._size
        if cached > topics.LOG_CACHE_SIZE + SLACK:
            problems.append(f"I12: {cached} bytes are cached")
    for device in simulation.people.devices:
        if device.running and device.session is not None:
            problems += [f"I12: {what} of {device.name}" for what in _client_session(device.session)]
    return problems


def _server_session(session: ServerSession) -> list[str]:
    found = []
    parked = sum(len(data) for _, data, _ in session._parked)
    if parked > limits.PARKED_SIZE_MAX:
        found.append(f"{parked} bytes are parked")
    if len(session._channels) > limits.SERVER_CHANNELS_MAX + 1:
        found.append(f"{len(session._channels)} channels")
    if session._requests > limits.REQUESTS_MAX + 1:
        found.append(f"{session._requests} requests")
    operations = limits.OPERATIONS_MAX + len(session._channels) * 2
    if session._operations > operations:
        found.append(f"{session._operations} operations")
    for channel in session._channels.values():
        if isinstance(channel, ServerChannel):
            if len(channel._unacknowledged) > channels.DELIVER_WINDOW_MESSAGES:
                found.append(f"{len(channel._unacknowledged)} entries that are not acknowledged")
            if len(channel._submitted) > channels.SUBMIT_WINDOW_MESSAGES:
                found.append(f"{len(channel._submitted)} messages that are not answered")
    return found


def _client_session(session: ClientSession) -> list[str]:
    found = []
    if len(session._by_name) > limits.CHANNELS_MAX:
        found.append(f"{len(session._by_name)} conversations are open")
    for channel in session._by_name.values():
        if len(channel.in_flight) > channels.SUBMIT_WINDOW_MESSAGES:
            found.append(f"{len(channel.in_flight)} messages are unanswered")
        if channel.number != CONTROL and len(channel._unacknowledged) > channels.DELIVER_WINDOW_MESSAGES:
            found.append(f"{len(channel._unacknowledged)} entries are not acknowledged")
    return found
