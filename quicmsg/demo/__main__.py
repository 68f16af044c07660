"""Run the demo. Exit status 0 only when every message arrived once, in order, with every tick."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import tempfile
from pathlib import Path

from quicmsg.demo.screen import Screen
from quicmsg.demo.story import tell_story
from quicmsg.errors import QuicmsgError


def main() -> int:
    """The demo, from an empty directory to none."""
    screen = Screen(sys.stdout)
    try:
        with tempfile.TemporaryDirectory(prefix="quicmsg-demo-") as directory:
            return asyncio.run(_run(Path(directory), screen))
    except (QuicmsgError, OSError) as error:
        screen.bad(f"the demo could not be carried through: {error}")
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        screen.line()
        screen.bad("interrupted; everything is stopped and removed")
        return 130


async def _run(directory: Path, screen: Screen) -> int:
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    is_clean = await tell_story(directory, screen)
    return 0 if is_clean else 1


if __name__ == "__main__":
    sys.exit(main())
