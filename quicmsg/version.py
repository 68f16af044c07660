"""The version of this package, in one place."""

from __future__ import annotations

from typing import Final

__version__: Final = "0.1.0"
AGENT: Final = f"quicmsg/{__version__}"
