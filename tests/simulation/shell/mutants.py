"""Bugs planted into the shell: into what stands between the protocol and a real network, disk and program."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import quicmsg.client.journal as journal_module
from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.client.connector import Connector
from quicmsg.client.inbox import Messages
from quicmsg.client.journal import Journal
from quicmsg.client.postbox import Postbox
from quicmsg.client.tracking import Sent
from quicmsg.client.values import State
from quicmsg.store.writer import Writer
from quicmsg.transport.endpoint import Endpoint
from simulation.shell.run import simulate
from simulation.shell.settings import Settings, draw

SEEDS_MAX = 100
Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """A bug, as replacements of names; `adjust` gives a seed's mix the chance to meet it."""

    text: str
    patches: tuple[Patch, ...]
    adjust: Callable[[Settings], None] = lambda drawn: None


MUTANTS: dict[str, Mutant] = {}


@contextlib.contextmanager
def planted(name: str) -> Iterator[None]:
    """The bug is in while the context lasts."""
    with contextlib.ExitStack() as stack:
        for owner, attribute, replacement in MUTANTS[name].patches:
            stack.enter_context(mock.patch.object(owner, attribute, replacement))
        yield


def hunt(name: str, seeds: int = SEEDS_MAX) -> tuple[int, str] | None:
    """The first seed that finds the bug, and what it says; None: none did. The same world without the bug
    must be in order, or it was something else that was found."""
    for seed in range(1, seeds + 1):
        with planted(name):
            problem = _problem(seed, name)
        if problem and not _problem(seed, name):
            return seed, problem
    return None


def _problem(seed: int, name: str) -> str:
    drawn = draw(seed)
    MUTANTS[name].adjust(drawn)
    return next(iter(simulate(seed, settings=drawn).problems), "")


def plant(
    name: str, text: str, *patches: Patch, adjust: Callable[[Settings], None] = lambda drawn: None
) -> None:
    MUTANTS[name] = Mutant(text, patches, adjust)


# ---- mixes


