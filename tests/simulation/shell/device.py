"""A device of the world: a computer, and on it a program that uses the client library as its users do."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from random import Random
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from quicmsg.client import (
    Client,
    ConnectionChanged,
    Events,
    Message,
    Sent,
    StateChanged,
    connect,
)
from quicmsg.client.identity import KEY_FILE, PINS_FILE, state_directory
from quicmsg.errors import (
    ConfigurationError,
    ConnectError,
    DeliveryError,
    OfflineError,
    QuicmsgError,
    RefusedError,
    StorageError,
)
from quicmsg.protocol.signin import device_of
from quicmsg.server.conversations import key_of
from simulation.shell.internet import Host
from simulation.shell.process import Process

SERVER_NAME, SERVER_PORT = "chat.test", 4433
NORMAL = (DeliveryError, RefusedError, ConnectError, OfflineError)
"""What a program has to expect of the library when the network is bad."""
CLOSING = (ConfigurationError, StorageError)
"""What it gets when it goes on using a client that it closes."""


class Device:
    """One computer of one user, and the program's life on it."""

    def __init__(
        self, user: str, number: int, host: Host, directory: Path, random: Random, note: Callable[..., None]
    ) -> None:
        self.user = user
        self.name = f"{user}/{number}"
        self.host = host
        self.process: Process | None = None
        self.client: Client | None = None
        self.code = ""
        self.foreground = False
        self.offline = "queue"
        self.ca: Path | None = None
        self.thinking = 0.001
        self.reads = 0.0
        self.reads_publicly = True
        self.restless = 0.0
        self.past: list[Process] = []
        self.sent: dict[str, Sent] = {}
        self.seen: list[Message] = []
        self._random = random
        self._note = note
        self._directory = directory
        self._stop = asyncio.Event()
        key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.name.encode()).digest())
        self.device = device_of(key.public_key().public_bytes_raw())
        state = state_directory(directory, f"{SERVER_NAME}:{SERVER_PORT}", user)
        state.mkdir(parents=True, mode=0o700)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (state / KEY_FILE).write_bytes(pem)
        (state / KEY_FILE).chmod(0o600)

    # ---- life

    def pin(self, fingerprint: str) -> None:
        """It has met this server before."""
        pins = {f"{SERVER_NAME}:{SERVER_PORT}": fingerprint}
        (self._directory / PINS_FILE).write_text(json.dumps(pins))

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.alive and not self.process.has_ended

    def start(self) -> None:
        assert not self.is_running
        self.process = Process(self.name, self.host)
        self.past.append(self.process)
        self._stop = asyncio.Event()
        self.process.start(self._live(self.process))

    def kill(self) -> None:
        """kill -9, at this very moment."""
        assert self.process is not None
        self._note("killed", self.name)
        self.client, self.sent, self.seen = None, {}, []
        self.process.kill()

    def stop(self) -> None:
        """Ask the program to end."""
        self._stop.set()

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Let the program do something, if it runs."""
        if self.client is None or self._stop.is_set() or not self.is_running:
            work.close()
            return
        assert self.process is not None
        self.process.start(self._guarded(work))

    # ---- what the program does

    async def send(
        self, conversation: str, text: str, message_id: str | None, waits: bool, hurry: float | None
    ) -> None:
        """`hurry`: seconds after which the program loses its patience, wherever the call is then."""
        assert self.client is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(hurry):
                sent = await self.client.queue(conversation, text, message_id=message_id)
                self._note("queue_returned", self.name, bytes.fromhex(sent.message_id))
                self.sent[sent.message_id] = sent
                if waits:
                    await sent.stored()
                    assert sent.seq is not None
                    self._note("told_stored", self.name, bytes.fromhex(sent.message_id), sent.seq)

    async def touch_outbox(self, choice: float, cancel: bool) -> None:
        assert self.client is not None
        rows = await self.client.outbox()
        if not rows:
            return
        row = rows[int(choice * len(rows))]
        if cancel:
            await self.client.cancel(row.message_id)
            self._note("cancel_returned", self.name, bytes.fromhex(row.message_id))
        else:
            await self.client.resend(row.message_id)
            self._note("resend_returned", self.name, bytes.fromhex(row.message_id))

    async def change_membership(self, what: str, group: str, other: str) -> None:
        assert self.client is not None
        match what:
            case "leave":
                await self.client.leave(group)
            case "join":
                await self.client.join(group)
            case _:
                await self.client.invite(group, other)

    async def look_back(self, conversation: str, limit: int) -> None:
        assert self.client is not None
        was_up = self.client.is_up
        page = await self.client.history(conversation, limit=limit)
        key = key_of(conversation, self.user)
        seen = tuple((message.seq, bytes.fromhex(message.message_id)) for message in page)
        self._note("looked_back", self.name, key, seen, was_up)

    async def move_by_hand(self) -> None:
        assert self.client is not None
        self.client.migrate()

    async def make_group(self, group: str, members: list[str]) -> None:
        assert self.client is not None
        await self.client.create(group, members, open=True)

    # ---- private

    async def _live(self, process: Process) -> None:
        client = await connect(
            f"{SERVER_NAME}:{SERVER_PORT}",
            user=self.user,
            data=self._directory,
            ca=self.ca,
            code=self.code,
            foreground=self.foreground,
            offline=self.offline,
            timeout=None,
            announce=lambda fingerprint: None,
        )
        self.client = client
        self._note("started", self.name)
        loop = asyncio.get_running_loop()
        watching = loop.create_task(self._watch(client.events()))
        reading = loop.create_task(self._read(client))
        await self._stop.wait()
        self._note("stopping", self.name)
        await client.close()
        await asyncio.wait([watching, reading])
        watching.result()
        reading.result()
        self.client, self.sent, self.seen = None, {}, []
        self._note("stopped", self.name)
        process.has_ended = True

    async def _watch(self, events: Events) -> None:
        async for event in events:
            match event:
                case StateChanged():
                    self._note(
                        "state",
                        self.name,
                        bytes.fromhex(event.message_id),
                        event.state.value,
                        event.seq,
                    )
                case ConnectionChanged():
                    self._note("link", self.name, event.state.value, event.observed_address, event.reason)
                case _:
                    pass

    async def _read(self, client: Client) -> None:
        """The program's loop over messages; a restless one leaves it now and then, and begins another."""
        while not self._stop.is_set():
            async for message in client.messages():
                key = key_of(message.conversation, self.user)
                message_id = bytes.fromhex(message.message_id)
                self._note("shown", self.name, key, message.seq, message_id, message.sender, message.text)
                if self.thinking:
                    await asyncio.sleep(self._random.uniform(0.0, self.thinking))
                self.seen.append(message)
                if self._random.random() < self.reads:
                    self._note("read", self.name, key, message.seq, self.reads_publicly)
                    try:
                        await client.read(message.conversation, message.seq, public=self.reads_publicly)
                    except (*NORMAL, *CLOSING) as error:
                        self._excuse(error)
                elif self._random.random() < self.restless:
                    self._note("abandoned", self.name, message_id)
                    break

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except NORMAL as error:
            self._note("refused", self.name, type(error).__name__, int(error.code))
        except CLOSING as error:
            self._excuse(error)

    def _excuse(self, error: QuicmsgError) -> None:
        """Only somebody who closes the client may be told that it is closed."""
        if not self._stop.is_set() and not isinstance(error, NORMAL):
            raise error
