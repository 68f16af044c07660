"""What the programs were told, and whether the disks agree with it: at each kill, and in the end."""

from __future__ import annotations

import itertools
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

DIRECT = "@alice:bob"
Row = tuple[int, str, str]
"""(seq, message id, text)."""


@dataclass
class Truth:
    """Everything that was said, and the counts of what is wrong with it."""

    base: Path
    queued: dict[str, str] = field(default_factory=dict)
    stored: dict[str, int] = field(default_factory=dict)
    delivered: dict[str, int] = field(default_factory=dict)
    shown: list[list[Row]] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    """Of the recipient's journal, at each of its deaths."""
    again: int = 0
    """Shown a second time after a kill, within the window that docs/guarantees.md names."""
    lost: int = 0
    doubled: int = 0
    disorder: int = 0
    problems: list[str] = field(default_factory=list)

    # ---- while it goes on

    def heard(self, words: list[str]) -> None:
        """A line that a client said."""
        match words:
            case ["queued", message_id, text]:
                self.queued[message_id] = text
            case ["stored" | "delivered" as state, message_id, seq]:
                known = self.stored.setdefault(message_id, int(seq))
                if known != int(seq):
                    self._wrong("lost", f"{message_id} was stored as {known}, and is {seq} now")
                if state == "delivered":
                    self.delivered[message_id] = int(seq)
            case ["shown", message_id, seq, text]:
                self._shown((int(seq), message_id, text))

    def recipient_started(self) -> None:
        """A new life of the recipient: it goes on exactly where its journal is."""
        self.shown.append([])

    def recipient_died(self) -> None:
        """Its journal has what was acknowledged, and nothing that the program had not asked beyond."""
        position, last = self._position(), self._last_shown()
        if position < self._told_delivered():
            told = self._told_delivered()
            self._wrong("lost", f"delivered was said up to {told}, and bob's journal has {position}")
        if position > last:
            self._wrong("lost", f"bob's journal has {position}, and {last} was the last that was shown")
        self.again += last - position

    # ---- in the end

    def conclude(self) -> None:
        """Compare the three disks with what was said."""
        log = self._log()
        found = {message_id: (seq, text) for seq, message_id, text in log}
        self.doubled += 2 * len(log) - len(found) - len({text for _, _, text in log})
        if [seq for seq, _, _ in log] != list(range(1, len(log) + 1)):
            self._wrong("disorder", "the log has gaps")
        numbers = [int(text) for _, _, text in log]
        self.disorder += sum(later <= earlier for earlier, later in itertools.pairwise(numbers))
        for message_id, seq in self.stored.items():
            if found.get(message_id, (0, ""))[0] != seq:
                self._wrong("lost", f"{message_id} was stored as {seq}, the log has {found.get(message_id)}")
        for message_id, text in self.queued.items():
            if found.get(message_id, (0, ""))[1] != text:
                self._wrong("lost", f"{text} was queued, the log has {found.get(message_id)}")
        self._conclude_recipient(log)
        with _copy(_journal(self.base, "alice")) as journal:
            self._expect("alice's outbox", [], journal.execute("SELECT message_id FROM outbox").fetchall())
            self._expect("alice's journal", log, _messages(journal, own=1))

    def _conclude_recipient(self, log: list[Row]) -> None:
        shown = {row for life in self.shown for row in life}
        self._expect("what bob was shown", log, sorted(shown))
        with _copy(_journal(self.base, "bob")) as journal:
            self._expect("bob's journal", log, _messages(journal, own=0))
        if self._told_delivered() != len(log):
            self._wrong("lost", f"alice sees {self._told_delivered()} of {len(log)} as delivered")

    # ---- private

    def _shown(self, row: Row) -> None:
        life = self.shown[-1]
        before = life[-1][0] if life else self._position_before()
        expected = before + 1
        if row[0] != expected:
            self._wrong("disorder", f"bob was shown {row[0]}, and {expected} was due")
        life.append(row)

    def _position_before(self) -> int:
        return self.positions[-1] if self.positions else 0

    def _position(self) -> int:
        rows: list[tuple[int]] = []
        if any((self.base / "bob").glob("**/journal.db")):
            with _copy(_journal(self.base, "bob")) as journal:
                tables = journal.execute("SELECT name FROM sqlite_master").fetchall()
                if ("conversation",) in tables:  # else it died when it made the file
                    select = "SELECT position FROM conversation WHERE name = '@alice'"
                    rows = journal.execute(select).fetchall()
        self.positions.append(rows[0][0] if rows else 0)
        return self.positions[-1]

    def _last_shown(self) -> int:
        before = self.positions[-2] if len(self.positions) > 1 else 0
        life = self.shown[-1]
        return life[-1][0] if life else before

    def _told_delivered(self) -> int:
        return max(self.delivered.values(), default=0)

    def _log(self) -> list[Row]:
        with _copy(self.base / "server" / "quicmsg.db") as store:
            self._expect("the store", [("ok",)], store.execute("PRAGMA integrity_check").fetchall())
            rows = store.execute(
                "SELECT seq, message_id, body FROM message JOIN conversation "
                "ON conversation.id = message.conversation WHERE key = ? ORDER BY seq",
                (DIRECT,),
            ).fetchall()
        return [(seq, message_id.hex(), body.decode()) for seq, message_id, body in rows]

    def _expect(self, what: str, expected: list[object] | list[Row], found: list[object] | list[Row]) -> None:
        if expected != found:
            first = next((pair for pair in zip(expected, found, strict=False) if pair[0] != pair[1]), None)
            self._wrong("lost", f"{what}: {len(found)} for {len(expected)}, first difference {first}")

    def _wrong(self, count: str, words: str) -> None:
        setattr(self, count, getattr(self, count) + 1)
        self.problems.append(words)


def _messages(journal: sqlite3.Connection, *, own: int) -> list[Row]:
    rows = journal.execute("SELECT seq, message_id, body FROM message WHERE own = ? ORDER BY seq", (own,))
    return [(seq, message_id.hex(), body.decode()) for seq, message_id, body in rows]


def _journal(base: Path, user: str) -> Path:
    (found,) = (base / user).glob("**/journal.db")
    return found


@contextmanager
def _copy(path: Path) -> Iterator[sqlite3.Connection]:
    """A copy, so that looking at a database does not mend what its owner is to mend."""
    with tempfile.TemporaryDirectory() as directory:
        for suffix in ("", "-wal"):
            part = path.with_name(path.name + suffix)
            if part.exists():
                shutil.copy(part, directory)
        with closing(sqlite3.connect(Path(directory) / path.name)) as connection:
            yield connection
