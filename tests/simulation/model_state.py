"""What a state of the model is made of: three parties and what is on its way between them."""

from __future__ import annotations

from typing import Any, NamedTuple

NEW, HANDED, QUEUED, ACCEPTED, STORED, FORGOTTEN = range(6)
NO_CHANNEL, WAITING = -2, -1


class Sender(NamedTuple):
    """`tail`: journal writes under way, n for Queue(n), ~n for Stored(n). `written`: on this connection."""

    messages: tuple[int, ...]
    seqs: tuple[int, ...]
    tail: tuple[int, ...] = ()
    up: bool = False
    written: int = 0
    mark: int = 0
    """Delivered up to here, as S was told."""


class Server(NamedTuple):
    """`log`, `position`: committed. `tail`: operations under way. The channels: up to where they have told
    their client everything."""

    log: tuple[int, ...] = ()
    position: int = 0
    tail: tuple[Any, ...] = ()
    sender: int = NO_CHANNEL
    recipient: int = NO_CHANNEL


class Recipient(NamedTuple):
    """`entries`: received, as message numbers, the first `durable` of them in the journal."""

    entries: tuple[int, ...] = ()
    shown: int = 0
    processed: int = 0
    durable: int = 0
    up: bool = False
    opened: bool = False
    acknowledged: int = 0
    forgotten: int = 0
    """Received before a crash and not kept; only for the bug that believes it."""


class Wires(NamedTuple):
    """What is on its way: four first-in-first-out lines."""

    up_s: tuple[Any, ...] = ()
    down_s: tuple[Any, ...] = ()
    up_r: tuple[Any, ...] = ()
    down_r: tuple[Any, ...] = ()


class State(NamedTuple):
    """Everything."""

    s: Sender
    v: Server
    r: Recipient
    w: Wires
    faults: int


Step = tuple[str, State]


class ImpossibleError(Exception):
    """A step that must never be possible."""


def journaled(s: Sender, count: int) -> Sender:
    """The first `count` writes of S's journal are on the disk, and S's user is told."""
    messages = s.messages
    for write in s.tail[:count]:
        messages = put(messages, max(write, ~write), QUEUED if write >= 0 else STORED)
    return s._replace(messages=messages, tail=s.tail[count:])


def restarted(s: Sender) -> Sender:
    """What S's journal has, and nothing else."""
    on_disk = {HANDED: NEW, ACCEPTED: QUEUED}
    messages = tuple(on_disk.get(outcome, outcome) for outcome in s.messages)
    seqs = tuple(seq if m == STORED else 0 for m, seq in zip(messages, s.seqs, strict=True))
    return Sender(messages, seqs)


def put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])
