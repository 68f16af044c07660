"""SECURITY.md says the numbers of the code, and docs/security-tests.md has a test for each row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import mutants
import pytest

from quicmsg import limits

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "SECURITY.md").read_text()
TESTS = (ROOT / "docs" / "security-tests.md").read_text()
KIB = 1024


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    table = text.split(heading, 1)[1].split("\n\n|", 1)[1].split("\n\n", 1)[0]
    lines = [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]
    return [[cell.strip() for cell in line] for line in lines]


def written(value: float) -> set[str]:
    """How a person may write it."""
    forms = {f"{value:g}", f"{value:,.0f}" if value >= 1 else f"{value:g}"}
    for unit, size in (("KiB", KIB), ("MiB", KIB * KIB)):
        if value >= size and value % size == 0:
            forms.add(f"{value // size:,.0f} {unit}")
    return forms


@pytest.mark.parametrize("row", rows(DOCUMENT, "\n## Bounds"), ids=lambda row: row[0])
def test_each_bound_is_the_one_in_the_code(row: list[str]) -> None:
    """Every name in the last column stands in the second with its value, and no other number does."""
    _, bound, _, names = row
    values = [getattr(limits, name) for name in re.findall(r"`([A-Z_]+)`", names)]
    assert values
    numbers = re.findall(r"\d[\d,.]*(?: [KM]iB)?", bound)
    for value in values:
        assert written(value) & set(numbers), f"{value} is not in {bound!r}"
    assert len(numbers) == len(values), f"{numbers} for {values}"


def test_every_bound_of_the_server_against_peers_is_in_the_table() -> None:
    """A new bound on what a peer may do must be told."""
    told = set(re.findall(r"`([A-Z_]+)`", DOCUMENT))
    bounds = {name for name in vars(limits) if re.search(r"(_PER_SECOND|_BURST|_RATE)$", name)}
    assert bounds <= told, bounds - told


def test_every_row_of_the_threat_table_has_its_tests() -> None:
    """26 rows, and each test that they name exists."""
    table = rows(TESTS, "\n## The table")
    assert [int(row[0]) for row in table] == list(range(1, 27))
    for row in table:
        named = re.findall(r"`([\w/]+\.py)(?:::(\w+))?`", row[2])
        assert named, f"row {row[0]} names no test"
        for path, test in named:
            file = ROOT / "tests" / path
            assert file.exists(), path
            functions = {
                node.name
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            if test:
                assert any(name.startswith(test) for name in functions), f"{path} has no {test}"


def test_every_mutant_names_a_test_that_exists() -> None:
    """And something to replace."""
    for name, mutant in mutants.MUTANTS.items():
        path, _, test = mutant.test.partition("::")
        text = (ROOT / path).read_text()
        assert test.startswith("TestMemory") or f"def {test}" in text, name
        owner, attribute = mutants._find(mutant.target)
        assert hasattr(owner, attribute), name
