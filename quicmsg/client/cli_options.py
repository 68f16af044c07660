"""Options that every command shares (where, as whom, whom to trust), and the types of arguments.

They may stand before or after the command. Only click is imported here: parsing must be quick.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from quicmsg.config import default_ca_file, parse_address
from quicmsg.errors import ConfigurationError
from quicmsg.limits import CONNECT_PATIENCE, DEFAULT_PORT, NAME_SIZE_MAX

if TYPE_CHECKING:
    from quicmsg.client import Connecting

    _TextType = click.ParamType[str]
else:
    _TextType = click.ParamType  # generic for type checkers only, in older versions of click

F = TypeVar("F", bound=Callable[..., Any])
_NAME = rf"[a-z0-9][a-z0-9._-]{{0,{NAME_SIZE_MAX - 1}}}"
_RULE = f"small letters, digits, . _ - (at most {NAME_SIZE_MAX}), beginning with a letter or digit"


@dataclass
class Options:
    """Where to connect, as whom, and whom to trust; filled in while the command line is parsed."""

    server: str = f"localhost:{DEFAULT_PORT}"
    user: str | None = None
    data: Path | None = None
    ca: Path | None = None
    code: str = ""
    verbose: int = 0

    def connect(self, *, timeout: float | None = CONNECT_PATIENCE, foreground: bool = False) -> Connecting:
        """See `quicmsg.connect`."""
        from quicmsg.client import connect

        return connect(
            self.server,
            user=self.user_name(),
            data=self.data,
            ca=self.ca_file(),
            code=self.code,
            timeout=timeout,
            foreground=foreground,
        )

    def user_name(self) -> str:
        """The given name, else the login name. Raises ConfigurationError."""
        if self.user is not None:
            return self.user
        try:
            name = getpass.getuser()
        except (OSError, KeyError):
            name = ""
        if re.fullmatch(_NAME, name) is None:
            raise ConfigurationError(
                f"the login name {name!r} cannot be used here: give --user NAME, or set QUICMSG_USER "
                f"({_RULE})"
            )
        return name

    def ca_file(self) -> Path | None:
        """The given file, else what is pinned counts (None), else certs/ca.pem for a server right here."""
        if self.ca is not None:
            return self.ca
        found = default_ca_file(parse_address(self.server)[0])
        if found is not None:
            from quicmsg.client.identity import Pins, data_directory

            if Pins(data_directory(self.data)).get(*parse_address(self.server)) is not None:
                return None
        return found


# ---- types of arguments --------------------------------------------------------------------------


class Matching(_TextType):
    """Text of a certain shape."""

    def __init__(self, name: str, pattern: str, wanted: str) -> None:
        self.name = name
        self._pattern = re.compile(pattern)
        self._wanted = wanted

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click."""
        if self._pattern.fullmatch(value) is None:
            self.fail(f"{value!r}: {self._wanted}", param, ctx)
        return str(value)


class ServerAddress(_TextType):
    """HOST:PORT."""

    name = "HOST:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """See click."""
        try:
            parse_address(value)
        except ConfigurationError as error:
            self.fail(error.message, param, ctx)
        return str(value)


USER = Matching("NAME", _NAME, f"a user name has {_RULE}")
CONVERSATION = Matching("CONVERSATION", f"[@#]{_NAME}", f"write @user or #group; a name has {_RULE}")
GROUP = Matching("GROUP", f"#{_NAME}", f"a group is written #name; a name has {_RULE}")
MESSAGE_ID = Matching(
    "ID", "(?:[0-9a-fA-F]-?){31}[0-9a-fA-F]", "a message id has 32 hexadecimal digits (see `outbox`)"
)


# ---- the shared options --------------------------------------------------------------------------


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value not in (None, 0):
        setattr(ctx.ensure_object(Options), str(param.name), value)


def connection_parameters(*, on_command: bool) -> list[click.Parameter]:
    """The shared options; on a command they are not shown again, and no variable sets them."""

    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(
            names,
            expose_value=False,
            callback=_keep,
            hidden=on_command,
            allow_from_autoenv=not on_command,
            show_envvar=not on_command,
            **attributes,
        )

    # What is wrong with a path is found, and said, when it is used.
    path = click.Path(path_type=Path)
    return [
        option("--server", type=ServerAddress(), help=f"The server; default: localhost:{DEFAULT_PORT}."),
        option("--user", type=USER, help="Your name; default: the login name."),
        option(
            "--data",
            type=path,
            metavar="DIR",
            help="Where keys, outbox and history are kept; default: per login.",
        ),
        option(
            "--ca",
            type=path,
            metavar="FILE",
            help="The server's ca.pem; default: what was pinned, or certs/ca.pem here.",
        ),
        option("--code", metavar="CODE", help="An invite code, or a code from `link`; needed once."),
        option("-v", "--verbose", count=True, help="More on stderr; -vv says even more."),
    ]


class ClientCommand(click.Command):
    """A command that also takes the shared options."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.params.extend(connection_parameters(on_command=True))


def as_json_option(function: F) -> F:
    """--json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Answer and errors as JSON, one object a line."
    )(function)
