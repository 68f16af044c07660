"""A terminal for a chat in lines: a prompt at the bottom, and lines that appear above it at any time.

The thread that waits for the next line is in `input()`, with readline where there is one: it knows what is
typed so far, so that it can be drawn again below a line that arrives meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, TextIO

from quicmsg.client.cli_stdio import Worker

try:
    import readline
except ImportError:  # Windows, and Pythons that were built without it
    readline = None  # type: ignore[assignment]
try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

COLOURS = {"red": "31", "green": "32", "dim": "2", "bright": "1;36"}


class Terminal:
    """Stdin and stdout, both a terminal. A context manager: it leaves the terminal as it found it."""

    def __init__(self, output: TextIO | None = None) -> None:
        self.prompt = "> "
        self._output = output or sys.stdout
        self._worker = Worker("quicmsg-terminal")
        self._coloured = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._waiting = False
        self._last_key: object = None
        self._attributes: list[Any] | None = None

    def __enter__(self) -> Terminal:
        if termios is not None:
            with contextlib.suppress(termios.error):
                self._attributes = termios.tcgetattr(sys.stdin.fileno())
        return self

    def __exit__(self, *_: object) -> None:
        # The thread may still be inside of readline, which has the terminal's echo turned off.
        if self._attributes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin.fileno(), termios.TCSADRAIN, self._attributes)
        self._write("\r\x1b[K")

    async def line(self) -> str | None:
        """The next line that is typed; None: the end of input (Ctrl+D)."""
        self._waiting = True
        try:
            return await self._worker.call(self._input)
        finally:
            self._waiting = False
            self._last_key = None  # what was typed stands between the last line shown and the next

    def show(self, text: str, *, key: object = None) -> None:
        """A line above the prompt. With the `key` of the line shown last it takes that line's place."""
        again = key is not None and key == self._last_key
        self._last_key = key
        up = "\x1b[1A" if again else ""
        typed = readline.get_line_buffer() if self._waiting and readline is not None else ""
        below = self.prompt + typed if self._waiting else ""
        self._write(f"\r\x1b[K{up}\r\x1b[K{text}\n{below}")

    def coloured(self, text: str, colour: str) -> str:
        """The text in a colour, where the terminal has any."""
        return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if self._coloured else text

    def _input(self) -> str | None:
        try:
            return input(self.prompt)
        except (EOFError, OSError):
            return None
        except UnicodeDecodeError:
            return ""

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # the terminal is gone; reading will say so
            try:
                self._output.write(text)
            except UnicodeEncodeError:
                encoding = self._output.encoding or "ascii"
                self._output.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._output.flush()
