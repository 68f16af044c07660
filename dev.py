"""Two commands on a fresh machine: `python3 dev.py demo` and `python3 dev.py test`.

Standard library only. The first run makes .venv beside this file and installs the pinned packages into it,
each checked against its hash; later runs see from a stamp that nothing changed and start at once.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
STAMP = VENV / ".stamp"
RUNTIME_LOCK = ROOT / "requirements.lock"
TEST_LOCK = ROOT / "requirements-test.lock"
OLDEST_PYTHON = (3, 11)

PARALLEL = ["-n", "auto", "--dist", "worksteal"]
"""One process for each core; who is done takes over from the others."""
TASKS: dict[str, tuple[str, Path, list[list[str]]]] = {
    "demo": ("two people talk, one changes network, every tick is true", RUNTIME_LOCK, [["quicmsg.demo"]]),
    "test": ("run all tests; further arguments go to pytest", TEST_LOCK, [["pytest", "-q", *PARALLEL]]),
    "nightly": ("the long proofs; --minutes 20 each, see --help", TEST_LOCK, [["tests.nightly"]]),
    "lint": ("check style and formatting", TEST_LOCK, [["ruff", "check"], ["ruff", "format", "--check"]]),
    "types": ("check types", TEST_LOCK, [["mypy"]]),
}
"""Name: (what it is for, the packages it needs, the modules to run in turn)."""


def main(arguments: list[str]) -> int:
    """Run one task in .venv, which is made or brought up to date first, and return its exit status."""
    if not arguments or arguments[0] not in TASKS:
        asked_for_help = arguments[:1] in (["-h"], ["--help"], ["help"])
        print(usage(), file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    _, lock, modules = TASKS[arguments[0]]
    try:
        prepare(lock)
        for module in modules:
            status = subprocess.call([str(PYTHON), "-m", *module, *arguments[1:]], cwd=ROOT)
            if status != 0:
                return status
    except KeyboardInterrupt:
        return 130
    return 0


def usage() -> str:
    """The text for a call that names no task, or one that does not exist."""
    lines = [f"  {name:8} {purpose}" for name, (purpose, _, _) in TASKS.items()]
    return "\n".join(["usage: python3 dev.py TASK [ARGUMENTS]", "", *lines])


def prepare(lock: Path) -> None:
    """Make .venv and install what `lock` pins, unless a stamp says that this was done already."""
    # The tests' lock holds everything that the service needs, so its stamp will do for the service as well.
    good = {fingerprint(lock), fingerprint(TEST_LOCK)}
    if PYTHON.exists() and STAMP.exists() and STAMP.read_text() in good:
        return
    if sys.version_info < OLDEST_PYTHON:
        sys.exit(
            f"Python {'.'.join(map(str, OLDEST_PYTHON))} or newer is needed; this is {sys.version.split()[0]}"
        )
    make_venv()
    pins = sum(line[:1].isalnum() for line in lock.read_text().splitlines())
    say(f"installing up to {pins} packages from {lock.name}")
    pip("--require-hashes", "-r", str(lock))
    say("installing quicmsg itself, as a link to this directory")
    pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    STAMP.write_text(fingerprint(lock))  # last: an install that broke off is tried again


def make_venv() -> None:
    """Make .venv, or make it anew where it does not work (half made, or its Python is gone)."""
    # A good one is kept, whichever Python made it: making it over with another one would break it.
    if works():
        return
    try:
        # Debian and Ubuntu ship both modules in a package of their own.
        import ensurepip  # noqa: F401
        import venv
    except ImportError:
        sys.exit("python's venv module is missing: on Debian or Ubuntu run  apt-get install python3-venv")
    say(f"making {VENV.name}")
    try:
        venv.create(VENV, with_pip=True, clear=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{VENV.name} could not be made: {error}")


def works() -> bool:
    """Is there a .venv whose Python can install packages?"""
    try:
        command = [str(PYTHON), "-c", "import pip, ssl"]
        return PYTHON.exists() and subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def pip(*arguments: str) -> None:
    """Run .venv's own pip; its messages are shown, and a failure ends this script."""
    command = [str(PYTHON), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if subprocess.call([*command, *arguments], cwd=ROOT) != 0:
        sys.exit("pip could not install the packages (see above); run the same command to try again")


def fingerprint(lock: Path) -> str:
    """What .venv was made from: another lock or another pyproject.toml means another install."""
    return hashlib.sha256(lock.read_bytes() + (ROOT / "pyproject.toml").read_bytes()).hexdigest()


def say(text: str) -> None:
    """One line per step, on stderr, so that a task's own output stays clean."""
    print(f"dev.py: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