def client_kills(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {"client kill": 1.0}


def server_kills(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {"server kill": 1.5}


def breaks(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {"hole": 1.5, "server kill": 3.0}
    drawn.rate, drawn.disk_slowness, drawn.bounds = 6.0, 0.03, {}


def restarts(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {"client restart": 1.0}


def moves(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {"new address": 1.5}
    drawn.weather.loss = drawn.weather.corrupt = 0.0


def hands(drawn: Settings) -> None:
    drawn.calm, drawn.faults = False, {}
    drawn.by_hand, drawn.rate, drawn.disk_slowness, drawn.weather.delay = 20.0, 10.0, 0.1, 0.1


def restless(drawn: Settings) -> None:
    drawn.calm, drawn.restless, drawn.reads = False, 0.3, 0.0


def leaves(drawn: Settings) -> None:
    drawn.calm, drawn.by_hand, drawn.groups, drawn.membership_rate, drawn.rate = False, 4.0, 1, 2.0, 6.0


# ---- bugs


def _ack_first(processed: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Bookkeeper, conversation: str, entry: Any) -> None:
        mailbox = self.mailbox
        epoch = self._out.get(conversation, mailbox.conversations[conversation].epoch)
        mailbox.processed(conversation, mailbox.position_after(conversation, entry.seq), epoch)
        self._touched()
        processed(self, conversation, entry)

    return broken


def _told_first(stored: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Bookkeeper, event: Any) -> None:
        self._tell_state(event.message_id, event.conversation, State.STORED, event.seq)
        stored(self, event)

    return broken


async def _write_without_waiting(self: Journal, *writes: Any) -> None:
    for write in writes:
        self.post(write)


def _answer_lost(deliver: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Journal, outcomes: list[Any]) -> None:
        deliver(self, outcomes[:-1] if len(outcomes) > 3 else outcomes)

    return broken


def _questions_last(work: Callable[..., Any]) -> Callable[..., Any]:
    def broken(file: Any, batch: list[Any]) -> list[Any]:
        writes = work(file, [request for request in batch if request.writes])
        outcomes = writes + work(file, [request for request in batch if not request.writes])
        found = {outcome[0]: outcome for outcome in outcomes}
        return [found[request] for request in batch]

    return broken


def _answers_reversed(work: Callable[..., Any]) -> Callable[..., Any]:
    return lambda file, batch: work(file, batch)[::-1]


async def _connect_once(self: Connector) -> None:
    await self._while_connected(await self._connect(early=True))


def _results_swapped(commit: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Writer, batch: Any) -> None:
        results = self._store.execute([operation for operation, _ in batch])
        self._answer([callback for _, callback in batch], results[::-1])

    return broken


def _put_back_nothing(self: Bookkeeper, conversation: str, entry: Any) -> None:
    self._out.pop(conversation)
    self.arrived.set()  # type: ignore[attr-defined]


async def _resent_in_memory(self: Postbox, message_id: bytes) -> Sent:
    message = self.mailbox.outbox.get(message_id)
    if message is None:
        raise self._not_here(message_id)
    self.requeued(message_id, self._loop.time(), was_rejected=True)
    return self.tracker.handle(message_id, message.conversation)


def _first_ids_only(reroute: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Endpoint, peer: Any) -> None:
        if not peer.ids:
            reroute(self, peer)

    return broken


def _resent_twice(resend: Callable[..., Any]) -> Callable[..., Any]:
    async def broken(self: Postbox, message_id: bytes) -> Sent:
        message = self.mailbox.outbox.get(message_id)
        sent = await resend(self, message_id)
        if message is not None and message_id not in self.mailbox.outbox:
            self.mailbox.submit(message, self._loop.time())
        return sent

    return broken


plant(
    "ack_before_commit",
    "an entry is acknowledged before the journal has it",
    (Bookkeeper, "processed", _ack_first(Bookkeeper.processed)),
    adjust=client_kills,
)
plant(
    "stored_before_commit",
    "a message is shown as stored before the journal has it so",
    (Bookkeeper, "_stored", _told_first(Bookkeeper._stored)),
)
plant(
    "written_before_commit",
    "a write to the journal returns before it is on the disk",
    (Journal, "write", _write_without_waiting),
    adjust=client_kills,
)
plant(
    "journal_answer_lost",
    "the last callback of a big batch of the journal is forgotten",
    (Journal, "_deliver", _answer_lost(Journal._deliver)),
)
plant(
    "journal_answers_reversed",
    "the journal's answers come newest first",
    (journal_module, "work", _answers_reversed(journal_module.work)),
)
plant(
    "questions_see_later_writes",
    "a question in a batch of the journal is answered after all of its writes",
    (journal_module, "work", _questions_last(journal_module.work)),
    adjust=breaks,
)
plant(
    "never_reconnects",
    "the connector connects once",
    (Connector, "_run", _connect_once),
    adjust=server_kills,
)
plant(
    "requeued_forgotten",
    "a rejected message that is sent again stays rejected in the journal",
    (Postbox, "_resend", _resent_in_memory),
    adjust=leaves,
)
plant(
    "resend_races_answer",
    "what was answered while it was resent by hand goes into the line again",
    (Postbox, "_resend", _resent_twice(Postbox._resend)),
    adjust=hands,
)
plant(
    "writer_results_swapped",
    "the store's results go to the wrong callers",
    (Writer, "_commit", _results_swapped(Writer._commit)),
)
plant(
    "held_entry_lost",
    "what a program took and did not finish is not put back",
    (Bookkeeper, "put_back", _put_back_nothing),
    adjust=restless,
)
plant(
    "journal_not_closed",
    "closing a client leaves its journal open",
    (Journal, "close", lambda self: asyncio.sleep(0)),
    adjust=restarts,
)
plant(
    "wait_for_ever_after_close",
    "who waits for a message of a closed client is told nothing",
    (Sent, "close", lambda self: None),
    adjust=restarts,
)
plant(
    "timer_lost",
    "a connection's timer is not set again once it has fired",
    (Endpoint, "_fire", lambda self, peer: None),
)
plant(
    "old_socket_kept",
    "a move leaves the old socket open",
    (Endpoint, "remove_socket", lambda self, socket, *, after=0.0: None),
    adjust=moves,
)
plant(
    "routes_forgotten",
    "a connection's new ids are not routed",
    (Endpoint, "_reroute", _first_ids_only(Endpoint._reroute)),
    adjust=moves,
)
plant(
    "consumer_stays_open",
    "a newer consumer does not take over from the older one",
    (Messages, "close", lambda self: None),
    adjust=restless,
)
