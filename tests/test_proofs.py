"""The commands of the proof: no number that makes them check nothing, and an end by Ctrl-C that is clean."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WRONG = {
    "simulation": ["--seeds -5", "--seeds 0", "--minutes -1", "--jobs 0", "--mutant nosuch",
                   "--tier shell --mutant nosuch", "--first-seed x"],
    "simulation.model": ["--messages 0", "--faults -1"],
    "kills": ["--kills 0", "--kills -3", "--minutes nan"],
    "power_cuts": ["--cuts 0", "--minutes 0", "--jobs -1"],
    "security": ["--minutes -1", "--mutants nosuch", "--acks 0", "--handshakes -1"],
    "fuzz": ["codec --inputs -1", "codec --inputs 0", "codec --minutes inf", "codec --case -1"],
}  # fmt: skip
LONG = {
    "simulation": "--jobs 1 --seeds 100000",
    "simulation --tier shell": "--jobs 2 --seeds 100000",
    "simulation --tier shell --seed 3": "--trace",
    "simulation.model": "",
    "kills": "--kills 5000",
    "power_cuts": "--cuts 1000000",
    "security --acks": "100000000",
    "security --minutes": "5",
    "fuzz": "codec --inputs 100000000",
}


def command(name: str, words: str) -> list[str]:
    module, *before = name.split()
    return [sys.executable, "-m", f"tests.{module}", *before, *words.split()]


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_number_that_would_check_nothing_is_a_usage_error(name: str) -> None:
    """In words, with status 2; a typing error in a nightly job must not look like success."""
    began = [
        (words, subprocess.Popen(command(name, words), cwd=ROOT, stdout=-1, stderr=-1, text=True))
        for words in WRONG[name]
    ]
    for words, process in began:
        said, complaint = process.communicate(timeout=50)
        assert process.returncode == 2, f"{words}: {said}{complaint}"
        assert "error: " in complaint
        assert "Traceback" not in complaint
        if "nosuch" in words:
            assert complaint.count("\n  ") > 5, "the names are not listed"


@pytest.mark.slow
@pytest.mark.parametrize("group", [True, False], ids=["from the keyboard", "by a signal to it alone"])
@pytest.mark.parametrize("name", LONG)
def test_an_interrupted_command_ends_with_one_word(name: str, group: bool, tmp_path: Path) -> None:
    """Status 130, no traceback of any of its processes, and no directory that stays behind."""
    memory = set(os.listdir("/dev/shm")) if Path("/dev/shm").is_dir() else set()
    complaints = tmp_path / "complaints"
    with complaints.open("wb") as file:
        process = subprocess.Popen(
            command(name, LONG[name]), cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True,
            env=os.environ | {"TMPDIR": str(tmp_path)}, start_new_session=True,
        )  # fmt: skip
    try:
        assert process.stdout is not None
        until = time.monotonic() + 40
        while not list(tmp_path.glob("quicmsg-proof-*")):
            assert time.monotonic() < until, "it did not begin"
            assert process.poll() is None, complaints.read_text()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2.0)  # workers and servers are at work by then
        os.killpg(process.pid, signal.SIGINT) if group else process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    complaint = complaints.read_text()
    assert process.returncode == 130, complaint
    assert "Traceback" not in said + complaint
    assert complaint.splitlines()[-1] == "interrupted"
    assert list(tmp_path.glob("*")) == [complaints]
    if memory:
        mine = {name for name in os.listdir("/dev/shm") if name.startswith("quicmsg-proof-")}
        assert mine <= memory


def test_a_package_that_is_missing_is_named_with_what_installs_it() -> None:
    """After `dev.py demo` only what the programs need is there."""
    code = "import proofs\nwith proofs.packages():\n    import no_such_package"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "tests", capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert (
        done.stderr
        == "no_such_package is missing: python3 dev.py test (or nightly) installs what this needs\n"
    )
