"""Promises of dev.py and the locks: two commands, a clear word when something is missing, hashes checked."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-test.lock")


class Calls:
    """Takes the place of subprocess.call: notes what would have run, and fails where it is told to."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.failing: dict[str, int] = {}

    def __call__(self, command: list[str], *, cwd: Path) -> int:
        line = " ".join(command[2:])
        self.lines.append(line)
        return next((status for part, status in self.failing.items() if part in line), 0)

    @property
    def installs(self) -> list[str]:
        return [line for line in self.lines if line.startswith("pip ")]


@pytest.fixture
def dev(tmp_path: Path) -> ModuleType:
    """dev.py of a checkout of its own, so that no test touches the .venv that it runs in."""
    for name in ("dev.py", "pyproject.toml", *LOCKS):
        shutil.copy(ROOT / name, tmp_path)
    specification = importlib.util.spec_from_file_location("dev_copy", tmp_path / "dev.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
def calls(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Calls:
    def create(directory: Path, *, with_pip: bool, clear: bool) -> None:
        dev.PYTHON.parent.mkdir(parents=True, exist_ok=True)
        dev.PYTHON.touch()

    noted = Calls()
    monkeypatch.setattr(subprocess, "call", noted)
    monkeypatch.setattr(venv, "create", create)
    return noted


# ---- the command line --------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["dance"], 2), (["--help"], 0)])
def test_without_a_known_task_it_says_which_there_are(arguments: list[str], status: int) -> None:
    """A slip costs one line of reading, installs nothing, and is status 2 as everywhere."""
    done = subprocess.run(
        [sys.executable, "-S", str(ROOT / "dev.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == status
    text = done.stdout if status == 0 else done.stderr
    assert text.startswith("usage: python3 dev.py TASK")
    assert "demo" in text
    assert "test" in text


def test_it_needs_nothing_but_the_standard_library() -> None:
    """A bare python3 is all that a fresh machine has."""
    imported = re.findall(r"^\s*(?:import|from) (\w+)", (ROOT / "dev.py").read_text(), re.MULTILINE)
    assert imported
    assert set(imported) <= sys.stdlib_module_names


def test_arguments_and_exit_status_pass_through(dev: ModuleType, calls: Calls) -> None:
    """`dev.py test -k name` is pytest's own command line, and pytest's status is the answer."""
    calls.failing["pytest -q -n auto --dist worksteal"] = 5
    assert dev.main(["test", "-k", "moves"]) == 5
    assert calls.lines[-1] == "pytest -q -n auto --dist worksteal -k moves"


def test_lint_stops_at_the_first_failure(dev: ModuleType, calls: Calls) -> None:
    """What ruff finds is not buried under what the formatter finds."""
    calls.failing["ruff check"] = 1
    assert dev.main(["lint"]) == 1
    assert not any("format" in line for line in calls.lines)


def test_control_c_ends_quietly(dev: ModuleType, monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """Status 130 and no traceback of a script that only passes things on."""

    def interrupted(lock: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(dev, "prepare", interrupted)
    assert dev.main(["demo"]) == 130


# ---- making .venv ------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["venv", "ensurepip"])
def test_a_missing_venv_module_names_the_package_to_install(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Debian ships both modules apart; one line says what to install, and nothing is half made."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        dev.main(["demo"])
    assert not dev.VENV.exists()


def test_an_old_python_is_told_so(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is made, with the version that is needed."""
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed"):
        dev.main(["demo"])
    assert not dev.VENV.exists()


def test_packages_are_installed_once_and_only_by_hash(dev: ModuleType, calls: Calls) -> None:
    """The second run goes straight to its task."""
    assert dev.main(["test"]) == 0
    packages, project = calls.installs
    assert "--require-hashes -r" in packages
    assert packages.endswith("requirements-test.lock")
    assert "--no-deps --no-build-isolation" in project
    calls.lines.clear()
    assert dev.main(["test"]) == 0
    assert calls.lines == ["pytest -q -n auto --dist worksteal"]


@pytest.mark.parametrize("changed", ["pyproject.toml", "requirements-test.lock"])
def test_a_changed_lock_or_project_is_installed_again(dev: ModuleType, calls: Calls, changed: str) -> None:
    """After `git pull` nobody runs against yesterday's packages."""
    dev.main(["test"])
    calls.lines.clear()
    with (dev.ROOT / changed).open("a") as file:
        file.write("\n# changed\n")
    dev.main(["test"])
    assert len(calls.installs) == 2


def test_the_demo_needs_less_than_the_tests(dev: ModuleType, calls: Calls) -> None:
    """The demo installs the service only; the tests add theirs; after that the demo has nothing to do."""
    dev.main(["demo"])
    assert calls.installs[0].endswith("requirements.lock")
    dev.main(["test"])
    assert calls.installs[2].endswith("requirements-test.lock")
    dev.main(["demo"])
    assert len(calls.installs) == 4


@pytest.mark.parametrize("step", ["--require-hashes", "--no-build-isolation"])
def test_an_install_that_broke_off_is_tried_again(dev: ModuleType, calls: Calls, step: str) -> None:
    """No network halfway: a clear end, and the next run does not believe that all is there."""
    calls.failing[step] = 1
    with pytest.raises(SystemExit, match="run the same command"):
        dev.main(["demo"])
    assert not any("quicmsg.demo" in line for line in calls.lines)
    calls.failing.clear()
    assert dev.main(["demo"]) == 0
    assert calls.lines[-1] == "quicmsg.demo"


# ---- the locks ---------------------------------------------------------------------------------


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """{package: (version, hashes)} of a lock."""
    found: dict[str, tuple[str, list[str]]] = {}
    for block in re.split(r"\n(?=\w)", (ROOT / name).read_text().strip()):
        requirement = Requirement(block.partition("\\")[0].strip())
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", block
        found[canonicalize_name(requirement.name)] = (
            specifier.version,
            re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block),
        )
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_pin_has_a_hash_and_no_host_is_named(name: str) -> None:
    """The lock works with whichever index the machine has, and accepts nothing but these files."""
    assert all(hashes for _, hashes in pins(name).values())
    text = (ROOT / name).read_text()
    assert "//" not in text
    assert "--index" not in text


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ()), ("requirements-test.lock", ("test",))]
)
def test_lock_and_pyproject_agree(lock: str, extras: tuple[str, ...]) -> None:
    """Whatever the project asks for is pinned, at a version that it allows; the build backend too."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    for extra in extras:
        wanted += project["project"]["optional-dependencies"][extra]
    pinned = pins(lock)
    for requirement in map(Requirement, wanted):
        version, _ = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), requirement


def test_the_tests_run_with_what_is_shipped() -> None:
    """The tests' lock repeats the service's pins exactly, and adds to them."""
    service, tests = (pins(name) for name in LOCKS)
    assert service.items() <= tests.items()
    assert "pytest" not in service
