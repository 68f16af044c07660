"""Messages that were handed to the client and are not yet accepted, and their escalation clock.

One first-in-first-out line per conversation. Nothing is ever written twice to the same live channel:
that would only queue it behind the loss that it is meant to cure. Instead, while nothing is answered,
the path is doubted more and more: 3 s PROBE, 6 s RACE, 9 s RACE, 12 s the message is shown as failed.
The clock of a conversation starts again with every answer in it, so that a long line on a slow
network is not a line of failures.
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from quicmsg.limits import FAILED_AFTER, RESEND_INTERVAL, RESENDS_MAX


class Outcome(enum.Enum):
    """Where an outbox row stands, as its owner sees it."""

    QUEUED = "queued"
    FAILED = "failed"
    REJECTED = "rejected"


class Escalation(enum.Enum):
    """What an unanswered conversation asks for."""

    PROBE = "probe"
    RACE = "race"


@dataclass(slots=True, eq=False)
class OutboxMessage:
    """One row. `submitted_at` is monotonic time; `channel` is the channel that it was written to, or None."""

    message_id: bytes
    conversation: str
    kind: int
    encoding: int
    body: bytes
    submitted_at: float
    outcome: Outcome = Outcome.QUEUED
    channel: object | None = None


class _Line:
    """The line of one conversation."""

    __slots__ = ("armed_at", "messages", "progress_at", "step")

    def __init__(self, now: float) -> None:
        self.messages: deque[OutboxMessage] = deque()
        self.progress_at = now
        self.step = 0
        self.armed_at: float | None = None


class Outbox:
    """All lines of a client. Rejected rows leave their line (they block nobody) and wait for a person."""

    def __init__(self) -> None:
        self._lines: dict[str, _Line] = {}
        self._by_id: dict[bytes, OutboxMessage] = {}
        self._deadlines: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._by_id

    def get(self, message_id: bytes) -> OutboxMessage | None:
        """The row with this id, whatever its outcome."""
        return self._by_id.get(message_id)

    def add(self, message: OutboxMessage, now: float) -> None:
        """Put a row at the end of its conversation's line; it must not be in the outbox."""
        assert message.message_id not in self._by_id
        self._by_id[message.message_id] = message
        if message.outcome is not Outcome.REJECTED:
            self._append(message, now)

    def conversations(self) -> list[str]:
        """Conversations with something to send, in no particular order."""
        return list(self._lines)

    def waiting(self, conversation: str) -> bool:
        """Is anything to be sent or answered in this conversation?"""
        return conversation in self._lines

    def unwritten(self, conversation: str, channel: object) -> Iterator[OutboxMessage]:
        """Rows not yet written to this channel, in order. The written ones are always a prefix."""
        line = self._lines.get(conversation)
        if line is not None:
            for message in line.messages:
                if message.channel is not channel:
                    yield message

    def answered(self, message_id: bytes, now: float) -> OutboxMessage | None:
        """Accepted: take the row out. None if it is not here (cancelled, or a repeated answer)."""
        message = self._by_id.pop(message_id, None)
        if message is not None and message.outcome is not Outcome.REJECTED:
            self._leave_line(message, now)
        return message

    def reject(self, message_id: bytes, now: float) -> OutboxMessage | None:
        """Refused for good: out of the line, kept for a person to decide."""
        message = self._by_id.get(message_id)
        if message is None or message.outcome is Outcome.REJECTED:
            return None
        self._leave_line(message, now)
        message.outcome = Outcome.REJECTED
        message.channel = None
        return message

    def resend(self, message_id: bytes, now: float) -> OutboxMessage | None:
        """By hand: a failed row starts its clock again in its place, a rejected one goes to the end."""
        message = self._by_id.get(message_id)
        if message is None:
            return None
        was_rejected = message.outcome is Outcome.REJECTED
        message.outcome = Outcome.QUEUED
        message.submitted_at = now
        if was_rejected:
            self._append(message, now)
        else:
            line = self._lines[message.conversation]
            line.step = 0
            self._arm(message.conversation, line)
        return message

    def cancel(self, message_id: bytes, now: float) -> OutboxMessage | None:
        """By hand: forget the row. It may have been stored already; a late answer is then shown."""
        return self.answered(message_id, now)

    def get_timer(self) -> float | None:
        """When `escalations` may have something to say."""
        return self._deadlines[0][0] if self._deadlines else None

    def escalations(self, now: float) -> tuple[set[Escalation], list[OutboxMessage]]:
        """What is due: steps to take, and rows that are now shown as failed."""
        steps: set[Escalation] = set()
        failed: list[OutboxMessage] = []
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline, conversation = heapq.heappop(self._deadlines)
            line = self._lines.get(conversation)
            if line is None or line.armed_at != deadline:
                # Of a line that has ended, or was put off, since: taken for the present one's, each message
                # of a lively conversation would leave a clock behind that runs for ever.
                continue
            line.armed_at = None
            self._escalate(line, now, steps, failed)
            self._arm(conversation, line)
        return steps, failed

    def restart_clocks(self, now: float) -> None:
        """This computer slept: the time that passed was nobody's silence."""
        for conversation, line in self._lines.items():
            line.progress_at = now
            line.step = 0
            self._arm(conversation, line)

    # ---- private

    def _append(self, message: OutboxMessage, now: float) -> None:
        line = self._lines.get(message.conversation)
        if line is None:
            line = self._lines[message.conversation] = _Line(now)
        line.messages.append(message)
        if line.armed_at is None:
            self._arm(message.conversation, line)

    def _leave_line(self, message: OutboxMessage, now: float) -> None:
        line = self._lines[message.conversation]
        if line.messages[0] is message:
            line.messages.popleft()
        else:
            line.messages.remove(message)
        line.progress_at = now
        line.step = 0
        # The heap keeps the old deadline: it is found to be early when it fires, and put off then.
        if not line.messages:
            del self._lines[message.conversation]
        elif line.armed_at is None:
            self._arm(message.conversation, line)

    def _escalate(self, line: _Line, now: float, steps: set[Escalation], failed: list[OutboxMessage]) -> None:
        # The very sums of `_arm`: any others could differ in their last bit, and the clock would stand still.
        since = self._unanswered_since(line.messages[0], line)
        step = line.step
        while step < RESENDS_MAX and since + RESEND_INTERVAL * (step + 1) <= now:
            step += 1
        if step > line.step:
            line.step = step
            steps.add(Escalation.PROBE if step == 1 else Escalation.RACE)
        for message in line.messages:
            if self._unanswered_since(message, line) + FAILED_AFTER > now:
                break
            if message.outcome is Outcome.QUEUED:
                message.outcome = Outcome.FAILED
                failed.append(message)

    def _arm(self, conversation: str, line: _Line) -> None:
        since = self._unanswered_since(line.messages[0], line)
        if line.step < RESENDS_MAX:
            deadline = since + RESEND_INTERVAL * (line.step + 1)
        else:
            first = next((m for m in line.messages if m.outcome is Outcome.QUEUED), None)
            if first is None:
                return
            deadline = self._unanswered_since(first, line) + FAILED_AFTER
        line.armed_at = deadline
        heapq.heappush(self._deadlines, (deadline, conversation))

    @staticmethod
    def _unanswered_since(message: OutboxMessage, line: _Line) -> float:
        return max(message.submitted_at, line.progress_at)
