"""Bugs of the client: its outbox, its mailbox, its sessions, its shell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.limits import SEQ_MAX
from quicmsg.protocol import frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.client_conversations import ClientConversations
from quicmsg.protocol.heartbeat import Beat, Heartbeat
from quicmsg.protocol.mailbox import Conversation, Mailbox
from quicmsg.protocol.outbox import Outbox
from simulation.planting import (
    breaks,
    client_crashes,
    late_joins,
    moves,
    plant,
    rejoining,
    restores,
    small_windows,
    wrap,
)


def _new_ids(touch: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox) -> None:
        for message in list(self.outbox._by_id.values()):
            if message.channel is not None:
                del self.outbox._by_id[message.message_id]
                message.message_id = bytes(reversed(message.message_id))
                self.outbox._by_id[message.message_id] = message
        touch(self)

    return broken


def _never_again(self: Outbox, conversation: str, channel: object) -> Iterator[Any]:
    line = self._lines.get(conversation)
    return iter([m for m in line.messages if m.channel is None]) if line else iter(())


def _backwards(unwritten: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Outbox, conversation: str, channel: object) -> Iterator[Any]:
        return iter(list(unwritten(self, conversation, channel))[::-1])

    return broken


def _acked_at_once(processed: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Bookkeeper, name: str, entry: Any) -> None:
        epoch = self._out.get(name, self.mailbox.conversations[name].epoch)
        self.mailbox.processed(name, self.mailbox.position_after(name, entry.seq), epoch)
        self._touched()
        processed(self, name, entry)

    return broken


def _opened_without_looking(opened: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox, name: str, verdict: frames.Opened) -> None:
        self.conversation(name).epoch = verdict.epoch
        opened(self, name, frames.Opened(*(*_fields(verdict)[:4], False, verdict.members)))

    return broken


def _fields(frame: Any) -> tuple[Any, ...]:
    return tuple(getattr(frame, name) for name in frame.__struct_fields__)


def _marks_of_anybody(self: Mailbox, found: Conversation) -> tuple[int, int]:
    others = [at for user, at in found.members.items() if user != self.user]
    return (max(p[0] for p in others), max(p[1] for p in others)) if others else (0, 0)


def _marks_beyond_the_log(self: Mailbox, found: Conversation) -> tuple[int, int]:
    others = [at for user, at in found.members.items() if user != self.user]
    return (min(p[0] for p in others), min(p[1] for p in others)) if others else (0, 0)


def _ack_only_if_owed(speak: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ClientConversations, channel: Any, now: float) -> None:
        found = channel.conversation
        acknowledged = channel.acknowledged
        if found.owed <= found.told:
            channel.acknowledged = SEQ_MAX
        speak(self, channel, now)
        channel.acknowledged = max(acknowledged, channel.acknowledged % SEQ_MAX)

    return broken


def _late_answer_ticks_nothing(accepted: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox, name: str, *arguments: Any) -> None:
        found = self.conversation(name)
        mark, found.delivered_mark = found.delivered_mark, 0
        move, self._move_marks = self._move_marks, lambda *_: None  # type: ignore[method-assign]
        accepted(self, name, *arguments)
        self._move_marks = move  # type: ignore[method-assign]
        found.delivered_mark = mark

    return broken


def _nothing_is_repeated(reset: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Mailbox, found: Conversation, verdict: Any) -> None:
        reset(self, found, verdict)
        found.resync_until = 0

    return broken


plant(
    "new_id_on_resend",
    "what is sent again gets a new id",
    wrap(Mailbox, "touch_all", _new_ids),
    settings=breaks,
)
plant(
    "never_sent_again",
    "what was written to a dead connection counts as sent",
    (Outbox, "unwritten", _never_again),
    settings=breaks,
)
plant("sent_backwards", "the outbox is sent newest first", wrap(Outbox, "unwritten", _backwards))
plant(
    "ack_before_persist",
    "an entry is acknowledged before it is on the disk",
    wrap(Bookkeeper, "processed", _acked_at_once),
    settings=client_crashes,
)
plant(
    "reset_ignored",
    "the client goes on in a log that was restored",
    wrap(Mailbox, "opened", _opened_without_looking),
    settings=restores,
)
plant(
    "restored_shown_again",
    "what comes again after a restore is shown again",
    wrap(Mailbox, "_reset", _nothing_is_repeated),
    settings=restores,
)
plant("delivered_to_anybody", "one member's position ticks for all", (Mailbox, "_marks", _marks_of_anybody))
plant(
    "ticks_beyond_the_log",
    "a tick counts entries behind which somebody may have joined",
    (Mailbox, "_marks", _marks_beyond_the_log),
    settings=late_joins,
)
plant(
    "no_ack_when_nothing_is_owed",
    "a second device makes no room in its window",
    wrap(ClientConversations, "_speak", _ack_only_if_owed),
    settings=small_windows,
)
plant(
    "late_answer_ticks_nothing",
    "an answer that comes after the receipts is not ticked",
    wrap(Mailbox, "accepted", _late_answer_ticks_nothing),
    settings=breaks,
)
plant(
    "no_heartbeat",
    "nobody asks whether the other is there",
    (Heartbeat, "poll", lambda self, now: Beat.NOTHING),
    (Heartbeat, "due", lambda self: float("inf")),
    (ClientSession, "doubt", lambda *_: None),
    settings=moves,
)
plant(
    "rejected_with_open_questions",
    "losing a group rejects what is on its way into it",
    wrap(ClientConversations, "_refused", lambda refused: lambda self, channel, frame, now: (
        channel.in_flight.clear(), refused(self, channel, frame, now))),
    settings=rejoining,
)  # fmt: skip
