"""A user at a connection: keys, sign-in, conversation channels, requests."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from quicmsg.conformance.link import Aborted, Channel, Ended, Item, Link
from quicmsg.conformance.wire import Frame, Type, encode, entry

PUSHED: Final = frozenset({Type.NOTICE, Type.MOVED, Type.GO_AWAY})
"""What may come on channel 0 at any time, besides Ping."""
NEWS: Final = frozenset({Type.RECEIPT, Type.DELIVER})
"""What may come on an open conversation channel at any time."""


class UnexpectedError(Exception):
    """Something else came than what the document promises."""

    def __init__(self, expected: str, got: Item) -> None:
        super().__init__(f"expected {expected}, got {got}")
        self.got = got


class Device:
    """A key, and the name that it signs in with."""

    def __init__(self, user: str = "") -> None:
        self.user = user or f"conformance-{secrets.token_hex(8)}"
        self._key = Ed25519PrivateKey.generate()
        self.public_key = self._key.public_key().public_bytes_raw()
        self.id = hashlib.sha256(self.public_key).digest()[:16]

    def sign(self, binding: bytes, *, user: str = "") -> bytes:
        """The signature of section 4."""
        name = (user or self.user).encode()
        return self._key.sign(b"quicmsg-auth-v1\0" + name + b"\0" + self.public_key + binding)


class Talk:
    """A channel on which answers are awaited."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def say(self, kind: Type, *fields: object) -> None:
        """Write a frame."""
        self.channel.write(encode(kind, *fields))

    async def expect(self, *kinds: Type, passing: Collection[Type] = ()) -> Frame:
        """The next frame must be one of these; frames of the types in `passing` may come before it."""
        while True:
            item = await self.next()
            if isinstance(item, Frame) and item.type in kinds:
                return item
            if not isinstance(item, Frame) or item.type not in passing:
                raise UnexpectedError(" or ".join(kind.name for kind in kinds), item)

    async def expect_reset(self, code: int, *, passing: Collection[Type] = NEWS) -> None:
        """The channel must be reset with this code."""
        while (item := await self.next()) != Aborted(int(code)):
            if not isinstance(item, Frame) or item.type not in passing:
                raise UnexpectedError(f"a reset with code {code!r}", item)

    async def expect_end(self, *, passing: Collection[Type] = NEWS) -> None:
        """FIN must come."""
        while not isinstance(item := await self.next(), Ended):
            if not isinstance(item, Frame) or item.type not in passing:
                raise UnexpectedError("FIN", item)

    async def next(self) -> Item:
        """What comes next."""
        return await self.channel.next()


