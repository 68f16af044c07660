"""Bugs that show only beside others: bounds that nobody keeps, channels that wait for each other, strangers
who are believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quicmsg.protocol import frames
from quicmsg.protocol.channels import ClientChannel, ServerChannel
from quicmsg.protocol.client_conversations import ClientConversations
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.server_conversations import ServerConversations
from simulation.planting import plant, wrap
from simulation.server import Environment
from simulation.settings import Settings, pacify


def strangers(drawn: Settings) -> None:
    drawn.calm, drawn.patience = False, float("inf")
    drawn.faults |= {"stranger": 0.5}
    drawn.groups = max(drawn.groups, 1)


def stalls(drawn: Settings) -> None:
    pacify(drawn, only_stalls=True)


def narrow(drawn: Settings) -> None:
    drawn.bounds |= {"SUBMIT_WINDOW_MESSAGES": 1, "DELIVER_WINDOW_MESSAGES": 1, "CHANNELS_MAX": 1}
    drawn.rate, drawn.calm, drawn.patience = 15.0, False, float("inf")


def private_readers(drawn: Settings) -> None:
    drawn.private, drawn.reads = tuple(drawn.devices), 0.7


def stuck_receipts(drawn: Settings) -> None:
    """Channels get stuck, connections break, and heartbeats tell that there is news."""
    drawn.calm, drawn.patience = False, float("inf")
    drawn.faults = {"stall": 0.15, "break": 0.9}
    drawn.rate, drawn.duration, drawn.foreground, drawn.reads = 2.0, 6.0, 1.0, 0.0
    drawn.bounds |= {"PING_INTERVAL_ACTIVE_MIN": 0.2, "PING_INTERVAL_ACTIVE_MAX": 0.3, "CHANNELS_MAX": 100}
    drawn.devices = dict.fromkeys(drawn.devices, 1)
    drawn.late, drawn.revoked = set(), ""
    drawn.weather.loss = drawn.weather.stall = 0.0


def _one_after_the_other(speak: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ClientConversations, channel: Any, now: float) -> None:
        others = [c for c in self._by_name.values() if c is not channel]
        if any(other.in_flight for other in others):
            self._held_back[channel.conversation.name] = None
            return
        speak(self, channel, now)
        self.mailbox.touched.update(self._held_back)
        self._held_back.clear()

    return broken


def _told_to_all(say: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ClientConversations, channel: Any, frame: frames.Frame) -> None:
        say(self, channel, frames.Read(frame.position, True) if isinstance(frame, frames.Read) else frame)

    return broken


def _marks_that_fall(move: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox, found: Any, *arguments: Any, **options: Any) -> None:
        found.delivered_mark, found.read_mark = (min(mark, found.position) for mark in (
            found.delivered_mark, found.read_mark))  # fmt: skip
        move(self, found, *arguments, **options)

    return broken


def _told_of_it(changed: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox, entry: Any, *, channel_open: bool) -> None:
        changed(self, entry, channel_open=channel_open)
        self.conversations[entry.conversation].unsure = False

    return broken


def _read_at_once(self: ServerSession, channel: int, data: bytes, end: bool, now: float) -> None:
    ServerConversations.receive_data(self, channel, data, end, now)


plant(
    "anybody_believed",
    "signatures are not looked at",
    (Environment, "verify", lambda *_: True),
    settings=strangers,
)
plant(
    "read_before_sign_in",
    "conversation channels are read before the sign-in",
    (ServerSession, "_park", _read_at_once),
    settings=strangers,
)
plant(
    "one_conversation_at_a_time",
    "a conversation waits for the answers of another",
    wrap(ClientConversations, "_speak", _one_after_the_other),
    settings=stalls,
)
plant(
    "submit_window_ignored",
    "a client sends as much as it has",
    (ClientChannel, "has_room", lambda self: True),
    settings=narrow,
)
plant(
    "deliver_window_ignored",
    "a server delivers as much as it has",
    (ServerChannel, "room", lambda self: 64),
    settings=narrow,
)
plant(
    "channels_without_end",
    "a client opens a channel for whatever it has to say",
    (ClientConversations, "_has_channel_to_spare", lambda self: True),
    settings=narrow,
)
plant(
    "private_reading_told",
    "what somebody reads in private is told to all",
    wrap(ClientConversations, "_say", _told_to_all),
    settings=private_readers,
)
plant("marks_go_back", "ticks are taken back and told again", wrap(Mailbox, "_move_marks", _marks_that_fall))
plant(
    "receipts_lost_with_the_channel",
    "a receipt that the feed has counted, and that got lost, is not asked for again",
    wrap(Mailbox, "changed", _told_of_it),
    settings=stuck_receipts,
)
