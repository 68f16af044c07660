"""What an idle connection costs."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from quicpair import End, World
from talk import Talk

from quicmsg.transport.selftest import check_aioquic

ENDS = 60
KILOBYTES_MAX = 46


@pytest.mark.slow
def test_an_idle_connection_costs_little() -> None:
    """Each end, in what Python allocates: 42 KB here, 97 KB with the buffers of aioquic's handshake (48 KB)
    and its sets of epochs (7 KB). `python -m tests.security --memory` measures a real server: 62 KB."""
    check_aioquic()
    world = World(1, latency=0.001)
    world.serve(lambda _: Talk())
    dial(world, 3)
    tracemalloc.start()
    try:
        kept = dial(world, ENDS // 2)
        gc.collect()
        allocated, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert all(end.is_open for end in kept)
    assert allocated / ENDS / 1024 < KILOBYTES_MAX


def dial(world: World, count: int) -> list[End]:
    ends = [world.dial(Talk()) for _ in range(count)]
    world.run(lambda: all(end.is_open for end in ends))
    world.run_for(20.0)
    return ends
