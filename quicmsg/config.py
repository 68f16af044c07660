"""What server and client share of their settings: how an address is written."""

from __future__ import annotations

from urllib.parse import urlsplit

from quicmsg.errors import ConfigurationError
from quicmsg.limits import DEFAULT_PORT


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
