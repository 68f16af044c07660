"""Threat row 22: what a client says is never part of an SQL statement."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicmsg.errors import ErrorCode
from quicmsg.store import (
    Append,
    ChangeMember,
    CreateGroup,
    MakeCode,
    MovePosition,
    OpenConversation,
    Refusal,
    SignedIn,
    SignIn,
)
from quicmsg.store.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = (
    "'; DROP TABLE message; --",
    '"; DELETE FROM user; --',
    "ann' OR '1'='1",
    "ann\x00bob",
    "') UNION SELECT name FROM user --",
    "%",
    "_",
    "\\'; --",
    "1; ATTACH DATABASE '/tmp/x' AS x",
    "\ud800",
    "🦆'",
)
MODULES = {"chain", "limits", "len", "select", "newest"}
"""Beside constants, whose names are in capitals, what may be named in an f-string of SQL: their modules,
their number, and two names of the journal's: the statement of `_find`, the newest version."""


@pytest.mark.parametrize("evil", HOSTILE, ids=lambda text: ascii(text))
def test_threat_22_hostile_strings_are_values(tmp_path: Path, evil: str) -> None:
    """Row 22: in every text field: refused as a bad name, or stored and read back as it was."""
    store = SqliteStore(tmp_path / "server.db", epoch_source=lambda: 7)
    label = evil if evil.isascii() or "🦆" in evil else "label"
    ann = store.execute([SignIn("ann", b"a" * 32, label, evil if label == evil else "", False, 1)])[0]
    assert isinstance(ann, SignedIn)
    opened = OpenConversation("@ann:ann", "ann", ann.device, 0, 0, 1)
    body = evil.encode("utf-8", "surrogatepass")
    store.execute([opened, Append("@ann:ann", "ann", ann.device, b"i" * 16, 0, 0, body, 1)])
    for operation in (
        SignIn(evil, b"e" * 32, "", "", False, 1),
        SignIn("ann", b"e" * 32, "", evil, False, 1),
        Append(evil, "ann", ann.device, b"j" * 16, 0, 0, b"x", 1),
        Append("@ann:ann", evil, ann.device, b"j" * 16, 0, 0, b"x", 1),
        Append("@ann:ann", "ann", body[:16], b"j" * 16, 0, 0, b"x", 1),
        OpenConversation(f"#{evil}", "ann", ann.device, 0, 0, 1),
        OpenConversation(f"@ann:{evil}", "ann", ann.device, 0, 0, 1),
        MovePosition(evil, "ann", ann.device, 1),
        CreateGroup(f"#{evil}", "ann", ann.device, (), True, 1, b"r" * 16),
        CreateGroup("#good", "ann", ann.device, (evil,), True, 1, b"r" * 16),
        ChangeMember(f"#{evil}", "ann", ann.device, evil, "invite", 1, b"q" * 16),
        MakeCode("link", evil, evil, 10**15),
    ):
        (result,) = store.execute([operation])
        assert isinstance(result, Refusal), operation
        assert result.code is not ErrorCode.INTERNAL
    assert [entry.body for entry in store.entries("@ann:ann", "ann", limit=9)] == [body]
    assert store.entries(evil, "ann", limit=9) == store.entries("@ann:ann", evil, limit=9) == []
    assert store.changes(evil, after=0, limit=9) == []
    assert store.members(evil) == []
    assert store.devices("ann") == [(ann.device, label, False)]
    store.close()


def statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The first argument of everything that is called `execute` and the like."""
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("execute", "executemany", "executescript", "_execute", "_one", "_write")
            and node.args
        ):
            yield node.args[0]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr):
            # What has a constant's name was put together when the module was loaded: no value is near.
            text = "".join(part.value for part in node.value.values if isinstance(part, ast.Constant))
            is_constant = all(isinstance(t, ast.Name) and t.id.isupper() for t in node.targets)
            if text.lstrip().startswith(("SELECT", "INSERT", "UPDATE", "DELETE")) and not is_constant:
                yield node.value


def test_threat_22_statements_are_made_of_constants() -> None:
    """Row 22: no statement is put together with +, %, format, or an f-string of anything but a constant."""
    looked_at = 0
    for path in (*(ROOT / "quicmsg/store").glob("*.py"), *(ROOT / "quicmsg/client").glob("journal*.py")):
        for statement in statements(ast.parse(path.read_text())):
            looked_at += 1
            where = f"{path.name}:{statement.lineno}"  # type: ignore[attr-defined]
            assert not isinstance(statement, ast.BinOp | ast.Call), where
            for part in ast.walk(statement):
                if isinstance(part, ast.FormattedValue):
                    names = {node.id for node in ast.walk(part.value) if isinstance(node, ast.Name)}
                    names |= {node.attr for node in ast.walk(part.value) if isinstance(node, ast.Attribute)}
                    assert all(name.isupper() or name in MODULES for name in names), f"{where}: {names}"
    assert looked_at > 50
