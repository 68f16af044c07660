"""Whether a store's file is what was written: all of it (`quicmsg fsck`), or the newest of it (each start).

Three layers: SQLite's own check of its pages and indexes; the chain of hashes over each log (`chain.py`);
and whether the rows make sense together. Nothing is changed here. Not covered by any of them: one-time
codes, and a device's label, which are neither in a chain nor in an index.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from quicmsg.errors import ConfigurationError
from quicmsg.limits import STORE_DAMAGES_MAX, STORE_TAIL_ROWS, STORE_WALK_REPORT_ROWS
from quicmsg.store import chain, rules, schema


@dataclass(frozen=True, slots=True)
class Damage:
    """One thing that is not as it was written. `conversation` "": of the whole file; `seq` 0: not of one
    message; `in_pages`: below all rows, so that nothing which is read can be relied on."""

    conversation: str
    seq: int
    text: str
    in_pages: bool = False

    def __str__(self) -> str:
        place = [self.conversation] if self.conversation else []
        place += [f"message {self.seq}"] if self.seq else []
        return f"{' '.join(place)}: {self.text}" if place else self.text


Report = Callable[[str], None]

_NOT_WRITTEN: Final = "it is not what was written (its hash does not fit)"
_TAIL: Final = f"""SELECT {", ".join(f"newest.{name.strip()}" for name in chain.COLUMNS.split(","))},
    newest.chain, earlier.chain, key FROM message newest
    LEFT JOIN message earlier ON earlier.conversation = newest.conversation AND earlier.seq = newest.seq - 1
    LEFT JOIN conversation ON conversation.id = newest.conversation ORDER BY newest.id DESC LIMIT ?"""
_SENSE: Final = (
    (
        "it belongs to no conversation",
        "SELECT '', seq FROM message WHERE conversation NOT IN (SELECT id FROM conversation)",
    ),
    (
        "its sender's device is unknown",
        """SELECT conversation.key, seq FROM message
        JOIN conversation ON conversation.id = message.conversation
        LEFT JOIN device ON device.id = message.device LEFT JOIN user ON user.id = message.sender
        WHERE user.id IS NULL OR device.user IS NOT message.sender""",
    ),
    (
        "a member that is no user, or a member of no conversation",
        """SELECT coalesce(conversation.key, ''), 0 FROM member
        LEFT JOIN conversation ON conversation.id = member.conversation
        LEFT JOIN user ON user.id = member.user WHERE conversation.key IS NULL OR name IS NULL""",
    ),
    (
        "a member's position is impossible",
        """SELECT conversation.key, 0 FROM member JOIN conversation ON conversation.id = member.conversation
        WHERE NOT (oldest BETWEEN 0 AND head + 1 AND received BETWEEN 0 AND head
        AND read BETWEEN 0 AND own_read AND own_read <= received)""",
    ),
    (
        "a device's position is impossible",
        """SELECT coalesce(conversation.key, ''), 0 FROM position
        LEFT JOIN conversation ON conversation.id = position.conversation
        LEFT JOIN device ON device.id = position.device
        LEFT JOIN member ON member.conversation = position.conversation AND member.user = device.user
        WHERE conversation.key IS NULL OR coalesce(oldest, 0) = 0
        OR NOT (position.received BETWEEN 0 AND head AND position.read BETWEEN 0 AND position.received)""",
    ),
    (
        "its change number is impossible",
        """SELECT conversation.key, 0 FROM conversation WHERE change < 1 OR change IN
        (SELECT change FROM conversation GROUP BY change HAVING count(*) > 1)""",
    ),
    (
        "a device without a user, or with an impossible key",
        """SELECT '', 0 FROM device LEFT JOIN user ON user.id = user
        WHERE name IS NULL OR typeof(key) <> 'blob' OR length(key) <> 16""",
    ),
    (
        "a one-time code that cannot be",
        """SELECT '', 0 FROM code WHERE kind NOT IN ('invite', 'link') OR length(hash) <> 32
        OR used NOT IN (0, 1) OR typeof(expires_at_ms) <> 'integer'""",
    ),
)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[schema.Connection]:
    """The file as it is now, also while a server uses it; nothing is written. Raises ConfigurationError."""
    refuse_missing(path)
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        with contextlib.closing(connection):
            # A damaged text is to be shown, not to stop the check.
            connection.text_factory = lambda text: text.decode("utf-8", "backslashreplace")
            schema.refuse_others(connection, path)
            refuse_empty(path, connection)
            if schema.version(connection) != len(schema.MIGRATIONS):
                raise ConfigurationError(
                    f"{path} is of an older quicmsg: start this version's server once, then check again"
                )
            connection.execute("BEGIN")
            yield connection
    except schema.ERRORS as error:
        raise ConfigurationError(
            f"cannot read {path}: {error}; if it is damaged, restore a backup"
        ) from error


def refuse_missing(path: Path) -> None:
    """A name that was spelled wrong is no new store. Raises ConfigurationError."""
    if not path.is_file():
        raise ConfigurationError(f"there is no {path}: name the server's --data directory")
    refuse_empty(path)


def refuse_empty(path: Path, connection: schema.Connection | None = None) -> None:
    """A file without a byte or without a table is no store: it is new, or it was emptied. To be asked before
    it is opened (SQLite removes the log beside an empty file) and after. Raises ConfigurationError."""
    if not path.stat().st_size or (connection is not None and schema.is_empty(connection)):
        raise ConfigurationError(
            f"{path} is empty: nothing is stored there. If something was, put a backup in its place: "
            "quicmsg restore FILE"
        )


def whole(connection: schema.Connection, report: Report) -> list[Damage]:
    """Everything that is wrong with the file, at most STORE_DAMAGES_MAX of it."""
    found: list[Damage] = []
    for part in (_structure, _logs, _sense, _names):
        try:
            for damage in part(connection, report):
                found.append(damage)
                if len(found) >= STORE_DAMAGES_MAX:
                    return found
        except schema.ERRORS as error:
            found.append(Damage("", 0, f"SQLite cannot read it: {error}", in_pages=True))
    return found


def tail(connection: schema.Connection) -> Damage | None:
    """The first damage among the newest messages: what a start checks, however big the store is."""
    for *row, found, before, key in connection.execute(_TAIL, (STORE_TAIL_ROWS,)).fetchall():
        if key is None:
            return Damage("", row[1], "it belongs to no conversation")
        start = chain.beginning(key) if row[1] == 1 else before
        if start is None or not chain.holds(start, tuple(row), found):
            return Damage(key, row[1], _NOT_WRITTEN)
    return None


def _structure(connection: schema.Connection, report: Report) -> Iterator[Damage]:
    pages = connection.execute("PRAGMA page_count").fetchall()[0][0]
    size = pages * connection.execute("PRAGMA page_size").fetchall()[0][0]
    report(f"pages and indexes ({size / 1e6:.1f} MB)")
    for (text,) in connection.execute(f"PRAGMA integrity_check({STORE_DAMAGES_MAX})").fetchall():
        if text != "ok":
            yield Damage("", 0, text.replace("\n", " "), in_pages=True)


def _logs(connection: schema.Connection, report: Report) -> Iterator[Damage]:
    total = connection.execute("SELECT count(*) FROM message NOT INDEXED").fetchall()[0][0]
    report(f"the logs ({total} messages)")
    done = 0
    for number, key, head, newest in connection.execute(
        "SELECT id, key, head, chain FROM conversation"
    ).fetchall():
        before, last = chain.beginning(key), 0
        for row, found in chain.walk(connection, number):
            if row[1] != last + 1:
                yield Damage(key, last + 1, f"it is missing (after {last} comes {row[1]})")
            elif not chain.holds(before, row, found):
                yield Damage(key, row[1], _NOT_WRITTEN)
            before, last = found, row[1]
            done += 1
            if done % STORE_WALK_REPORT_ROWS == 0:
                report(f"{done} of {total} messages")
        if last != head:
            yield Damage(key, min(last, head) + 1, f"the log ends at {last}, and should at {head}")
        elif before != newest:
            yield Damage(key, last, "the conversation's hash is not that of its newest message")


def _sense(connection: schema.Connection, report: Report) -> Iterator[Damage]:
    report("users, devices, members, positions")
    for text, sql in _SENSE:
        for key, seq in connection.execute(sql).fetchall():
            yield Damage(key, seq, text)


def _names(connection: schema.Connection, report: Report) -> Iterator[Damage]:
    epochs = connection.execute("SELECT value FROM meta WHERE name = 'epoch'").fetchall()
    if not all(isinstance(epoch, int) and epoch > 0 for (epoch,) in epochs):
        yield Damage("", 0, "the epoch of the log is not a number above 0")
    for (name,) in connection.execute("SELECT name FROM user").fetchall():
        if not rules.is_name(name):
            yield Damage("", 0, f"a user with the impossible name {name!r}")
    members = """SELECT name FROM member JOIN user ON user.id = user
        WHERE conversation = ? AND oldest > 0 ORDER BY name"""
    for number, key in connection.execute("SELECT id, key FROM conversation").fetchall():
        if not rules.is_conversation(key):
            yield Damage("", 0, f"a conversation with the impossible name {key!r}")
        elif key.startswith("@"):
            names = tuple(name for (name,) in connection.execute(members, (number,)).fetchall())
            if names != rules.direct_members(key):
                yield Damage(key, 0, "its members are not the two of its name")
