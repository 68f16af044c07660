"""What the demo shows: progress while it runs, then the account of every message."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TextIO

from quicmsg.demo.account import Account, Life

_GREEN, _RED, _BOLD, _DIM = "32", "31", "1", "2"


class Screen:
    """Lines on a terminal, or in a file. Colours only on a terminal, and not with NO_COLOR."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._colours = out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._began = time.monotonic()

    def line(self, text: str = "", colour: str = "") -> None:
        """One line."""
        if colour and self._colours:
            text = f"\x1b[{colour}m{text}\x1b[0m"
        # A terminal of another encoding gets question marks rather than an exception.
        encoding = self._out.encoding or "utf-8"
        self._out.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        self._out.flush()

    def progress(self, text: str) -> None:
        """What is being done, with the time since the start."""
        self.line(f"{time.monotonic() - self._began:6.2f} s  {text}")

    def good(self, text: str) -> None:
        """Something that is as it was promised."""
        self.line(text, _GREEN)

    def bad(self, text: str) -> None:
        """Something that is not."""
        self.line(text, _RED)

    def conversations(self, account: Account) -> None:
        """One line per conversation and sender."""
        self.line()
        self.line("What happened to the messages (times from queued on, the slowest of each line)", _BOLD)
        self.line(
            f"{'conversation':<14}{'from':<7}{'messages':>9}{'stored':>9}{'delivered':>11}{'read':>9}", _DIM
        )
        lines: dict[tuple[str, str], list[Life]] = {}
        for life in account.lives:
            lines.setdefault((_shown(life.conversation), life.sender), []).append(life)
        for (conversation, sender), lives in sorted(lines.items()):
            slowest = [
                max((_since(life, moment) for life in lives), default=0.0)
                for moment in ("stored", "delivered", "read")
            ]
            self.line(
                f"{conversation:<14}{sender:<7}{len(lives):>9}"
                f"{_ms(slowest[0]):>9}{_ms(slowest[1]):>11}{_ms(slowest[2]):>9}"
            )

    def in_flight(self, lives: Iterable[Life], moved_at: float) -> None:
        """One line for each message that was under way when the address changed."""
        self.line()
        self.line("In flight at the moment of the move (times in ms; queued: before the move)", _BOLD)
        self.line(
            f"{'conversation':<14}{'from':<7}{'message':<12}{'seq':>5}{'queued':>9}{'stored':>9}"
            f"{'delivered':>11}{'read':>9}",
            _DIM,
        )
        for life in sorted(lives, key=lambda life: (_shown(life.conversation), life.sender, life.seq)):
            self.line(
                f"{_shown(life.conversation):<14}{life.sender:<7}{life.text:<12}{life.seq:>5}"
                f"{(life.queued - moved_at) * 1000:>9.1f}{_ms(_since(life, 'stored')):>9}"
                f"{_ms(_since(life, 'delivered')):>11}{_ms(_since(life, 'read')):>9}"
            )

    def verdict(self, account: Account, count: int, problems: list[str]) -> None:
        """The last lines."""
        self.line()
        said = (
            f"{count} messages: {account.lost} lost, {account.doubled} doubled, "
            f"{account.disordered} out of order, {account.failed} shown as failed"
        )
        if account.is_clean and not problems:
            self.good(said)
            self.good("The server's log, both journals and both programs' output agree on every message.")
            return
        self.bad(said)
        for problem in problems[:20]:
            self.bad(f"not as promised: {problem}")


def _shown(conversation: str) -> str:
    return "direct" if conversation.startswith("@") else conversation


def _since(life: Life, state: str) -> float:
    at = getattr(life, state)
    return float("inf") if at is None else at - life.queued


def _ms(seconds: float) -> str:
    return "never" if seconds == float("inf") else f"{seconds * 1000:.1f}"
