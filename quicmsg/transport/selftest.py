"""Does the installed aioquic still fit? Asked once per process, before the first socket is opened."""

from __future__ import annotations

import functools

import aioquic

from quicmsg.errors import ConfigurationError

TESTED = ((1, 7, 2), (1, 8))
"""From this version of aioquic on, and below that one."""


@functools.cache
def check_aioquic() -> None:
    """Raise ConfigurationError when the installed aioquic is not one that quicmsg was built for."""
    version = tuple(int(part) for part in aioquic.__version__.split(".")[:3] if part.isdigit())
    if not TESTED[0] <= version < TESTED[1]:
        raise ConfigurationError(
            f"aioquic {aioquic.__version__} is installed, but quicmsg was built for 1.7.2 up to 1.7.x: "
            "install that version"
        )
