"""How each write changes the journal's tables, inside a transaction that the caller holds.

An own message is in exactly one of outbox, message, cancelled, and moves between them in one step. All of
it may be applied twice, or late, without changing what is already so.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from quicmsg.client.journal_reads import CONTENT, ENTRY, JournalReader
from quicmsg.client.journal_writes import (
    Cancelled,
    Conversation,
    Cursor,
    HistoryPage,
    Left,
    MessageState,
    Positions,
    Processed,
    Queue,
    ReadUpTo,
    Rejected,
    Requeued,
    Reset,
    Stored,
    Write,
)
from quicmsg.errors import ErrorCode, RefusedError
from quicmsg.limits import OUTBOX_MAX
from quicmsg.protocol.frames import Entry


class Applier:
    """Applies writes over one connection. Lets sqlite3.Error out: the caller rolls back and words it."""

    def __init__(self, connection: sqlite3.Connection, reader: JournalReader, *, device: bytes) -> None:
        self._connection = connection
        self._reader = reader
        self._user = reader.user
        self._device = device
        self.outbox_size = reader.count_outbox()

    def apply(self, write: Write) -> RefusedError | None:
        """Make one write so. Answers why it was refused, having changed nothing, or None."""
        match write:
            case Queue():
                return self._queue(write)
            case Stored():
                self._stored(write)
            case Rejected(message_id, code, text):
                self._run(
                    "UPDATE outbox SET state = 'rejected', code = ?, text = ? WHERE message_id = ?",
                    code,
                    text,
                    message_id,
                )
            case Requeued(message_id):
                self._requeue(message_id)
            case Cancelled(message_id):
                self._cancel(message_id)
            case Processed(conversation, position, entries, epoch):
                self._processed(conversation, position, entries, epoch)
            case HistoryPage(conversation, entries, epoch):
                keeps_seq = epoch == 0 or self._is_epoch(conversation, epoch)
                self._keep(conversation, entries, keeps_seq=keeps_seq)
            case _:
                self._apply_position(write)
        return None

    # ---- private: own messages

    def _queue(self, write: Queue) -> RefusedError | None:
        found = self._reader.message(write.message_id)
        if found is not None:
            content = (found.conversation, found.kind, found.encoding, found.body)
            if content != (write.conversation, write.kind, write.encoding, write.body):
                text = "this message id was used for another message"
                return RefusedError(text, code=ErrorCode.CONFLICT)
            if found.state is MessageState.CANCELLED:
                text = "this message was cancelled: send it under a new id"
                return RefusedError(text, code=ErrorCode.CONFLICT)
            return None
        if self.outbox_size >= OUTBOX_MAX:
            text = f"{OUTBOX_MAX} messages wait to be sent already: cancel some, or wait for the server"
            return RefusedError(text, code=ErrorCode.LIMIT)
        self._run(
            f"INSERT INTO outbox ({CONTENT}, queued_at_ms) VALUES (?, ?, ?, ?, ?, ?)",
            write.message_id,
            write.conversation,
            write.kind,
            write.encoding,
            write.body,
            write.queued_at_ms,
        )
        self.outbox_size += 1
        return None

    def _stored(self, write: Stored) -> None:
        row = self._find(f"SELECT {CONTENT} FROM outbox", write.message_id)
        if row is None:
            row = self._find(f"SELECT {CONTENT} FROM cancelled", write.message_id)
        if row is None:
            return
        message_id, conversation, kind, encoding, body = row
        entry = Entry(
            write.seq, message_id, self._user, self._device, kind, encoding, body, write.stored_at_ms
        )
        self._keep(conversation, (entry,), keeps_seq=self._is_epoch(conversation, write.epoch))

    def _requeue(self, message_id: bytes) -> None:
        row = self._find(f"SELECT {CONTENT}, queued_at_ms, state FROM outbox", message_id)
        if row is None or row[6] == MessageState.QUEUED:
            return
        self._run("DELETE FROM outbox WHERE message_id = ?", message_id)
        self._run(f"INSERT INTO outbox ({CONTENT}, queued_at_ms) VALUES (?, ?, ?, ?, ?, ?)", *row[:6])

    def _cancel(self, message_id: bytes) -> None:
        self._run(
            f"INSERT OR IGNORE INTO cancelled SELECT {CONTENT}, queued_at_ms FROM outbox "
            "WHERE message_id = ?",
            message_id,
        )
        self.outbox_size -= self._run("DELETE FROM outbox WHERE message_id = ?", message_id)

    # ---- private: entries of the log

    def _processed(self, conversation: str, position: int, entries: tuple[Entry, ...], epoch: int) -> None:
        current = self._is_epoch(conversation, epoch)
        self._keep(conversation, entries, keeps_seq=current)
        if current:
            self._run(
                "UPDATE conversation SET position = max(position, ?1), head = max(head, ?1) WHERE name = ?2",
                position,
                conversation,
            )

    def _is_epoch(self, conversation: str, epoch: int) -> bool:
        """Whether seqs of this epoch may be taken; a conversation that has none yet takes this one."""
        self._run("INSERT OR IGNORE INTO conversation (name) VALUES (?)", conversation)
        self._run("UPDATE conversation SET epoch = ? WHERE name = ? AND epoch = 0", epoch, conversation)
        select = "SELECT epoch FROM conversation WHERE name = ?"
        return bool(self._connection.execute(select, (conversation,)).fetchone()[0] == epoch)

    def _keep(self, conversation: str, entries: Sequence[Entry], *, keeps_seq: bool) -> None:
        for entry in entries:
            own = entry.sender == self._user and self._take_out(conversation, entry)
            seq = entry.seq if keeps_seq else None
            if self._insert(conversation, entry, own=own, seq=seq) == 1:
                continue
            # Known already: under this seq, or without one since a restore, or from another path. Or the
            # server gave this seq twice: then the one shown first keeps it, and an own message goes without.
            if own and self._insert(conversation, entry, own=True, seq=None) == 0:
                self._run(
                    "UPDATE message SET own = 1 WHERE message_id = ? AND sender = ?",
                    entry.message_id,
                    entry.sender,
                )
            self._run(
                "UPDATE OR IGNORE message SET seq = ?, stored_at_ms = ? "
                "WHERE message_id = ? AND sender = ? AND conversation = ? AND seq IS NULL",
                seq,
                entry.stored_at_ms,
                entry.message_id,
                entry.sender,
                conversation,
            )

    def _take_out(self, conversation: str, entry: Entry) -> bool:
        """The log has this message of ours: it is no longer unsent (its Accepted may have been lost), nor
        cancelled. True if it was either."""
        content = (entry.message_id, conversation, entry.kind, entry.encoding, entry.body)
        condition = "message_id = ? AND conversation = ? AND kind = ? AND encoding = ? AND body = ?"
        unsent = self._run(f"DELETE FROM outbox WHERE {condition}", *content)
        self.outbox_size -= unsent
        return unsent == 1 or self._run(f"DELETE FROM cancelled WHERE {condition}", *content) == 1

    def _insert(self, conversation: str, entry: Entry, *, own: bool, seq: int | None) -> int:
        return self._run(
            f"INSERT OR IGNORE INTO message (conversation, own, {ENTRY}) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            conversation,
            own,
            seq,
            entry.message_id,
            entry.sender,
            entry.device,
            entry.kind,
            entry.encoding,
            entry.body,
            entry.stored_at_ms,
        )

    # ---- private: positions

    def _apply_position(self, write: Write) -> None:
        match write:
            case ReadUpTo(conversation, position, public):
                self._run(
                    "INSERT INTO conversation (name, read, read_public) VALUES (?, ?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET "
                    "read = max(read, excluded.read), read_public = excluded.read_public",
                    conversation,
                    position,
                    public,
                )
            case Positions():
                self._positions(write)
            case Conversation():
                self._conversation(write)
            case Reset():
                self._reset(write)
            case Cursor(epoch, cursor):
                self._run(
                    "UPDATE account SET epoch = ?1, "
                    "cursor = CASE WHEN epoch = ?1 THEN max(cursor, ?2) ELSE ?2 END",
                    epoch,
                    cursor,
                )
            case Left(conversation):
                self._run("UPDATE conversation SET gone = 1 WHERE name = ?", conversation)
                self._run("DELETE FROM member WHERE conversation = ?", conversation)
            case _:
                raise AssertionError(f"not a write: {write!r}")

    def _positions(self, write: Positions) -> None:
        if write.whole:
            present = [user for user, _, _ in write.members]
            marks = ", ".join("?" * len(present))
            self._run(
                f"DELETE FROM member WHERE conversation = ? AND user NOT IN ({marks})",
                write.conversation,
                *present,
            )
        for user, delivered, read in write.members:
            self._run(
                "INSERT INTO member (conversation, user, delivered, read) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (conversation, user) DO UPDATE SET "
                "delivered = max(delivered, excluded.delivered), read = max(read, excluded.read)",
                write.conversation,
                user,
                delivered,
                read,
            )
        if write.delivered_mark or write.read_mark:
            self._run(
                "UPDATE conversation SET delivered_mark = max(delivered_mark, ?), "
                "read_mark = max(read_mark, ?) WHERE name = ?",
                write.delivered_mark,
                write.read_mark,
                write.conversation,
            )

    def _conversation(self, write: Conversation) -> None:
        if not self._is_epoch(write.conversation, write.epoch):
            self._run("UPDATE conversation SET stale = 1, gone = 0 WHERE name = ?", write.conversation)
            return
        self._run(
            "UPDATE conversation SET head = max(head, ?), oldest = max(oldest, ?), stale = ?, gone = 0 "
            "WHERE name = ?",
            write.head,
            write.oldest,
            write.stale,
            write.conversation,
        )

    def _reset(self, write: Reset) -> None:
        self._run("UPDATE message SET seq = NULL WHERE conversation = ?", write.conversation)
        self._run("DELETE FROM member WHERE conversation = ?", write.conversation)
        self._run(
            "INSERT INTO conversation (name, epoch, position, head) VALUES (?1, ?2, ?3, ?3) "
            "ON CONFLICT (name) DO UPDATE SET "
            "epoch = ?2, position = ?3, head = ?3, oldest = 1, read = 0, stale = 1, "
            "delivered_mark = 0, read_mark = 0",
            write.conversation,
            write.epoch,
            write.position,
        )

    # ---- private: SQL

    def _run(self, statement: str, *parameters: object) -> int:
        return self._connection.execute(statement, parameters).rowcount

    def _find(self, select: str, message_id: bytes) -> Any | None:
        return self._connection.execute(f"{select} WHERE message_id = ?", (message_id,)).fetchone()
