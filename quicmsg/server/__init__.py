"""The server: addresses, store and hub put together; start, drain, stop.

`Server.start` is all of it in one process; `__main__.py` is its command line. The hub (`hub.py`) does the
work and knows neither sockets nor clocks; this module gives it both.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import os
import secrets
import time
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from quicmsg import certs
from quicmsg.errors import ConfigurationError, QuicmsgError, StorageError
from quicmsg.limits import CERTIFICATE_CHECK_INTERVAL, CODE_BITS, DRAIN_TIMEOUT, INVITE_CODE_LIFETIME
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.server.hub import Hub
from quicmsg.server.settings import Settings
from quicmsg.store import MakeCode, Result
from quicmsg.store.sqlite import SqliteStore
from quicmsg.store.writer import Writer
from quicmsg.transport.quic import Link, Listener, listen

logger = logging.getLogger(__name__)
KEYS_SIZE = 64
_USABLE_BY_OTHERS = 0o077


class Shell:
    """The hub's environment in a real process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def now(self) -> float:
        """See Environment."""
        return self._loop.time()

    def time_ms(self) -> int:
        """See Environment."""
        return time.time_ns() // 1_000_000

    def make_code(self) -> str:
        """See Environment."""
        return make_code()

    def verify(self, public_key: bytes, signature: bytes, message: bytes) -> bool:
        """See Environment."""
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True

    def log(self, event: str, **fields: object) -> None:
        """See Environment. Values are escaped, so that nobody writes lines or colours into the log."""
        said = " ".join(f"{name}={_plain(value)}" for name, value in fields.items())
        logger.info("= %s %s", event, said)


class Server:
    """A running server.

    Attributes:
        addresses: where it listens, with real port numbers.
        certificate: what clients have to trust.
        failed: done with the error when the store broke; the process must end then.
    """

    def __init__(self, settings: Settings, certificate: certs.ServerCertificate) -> None:
        """Made by `start`."""
        self.settings = settings
        self.certificate = certificate
        self.failed: asyncio.Future[StorageError] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._cleanup = contextlib.AsyncExitStack()

    @classmethod
    async def start(cls, settings: Settings) -> Server:
        """Open the store, make or renew the certificate, listen. Raises ConfigurationError in words."""
        server = cls(settings, certs.ensure(settings.certs, names=settings.certificate_names()))
        try:
            await server._open()
        except BaseException:
            await server._cleanup.aclose()
            raise
        return server

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        return self._listener.addresses

    @property
    def listener(self) -> Listener:
        """The transport's side, for tests and measurements."""
        return self._listener

    async def make_invite(self) -> str:
        """A one-time code with which one new user can sign in to an invite-only server."""
        code = make_code()
        expires = time.time_ns() // 1_000_000 + int(INVITE_CODE_LIFETIME * 1000)
        made: asyncio.Future[Result] = self._loop.create_future()
        self._writer.submit(MakeCode("invite", "", code, expires), made.set_result)
        await made
        return code

    async def stop(self, timeout: float = DRAIN_TIMEOUT) -> None:  # noqa: ASYNC109 - part of the promise
        """Tell every client, finish what is at the store, close everything. What was accepted is stored; what
        waits for its turn at the store is not answered, and clients send it again when there is a server."""
        self._hub.drain(timeout)
        # What is at the store (a commit or two) is answered while the links still live.
        await asyncio.to_thread(self._writer.close)
        await asyncio.sleep(0)
        self._hub.close()
        waiting = [asyncio.ensure_future(link.wait_closed()) for link in self._listener.links]
        if waiting:
            _, late = await asyncio.wait(waiting, timeout=timeout)
            for task in late:
                task.cancel()
        await self._cleanup.aclose()

    # ---- private

    async def _open(self) -> None:
        store = SqliteStore(self.settings.store_path(), epoch_source=lambda: secrets.randbits(62) + 1)
        self._cleanup.callback(store.close)
        self._writer = Writer(
            store,
            post=self._loop.call_soon_threadsafe,
            on_failure=self._store_failed,
            on_room=self._room,
        )
        self._cleanup.push_async_callback(asyncio.to_thread, self._writer.close)
        self._hub = Hub(self._writer, Shell(), epoch=store.epoch, invite_only=self.settings.invite_only)
        keys = _transport_keys(self.settings.data)
        self._listener = await listen(
            self.settings.listen,
            certificate_file=self.certificate.certificate_file,
            private_key_file=self.certificate.key_file,
            make_session=lambda _address: ServerSession(now=self._loop.time()),
            on_activity=self._on_activity,
            reset_key=keys[:32],
            retry_key=keys[32:],
        )
        self._cleanup.push_async_callback(self._listener.close)
        self._renewal = self._loop.call_later(CERTIFICATE_CHECK_INTERVAL, self._renew)
        self._cleanup.callback(lambda: self._renewal.cancel())

    def _on_activity(self, link: Link) -> None:
        session = link.session
        assert isinstance(session, ServerSession)
        if not self._hub.knows(session) and session.state is not SessionState.CLOSED:
            self._hub.attach(session, lambda: self._wake(link, session))
        self._hub.pump(session)

    def _wake(self, link: Link, session: ServerSession) -> None:
        if session.device:  # only who has signed in may come back with a ticket
            link.keep_ticket(session.device)
        link.flush()

    def _room(self) -> None:
        self._hub.room()

    def _store_failed(self, error: StorageError) -> None:
        logger.error("! the store failed: %s", error)
        if not self.failed.done():
            self.failed.set_result(error)

    def _renew(self) -> None:
        self._renewal = self._loop.call_later(CERTIFICATE_CHECK_INTERVAL, self._renew)
        try:
            certificate = certs.ensure(self.settings.certs, names=self.settings.certificate_names())
            if certificate.renewed:
                self.certificate = certificate
                self._listener.set_certificate(
                    certificate.certificate_file.read_bytes(), certificate.key_file.read_bytes()
                )
                logger.info("= certificate renewed, valid until %s", certificate.expires)
        except (QuicmsgError, OSError) as error:
            # The one in use goes on; whoever runs the server has time until it expires.
            logger.error("! the certificate could not be renewed: %s", error)


def make_code() -> str:
    """A one-time code of CODE_BITS bits, in groups that can be read out."""
    text = base64.b32encode(secrets.token_bytes(CODE_BITS // 8)).decode().lower()
    return "-".join(text[i : i + 4] for i in range(0, len(text), 4))


def _transport_keys(directory: Path) -> bytes:
    """Keys for stateless resets and Retry, kept over restarts so that clients notice one at once."""
    path = directory / "transport.key"
    try:
        # The store may be elsewhere, so that nobody else has made it.
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            fresh = path.with_suffix(".new")
            fresh.unlink(missing_ok=True)
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEYS_SIZE))
            fresh.rename(path)
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            keys = file.read()
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {path}: {error.strerror or error}; give --data a directory of this user"
        ) from error
    if os.name == "posix" and mode & _USABLE_BY_OTHERS:
        raise ConfigurationError(
            f"{path} can be used by others (mode {mode & 0o777:04o}): run  chmod 600 {path}"
        )
    if len(keys) != KEYS_SIZE:
        raise ConfigurationError(f"{path} is damaged: delete it, a new one is made at the next start")
    return keys


def _plain(value: object) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text and text else repr(text)
