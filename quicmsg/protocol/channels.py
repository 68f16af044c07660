"""What each end remembers about one open conversation channel; nothing here outlives it."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from quicmsg.errors import ErrorCode, ProtocolError
from quicmsg.limits import (
    DELIVER_WINDOW_MESSAGES,
    DELIVER_WINDOW_SIZE,
    SUBMIT_WINDOW_MESSAGES,
    SUBMIT_WINDOW_SIZE,
)
from quicmsg.protocol.conversation import Conversation
from quicmsg.protocol.frames import MemberEntry
from quicmsg.protocol.outbox import OutboxMessage
from quicmsg.protocol.session import Channel


class Covered:
    """Up to which seq a channel has told the client everything: by Deliver, or by Accepted.

    Both ends keep one and move it by the same frames, so the server never delivers what it has just
    accepted, and the client never acknowledges what the server has not sent.
    """

    def __init__(self, value: int) -> None:
        self.value = value
        self._ahead: set[int] = set()

    def reset(self, value: int) -> None:
        """The channel starts (again) after `value`."""
        self.value = value
        self._ahead = {seq for seq in self._ahead if seq > value}
        self._pass()

    def reach(self, seq: int) -> None:
        """Delivered up to `seq`."""
        self.value = max(self.value, seq)
        self._pass()

    def skip(self, seq: int) -> None:
        """`seq` was accepted here and will not be delivered."""
        if seq > self.value:
            self._ahead.add(seq)
            self._pass()

    def _pass(self) -> None:
        while self.value + 1 in self._ahead:
            self.value += 1
            self._ahead.discard(self.value)


@dataclass(frozen=True, slots=True)
class Asked:
    """What an Open said; with the verdict it fixes, for both ends alike, where delivery starts."""

    position: int
    received: int

    def start(self, position: int, oldest: int, *, reset: bool) -> int:
        """The seq after which the channel delivers, given the verdict's `position`, `oldest`, `reset`."""
        base = position if reset else self.received
        if not (self.position or self.received):
            base = max(base, position)
        return max(base, oldest - 1)


class ClientChannel(Channel):
    """A client's open conversation channel."""

    def __init__(self, number: int, conversation: Conversation, *, now: float) -> None:
        super().__init__(number, control=False)
        self.conversation = conversation
        self.asked = Asked(conversation.position, conversation.received)
        self.opened = False
        self.used_at = now
        self.covered = Covered(conversation.received)
        self.acknowledged = conversation.position
        self.delivered = 0
        self.news = False
        self.read_sent = 0
        self.fetches: set[int] = set()
        self.in_flight: dict[bytes, int] = {}
        self._unacknowledged: deque[int] = deque()
        self._in_flight_size = 0

    def has_room(self) -> bool:
        """May another Send be written? Unanswered ones are bounded in number and bytes."""
        return len(self.in_flight) < SUBMIT_WINDOW_MESSAGES and self._in_flight_size < SUBMIT_WINDOW_SIZE

    def sent(self, message: OutboxMessage) -> None:
        """A message was written here."""
        self.in_flight[message.message_id] = len(message.body)
        self._in_flight_size += len(message.body)

    def answered(self, message_id: bytes) -> None:
        """Accepted or Rejected came for it. Raises ProtocolError when nothing had been asked."""
        size = self.in_flight.pop(message_id, None)
        if size is None:
            raise ProtocolError("an answer to nothing that was sent here", code=ErrorCode.UNEXPECTED)
        self._in_flight_size -= size

    def deliver(self, seq: int) -> None:
        """An entry came. Raises ProtocolError when the server goes beyond the window: what this device has
        not acknowledged is in its memory."""
        self.covered.reach(seq)
        self.delivered = seq
        self._unacknowledged.append(seq)
        if len(self._unacknowledged) > DELIVER_WINDOW_MESSAGES:
            raise ProtocolError("delivered beyond the window", code=ErrorCode.LIMIT)

    def acknowledge(self, position: int) -> None:
        """Everything up to `position` is processed, and the server is told so."""
        self.acknowledged = position
        while self._unacknowledged and self._unacknowledged[0] <= position:
            self._unacknowledged.popleft()


class ServerChannel(Channel):
    """A server's side of a conversation channel: a window and two positions, no queue of messages.

    `conversation` is the address as the client wrote it; "" until its Open.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number, control=False)
        self.conversation = ""
        self.asked = Asked(0, 0)
        self.opened = False
        self.head = 0
        self.acknowledged = 0
        self.covered = Covered(0)
        self.reading = False
        self.fetching = 0
        self.receipts: dict[str, MemberEntry] = {}
        self._submitted: deque[tuple[bytes, int]] = deque()
        self._submitted_size = 0
        self._unacknowledged: deque[tuple[int, int]] = deque()
        self._unacknowledged_size = 0

    def may_submit(self) -> bool:
        """Read further Sends now? Unanswered ones are bounded, in number and bytes."""
        return len(self._submitted) < SUBMIT_WINDOW_MESSAGES and self._submitted_size < SUBMIT_WINDOW_SIZE

    def idle(self) -> bool:
        """Is everything answered: the Open, every Send and Fetch?"""
        opening = self.conversation and not self.opened
        return not opening and not self._submitted and not self.fetching

    def submit(self, message_id: bytes, size: int) -> None:
        """A Send came in."""
        self._submitted.append((message_id, size))
        self._submitted_size += size

    def answer(self, message_id: bytes) -> None:
        """A Send gets its answer; answers come in the order of the Sends."""
        for index, (submitted, size) in enumerate(self._submitted):
            if submitted == message_id:
                del self._submitted[index]
                self._submitted_size -= size
                return

    def room(self) -> int:
        """How many more entries may be delivered now."""
        if self._unacknowledged_size >= DELIVER_WINDOW_SIZE:
            return 0
        return DELIVER_WINDOW_MESSAGES - len(self._unacknowledged)

    def delivered(self, seq: int, size: int) -> None:
        """An entry was written here."""
        self.covered.reach(seq)
        self._unacknowledged.append((seq, size))
        self._unacknowledged_size += size

    def acknowledge(self, position: int) -> None:
        """The client processed everything up to `position`."""
        self.acknowledged = position
        while self._unacknowledged and self._unacknowledged[0][0] <= position:
            self._unacknowledged_size -= self._unacknowledged.popleft()[1]
