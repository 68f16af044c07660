"""Helpers of the transport's and the server's tests serve here too."""

from __future__ import annotations

import sys
from pathlib import Path

for part in ("", "transport", "server", "client"):
    sys.path.append(str(Path(__file__).parent.parent / part))
