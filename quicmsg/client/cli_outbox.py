"""`outbox` and `cancel`: straight on this device's journal, with no connection that could send meanwhile."""

from __future__ import annotations

from quicmsg.client import cli_text
from quicmsg.client.cli_commands import Answer
from quicmsg.client.cli_options import Options
from quicmsg.client.identity import load_or_create, state_directory
from quicmsg.client.journal import Cancelled, Journal, JournalFile, MessageState
from quicmsg.client.values import OutboxMessage, State, parse_message_id
from quicmsg.config import format_address, parse_address
from quicmsg.errors import ErrorCode, RefusedError

JOURNAL = "journal.db"


async def outbox(options: Options, answer: Answer) -> None:
    """In the order in which it will be sent."""
    journal = await _open(options)
    if journal is None:
        return
    try:
        rows = await journal.read(JournalFile.outbox)
    finally:
        await journal.close()
    for row in rows:
        text = row.body.decode("utf-8", "replace")
        state = State(row.state.value)
        message = OutboxMessage(row.message_id.hex(), row.conversation, text, state, row.text)
        await answer.give(cli_text.outbox_object(message), cli_text.outbox_line(message))


async def cancel(options: Options, answer: Answer, message_id: str) -> None:
    """Never sent from here again."""
    raw_id = parse_message_id(message_id)
    journal = await _open(options)
    if journal is None:
        raise _not_there(raw_id, "it is not in the outbox")
    try:
        row = await journal.read(JournalFile.message, raw_id)
        if row is None:
            raise _not_there(raw_id, "it is not in the outbox")
        if row.state is MessageState.STORED:
            raise _not_there(raw_id, f"the server has stored it (seq {row.seq})")
        await journal.write(Cancelled(raw_id))
    finally:
        await journal.close()
    value = {"message_id": raw_id.hex(), "conversation": row.conversation, "state": State.CANCELLED.value}
    await answer.give(value, f"cancelled {row.conversation} {raw_id.hex()}")


async def _open(options: Options) -> Journal | None:
    """This user's journal on this server; None: there is none, so there is nothing in it."""
    user = options.user_name()
    state = state_directory(options.data, format_address(*parse_address(options.server)), user)
    if not (state / JOURNAL).exists():
        return None
    return await Journal.open(state / JOURNAL, user=user, device=load_or_create(state).device)


def _not_there(message_id: bytes, why: str) -> RefusedError:
    return RefusedError(f"the message {message_id.hex()} cannot be cancelled: {why}", code=ErrorCode.UNKNOWN)
