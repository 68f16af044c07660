"""What the log says about peers that have not signed in: enough to see an attack, never a flood.

Anybody can connect and be refused as often as the network allows; a line for each would fill the disk and
hide the lines that matter. Those who have signed in are not counted here.
"""

from __future__ import annotations

from quicmsg.limits import STRANGER_LOGS_PER_SECOND
from quicmsg.server.directory import Environment


class Strangers:
    """Logs at most STRANGER_LOGS_PER_SECOND lines a second, and how many more there were."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._second = 0
        self._said = 0
        self._unsaid = 0

    def log(self, event: str, **fields: object) -> None:
        """One line, if there is room for it in this second."""
        second = int(self._environment.now())
        if second != self._second:
            if self._unsaid:
                # Said with the next line and not by a timer: who reads it sees that something came before.
                self._environment.log(f"and {self._unsaid} more", about="strangers")
            self._second, self._said, self._unsaid = second, 0, 0
        if self._said == STRANGER_LOGS_PER_SECOND:
            self._unsaid += 1
            return
        self._said += 1
        self._environment.log(event, **fields)
