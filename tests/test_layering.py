"""The dependency rule and the house's bounds, checked over the source: imports go one way, files small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LINES_PER_FILE_MAX = 400
LINES_PER_FUNCTION_MAX = 60

LAYERS: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "protocol": {"errors", "limits"},
    "store": {"protocol", "errors", "limits"},
    "transport": {"protocol", "errors", "limits"},
    "issuing": {"errors", "limits"},
    "certs": {"issuing", "errors", "limits"},
    "config": {"errors", "limits"},
    "health": {"transport", "protocol", "config", "errors", "limits"},
    "version": set(),
    "client": {"transport", "protocol", "config", "version", "errors", "limits"},
    "server": {"transport", "store", "protocol", "certs", "config", "errors", "limits"},
    # The second implementation of the wire: written from the document, so it must not lean on the first.
    "conformance": {"errors", "limits"},
    "__init__": {"client", "protocol", "errors", "version"},
}
"""What each part of quicmsg may import besides itself: `client | server -> transport | store -> protocol ->
errors, limits`, never upward, never sideways."""
PROGRAMS = {"__main__", "demo", "demo_peer"}
"""Put the parts together, and may import all of them."""

IMPURE = {
    *("asyncio", "socket", "ssl", "time", "random", "os", "threading", "secrets", "uuid"),
    *("selectors", "select", "subprocess", "multiprocessing", "concurrent", "sqlite3"),
}
"""I/O, clocks, randomness: protocol and hub get them as arguments, so that a simulation can run them."""
PURE_PACKAGES = {"msgpack", "msgspec"}
"""What the protocol may use from outside the standard library."""


def modules() -> list[Path]:
    return sorted((ROOT / "quicmsg").rglob("*.py"))


def label(path: Path) -> str:
    return str(path.relative_to(ROOT))


def part_of(path: Path) -> str:
    """The part of quicmsg to which a file belongs: `quicmsg/store/memory.py` -> `store`."""
    inside = path.relative_to(ROOT / "quicmsg")
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[str]:
    """Every module that is imported anywhere in the file, with relative names made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*parents, *([node.module] if node.module else [])])
            if base == "quicmsg":
                yield from (f"quicmsg.{alias.name}" for alias in node.names)
            else:
                yield base


def imports_of(path: Path) -> set[str]:
    package = path.relative_to(ROOT).parent.parts
    return set(imports(ast.parse(path.read_text()), package))


def parts_imported(names: set[str]) -> set[str]:
    """The parts of quicmsg among these; `from quicmsg import Client` counts as the package itself."""
    parts = {name.split(".")[1] for name in names if name.startswith("quicmsg.")}
    known = LAYERS.keys() | PROGRAMS
    whole = {"__init__"} if "quicmsg" in names else set()
    return whole | {part if part in known else "__init__" for part in parts}


@pytest.mark.parametrize("path", modules(), ids=label)
def test_imports_go_one_way(path: Path) -> None:
    """client | server -> transport | store -> protocol -> errors, limits; a client knows no server."""
    part = part_of(path)
    if part in PROGRAMS:
        return
    assert part in LAYERS, f"say in LAYERS what quicmsg.{part} may import"
    forbidden = parts_imported(imports_of(path)) - LAYERS[part] - {part}
    assert not forbidden, f"{label(path)} must not import {sorted(forbidden)}"


@pytest.mark.parametrize("path", sorted((ROOT / "quicmsg/protocol").glob("*.py")), ids=label)
def test_the_protocol_is_pure(path: Path) -> None:
    """No I/O, no clock, no randomness, and no package but the codec's."""
    roots = {name.partition(".")[0] for name in imports_of(path)}
    assert not roots & IMPURE
    assert roots - sys.stdlib_module_names <= PURE_PACKAGES | {"quicmsg"}


def test_the_hub_knows_only_protocol_and_store() -> None:
    """So the simulator runs the real one, with all that it pulls in from server/, without an event loop."""
    waiting, seen = [ROOT / "quicmsg/server/hub.py"], set[Path]()
    while waiting:
        path = waiting.pop()
        seen.add(path)
        names = imports_of(path)
        assert not {name.partition(".")[0] for name in names} & IMPURE, label(path)
        assert parts_imported(names) - {"server"} <= {"protocol", "store", "errors", "limits"}, label(path)
        siblings = {ROOT / (name.replace(".", "/") + ".py") for name in names if is_in_server(name)}
        assert all(each.exists() for each in siblings), f"{label(path)}: import from the module itself"
        waiting += siblings - seen


def is_in_server(name: str) -> bool:
    return name.startswith("quicmsg.server")


@pytest.mark.parametrize("path", [ROOT / "dev.py", *modules()], ids=label)
def test_files_and_functions_stay_small(path: Path) -> None:
    """One idea per file, one step per function: longer ones hide a second."""
    source = path.read_text()
    assert len(source.splitlines()) <= LINES_PER_FILE_MAX
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= LINES_PER_FUNCTION_MAX, f"{node.name}: {length} lines"


@pytest.mark.parametrize("path", modules(), ids=label)
def test_nothing_prints(path: Path) -> None:
    """Standard output belongs to the commands, which write to it knowingly; everything else logs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{label(path)}:{node.lineno}"


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("import quicmsg.server.hub", "server"),
        ("from quicmsg import store", "store"),
        ("from quicmsg.store.memory import MemoryStore", "store"),
        ("from ..server import hub", "server"),
        ("from .. import transport", "transport"),
        ("from quicmsg import Client", "__init__"),
        ("import quicmsg", "__init__"),
        ("def f():\n    from quicmsg.client import x", "client"),
    ],
)
def test_the_check_sees_every_way_to_import(source: str, part: str) -> None:
    """A check that overlooks a spelling checks nothing."""
    names = set(imports(ast.parse(source), ("quicmsg", "protocol")))
    assert parts_imported(names) == {part}
