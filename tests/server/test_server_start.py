"""What a server needs in its data directory, and what it says when that is not so."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from quicmsg.errors import ConfigurationError
from quicmsg.server import Server
from quicmsg.server.settings import Settings


def settings(tmp_path: Path, store: str | None = None) -> Settings:
    return Settings((("127.0.0.1", 0),), tmp_path / "new" / "data", tmp_path / "certs", store)


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """A development CA is made each time: that is not what these tests are about."""
    caplog.set_level(logging.ERROR)


async def test_first_start_makes_the_data_directory_also_when_the_store_is_elsewhere(tmp_path: Path) -> None:
    """For this user only; and a second start finds the same keys, so that clients notice it at once."""
    chosen = settings(tmp_path, f"sqlite:{tmp_path}/elsewhere/q.db")
    keys = set()
    for _ in range(2):
        server = await Server.start(chosen)
        await server.stop()
        keys.add((chosen.data / "transport.key").read_bytes())
    assert len(keys) == 1
    assert (tmp_path / "elsewhere/q.db").exists()
    if os.name == "posix":
        assert stat.S_IMODE(chosen.data.stat().st_mode) == 0o700
        assert stat.S_IMODE((chosen.data / "transport.key").stat().st_mode) == 0o600


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
async def test_a_transport_key_that_others_can_use_is_refused_with_the_cure(
    tmp_path: Path, mode: int
) -> None:
    """Who reads it can end anybody's connection with a stateless reset."""
    chosen = settings(tmp_path)
    await (await Server.start(chosen)).stop()
    key = chosen.data / "transport.key"
    key.chmod(mode)
    with pytest.raises(ConfigurationError, match=rf"{mode:04o}.*run {{2}}chmod 600 .*transport\.key"):
        await Server.start(chosen)
    key.chmod(0o600)
    await (await Server.start(chosen)).stop()


async def test_a_data_directory_that_is_a_file_is_refused_in_words(tmp_path: Path) -> None:
    """Not with a traceback."""
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "data").write_text("")
    with pytest.raises(ConfigurationError, match="give --data a directory of this user"):
        await Server.start(settings(tmp_path, f"sqlite:{tmp_path}/q.db"))
