"""One user of the demo and of the tests over real networks: a client process that is told what to do.

JSON lines: operations on stdin, what happens on stdout, each with the time `at` (monotonic seconds, the same
clock in every process of a computer). The end of stdin ends the process, so that none outlives its parent.
It uses nothing but the public library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import click

import quicmsg


class Peer:
    """Runs operations on a client, and tells what the client says."""

    def __init__(self, client: quicmsg.Client) -> None:
        self._client = client
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until stdin ends or `close` is asked for."""
        loop = asyncio.get_running_loop()
        stdin = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        helpers = [loop.create_task(self._tell_messages()), loop.create_task(self._tell_events())]
        try:
            while line := await stdin.readline():
                operation = json.loads(line)
                if operation["op"] == "close":
                    break
                self._start(operation)
        finally:
            for helper in helpers:
                helper.cancel()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*helpers, *self._tasks, return_exceptions=True)

    # ---- private

    def _start(self, operation: dict[str, Any]) -> None:
        # Each operation has a task of its own, so that a message which waits for the disk does not hold up a
        # move. Tasks start in the order of the lines, which keeps the messages of a conversation in order.
        task = asyncio.get_running_loop().create_task(self._do(operation))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, operation: dict[str, Any]) -> None:
        client, name = self._client, operation.get("conversation", "")
        try:
            match operation["op"]:
                case "send":
                    sent = await client.queue(name, operation["text"])
                    # The program's own word for "queued": the library's event does not carry the text.
                    tell("queued", message_id=sent.message_id, conversation=name, text=operation["text"])
                case "create":
                    await client.create(name, operation["members"])
                case "read":
                    await client.read(name, operation["seq"])
                case "migrate":
                    tell("migrating")
                    client.migrate(operation["address"])
                case "outbox":
                    tell("outbox", messages=[row.message_id for row in await client.outbox()])
                case unknown:
                    raise quicmsg.ConfigurationError(f"no such operation: {unknown}")
        except quicmsg.QuicmsgError as error:
            tell("error", op=operation["op"], conversation=name, message=str(error))
        else:
            tell("done", op=operation["op"], conversation=name)

    async def _tell_messages(self) -> None:
        # Asking for the next one acknowledges the one before: its line has been written by then.
        async for message in self._client.messages():
            tell(
                "message",
                conversation=message.conversation,
                seq=message.seq,
                message_id=message.message_id,
                sender=message.sender,
                text=message.text,
            )

    async def _tell_events(self) -> None:
        async for event in self._client.events():
            match event:
                case quicmsg.StateChanged() if event.state is not quicmsg.State.QUEUED:
                    tell(
                        "state",
                        message_id=event.message_id,
                        conversation=event.conversation,
                        state=event.state,
                        seq=event.seq,
                    )
                case quicmsg.ConnectionChanged():
                    tell(
                        "connection",
                        state=event.state,
                        address=event.address,
                        observed_address=event.observed_address,
                        stall_ms=event.stall_ms,
                        reason=event.reason,
                    )
                case quicmsg.Lagged():
                    tell("error", op="events", conversation="", message=f"{event.missed} events were missed")
                case _:
                    pass


def tell(event: str, **fields: Any) -> None:
    """One line for the parent."""
    sys.stdout.write(json.dumps({"event": event, "at": time.monotonic(), **fields}) + "\n")
    sys.stdout.flush()


@click.command()
@click.option("--server", required=True)
@click.option("--user", required=True)
@click.option("--data", type=click.Path(path_type=Path), required=True)
@click.option("--ca", type=click.Path(path_type=Path), required=True)
@click.option("--foreground", is_flag=True, help="As with a person who looks at it.")
def main(server: str, user: str, data: Path, ca: Path, foreground: bool) -> None:
    """Run one client for the demo; started by it, not by hand."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_main(server, user, data, ca, foreground))
        except quicmsg.QuicmsgError as error:
            click.echo(f"quicmsg: {error}", err=True)
            sys.exit(error.exit_status)


async def _main(server: str, user: str, data: Path, ca: Path, foreground: bool) -> None:
    connecting = quicmsg.connect(server, user=user, data=data, ca=ca, foreground=foreground)
    async with connecting as client:
        tell("ready", observed_address=client.observed_address)
        await Peer(client).run()


if __name__ == "__main__":
    main()
