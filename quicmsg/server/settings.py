"""What a server is started with, and how flags become it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from quicmsg.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Settings:
    """Addresses to listen at, directories, and who may come.

    `store`: `sqlite:PATH`, or None for the file in `data`; `names`: host names and addresses, besides
    this computer's own, by which clients reach the server (they go into the certificate);
    `invite_only`: a new name needs an invite code; `hint`: how to connect, for the ready line.
    """

    listen: tuple[tuple[str, int], ...]
    data: Path
    certs: Path
    store: str | None = None
    names: tuple[str, ...] = ()
    invite_only: bool = False
    hint: str = ""

    def certificate_names(self) -> tuple[str, ...]:
        """Names and addresses for the certificate: those that were given, and those listened at."""
        return (*self.names, *(host for host, _ in self.listen if host))

    def store_path(self) -> Path:
        """The SQLite file. Raises ConfigurationError for an engine that this version does not have."""
        if self.store is None:
            return self.data / "quicmsg.db"
        scheme, _, rest = self.store.partition(":")
        if scheme != "sqlite" or not rest:
            raise ConfigurationError(
                f"the store {_without_password(self.store)!r} is not one of this version: give "
                "sqlite:PATH, or nothing for a file in the data directory"
            )
        return Path(rest.removeprefix("//"))


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition(":")
    return f"{scheme}:...@{rest.rpartition('@')[2]}" if "@" in rest else url
