"""A store and a journal that note what they have committed, the moment it is durable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from quicmsg.client.journal_file import JournalFile
from quicmsg.client.journal_writes import Cancelled, Processed, Queue, Rejected, Requeued, Stored, Write
from quicmsg.errors import RefusedError
from quicmsg.protocol.frames import Kind
from quicmsg.server.conversations import key_of
from quicmsg.store import (
    Append,
    Appended,
    GroupChanged,
    OpenConversation,
    Operation,
    Refusal,
    Result,
)
from quicmsg.store.sqlite import SqliteStore
from simulation.shell.process import current

Note = Callable[..., None]


def store_class(note: Note) -> type[SqliteStore]:
    """The real store, which notes what each batch has added to the logs."""

    class WatchedStore(SqliteStore):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            process = current()
            assert process is not None
            process.files.append(self.close)

        def execute(self, operations: Sequence[Operation]) -> list[Result]:
            results = super().execute(operations)
            for operation, result in zip(operations, results, strict=True):
                _note_operation(note, operation, result)
            return results

    return WatchedStore


def journal_class(note: Note, names: dict[bytes, str]) -> type[JournalFile]:
    """The real journal, which notes what each transaction has changed; `names` of devices by their ids."""

    class WatchedJournal(JournalFile):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            self._name = names[options["device"]]

        def apply(self, writes: Sequence[Write], *options: Any) -> list[RefusedError | None]:
            results = super().apply(writes, *options)
            for write, refusal in zip(writes, results, strict=True):
                if refusal is None:
                    _note_write(note, self._name, self.user, write)
            return results

    return WatchedJournal


def _note_operation(note: Note, operation: Operation, result: Result) -> None:
    if isinstance(operation, Append) and isinstance(result, Appended) and not result.duplicate:
        note(
            "committed",
            operation.conversation,
            result.seq,
            operation.message_id,
            operation.sender,
            operation.device,
            operation.kind,
            operation.body,
        )
    elif isinstance(result, GroupChanged):
        for entry in result.entries:
            note(
                "committed",
                entry.conversation,
                entry.seq,
                entry.message_id,
                entry.sender,
                entry.device,
                int(entry.kind),
                entry.body,
            )
            user = entry.sender if entry.kind == Kind.CREATED else entry.body.decode()
            founded = result.entries[0].kind == Kind.CREATED
            if entry.kind == Kind.LEFT:
                note("left", entry.conversation, user)
            else:
                note("joined", entry.conversation, user, 1 if founded else entry.seq)
    elif isinstance(operation, OpenConversation) and not isinstance(result, Refusal):
        note("opened", operation.conversation)


def _note_write(note: Note, device: str, user: str, write: Write) -> None:
    match write:
        case Queue():
            note("queued", device, key_of(write.conversation, user), write.message_id, write.body)
        case Stored():
            note("stored_row", device, write.message_id, write.seq)
        case Rejected():
            note("rejected_row", device, write.message_id)
        case Requeued():
            note("requeued_row", device, write.message_id)
        case Cancelled():
            note("cancelled_row", device, write.message_id)
        case Processed():
            key = key_of(write.conversation, user)
            for entry in write.entries:
                note("kept", device, key, entry.seq, entry.message_id)
        case _:
            pass
