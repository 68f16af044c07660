"""What happened to every message, from what both programs printed; and an independent count.

`Account` puts the lines of both peers together. `check_files` opens the server's database and both journals
afterwards and compares all three with it: nobody's word is taken for anything.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quicmsg.demo.processes import PeerProcess
from quicmsg.protocol.frames import Kind


@dataclass
class Life:
    """One message, with the times (monotonic seconds) at which something became known."""

    message_id: str
    conversation: str
    """As the server calls it: `#name`, or `@alice:bob`."""
    sender: str
    text: str
    number: int
    """Its place among everything that its sender was told to send."""
    queued: float
    seq: int = 0
    stored: float | None = None
    received: float | None = None
    """Printed by the other one's program."""
    delivered: float | None = None
    """The sender knows it."""
    read: float | None = None

    def in_flight_at(self, moment: float) -> bool:
        """Sent before, received after."""
        return self.queued <= moment and (self.received is None or self.received > moment)


@dataclass
class Account:
    """Every message of two peers, and everything that is not as it was promised."""

    lives: list[Life] = field(default_factory=list)
    lost: int = 0
    doubled: int = 0
    disordered: int = 0
    failed: int = 0
    """Shown as failed at any time, even if it healed."""
    problems: list[str] = field(default_factory=list)

    @property
    def is_clean(self) -> bool:
        """Everything as promised."""
        return not (self.lost or self.doubled or self.disordered or self.failed or self.problems)

    def in_flight_at(self, moment: float, sender: str | None = None) -> list[Life]:
        """Messages under way at that moment."""
        return [life for life in self.lives if life.in_flight_at(moment) and sender in (None, life.sender)]

    def longest_wait(self, receiver: str, after: float, until: float) -> float:
        """The longest time between two moments in which something was on its way to this receiver's program
        and nothing arrived."""
        coming = [
            (life.received, life.queued)
            for life in self.lives
            if life.sender != receiver and life.received is not None
        ]
        coming.sort(reverse=True)
        longest, oldest = 0.0, float("inf")
        for index, (arrived, queued) in enumerate(coming):
            oldest = min(oldest, queued)  # of what arrived now or later
            before = coming[index + 1][0] if index + 1 < len(coming) else float("-inf")
            began = max(before, oldest)
            if began < until and arrived > after:
                longest = max(longest, arrived - began)
        return longest

    def first_after(self, receiver: str, moment: float) -> float | None:
        """Seconds from a moment to the next arrival at this receiver's program."""
        times = [life.received for life in self.lives if life.sender != receiver and life.received]
        return min((t - moment for t in times if t > moment), default=None)


def key_of(conversation: str, user: str) -> str:
    """The server's name of what `user` calls `conversation`."""
    if conversation.startswith("#"):
        return conversation
    return "@" + ":".join(sorted((conversation[1:], user)))


def take_account(peers: Sequence[PeerProcess]) -> Account:
    """Put the lines of two peers together."""
    account = Account()
    by_id: dict[str, Life] = {}
    for peer in peers:
        _take_queued(account, by_id, peer)
    account.lives = sorted(by_id.values(), key=lambda life: life.queued)
    for peer in peers:
        _take_states(account, by_id, peer)
        _take_arrivals(account, by_id, peer)
    account.lost = sum(life.received is None for life in account.lives)
    for life in account.lives:
        if life.stored is None:
            account.problems.append(f"{life.sender}: {life.text!r} was never shown as stored")
        if life.delivered is None:
            account.problems.append(f"{life.sender}: {life.text!r} was never shown as delivered")
    return account


def _take_queued(account: Account, by_id: dict[str, Life], peer: PeerProcess) -> None:
    numbers = {told: number for number, told in enumerate(peer.told)}
    assert len(numbers) == len(peer.told), "texts must be unique, or nothing can be counted"
    for event in peer.events:
        if event["event"] == "queued":
            message_id, told = event["message_id"], (event["conversation"], event["text"])
            name = key_of(event["conversation"], peer.user)
            number = numbers.pop(told, -1)
            if number < 0:
                account.problems.append(f"{peer.user} queued {event['text']!r}, which nobody asked for")
            by_id[message_id] = Life(message_id, name, peer.user, event["text"], number, event["at"])
        elif event["event"] == "error":
            account.problems.append(f"{peer.user}: {event['op']}: {event['message']}")
    account.problems += [f"{peer.user}: {text!r} was never queued" for _, text in numbers]


