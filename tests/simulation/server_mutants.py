"""Bugs of the server: its disk, its store, its sessions, its hub."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from quicmsg.protocol import events
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.server_conversations import ServerConversations
from quicmsg.protocol.session import Session
from quicmsg.server.conversations import Conversations
from quicmsg.store import Append, OpenConversation, rules
from quicmsg.store.memory import MemoryStore
from simulation.planting import Patch, breaks, crashes, crashes_while_reading, patient, plant, restores, wrap
from simulation.stored import Disk

# ---- the server's disk


def _disk(mode: str) -> Patch:
    def make(init: Callable[..., None]) -> Callable[..., None]:
        def broken(self: Disk) -> None:
            init(self)
            self.mode = mode

        return broken

    return wrap(Disk, "__init__", make)


plant("ack_before_commit", "Accepted is said before the commit", _disk("told early"), settings=crashes)
plant(
    "seen_before_commit",
    "others may read what is not committed",
    _disk("seen early"),
    settings=crashes_while_reading,
)


# ---- the store


def _no_dedupe(append: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: MemoryStore, op: Append) -> Any:
        self._state.identities.pop((op.sender, op.message_id), None)
        return append(self, op)

    return broken


plant(
    "no_dedupe",
    "a message that is sent again is stored again",
    wrap(MemoryStore, "_append", _no_dedupe),
    settings=breaks,
)
plant(
    "stale_epoch_trusted",
    "a position from before a restored backup is believed",
    (rules, "is_believed", lambda position, *, epoch, store_epoch, head: position <= head),
    settings=restores,
)


def _position_below(open_: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: MemoryStore, op: OpenConversation) -> Any:
        self._state.positions.pop((op.conversation, op.user, op.device), None)
        return open_(self, replace(op, position=0, epoch=self.epoch))

    return broken


plant(
    "position_goes_back",
    "opening forgets the position, and what the client says of it",
    wrap(MemoryStore, "_open", _position_below),
    settings=breaks,
)

# ---- the server's sessions and hub


def _delivered_on_send(deliver: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ServerConversations, channel: int, entries: Any) -> None:
        deliver(self, channel, entries)
        found = self._conversation_channel(channel)
        if found is not None and found.covered.value > found.acknowledged:
            position = found.covered.value
            self._events.append(events.PositionMoved(found.conversation, position, 0, True))

    return broken


def _unpark_reversed(welcome: Callable[..., Any]) -> Callable[..., Any]:
    """The channels keep their order: between them there is none, only within each."""

    def broken(self: ServerSession, **arguments: Any) -> None:
        channels = dict.fromkeys(channel for channel, _, _ in self._parked)
        late = self._parked[::-1]
        self._parked = [piece for channel in channels for piece in late if piece[0] == channel]
        welcome(self, **arguments)

    return broken


def _no_account_head(handle: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ServerSession, frame: Any, now: float) -> None:
        head, self.account_head = self.account_head, 0
        handle(self, frame, now)
        self.account_head = max(head, self.account_head)

    return broken


def _deliver_out_of_window(want: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ServerConversations, channel: Any) -> None:
        channel.covered.value += 1 if channel.opened and channel.head > channel.covered.value + 5 else 0
        want(self, channel)

    return broken


def _read_swallows(move: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Conversations, peer: Any, event: events.PositionMoved) -> None:
        for at in self._moves:
            self._moves[at] = None  # what waited is replaced, not merged
        move(self, peer, event)

    return broken


plant(
    "delivered_on_send",
    "the tick says that bytes were written",
    wrap(ServerConversations, "deliver", _delivered_on_send),
)
plant(
    "no_park",
    "what came before the sign-in is dropped",
    (ServerSession, "_park", lambda *_: None),
    settings=patient,
)
plant(
    "parked_out_of_order",
    "what came on a channel before the sign-in is taken up in another order",
    wrap(ServerSession, "welcome", _unpark_reversed),
)
plant(
    "lost_notice_unrepaired",
    "a Notice gets lost, and no Pong says so",
    (ServerConversations, "_notice", lambda *_: None),
    wrap(ServerSession, "_handle_control", _no_account_head),
)
plant(
    "jump_over_a_gap",
    "the server leaves an entry out, and the client takes what comes",
    wrap(ServerConversations, "_want_entries", _deliver_out_of_window),
    (Mailbox, "delivered", lambda self, name, entry, now: _take_anything(self, name, entry)),
)
plant("moves_replaced", "a position that waits is replaced", wrap(Conversations, "move", _read_swallows))
plant(
    "not_published",
    "others are not told of a new entry",
    (Conversations, "_publish", lambda *_: None),
    wrap(ServerSession, "_handle_control", _no_account_head),
)
plant(
    "no_credit",
    "consumed bytes open no window",
    (Session, "_credit", lambda *_: None),
    settings=lambda drawn: setattr(drawn.weather, "window", 600),
)


def _take_anything(self: Mailbox, name: str, entry: Any) -> None:
    found = self.conversation(name)
    if entry.seq > found.received:
        found.received = entry.seq
        found.inbox.append(entry)
        self._arrivals.append(name)
        self._events.append(events.EntriesArrived(name))
