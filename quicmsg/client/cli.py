"""The line client's commands and flags: `python -m quicmsg.client`, described in docs/line-client.md.

What the commands do is in `cli_commands.py`, `pipe.py` and `chat.py`, which are imported when needed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import click

from quicmsg.client.cli_options import (
    CONVERSATION,
    GROUP,
    MESSAGE_ID,
    USER,
    ClientCommand,
    Options,
    as_json_option,
    connection_parameters,
)
from quicmsg.client.cli_run import run, start_logging
from quicmsg.limits import HISTORY_MAX, SEQ_MAX

if TYPE_CHECKING:
    from quicmsg.client.cli_commands import Answer


class Seconds(click.FloatRange):
    """A positive number of seconds; also not "nan", which is in every range and below nothing."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return float(seconds)


SECONDS = Seconds(min=0, min_open=True, max=10**6)
UNTIL = click.option(
    "--until", type=click.Choice(["stored", "delivered", "read"]), default="stored", show_default=True,
    help="The state to wait for: durable on the server; processed by every other member; read by them.",
)  # fmt: skip
TIMEOUT = click.option("--timeout", type=SECONDS, metavar="S", help="Wait no longer (exit status 4).")
JSON = as_json_option


def execute(
    options: Options, as_json: bool, body: Callable[[Options, Answer], Coroutine[Any, Any, None]]
) -> int:
    """Run a command's coroutine with a place to write its answer to."""
    start_logging(options.verbose)

    async def answered() -> int:
        from quicmsg.client.cli_commands import Answer

        await body(options, Answer(as_json=as_json))
        return 0

    return run(answered, as_json=as_json)


@click.group(
    "client",
    params=connection_parameters(on_command=False),
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": "QUICMSG", "obj": None},
)
@click.pass_context
def client(ctx: click.Context) -> int:
    """Talk over QUIC. Without a COMMAND, on a terminal: a chat.

    The options here may also stand after the command. Exit status: 0 the asked state was reached, 1 other
    error, 2 usage, 3 failed (kept in the outbox), 4 timeout, 5 cannot connect, 6 sign-in refused,
    7 certificate, 8 refused, 130 interrupted.
    """
    ctx.ensure_object(Options)
    if ctx.invoked_subcommand is not None:
        return 0
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("a COMMAND is needed where stdin or stdout is no terminal", ctx)
    return start_chat(ctx.obj)


def start_chat(options: Options) -> int:
    """The interactive chat."""
    start_logging(options.verbose)

    async def body() -> int:
        from quicmsg.client.chat import chat

        return await chat(options)

    return run(body)


# ---- messages


@client.command(cls=ClientCommand)
@click.option("--to", required=True, type=CONVERSATION, help="@user or #group.")
@UNTIL
@TIMEOUT
@JSON
@click.argument("text")
@click.pass_obj
def send(options: Options, to: str, until: str, timeout: float | None, as_json: bool, text: str) -> int:
    """Send TEXT (`-`: what stdin says, without its last line end), and wait for the state asked for.

    Whatever happens, the message is kept in the outbox until the server has it: its id is told.
    """
    from quicmsg.client import cli_commands as commands

    start_logging(options.verbose)
    body = commands.text_of(text)
    return execute(options, as_json, lambda o, answer: commands.send(o, answer, to, body, until, timeout))


@client.command(cls=ClientCommand)
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="Leave after N messages.")
@click.option("--read", "mark_read", is_flag=True, help="Tell the senders that they were read.")
@TIMEOUT
@JSON
@click.pass_obj
def listen(options: Options, count: int | None, mark_read: bool, timeout: float | None, as_json: bool) -> int:
    """Print messages as they come, one a line. A message counts as delivered once its line is written."""
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, lambda o, answer: commands.listen(o, answer, count, mark_read, timeout))


@client.command(cls=ClientCommand)
@click.argument("conversation", type=CONVERSATION)
@click.option(
    "--limit", type=click.IntRange(1, HISTORY_MAX), default=50, show_default=True, metavar="N",
    help="How many.",
)  # fmt: skip
@click.option("--before", type=click.IntRange(1, SEQ_MAX), metavar="SEQ", help="Only those below SEQ.")
@JSON
@click.pass_obj
def history(options: Options, conversation: str, limit: int, before: int | None, as_json: bool) -> int:
    """Print the newest messages of CONVERSATION, the oldest of them first."""
    from quicmsg.client import cli_commands as commands

    return execute(
        options, as_json, lambda o, answer: commands.history(o, answer, conversation, limit, before)
    )


