"""`quicmsg`, also `python -m quicmsg`: the server, the line client, and what operators need, as one program.

Each command is imported when it is called: `quicmsg version` must not wait for the QUIC stack.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Final

import click

from quicmsg.client.cli_options import Options, ServerAddress, connection_parameters
from quicmsg.client.cli_run import report_error, run_program, start_logging
from quicmsg.errors import QuicmsgError
from quicmsg.limits import DEFAULT_PORT

_CLIENT: Final = (
    "send", "listen", "history", "outbox", "resend", "cancel", "pipe", "create", "join", "leave",
    "conversations", "whoami", "link",
)  # fmt: skip
COMMANDS: Final = {
    "serve": ("quicmsg.server.__main__", "serve"),
    "invite": ("quicmsg.server.__main__", "invite"),
    "fsck": ("quicmsg.server.upkeep", "fsck"),
    "backup": ("quicmsg.server.upkeep", "backup"),
    "restore": ("quicmsg.server.upkeep", "restore"),
    "new-epoch": ("quicmsg.server.upkeep", "new_epoch"),
    **{name: ("quicmsg.client.cli", name) for name in _CLIENT},
    # All of `python -m quicmsg.client`; its `invite` adds somebody to a group, the one above to a server.
    "client": ("quicmsg.client.cli", "client"),
}


class LazyGroup(click.Group):
    """Commands by name; their modules are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """See click."""
        return sorted({*super().list_commands(ctx), *COMMANDS})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """See click."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, name = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    "quicmsg",
    cls=LazyGroup,
    no_args_is_help=False,
    params=connection_parameters(on_command=False),
    context_settings={"auto_envvar_prefix": "QUICMSG"},
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """Messages over QUIC whose ticks are true, on networks that misbehave.

    The options here are those of the client's commands, and may also stand after the command.
    """
    ctx.ensure_object(Options)


@program.command()
@click.pass_obj
def chat(options: Options) -> int:
    """Talk, on this terminal."""
    from quicmsg.client.cli import start_chat

    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("a chat needs a terminal: use `send`, `listen` or `pipe` in scripts")
    return start_chat(options)


@program.command()
@click.option("--server", type=ServerAddress(), help=f"The server to ask; default: localhost:{DEFAULT_PORT}.")
@click.option(
    "--ca", type=click.Path(path_type=Path, dir_okay=False),
    help="Its ca.pem; default: certs/ca.pem here for a server on this computer, else the public ones.",
)  # fmt: skip
@click.pass_obj
def health(options: Options, server: str | None, ca: Path | None) -> int:
    """Ask a server whether it is well: handshake, certificate, one answer. Exit status 0 or 1, within 5 s."""
    import asyncio

    from quicmsg.health import check

    start_logging(options.verbose)
    try:
        click.echo(asyncio.run(check(server or options.server, ca or options.ca)))
    except QuicmsgError as error:
        report_error(error, as_json=False)
        return 1
    return 0


@program.command()
def version() -> None:
    """Print the version."""
    from quicmsg.version import __version__

    click.echo(f"quicmsg {__version__}")


def main() -> None:
    """Run it, and exit."""
    run_program(program, "quicmsg")


if __name__ == "__main__":
    main()
