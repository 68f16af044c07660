"""Moves the link when this computer's network changed, by itself, and with restraint.

What asks for a move: the kernel's notices of addresses and routes, errors of the socket, silence, and waking
up from sleep. Not every notice is one (an IPv6 router announces itself, a container starts), each move costs
one of seven spare connection ids, and while there is no way out of this computer at all, it leads nowhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from quicmsg import limits
from quicmsg.client.network import NetworkWatcher, SleepDetector, current_source_address, read_clocks
from quicmsg.config import parse_address
from quicmsg.errors import ConfigurationError
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.session import SessionState
from quicmsg.transport.quic import Link

logger = logging.getLogger(__name__)


class Roamer:
    """Decides when the present link goes on from another socket.

    Args:
        current: the link and the session on it, if there is one.
        network_changed: called when a connection that failed before may now work.
        local_address: the address to send from; None: the system chooses.
    """

    def __init__(
        self,
        current: Callable[[], tuple[Link, ClientSession] | None],
        network_changed: Callable[[], None],
        local_address: str | None,
    ) -> None:
        self.local_address = local_address
        self._current = current
        self._network_changed = network_changed
        self._loop = asyncio.get_running_loop()
        self._watcher = NetworkWatcher(self._changed)
        self._sleep = SleepDetector(read_clocks())
        self._sleep_timer: asyncio.TimerHandle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._moved_at = float("-inf")
        self._source: str | None = None
        self._unreachable = False

    # ---- life

    def start(self) -> None:
        """Watch from now on, until `close`."""
        self._watcher.start()
        self._sleep_timer = self._loop.call_later(limits.SLEEP_CHECK_INTERVAL, self._check_sleep)

    def close(self) -> None:
        """Stop watching."""
        self._watcher.close()
        for timer in (self._sleep_timer, self._later):
            if timer is not None:
                timer.cancel()

    # ---- output

    def head_start(self) -> float:
        """Seconds that a second connection should leave to the present one: it has just gone on from another
        socket, or there is no way out for either."""
        if self._unreachable:
            return limits.RECONNECT_MAX
        return max(0.0, self._moved_at + limits.RACE_HANDICAP - self._loop.time())

    # ---- input

    def connected(self, link: Link) -> None:
        """This is the link from now on; remember from where it was made."""
        link.on_send_error = self._send_failed
        self._settled(_source(link))

    def moved_by_hand(self, link: Link) -> None:
        """The program moved the link."""
        self._moved_at = self._loop.time()
        self._settled(_source(link))

    def move(self, why: str) -> None:
        """Go on from a fresh socket, unless there is no way out at all. At most one move in REBIND_INTERVAL:
        what comes sooner is looked at again then."""
        current = self._current()
        if current is None:
            return
        link, _ = current
        source = _source(link)
        if source is None:
            # The kernel will tell when there is a way again: that is the moment to move.
            if not self._unreachable:
                logger.info("= no way to the server (%s)", why)
            self._unreachable = True
            return
        wait = self._moved_at + limits.REBIND_INTERVAL - self._loop.time()
        if wait > 0:
            if self._later is None:
                self._later = self._loop.call_later(wait, self._look_again)
            return
        logger.info("= moving to a new socket: %s", why)
        self._moved_at = self._loop.time()
        self._settled(source)
        # An address that the program asked for, and that is gone, is no reason to stay silent.
        for address in dict.fromkeys((self.local_address, None)):
            try:
                link.migrate(address)
            except ConfigurationError as error:
                logger.info("= %s", error)
            else:
                return

    # ---- private

    def _changed(self, subject: str) -> None:
        if self._is_move_needed():
            self.move(f"the network changed ({subject})")
        self._network_changed()

    def _look_again(self) -> None:
        self._later = None
        if self._is_move_needed():
            self.move("the network changed again")

    def _is_move_needed(self) -> bool:
        """Whether the link cannot simply go on as it is."""
        current = self._current()
        if current is None:
            return False
        link, session = current
        source = _source(link)
        if source is None or self._unreachable:
            return True
        if source != self._source and self.local_address is None:
            return True
        # The same way out: worth a move only if something is wrong.
        waiting = bool(session.mailbox.outbox.conversations())
        silence = self._loop.time() - session.heartbeat.silent_since
        return session.heartbeat.misses > 0 or (waiting and silence > limits.SILENCE_DOUBTED)

    def _send_failed(self, error: OSError) -> None:
        self.move(f"cannot send: {error.strerror or error}")

    def _settled(self, source: str | None) -> None:
        self._source = source
        self._unreachable = source is None

    def _check_sleep(self) -> None:
        self._sleep_timer = self._loop.call_later(limits.SLEEP_CHECK_INTERVAL, self._check_sleep)
        asleep = self._sleep.check(read_clocks())
        if not asleep:
            return
        logger.info("= this computer slept for %.0f s", asleep)
        current = self._current()
        if current is not None and current[1].state is SessionState.UP:
            current[1].mailbox.outbox.restart_clocks(self._loop.time())
            self.move("this computer slept")
        self._network_changed()


def _source(link: Link) -> str | None:
    """The address from which this computer would send to the link's server now; None: no way there."""
    # The peer's address, not the name that was dialled: a name cannot be looked up while the network is down.
    return current_source_address(*parse_address(link.peer_address)) if link.peer_address else None
