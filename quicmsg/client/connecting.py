"""`connect`: from an address and a name to a `Client`."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from quicmsg import limits
from quicmsg.client.api import Client
from quicmsg.client.identity import Pins, data_directory, load_or_create, state_directory
from quicmsg.client.journal import Journal
from quicmsg.client.target import Target
from quicmsg.config import format_address, parse_address
from quicmsg.errors import CertificateError, ConfigurationError
from quicmsg.protocol.frames import NAME_PATTERN


def connect(
    url: str,
    *,
    user: str,
    data: Path | str | None = None,
    ca: Path | str | None = None,
    code: str = "",
    offline: str = "queue",
    foreground: bool = False,
    local_address: str | None = None,
    timeout: float | None = limits.CONNECT_TIMEOUT * 2,
    announce: Callable[[str], None] | None = None,
) -> Connecting:
    """Open this device's journal and connect: `async with connect(...) as client`, or
    `client = await connect(...)` and later `await client.close()`.

    Args:
        url: `HOST:PORT` or `quicmsg://HOST:PORT`.
        user: the name to sign in with; it is claimed by the first key that uses it.
        data: directory for keys, outbox and history; default: this user's state directory.
        ca: PEM file of the authority to trust. Without one, the public authorities and what was pinned
            before; an unknown authority is announced and pinned at the first contact.
        code: an invite code, or a link code from another device of this user.
        offline: "queue" (default) or "fail": whether `send` raises at once while the link is down.
        foreground: a person is looking; a dead link is noticed within seconds, at the cost of pings.
        local_address: the local address to send from; None: the system chooses.
        timeout: seconds to wait for the first connection; None: do not wait, connect in the background.
        announce: told the fingerprint of an authority met for the first time; default: a line on stderr.

    Raises ConnectError, CertificateError, SignInError, ConfigurationError, StorageError.
    """
    options = Options(
        user,
        None if data is None else Path(data),
        None if ca is None else Path(ca),
        code,
        offline,
        foreground,
        local_address,
        timeout,
        announce,
    )
    return Connecting(*parse_address(url), options)


@dataclass(frozen=True, slots=True)
class Options:
    """The arguments of `connect`, checked."""

    user: str
    data: Path | None
    ca: Path | None
    code: str
    offline: str
    foreground: bool
    local_address: str | None
    timeout: float | None
    announce: Callable[[str], None] | None

    def __post_init__(self) -> None:
        if not re.match(NAME_PATTERN, self.user):
            raise ConfigurationError(
                f"{self.user!r} is not a user name: small letters, digits, . _ - (at most "
                f"{limits.NAME_SIZE_MAX}), beginning with a letter or digit"
            )
        if self.offline not in ("queue", "fail"):
            raise ConfigurationError(f"offline={self.offline!r}: use 'queue' or 'fail'")


class Connecting:
    """What `connect` returns: await it, or enter it."""

    def __init__(self, host: str, port: int, options: Options) -> None:
        self._host = host
        self._port = port
        self._options = options
        self._client: Client | None = None

    def __await__(self) -> Generator[Any, None, Client]:
        return self._start().__await__()

    async def __aenter__(self) -> Client:
        self._client = await self
        return self._client

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._client is not None
        await self._client.close()

    async def _start(self) -> Client:
        options = self._options
        if options.ca is not None and not options.ca.is_file():
            raise CertificateError(f"the CA file {options.ca} does not exist: give the server's ca.pem")
        state = state_directory(options.data, format_address(self._host, self._port), options.user)
        identity = load_or_create(state)
        pins = Pins(data_directory(options.data))
        announce = options.announce or _announce(self._host, self._port, pins)
        target = Target(self._host, self._port, options.ca, pins, announce)
        journal = await Journal.open(state / "journal.db", user=options.user, device=identity.device)
        client = Client(
            options.user,
            identity,
            journal,
            target,
            code=options.code,
            offline=options.offline,
            foreground=options.foreground,
            local_address=options.local_address,
        )
        try:
            await client.open()
            if options.timeout is not None:
                await client.wait_up(options.timeout)
        except BaseException:
            await asyncio.shield(client.close())
            raise
        return client


def _announce(host: str, port: int, pins: Pins) -> Callable[[str], None]:
    def announce(fingerprint: str) -> None:
        sys.stderr.write(
            f"quicmsg: first contact with {format_address(host, port)}; its authority has the SHA-256 "
            f"fingerprint\n  {fingerprint}\nIt is pinned in {pins.path}: compare it with the server's.\n"
        )

    return announce
