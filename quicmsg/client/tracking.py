"""Who waits for which message: the states of sent messages, and the program's subscriptions to events."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from weakref import WeakSet, WeakValueDictionary

from quicmsg.client.values import ClientEvent, Lagged, State
from quicmsg.errors import ConnectError, DeliveryError, ErrorCode, QuicmsgError, RefusedError
from quicmsg.limits import CLIENT_EVENTS_MAX

_RANK = {State.QUEUED: 0, State.STORED: 1, State.DELIVERED: 2, State.READ: 3}


class Sent:
    """A message that was handed to the client. It is in the outbox or further, whatever happens here.

    Attributes: `message_id` (hex), `conversation`, `state`, `seq` (None until stored), `reason`.
    """

    def __init__(self, message_id: bytes, conversation: str, state: State = State.QUEUED) -> None:
        self.message_id = message_id.hex()
        self.conversation = conversation
        self.state = state
        self.seq: int | None = None
        self.reason = ""
        self._raw_id = message_id
        self._code = ErrorCode.TIMEOUT
        self._closed = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"Sent({self.conversation!r}, {self.message_id!r}, {self.state.value}, seq={self.seq})"

    async def stored(self, timeout: float | None = None) -> Sent:  # noqa: ASYNC109
        """Wait until the server has it durably. Raises DeliveryError (not confirmed for 12 s; it stays in
        the outbox and may still get through), RefusedError (never), ConnectError (the client was closed
        meanwhile), TimeoutError (`timeout` passed)."""
        return await self._wait(State.STORED, timeout)

    async def delivered(self, timeout: float | None = None) -> Sent:  # noqa: ASYNC109
        """Wait until a device of every other member has processed it. Raises as `stored`."""
        return await self._wait(State.DELIVERED, timeout)

    async def read(self, timeout: float | None = None) -> Sent:  # noqa: ASYNC109
        """Wait until every other member has read it. Raises as `stored`."""
        return await self._wait(State.READ, timeout)

    def change(self, state: State, seq: int | None, reason: str, code: int | None) -> bool:
        """For the client: the state moved. False: it is not news (receipts never go back)."""
        if _RANK.get(self.state, 0) > max(_RANK.get(state, 0), _RANK[State.QUEUED]):
            return False  # stored, delivered and read never go back
        if state is self.state and state is not State.QUEUED:
            return False
        self.state = state
        self.seq = self.seq if seq is None else seq
        self.reason = reason
        if code is not None:
            self._code = ErrorCode(code) if code in list(ErrorCode) else ErrorCode.INTERNAL
        self._wake()
        return True

    def close(self) -> None:
        """For the client: no more will be heard here."""
        self._closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _wait(self, wanted: State, seconds: float | None) -> Sent:
        async with asyncio.timeout(seconds):
            while _RANK.get(self.state, -1) < _RANK[wanted]:
                self._raise_if_over()
                await self._changed.wait()
        return self

    def _raise_if_over(self) -> None:
        match self.state:
            case State.FAILED:
                raise DeliveryError(
                    f"{self.conversation}: {self.reason or 'not confirmed in time'}. The message "
                    f"{self.message_id} stays in the outbox and is sent again when the server answers",
                    message_id=self._raw_id,
                    code=self._code,
                )
            case State.REJECTED:
                raise _refusal(self)
            case State.CANCELLED:
                raise RefusedError(f"the message {self.message_id} was cancelled")
            case _ if self._closed:
                raise ConnectError(
                    f"this client was closed: the message {self.message_id} to {self.conversation} is "
                    f"{self.state.value}, and more is known when it is opened again"
                )
            case _:
                return


def _refusal(sent: Sent) -> QuicmsgError:
    text = f"{sent.conversation}: {sent.reason}. The message {sent.message_id} was not stored; it stays in "
    return RefusedError(f"{text}the outbox until it is cancelled or sent again", code=sent._code)


class Events:
    """One subscription. Iterate over it; `close` ends it."""

    def __init__(self) -> None:
        self._queue: deque[ClientEvent] = deque()
        self._missed = 0
        self._wake = asyncio.Event()
        self._closed = False

    def put(self, event: ClientEvent) -> None:
        """For the client. Never blocks: a program that does not take events loses the oldest, and is told."""
        if len(self._queue) >= CLIENT_EVENTS_MAX:
            self._queue.popleft()
            self._missed += 1
        self._queue.append(event)
        self._wake.set()

    def close(self) -> None:
        """No more events; the iteration ends after those that are here."""
        self._closed = True
        self._wake.set()

    def get_nowait(self) -> ClientEvent | None:
        """The next event, or None."""
        if self._missed:
            missed, self._missed = self._missed, 0
            return Lagged(missed)
        return self._queue.popleft() if self._queue else None

    def __aiter__(self) -> AsyncIterator[ClientEvent]:
        return self

    async def __anext__(self) -> ClientEvent:
        while (event := self.get_nowait()) is None:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        return event


class Tracker:
    """The handles that the program still holds, and the subscriptions that it still reads."""

    def __init__(self) -> None:
        self._sent: WeakValueDictionary[bytes, Sent] = WeakValueDictionary()
        self._subscriptions: WeakSet[Events] = WeakSet()

    def subscribe(self) -> Events:
        """A new subscription, from now on."""
        events = Events()
        self._subscriptions.add(events)
        return events

    def handle(self, message_id: bytes, conversation: str, state: State = State.QUEUED) -> Sent:
        """The one handle of this message."""
        sent = self._sent.get(message_id)
        if sent is None:
            sent = self._sent[message_id] = Sent(message_id, conversation, state)
        return sent

    def find(self, message_id: bytes) -> Sent | None:
        """The handle, if the program holds one."""
        return self._sent.get(message_id)

    def fail_queued(self, reason: str) -> None:
        """For fail-fast programs: whoever waits for a message that is not stored is told at once. The
        message itself stays in the outbox."""
        for sent in list(self._sent.values()):
            if sent.state is State.QUEUED:
                sent.change(State.FAILED, None, reason, ErrorCode.UNREACHABLE)

    def emit(self, event: ClientEvent) -> None:
        """Tell every subscription."""
        for events in self._subscriptions:
            events.put(event)

    def close(self) -> None:
        """End every subscription, and all waiting for messages."""
        for events in self._subscriptions:
            events.close()
        for sent in list(self._sent.values()):
            sent.close()
