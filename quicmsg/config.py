"""What several programs share of their settings: how an address is written, which CA file is the default."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from quicmsg.errors import ConfigurationError
from quicmsg.limits import DEFAULT_PORT, OPEN_FILES_MIN

try:
    import resource
except ImportError:  # Windows, which has no such bound
    resource = None  # type: ignore[assignment]

DEFAULT_CA_FILE: Final = Path("certs/ca.pem")
"""Where a server that is started in this directory puts the certificate of its development CA."""


def check_open_files() -> None:
    """Raise ConfigurationError when this process may not open what it needs: an event loop that runs out of
    files says so in tracebacks, and a database that does in riddles."""
    if resource is None:
        return
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < OPEN_FILES_MIN:
        raise ConfigurationError(
            f"this process may have {allowed} open files, and needs {OPEN_FILES_MIN}: raise the limit "
            f"(ulimit -n {OPEN_FILES_MIN})"
        )


def parse_address(text: str) -> tuple[str, int]:
    """`HOST:PORT`, `HOST`, `:PORT` or `[IPV6]:PORT`, with or without `quicmsg://`. Raises
    ConfigurationError."""
    plain = text.removeprefix("quicmsg://").rstrip("/")
    try:
        parts = urlsplit(f"//{plain}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigurationError(f"{text!r} is not HOST:PORT: {error}") from error
    if parts.path or parts.query or "@" in plain or " " in plain or (not host and port is None):
        raise ConfigurationError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:4433 or [::1]:4433")
    return host, DEFAULT_PORT if port is None else port


def format_address(host: str, port: int) -> str:
    """The same as text; IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def default_ca_file(host: str) -> Path | None:
    """The CA file to use when none was given: that of a server started in this very directory.

    Only for a server on this computer: for any other host a file that happens to lie in the current
    directory says nothing, and must not decide whom to trust.
    """
    try:
        is_here = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_here = host == "localhost"
    return DEFAULT_CA_FILE if is_here and DEFAULT_CA_FILE.is_file() else None
