"""A chain of hashes over each conversation's log: a bit that flipped on the disk is noticed.

SQLite keeps no checksums: a page that comes back with one bit changed is believed, as long as its
structure makes sense. So every message row carries a hash of itself and of the hash before it; the
conversation row has that of its newest message, so that the next one needs no read. `seq` has no gaps, so
neither a changed, a lost nor a swapped row fits.

It guards against disks, not against people: who can write the file can compute the hashes as well.
"""

from __future__ import annotations

import hashlib
import logging
import struct
from collections.abc import Iterator
from typing import Any, Final, Protocol

from quicmsg.errors import StorageError
from quicmsg.limits import STORE_WALK_REPORT_ROWS, STORE_WALK_ROWS

logger = logging.getLogger(__name__)

CHAIN_SIZE: Final = 16
COLUMNS: Final = "conversation, seq, sender, device, message_id, kind, encoding, stored_at_ms, body"
"""What is hashed, in this order: a `Row` is these columns of the table `message`."""
Row = tuple[int, int, int, int, bytes, int, int, int, bytes]
_numbers: Final = struct.Struct(">8q")


class Connection(Protocol):
    """As much as is needed here: see `schema.Connection`."""

    def execute(self, sql: str, parameters: Any = ..., /) -> Any: ...


def beginning(key: str) -> bytes:
    """The link before a conversation's first message: a log cannot be taken for that of another one."""
    return hashlib.sha256(b"quicmsg-log\0" + key.encode("utf-8", "surrogatepass")).digest()[:CHAIN_SIZE]


def link(before: bytes, row: Row) -> bytes:
    """The link of a row, given that of the row before it. Raises struct.error or TypeError for values that
    no row of ours has."""
    conversation, seq, sender, device, message_id, kind, encoding, stored_at_ms, body = row
    numbers = _numbers.pack(conversation, seq, sender, device, kind, encoding, stored_at_ms, len(message_id))
    return hashlib.sha256(b"".join((before, numbers, message_id, body))).digest()[:CHAIN_SIZE]


def holds(before: bytes, row: Row, found: bytes) -> bool:
    """Whether a row is what was written."""
    try:
        return link(before, row) == found
    except (struct.error, TypeError):
        return False


def walk(connection: Connection, conversation: int) -> Iterator[tuple[Row, bytes]]:
    """All rows of a log with their links, in order of seq, a few at a time."""
    sql = f"SELECT {COLUMNS}, chain FROM message WHERE conversation = ? AND seq > ? ORDER BY seq LIMIT ?"
    last: Any = -(2**62)
    while rows := connection.execute(sql, (conversation, last, STORE_WALK_ROWS)).fetchall():
        for row in rows:
            yield tuple(row[:-1]), row[-1]
        last = rows[-1][1]


def compute_all(connection: Connection) -> None:
    """Give every row of the store its link, inside the caller's transaction. Raises StorageError for a row
    that is so damaged that it cannot have one."""
    total = connection.execute("SELECT count(*) FROM message").fetchall()[0][0]
    done = 0
    for number, key in connection.execute("SELECT id, key FROM conversation").fetchall():
        before = beginning(key)
        for row, _ in walk(connection, number):
            try:
                before = link(before, row)
            except (struct.error, TypeError) as error:
                raise StorageError(
                    f"message {row[1]} of {key} is no message any more: put a backup in the database's place "
                    "(quicmsg restore FILE)"
                ) from error
            connection.execute(
                "UPDATE message SET chain = ? WHERE conversation = ? AND seq = ?", (before, number, row[1])
            )
            done += 1
            if done % STORE_WALK_REPORT_ROWS == 0:
                logger.warning("= chaining the log: %d of %d messages", done, total)
        connection.execute("UPDATE conversation SET chain = ? WHERE id = ?", (before, number))
