"""How a program receives: one message at a time, acknowledged by asking for the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from quicmsg.client.postbox import Postbox
from quicmsg.client.values import Message, message_of
from quicmsg.protocol.frames import Entry


class Messages:
    """One consumer of messages, made by `Client.messages`."""

    def __init__(self, postbox: Postbox, user: str, conversation: str | None) -> None:
        self.conversation = conversation
        self._postbox = postbox
        self._user = user
        self._held: tuple[str, Entry] | None = None
        self._closed = False

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        """Acknowledge the message before, wait for the next. Raises what ended the client (SignInError,
        CertificateError, StorageError); ends when the client or this consumer is closed."""
        self.acknowledge()
        while not self._closed:
            item = self._postbox.take(self.conversation)
            if item is None:
                if self._postbox.failure is not None:
                    raise self._postbox.failure
                await self._wait()
            elif await self._is_new(item):
                self._held = item
                return message_of(*item, self._user)
        raise StopAsyncIteration

    def acknowledge(self) -> None:
        """The message that was returned last is processed, without asking for another."""
        if self._held is not None:
            held, self._held = self._held, None
            self._postbox.processed(*held)

    def holds(self, conversation: str, seq: int) -> bool:
        """Is the message that was returned last, and not acknowledged, of this conversation, up to `seq`?"""
        return self._held is not None and self._held[0] == conversation and self._held[1].seq <= seq

    def close(self) -> None:
        """End the iteration. What was not acknowledged comes again, here or after a restart."""
        self._closed = True
        if self._held is not None:
            held, self._held = self._held, None
            self._postbox.put_back(*held)
        self._postbox.arrived.set()

    async def _is_new(self, item: tuple[str, Entry]) -> bool:
        """What is not new is processed here; who is cancelled or closed meanwhile leaves it to the next."""
        try:
            repeated = await self._postbox.is_repeated(*item)
        except BaseException:
            self._postbox.put_back(*item)
            raise
        if self._closed:
            self._postbox.put_back(*item)
        elif repeated:
            self._postbox.processed(*item)
        return not (repeated or self._closed)

    async def _wait(self) -> None:
        # Several consumers may wait: the event only says "look again", and each looks.
        self._postbox.arrived.clear()
        await self._postbox.arrived.wait()
        # Let every other waiter see the event before one of them clears it again.
        await asyncio.sleep(0)


class Inbox:
    """The consumers. One per conversation, or one for everything, at a time: a newer one with the same
    choice takes over, so that leaving a loop and starting another loses nothing."""

    def __init__(self, postbox: Postbox, user: str) -> None:
        self._postbox = postbox
        self._user = user
        self._consumers: dict[str | None, Messages] = {}

    def messages(self, conversation: str | None) -> Messages:
        """A new consumer; an older one with the same choice is closed."""
        older = self._consumers.pop(conversation, None)
        if older is not None:
            older.close()
        consumer = self._consumers[conversation] = Messages(self._postbox, self._user, conversation)
        return consumer

    def acknowledge(self, conversation: str, seq: int) -> None:
        """What a consumer holds of this conversation, up to `seq`, is processed: it was read, after all."""
        for consumer in self._consumers.values():
            if consumer.holds(conversation, seq):
                consumer.acknowledge()

    def close(self) -> None:
        """End all."""
        for consumer in self._consumers.values():
            consumer.close()