@client.command(cls=ClientCommand)
@JSON
@click.pass_obj
def outbox(options: Options, as_json: bool) -> int:
    """Print what the server has not accepted yet. Needs no connection."""
    from quicmsg.client import cli_outbox

    return execute(options, as_json, cli_outbox.outbox)


@client.command(cls=ClientCommand)
@click.argument("message_id", metavar="ID", type=MESSAGE_ID)
@UNTIL
@TIMEOUT
@JSON
@click.pass_obj
def resend(options: Options, message_id: str, until: str, timeout: float | None, as_json: bool) -> int:
    """Send a message of the outbox again, under the same ID: it can never become a second copy."""
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, lambda o, answer: commands.resend(o, answer, message_id, until, timeout))


@client.command(cls=ClientCommand)
@click.argument("message_id", metavar="ID", type=MESSAGE_ID)
@JSON
@click.pass_obj
def cancel(options: Options, message_id: str, as_json: bool) -> int:
    """Take a message out of the outbox. Needs no connection. It may have reached the server before."""
    from quicmsg.client import cli_outbox

    return execute(options, as_json, lambda o, answer: cli_outbox.cancel(o, answer, message_id))


@client.command(cls=ClientCommand)
@click.pass_obj
def pipe(options: Options) -> int:
    """Both ways at once, as JSON lines on stdin and stdout: for programs in any language."""
    start_logging(options.verbose)

    async def body() -> int:
        from quicmsg.client.pipe import pipe as run_pipe

        return await run_pipe(options)

    return run(body)


# ---- groups


@client.command(cls=ClientCommand)
@click.argument("group", type=GROUP)
@click.argument("members", nargs=-1, type=USER)
@click.option("--open", "is_open", is_flag=True, help="Anybody may join; else a member has to invite.")
@JSON
@click.pass_obj
def create(options: Options, group: str, members: tuple[str, ...], is_open: bool, as_json: bool) -> int:
    """Make the group GROUP (#name), with you and MEMBERS in it."""
    return _ask(options, as_json, group, "created", lambda c: c.create(group, members, open=is_open))


@client.command(cls=ClientCommand)
@click.argument("group", type=GROUP)
@click.argument("member", metavar="USER", type=USER)
@JSON
@click.pass_obj
def invite(options: Options, group: str, member: str, as_json: bool) -> int:
    """Add USER to a group that you are in."""
    return _ask(options, as_json, group, "invited", lambda c: c.invite(group, member))


@client.command(cls=ClientCommand)
@click.argument("group", type=GROUP)
@JSON
@click.pass_obj
def join(options: Options, group: str, as_json: bool) -> int:
    """Join an open group."""
    return _ask(options, as_json, group, "joined", lambda c: c.join(group))


@client.command(cls=ClientCommand)
@click.argument("group", type=GROUP)
@JSON
@click.pass_obj
def leave(options: Options, group: str, as_json: bool) -> int:
    """Leave a group."""
    return _ask(options, as_json, group, "left", lambda c: c.leave(group))


# ---- about oneself


@client.command(cls=ClientCommand)
@JSON
@click.pass_obj
def conversations(options: Options, as_json: bool) -> int:
    """Print the conversations that you are in."""
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, commands.conversations)


@client.command(cls=ClientCommand)
@JSON
@click.pass_obj
def whoami(options: Options, as_json: bool) -> int:
    """Sign in, and print user, device and the address that the server sees."""
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, commands.whoami)


@client.command(cls=ClientCommand)
@JSON
@click.pass_obj
def link(options: Options, as_json: bool) -> int:
    """Print a one-time code with which another device can sign in as you (`--code`), for ten minutes."""
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, commands.link)


def _ask(
    options: Options,
    as_json: bool,
    group: str,
    done: str,
    request: Callable[[Any], Coroutine[Any, Any, None]],
) -> int:
    from quicmsg.client import cli_commands as commands

    return execute(options, as_json, lambda o, answer: commands.ask(o, answer, group, done, request))