def _take_states(account: Account, by_id: dict[str, Life], peer: PeerProcess) -> None:
    life: Life | None
    for event in peer.events:
        if event["event"] != "state":
            continue
        life = by_id.get(event["message_id"])
        state = event["state"]
        if life is None or life.sender != peer.user:
            account.problems.append(f"{peer.user}: {state} of a message that it never sent")
        elif state in ("stored", "delivered", "read"):
            if getattr(life, state) is None:
                setattr(life, state, event["at"])
            if life.seq not in (0, event["seq"]):
                account.problems.append(f"{peer.user}: {life.text!r} has two places in the log")
            life.seq = event["seq"]
        else:
            account.failed += 1


def _take_arrivals(account: Account, by_id: dict[str, Life], peer: PeerProcess) -> None:
    last_seq: dict[str, int] = defaultdict(int)
    arrived: dict[str, list[Life]] = defaultdict(list)
    for event in peer.events:
        if event["event"] != "message":
            continue
        name = key_of(event["conversation"], peer.user)
        life = by_id.get(event["message_id"])
        if life is None or (life.conversation, life.sender) != (name, event["sender"]):
            account.problems.append(f"{peer.user} received {event['text']!r}, which nobody sent there")
        elif life.received is not None:
            account.doubled += 1
        else:
            life.received = event["at"]
            if life.text != event["text"]:
                account.problems.append(f"{peer.user} received {event['text']!r} for {life.text!r}")
            arrived[name].append(life)
            # The log's order, and never back in it.
            account.disordered += event["seq"] <= last_seq[name]
            last_seq[name] = event["seq"]
    # The sender's order: what arrived must be what was sent, with nothing but losses missing.
    for order in arrived.values():
        sent = sorted(order, key=lambda life: life.number)
        account.disordered += sum(a is not b for a, b in zip(order, sent, strict=True))


# ---- the independent count ------------------------------------------------------------------------


def check_files(account: Account, database: Path, peers: Iterable[PeerProcess]) -> list[str]:
    """Compare the server's log and the journals with the account and with each other; what is wrong."""
    problems = []
    log = _rows(
        database,
        """SELECT c.key, m.seq, lower(hex(m.message_id)), u.name, CAST(m.body AS TEXT)
        FROM message m JOIN conversation c ON c.id = m.conversation JOIN user u ON u.id = m.sender
        WHERE m.kind = ? ORDER BY c.key, m.seq""",
        int(Kind.TEXT),
    )
    said = Counter((life.conversation, life.message_id, life.sender, life.text) for life in account.lives)
    logged = Counter((key, message_id, sender, text) for key, _, message_id, sender, text in log)
    if said != logged:
        missing, extra = sum((said - logged).values()), sum((logged - said).values())
        problems.append(f"the server's log lacks {missing} messages and has {extra} too many")
    for key, head, count in _rows(
        database,
        """SELECT c.key, max(m.seq), count(*) FROM message m JOIN conversation c ON c.id = m.conversation
        GROUP BY c.id HAVING min(m.seq) != 1 OR max(m.seq) != count(*)""",
    ):
        problems.append(f"the server's log of {key} has {count} entries and ends at {head}")
    for peer in peers:
        problems += _check_journal(peer, log)
    return problems


def _check_journal(peer: PeerProcess, log: list[Any]) -> list[str]:
    problems = []
    rows = _rows(
        peer.journal,
        """SELECT conversation, seq, lower(hex(message_id)), sender, CAST(body AS TEXT) FROM message
        WHERE kind = ?""",
        int(Kind.TEXT),
    )
    written = sorted((key_of(name, peer.user), *rest) for name, *rest in rows)
    if written != sorted(log):
        problems.append(
            f"{peer.user}'s journal ({len(written)} messages) differs from the server's log ({len(log)})"
        )
    waiting = _rows(peer.journal, "SELECT count(*) FROM outbox")[0][0]
    if waiting:
        problems.append(f"{waiting} messages are left in {peer.user}'s outbox")
    return problems


def _rows(path: Path, sql: str, *parameters: object) -> list[Any]:
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
        return database.execute(sql, parameters).fetchall()
