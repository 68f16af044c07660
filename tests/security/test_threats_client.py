"""Threat row 21: what a peer or a server writes cannot act on the terminal that shows it."""

from __future__ import annotations

import datetime
import json
import unicodedata
from collections.abc import Iterable

import pytest

from quicmsg.client import cli_text
from quicmsg.client.chat import Chat
from quicmsg.client.cli_run import note
from quicmsg.client.values import (
    Connection,
    ConnectionChanged,
    ConversationLost,
    MemberChanged,
    Message,
    OutboxMessage,
    State,
    StateChanged,
)

CORPUS = (
    "\x1b[2J",
    "\x1b[H",
    "\x1b[31mred\x1b[0m",
    "\x1b[1A\x1b[2K",
    "\x1b[6n",
    "\x1b[c",
    "\x1b[?1049h",
    "\x1b[?25l",
    "\x1b]0;title\x07",
    "\x1b]2;title\x1b\\",
    "\x1b]8;;http://evil\x1b\\text\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b]1337;File=:AAAA\x07",
    "\x1b]4;0;rgb:00/00/00\x07",
    "\x1bP+q544e\x1b\\",
    "\x1bPtmux;\x1b\\",
    "\x1b_Gf=100;A\x1b\\",
    "\x1b^pm\x1b\\",
    "\x1bX sos \x1b\\",
    "\x1bc",
    "\x1b7\x1b8",
    "\x1bD\x1bM",
    "\x1b(0lqk\x1b(B",
    "\x1b[5i",
    "\x1b[4i",
    "\x1b[20t",
    "\x1b[>c",
    "\x1b[=c",
    "\x1b[200~paste\x1b[201~",
    "\x9b2J",
    "\x9d0;title\x9c",
    "\x90q\x9c",
    "\x85next line",
    "a\rb",
    "a\nb",
    "a\r\nforged: line",
    "a\x08\x08b",
    "a\x0bb",
    "a\x0cb",
    "bell\x07",
    "nul\x00",
    "tab\tbed",
    "\x7fdelete",
    "\x0e shift out \x0f",
    "\x05enquiry",
    "\x13stop\x11",
    "\u202eright to left",
    "\u202d",
    "\u2066isolated\u2069",
    "\u2067",
    "\u200e\u200f",
    "\u061c",
    "\u2028line",
    "\u2029paragraph",
    "\ufeffmark",
    "\u2060joiner",
    "\u00adsoft",
    "\u180e",
    "\U000e0041\U000e0042tags",
    "\ufff9anchor\ufffa\ufffb",
    "%s%n{0}",
    "[red]markup[/red]",
    "\x1b" * 50,
)
"""ANSI, OSC (title, link, clipboard, image), DCS, APC, C1 in eight bits, line breaks, backspaces, directions,
invisible letters."""

HARMLESS = frozenset("\u200c\u200d")
NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def acting(text: str) -> set[str]:
    """Characters that a terminal would act on, or that reorder or hide what is beside them."""
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return {c for c in text if unicodedata.category(c) in hidden and c not in HARMLESS}


class Screen:
    """Keeps what would be written on a terminal; its own colours are words."""

    prompt = ""

    def __init__(self) -> None:
        self.lines: list[str] = []

    async def line(self) -> str | None:
        return None

    def show(self, text: str, *, key: object = None) -> None:
        self.lines.append(text)

    def coloured(self, text: str, colour: str) -> str:
        return f"<{colour}>{text}"


class Silent:
    """As much of a client as a chat needs before it runs."""

    user = "me"

    def events(self) -> Iterable[object]:
        return ()


def test_the_corpus_is_what_it_says() -> None:
    """More than fifty strings, of which all but the two of plain letters would act."""
    assert len(set(CORPUS)) >= 50
    assert sum(not acting(text) for text in CORPUS) == 2


@pytest.mark.parametrize("evil", CORPUS, ids=lambda text: text.encode("unicode_escape").decode()[:20])
def test_threat_21_nothing_a_peer_writes_acts_on_the_terminal(
    evil: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Row 21: in chat, listen, history, outbox, reasons, names, errors and JSON, wherever it stands."""
    message = Message(f"@{evil}", 1, "00", evil, evil, NOW, own=False)
    member = Message("#team", 1, "00", evil, evil, NOW, own=False, kind=2)
    row = OutboxMessage("00", f"@{evil}", evil, State.REJECTED, evil)
    screen = Screen()
    chat = Chat(Silent(), screen, "here")  # type: ignore[arg-type]
    chat._own["00"] = evil
    for event in (
        StateChanged("00", "@bob", State.REJECTED, None, evil),
        StateChanged("00", "@bob", State.STORED, 1, ""),
        MemberChanged("#team", 1, evil, "joined"),
        ConversationLost(f"#{evil}", evil),
        ConnectionChanged(Connection.UP, evil, evil),
        ConnectionChanged(Connection.MOVED, evil, evil),
        ConnectionChanged(Connection.DOWN, reason=evil),
    ):
        chat._show_event(event)
    chat._show_message(message)
    assert len(screen.lines) == 8
    note(evil)
    shown = [*screen.lines, cli_text.message_line(message), cli_text.message_line(member)]
    shown += [cli_text.outbox_line(row), cli_text.harmless(evil)]
    assert acting("".join(shown)) == set()
    assert acting(capsys.readouterr().err.removesuffix("\n")) == set()
    line = cli_text.encode(cli_text.message_object(message)).decode()
    assert acting(line) == set()
    assert json.loads(line)["text"] == evil, "who parses it gets the exact text"


def test_threat_21_letters_of_the_world_are_shown_as_they_are() -> None:
    """Row 21: nobody's script is harmed by it."""
    words = ("Grüße", "привет", "你好", "مرحبا", "हिन्दी", "👩\u200d💻", "می\u200cخواهم", "é")  # noqa: RUF001
    for text in words:
        assert cli_text.harmless(text) == text
        assert cli_text.encode({"text": text}).decode() == f'{{"text":"{text}"}}'
