"""Who this device is (its Ed25519 key), which servers it knows (their pins), and where that is kept.

`<data>/pins.json` has the certificates that were trusted on first use, `<data>/<host>_<port>/<user>/` one
user's key and journal on one server. A key never leaves its device: another device of the same user has its
own and is linked with a code.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import platformdirs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicmsg.client import private_files
from quicmsg.errors import CertificateError, ConfigurationError
from quicmsg.protocol.frames import NAME_PATTERN
from quicmsg.protocol.signin import device_of, sign_in_message

KEY_FILE: Final = "device.key"
PINS_FILE: Final = "pins.json"
PUBLIC: Final = "public"
"""In place of a fingerprint: a public authority vouched for this server, so from then on one has to."""
THIS_COMPUTER: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Spellings of one server."""


def data_directory(data: Path | None) -> Path:
    """The directory of everything that the client keeps: the given one, or the system's place for it."""
    return data if data is not None else platformdirs.user_data_path("quicmsg", appauthor=False)


def state_directory(data: Path | None, server: str, user: str) -> Path:
    """`<data>/<host>_<port>/<user>/`, not made yet. `server` is HOST:PORT or [IPv6]:PORT.

    Raises ConfigurationError for what is no server or no user name.
    """
    try:
        parts = urlsplit(f"//{server}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError(f"{server!r} is not a server: say HOST:PORT ({error})") from error
    if not host or port is None or parts.netloc != server or parts.username is not None:
        raise ConfigurationError(f"{server!r} is not a server: say HOST:PORT, or [ADDRESS]:PORT for IPv6")
    # One server, however it is spelled: else the same person would meet "the name is taken" by their own key.
    host = "localhost" if host in THIS_COMPUTER else host.rstrip(".")
    # An IPv6 address has colons, which some file systems do not take.
    folder = re.sub(r"[^a-z0-9.-]", "-", host)
    if not folder.strip("."):
        raise ConfigurationError(f"{host!r} is not a host name")
    if re.fullmatch(NAME_PATTERN, user) is None:
        raise ConfigurationError(
            f"{user!r} is not a user name: lower-case letters, digits and . _ -, "
            "a letter or digit first, at most 32 in all"
        )
    return data_directory(data) / f"{folder}_{port}" / user


@dataclass(frozen=True, slots=True)
class Identity:
    """This device, as it proves itself to the server."""

    public_key: bytes
    device: bytes
    _key: Ed25519PrivateKey = field(repr=False)

    def sign(self, user: str, channel_binding: bytes) -> bytes:
        """The signature for an Authenticate frame on the connection that the binding belongs to."""
        return self._key.sign(sign_in_message(user, self.public_key, channel_binding))


def load_or_create(directory: Path) -> Identity:
    """The key in this directory; the first time one is made, readable by its owner only.

    Raises ConfigurationError: a key that others can read, that is damaged, or a directory of no use.
    """
    path = directory / KEY_FILE
    private_files.make_directory(directory)
    try:
        if not path.exists():
            private_files.write_new(path, _new_key())
        if private_files.others_may_read(path):
            raise ConfigurationError(
                f"{path} can be read by others, who could then sign in as you: run `chmod 600 {path}`, "
                "and if somebody may have copied it, remove this device from your account"
            )
        content = path.read_bytes()
    except OSError as error:
        raise private_files.unusable(path, error) from error
    try:
        key = serialization.load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _damaged_key(path) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _damaged_key(path)
    public_key = key.public_key().public_bytes_raw()
    return Identity(public_key, device_of(public_key), key)


class Pins:
    """What vouched for a server when it was first met, by host and port: a certificate, or PUBLIC.

    The directory is the client's data directory: all users of this computer account share what is known of
    a server. A fingerprint is the SHA-256 of the certificate in hexadecimal.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / PINS_FILE

    def get(self, host: str, port: int) -> str | None:
        """The fingerprint that was pinned, or PUBLIC; None: never met. Raises ConfigurationError."""
        return self._load().get(_server(host, port))

    def check(self, host: str, port: int, fingerprint: str) -> bool:
        """Whether this server has this pin; False: it has none, so a person must decide.

        Raises CertificateError when it has another one, ConfigurationError.
        """
        pinned = self.get(host, port)
        if pinned is None:
            return False
        if pinned != fingerprint.lower():
            raise self._changed(host, port, pinned, fingerprint.lower())
        return True

    def pin(self, host: str, port: int, fingerprint: str) -> None:
        """Trust this server by this fingerprint from now on; again is fine.

        Raises CertificateError when another one is pinned, ConfigurationError.
        """
        with self._locked():
            if not self.check(host, port, fingerprint):
                self._save(self._load() | {_server(host, port): fingerprint.lower()})

    def unpin(self, host: str, port: int, fingerprint: str) -> None:
        """Take this pin back: the server was not met after all. Raises ConfigurationError."""
        with self._locked():
            if self.get(host, port) == fingerprint.lower():
                pins = self._load()
                del pins[_server(host, port)]
                self._save(pins)

    # ---- private

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # Two processes that meet two servers at once must not lose one of the pins.
        private_files.make_directory(self.path.parent)
        try:
            lock = private_files.lock(self.path.with_name(f"{PINS_FILE}.lock"), wait=True)
            assert lock is not None
            try:
                yield
            finally:
                os.close(lock)
        except OSError as error:
            raise private_files.unusable(self.path, error) from error

    def _save(self, pins: dict[str, str]) -> None:
        private_files.replace(self.path, json.dumps(pins, indent=0, sort_keys=True).encode())

    def _load(self) -> dict[str, str]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise private_files.unusable(self.path, error) from error
        try:
            pins = json.loads(content)
        except ValueError as error:  # also UnicodeDecodeError
            raise self._damaged() from error
        if not isinstance(pins, dict) or not all(isinstance(value, str) for value in pins.values()):
            raise self._damaged()
        return {server: fingerprint.lower() for server, fingerprint in pins.items()}

    def _damaged(self) -> ConfigurationError:
        return ConfigurationError(
            f"{self.path} is damaged: correct it (JSON, one server a line), or remove it and compare the "
            "fingerprint of each server anew when you meet it"
        )

    def _changed(self, host: str, port: int, pinned: str, fingerprint: str) -> CertificateError:
        server = _server(host, port)
        lines = self.path.read_text().splitlines()
        number = next((n for n, line in enumerate(lines, 1) if f'"{server}"' in line), None)
        where = self.path if number is None else f"line {number} of {self.path}"
        trusted = "one that a public authority vouches for" if pinned == PUBLIC else pinned
        return CertificateError(
            f"the certificate of {server} is not the one that was trusted before: either somebody is between "
            "you and the server, or the server was set up anew. Nothing was sent. Trusted was "
            f"{trusted}, offered is {fingerprint}. Ask whoever runs the server, over another way; only if "
            f"the change is theirs, remove {where} (the entry {server!r}) and connect again"
        )


def _server(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host.lower()}:{port}"


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _damaged_key(path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{path} is not an Ed25519 key: restore it from a backup, or move it away and link this device anew "
        "with a code from another one"
    )
