"""`play`: runs a scene on real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from certificates import write
from stage import Scene, Stage

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scene], None]:
    """Run a scene on a loop, then check that no file descriptor, task or timer is left."""

    def run(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:

            async def main() -> None:
                within = _descriptors()
                stage = Stage(write(tmp_path))
                try:
                    await scene(stage)
                finally:
                    await stage.close()
                loop: Any = asyncio.get_running_loop()
                timers = [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]
                assert timers == []
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert _descriptors() == within

            runner.run(main())

    return run


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
