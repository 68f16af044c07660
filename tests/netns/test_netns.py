"""Real networks that change under a client that is not told: namespaces, veth pairs, a router that loses.

Each trouble is met with 50 conversations and at least 200 messages of each side under way, at 0, 1 and 5 %
loss (three worlds at the same time: they mostly wait). `tests/netns/report.py` measures them one by one.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import namespaces
import pytest
from namespaces import Topology, topology
from roaming import Places, chat
from trouble import IN_FLIGHT, LOSSES, TROUBLES, Outcome, replace_address, run

from quicmsg.limits import PTO_INTERVAL_MAX

MISSING = namespaces.missing()
pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.skipif(bool(MISSING), reason=f"network namespaces: {MISSING}"),
]

SLACK = 3.0
"""Seconds that three worlds may take beside what the protocol takes: with busy neighbours 1 s was too
little. A client that waits for its next heartbeat or reconnects takes longer; exact figures are asserted in
virtual time (tests/transport/test_moves.py)."""


@pytest.mark.parametrize("kind", TROUBLES)
async def test_nothing_is_lost_doubled_disordered_or_failed(kind: str, tmp_path: Path) -> None:
    """The network changes with 200 messages in flight each way: every message arrives once, in order, none is
    ever shown as failed; the connection lives on, both sides know of the move, and it is quick."""
    directories = [tmp_path / str(loss) for loss in LOSSES]
    for directory in directories:
        directory.mkdir()
    outcomes = await asyncio.gather(
        *(run(TROUBLES[kind], loss, directory) for loss, directory in zip(LOSSES, directories, strict=True))
    )
    for outcome in outcomes:
        check(outcome)


def check(outcome: Outcome) -> None:
    trouble, account, where = outcome.trouble, outcome.account, outcome.line() + "\n" + outcome.alices_log
    numbers = (account.lost, account.doubled, account.disordered, account.failed)
    assert (numbers, account.problems) == ((0, 0, 0, 0), []), where
    assert min(outcome.in_flight) >= IN_FLIGHT, where
    assert outcome.sign_ins == 2, f"the connection did not survive: {where}"
    assert ("down" in outcome.told) == trouble.is_hole, f"red in a hole of 5 s, and only then: {where}"
    assert outcome.told[-1:] != ["down"], where
    if not trouble.is_hole or trouble.name.endswith("subnet"):
        assert "moved" in outcome.told, f"the program was told: {where}"
    assert all(address.startswith(trouble.address) for address in outcome.moves), outcome.log
    assert outcome.moves or trouble.is_hole, f"the server logged it: {outcome.log}"
    bound = SLACK + (0 if trouble.is_told else PTO_INTERVAL_MAX)
    for user, seconds in outcome.back_after.items():
        assert seconds is not None, where
        assert seconds < bound, f"first message at {user}: {where}"


async def test_a_listener_with_a_new_address_hears_what_is_sent_next(tmp_path: Path) -> None:
    """Nothing is said, the address is replaced: the client notices and speaks first, so that the next message
    does not go to the old address until a heartbeat, 15 s later."""
    with topology() as network:
        places = Places(network.server.inside, network.alice.inside, network.bob.inside)
        listen, name = f"{Topology.server_address}:0", Topology.server_address
        async with chat(tmp_path, conversations=3, listen=listen, names=[name], places=places) as both:
            await asyncio.sleep(2.0)  # until nothing is owed any more, no acknowledgement and no ping
            await replace_address(network)
            await both.wait(lambda: both.alice.counts["connection moved"] > 0, "alice noticed", 1.0)
            both.burst(20, both.bob)
            account = await both.finish()
    assert account.is_clean, account.problems
    assert max((life.received or 0.0) - life.queued for life in account.lives) < 1.0


def test_namespaces_vanish_with_their_maker() -> None:
    """kill -9 of the process that made a topology: its namespaces are gone, and with them every device."""
    script = """
import contextlib, sys, time
from namespaces import Topology
topology = Topology(contextlib.ExitStack())
print(*(space.pid for space in (topology.alice, topology.bob, topology.server, topology.router)), flush=True)
time.sleep(60)
"""
    maker = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(namespaces.__file__).parent)},
    )
    assert maker.stdout is not None
    holders = [Path(f"/proc/{pid}") for pid in maker.stdout.readline().split()]
    assert len(holders) == 4
    assert all(holder.exists() for holder in holders)
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    assert maker.stdout.read() == "", "the holders' ends of the pipes are closed"
    maker.stdout.close()
    deadline = time.monotonic() + 5
    while any(map(_is_alive, holders)) and time.monotonic() < deadline:
        time.sleep(0.01)  # they end by themselves, when the kernel has closed their pipes
    assert not [holder for holder in holders if _is_alive(holder)]


def _is_alive(process: Path) -> bool:
    try:
        return process.joinpath("stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