class Chat(Talk):
    """A conversation channel. `opened` is set once the server has said so."""

    opened: Frame

    def send(self, body: bytes | str, message_id: bytes = b"", *, kind: int = 0, encoding: int = 0) -> bytes:
        """Write a Send; returns its message_id."""
        message_id = message_id or secrets.token_bytes(16)
        body = body.encode() if isinstance(body, str) else body
        self.say(Type.SEND, message_id, kind, encoding, body)
        return message_id

    async def store(self, body: bytes | str, message_id: bytes = b"") -> Frame:
        """Send, and wait for Accepted; what is delivered meanwhile is dropped."""
        self.send(body, message_id)
        return await self.expect(Type.ACCEPTED, passing=NEWS)

    async def deliver(self, count: int = 1) -> list[Frame]:
        """The next `count` entries; each must come as a Deliver."""
        return [await self.expect(Type.DELIVER, passing={Type.RECEIPT, Type.ACCEPTED}) for _ in range(count)]

    async def receipt(self, user: str) -> tuple[int, int]:
        """(delivered, read) of a user, from the next Receipt that names it."""
        while True:
            frame = await self.expect(Type.RECEIPT, passing={Type.DELIVER, Type.ACCEPTED})
            for name, delivered, read in (member[:3] for member in frame["members"]):
                if name == user:
                    return delivered, read

    async def fetch(self, *, after: int = 0, before: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """History. It also is a barrier: what was delivered before the answer has arrived (`drained`)."""
        self.drained: list[Frame] = []
        ref = secrets.randbits(62)
        self.say(Type.FETCH, ref, after, before, limit)
        found = []
        while True:
            item = await self.next()
            if not isinstance(item, Frame):
                raise UnexpectedError("PAGE", item)
            if item.type is not Type.PAGE:
                self.drained.append(item)
                continue
            if item["ref"] != ref:
                raise UnexpectedError(f"PAGE with ref {ref}", item)
            found += [entry(elements) for elements in item["entries"]]
            if item["last"]:
                return found

    def members(self) -> dict[str, tuple[int, int]]:
        """Everybody's (delivered, read), from Opened."""
        return {name: (delivered, read) for name, delivered, read in (m[:3] for m in self.opened["members"])}


class Session(Talk):
    """A device at one connection; it is itself the talk on channel 0."""

    def __init__(self, link: Link, device: Device) -> None:
        super().__init__(link.channel())
        self.link = link
        self.device = device
        self.notices: list[Frame] = []
        self.welcome: Frame

    @property
    def control(self) -> Channel:
        return self.channel

    @property
    def user(self) -> str:
        return self.device.user

    @property
    def address(self) -> str:
        """What others call the direct conversation with this user."""
        return f"@{self.user}"

    @property
    def epoch(self) -> int:
        epoch: int = self.welcome["epoch"]
        return epoch

    # ---- sign-in

    def say_hello(self, version_min: int = 1, version_max: int = 1) -> None:
        """The first frame."""
        self.say(Type.HELLO, version_min, version_max, "conformance/1", [], False)

    def authenticate(self, *, code: str = "", signature: bytes = b"") -> None:
        """The second frame; `signature`: another one than the right one."""
        signature = signature or self.device.sign(self.link.binding)
        self.say(Type.AUTHENTICATE, self.user, self.device.public_key, signature, "conformance", code)

    async def welcomed(self) -> None:
        """Wait for Welcome."""
        self.welcome = await self.expect(Type.WELCOME)

    # ---- channel 0

    async def next(self) -> Item:
        """What comes next on channel 0, pushes and the server's heartbeat apart."""
        while True:
            item = await self.channel.next()
            if isinstance(item, Frame) and item.type is Type.PING:
                self.say(Type.PONG, item["number"], 0, 0)
            elif isinstance(item, Frame) and item.type in PUSHED:
                if item.type is Type.NOTICE:
                    self.notices.append(item)
            else:
                return item

    async def notice(self, conversation: str) -> Frame:
        """Wait for a Notice about a conversation."""
        while not (found := [one for one in self.notices if one["conversation"] == conversation]):
            item = await self.channel.next()
            if not isinstance(item, Frame):
                raise UnexpectedError("NOTICE", item)
            if item.type is Type.NOTICE:
                self.notices.append(item)
        self.notices.remove(found[0])
        return found[0]

    async def ask(self, kind: Type, ref: int, *fields: object) -> Frame:
        """A request and its answer, Done or Failed."""
        self.say(kind, ref, *fields)
        answer = await self.expect(Type.DONE, Type.FAILED)
        if answer["ref"] != ref:
            raise UnexpectedError(f"an answer with ref {ref}", answer)
        return answer

    async def round_trip(self) -> None:
        """Everything on channel 0 before this has been handled."""
        number = secrets.randbits(62)
        self.say(Type.PING, number)
        pong = await self.expect(Type.PONG)
        if pong["number"] != number:
            raise UnexpectedError(f"PONG with number {number}", pong)

    # ---- conversations

    def chat(self) -> Chat:
        """The next channel, on which nothing was said yet."""
        return Chat(self.link.channel())

    async def open(
        self, conversation: str, *, epoch: int | None = None, position: int = 0, received: int = 0
    ) -> Chat:
        """Open a conversation and wait for the verdict."""
        chat = self.chat()
        chat.say(
            Type.OPEN,
            conversation,
            epoch if epoch is not None else self.epoch if position else 0,
            position,
            max(position, received),
        )
        chat.opened = await chat.expect(Type.OPENED)
        return chat
