"""Does the server answer a newcomer? A session that says nothing, for a connection that only knocks."""

from __future__ import annotations

from collections.abc import Sequence

from quicmsg.transport import OutgoingLike


class Scout:
    """Shows that a handshake is possible, and leaves the present connection alone: a sign-in would end it."""

    def connected(self, *, channel_binding: bytes, observed_address: str, now: float) -> None:
        """That was the question."""

    def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
        """Nothing was asked."""

    def receive_reset(self, channel: int, code: int, now: float) -> None:
        """No channel was opened."""

    def path_changed(self, observed_address: str, now: float) -> None:
        """It does not live that long."""

    def connection_lost(self, code: int, text: str, now: float) -> None:
        """It is closed as soon as it is there."""

    def get_timer(self) -> float | None:
        """None."""
        return None

    def handle_timer(self, now: float) -> None:
        """Never called."""

    def data_to_send(self) -> Sequence[OutgoingLike]:
        """Nothing."""
        return ()

    def take_consumed(self) -> Sequence[tuple[int, int]]:
        """Nothing."""
        return ()

    def backlog_changed(self, size: int, now: float) -> bool:
        """See Pumped."""
        return False

    def take_close(self) -> tuple[int, str] | None:
        """Whoever sent it closes the link."""
        return None
