"""The server that a client is for: where it is, who has to vouch for it, and how it is dialled.

Without a CA file a public authority has to vouch for it, or the authority that was shown and pinned when
it was first met, as SSH does. Whichever it was then, it has to be from then on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import certifi

from quicmsg.client.identity import PUBLIC, Pins
from quicmsg.errors import CertificateError, ErrorCode
from quicmsg.transport.quic import Link, Trust

Dial = Callable[[Trust], Awaitable[Link]]


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect and whom to believe. `announce` is told the fingerprint of an authority that is
    met for the first time, before anything is sent to it."""

    host: str
    port: int
    ca_file: Path | None
    pins: Pins
    announce: Callable[[str], None]

    async def dial(self, dial: Dial) -> Link:
        """Connect with `dial`, which is given whom to trust. Raises as it does, and ConfigurationError."""
        if self.ca_file is not None:
            return await dial(Trust(ca_file=self.ca_file))
        pinned = self.pins.get(self.host, self.port)
        if pinned not in (None, PUBLIC):
            return await dial(Trust(fingerprint=pinned))
        try:
            link = await dial(Trust(ca_file=Path(certifi.where())))
        except CertificateError as error:
            if not error.fingerprint:
                raise  # no pin would be the cure
            self.pins.check(self.host, self.port, error.fingerprint)  # raises when it was PUBLIC before
            return await self._meet(dial, error.fingerprint)
        if pinned is None:
            try:
                self.pins.pin(self.host, self.port, PUBLIC)
            except BaseException:
                link.close(ErrorCode.NO_ERROR, "")
                raise
        return link

    async def _meet(self, dial: Dial, fingerprint: str) -> Link:
        """First contact with an authority that nobody vouches for. The handshake is followed at once by
        the first messages: shown and pinned is shown and pinned before."""
        self.announce(fingerprint)
        self.pins.pin(self.host, self.port, fingerprint)
        try:
            return await dial(Trust(fingerprint=fingerprint))
        except CertificateError:
            self.pins.unpin(self.host, self.port, fingerprint)
            raise
