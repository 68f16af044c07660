"""What can be asked of a journal's file: read-only questions, answered in values of `journal_writes.py`."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

from quicmsg.client import journal_schema
from quicmsg.client.journal_writes import ConversationRow, MessageRow, MessageState, OutboxRow, Snapshot
from quicmsg.protocol.frames import Entry

CONTENT = "message_id, conversation, kind, encoding, body"
ENTRY = "seq, message_id, sender, device, kind, encoding, body, stored_at_ms"


class JournalReader:
    """The questions. Each raises StorageError when the file cannot be read."""

    def __init__(self, connection: sqlite3.Connection, path: Path, user: str) -> None:
        self.path = path
        self.user = user
        self._connection = connection

    def load(self) -> Snapshot:
        """Everything that the client needs in memory when it starts."""
        members: dict[str, list[tuple[str, int, int]]] = {}
        for name, *position in self._all(
            "SELECT conversation, user, delivered, read FROM member ORDER BY user"
        ):
            members.setdefault(name, []).append((position[0], position[1], position[2]))
        columns = "name, epoch, position, read, read_public, head, oldest, stale"
        conversations = tuple(
            self._completed(
                ConversationRow(
                    name,
                    epoch,
                    position,
                    read,
                    bool(public),
                    head,
                    oldest,
                    bool(stale),
                    tuple(members.get(name, ())),
                    delivered_mark=delivered,
                    read_mark=read_by_all,
                    gone=bool(gone),
                )
            )
            for name, epoch, position, read, public, head, oldest, stale, delivered, read_by_all, gone in (
                self._all(
                    f"SELECT {columns}, delivered_mark, read_mark, gone FROM conversation ORDER BY name"
                )
            )
        )
        ((epoch, cursor),) = self._all("SELECT epoch, cursor FROM account")
        return Snapshot(epoch, cursor, conversations, tuple(self.outbox()))

    def _completed(self, row: ConversationRow) -> ConversationRow:
        """With what the entries say. Owed is the highest processed one that came from elsewhere: what the
        server must be told. Entries sent from this device move the position too, but nobody waits for their
        receipt."""
        nameless = self._all("SELECT 1 FROM message WHERE conversation = ? AND seq IS NULL LIMIT 1", row.name)
        select = "SELECT seq FROM message WHERE conversation = ? AND seq > ? AND own = 1 ORDER BY seq"
        own = tuple(seq for (seq,) in self._all(select, row.name, row.position))
        row = replace(row, resync=bool(nameless), own=own)
        confirmed = next((delivered for user, delivered, _ in row.members if user == self.user), 0)
        if row.position <= confirmed or row.gone:
            return row
        found = self._all(
            "SELECT seq FROM message WHERE conversation = ? AND seq > ? AND seq <= ? AND own = 0 "
            "ORDER BY seq DESC LIMIT 1",
            row.name,
            confirmed,
            row.position,
        )
        return replace(row, owed=found[0][0]) if found else row

    def outbox(self) -> list[OutboxRow]:
        """All rows that are not accepted yet, in the order in which they are to be sent."""
        rows = self._all(f"SELECT {CONTENT}, queued_at_ms, state, code, text FROM outbox ORDER BY place")
        return [OutboxRow(*(*row[:6], MessageState(row[6]), *row[7:])) for row in rows]

    def count_outbox(self) -> int:
        """How many rows the outbox has, rejected ones included."""
        return int(self._all("SELECT count(*) FROM outbox")[0][0])

    def message(self, message_id: bytes) -> MessageRow | None:
        """The own message with this id, wherever it is; None: never heard of it."""
        unsent = self._find(f"SELECT {CONTENT}, queued_at_ms, state, code, text FROM outbox", message_id)
        if unsent is not None:
            return MessageRow(*(*unsent[:6], MessageState(unsent[6]), None, *unsent[7:]))
        stored = self._find(
            f"SELECT {CONTENT}, stored_at_ms, seq FROM message", message_id, "AND sender = ?", self.user
        )
        if stored is not None:
            return MessageRow(*(*stored[:6], MessageState.STORED, stored[6]))
        cancelled = self._find(f"SELECT {CONTENT}, queued_at_ms FROM cancelled", message_id)
        return None if cancelled is None else MessageRow(*(*cancelled, MessageState.CANCELLED))

    def known(self, message_id: bytes, sender: str) -> bool:
        """Whether this message was processed here before, under whatever seq."""
        return self._find("SELECT 1 FROM message", message_id, "AND sender = ?", sender) is not None

    def history(self, conversation: str, before: int | None, limit: int) -> list[Entry]:
        """The newest `limit` entries here below `before`, ascending. There may be gaps between them: what
        this device never fetched."""
        below = "" if before is None else "AND seq < ?"
        rows = self._all(
            f"SELECT {ENTRY} FROM message WHERE conversation = ? AND seq IS NOT NULL {below} "
            "ORDER BY seq DESC LIMIT ?",
            *((conversation, limit) if before is None else (conversation, before, limit)),
        )
        return [Entry(*row) for row in reversed(rows)]

    def own_between(self, conversation: str, after: int, up_to: int) -> list[tuple[bytes, int]]:
        """`(message_id, seq)` of messages sent from this device with after < seq <= up_to, ascending."""
        return self._all(
            "SELECT message_id, seq FROM message "
            "WHERE conversation = ? AND seq > ? AND seq <= ? AND own = 1 ORDER BY seq",
            conversation,
            after,
            up_to,
        )

    # ---- private

    def _all(self, statement: str, *parameters: object) -> list[Any]:
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            raise journal_schema.in_words(error, self.path) from error

    def _find(self, select: str, message_id: bytes, more: str = "", *parameters: object) -> Any | None:
        rows = self._all(f"{select} WHERE message_id = ? {more}", message_id, *parameters)
        return rows[0] if rows else None
