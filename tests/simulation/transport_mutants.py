"""Bugs of the transport, which only real QUIC can show: hunted in the QUIC tier."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random
from typing import Any

from quicmsg import limits
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import Session
from quicmsg.transport import paths
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import Connection
from quicmsg.transport.coupling import Coupling
from quicmsg.transport.paths import MovingConnection, _Recovery
from quicmsg.transport.streams import ScheduledConnection, _Sender
from simulation.planting import MUTANTS, Mutant, Patch, plant, wrap
from simulation.quic_settings import only_move, only_restart
from simulation.settings import Settings

UNFOUND: dict[str, Mutant] = {}
"""Bugs that no seed of this tier has shown (how many were tried, and what holds them instead, is said with
each). "Shown by" a test: it was planted, and that test failed. `hunt` takes them once they are in MUTANTS."""


def _plant(
    name: str,
    text: str,
    *patches: Patch,
    settings: Callable[[Settings], None] = lambda drawn: None,
    unfound: str = "",
) -> None:
    plant(name, text, *patches, settings=settings, tier="quic")
    if unfound:
        UNFOUND[name] = MUTANTS.pop(name)


# ---- where each has its chance


def _moves(*faults: str, loss: float | None = None) -> Callable[[Settings], None]:
    def adjust(drawn: Settings) -> None:
        only_move(drawn, Random(str(drawn.bounds)))
        drawn.faults = dict.fromkeys(faults, 2.0)
        if loss is not None:
            drawn.weather.loss = loss

    return adjust


def _quiet_moves(*faults: str, loss: float) -> Callable[[Settings], None]:
    """Few words and a long way: nobody is woken by another message."""

    def adjust(drawn: Settings) -> None:
        _moves(*faults, loss=loss)(drawn)
        drawn.rate, drawn.duration, drawn.weather.delay = 1.0, 30.0, 0.1

    return adjust


def _resets(drawn: Settings) -> None:
    drawn.calm = drawn.only_moves = False
    drawn.faults = {"reset": 0.1}
    drawn.weather.loss = 0.15
    drawn.bounds |= {
        "CONNECTION_WINDOW": 16_000,
        "STREAM_WINDOW": 8_000,
        "CHANNELS_MAX": 2,
        "SERVER_CHANNELS_MAX": 5,
        "REOPEN_DELAY": 0.01,
    }
    drawn.rate, drawn.duration = 6.0, 12.0


def _narrow(drawn: Settings) -> None:
    drawn.bounds |= {"CHANNELS_MAX": 2, "SERVER_CHANNELS_MAX": 5, "STREAM_WINDOW": 8_000}
    drawn.weather.loss = 0.15


def _retries(drawn: Settings) -> None:
    drawn.bounds |= {"RETRY_ABOVE": 0}


def _restarts(drawn: Settings) -> None:
    only_restart(drawn, Random(str(drawn.bounds)))


def _reorders(drawn: Settings) -> None:
    drawn.calm = drawn.only_moves = False
    drawn.faults = {"break": 1.0, "server crash": 3.0}
    drawn.weather.jitter, drawn.rate = 0.08, 6.0


# ---- the bugs


def _kept_id(migrate: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: MovingConnection, now: float) -> None:
        change, self.change_connection_id = self.change_connection_id, lambda: None  # type: ignore[method-assign]
        try:
            migrate(self, now)
        finally:
            self.change_connection_id = change  # type: ignore[method-assign]

    return broken


def _no_kick(migrate: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: MovingConnection, now: float) -> None:
        resend, self._resend_flight = self._resend_flight, lambda now: None  # type: ignore[method-assign]
        try:
            migrate(self, now)
        finally:
            self._resend_flight = resend  # type: ignore[method-assign]

    return broken


def _first_path(receive: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: MovingConnection, data: bytes, addr: Any, now: float) -> None:
        first = self.get_peer_address()
        receive(self, data, addr, now)
        if not self._is_client:
            self._network_paths.sort(key=lambda path: path.addr != first)

    return broken


def _unparked_late(welcome: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ServerSession, **arguments: Any) -> None:
        late, self._parked = self._parked, []
        welcome(self, **arguments)
        self._late = late  # type: ignore[attr-defined]

    return broken


def _late_pieces(data_to_send: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Session) -> Any:
        out = data_to_send(self)
        for channel, data, end in self.__dict__.pop("_late", ()):
            self.receive_data(channel, data, end, self.heartbeat.silent_since)
        return out

    return broken


def _without_first_id(make: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Admission, header: Any, sender: Any, now: float, _original: bytes, _source: Any) -> Any:
        return make(self, header, sender, now, header.destination_cid, None)

    return broken


def _keys_too_often(datagrams_to_send: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Connection, now: float) -> Any:
        self._keys_until = min(self._keys_until, self._packet_number + self.packets_received + 3)
        return datagrams_to_send(self, now)

    return broken


def _no_credit(credit: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: ScheduledConnection, ledger: Any, size: int) -> None:
        if not ledger.stream.receiver.is_finished:
            credit(self, ledger, size)

    return broken


def _one_stream(self: ScheduledConnection, stream_id: int) -> None:
    self._get_or_create_stream_for_send(stream_id)


def _lost_update(self: ScheduledConnection, delivery: Any, stream: Any) -> None:
    stream.max_stream_data_local_sent = stream.max_stream_data_local


def _impolite(give_output: Callable[..., Any]) -> Callable[..., Any]:
    def broken(self: Coupling, now: float) -> None:
        give_output(self, now)
        if self._closing is not None:
            self.connection.close(error_code=self._closing[0], reason_phrase=self._closing[1])

    return broken


_plant(
    "reset_not_understood",
    "a client takes no notice of a stateless reset",
    (Connection, "_is_stateless_reset", lambda self, data: False),
    settings=_restarts,
)
_plant(
    "reset_not_sent",
    "a server says nothing to packets of a connection that it does not know",
    (Admission, "_reset", lambda self, data, now: None),
    settings=_restarts,
)
_plant(
    "retry_forgets_the_first_id",
    "after Retry the server does not know the first connection id",
    wrap(Admission, "_connection", _without_first_id),
    settings=_retries,
)
_plant(
    "same_id_after_move",
    "a client that moves keeps its connection id",
    wrap(MovingConnection, "migrate", _kept_id),
    settings=_moves("move"),
)
_plant(
    "no_resend_after_move",
    "a client that moves waits for its timers",
    wrap(MovingConnection, "migrate", _no_kick),
    settings=_moves("move", "outage", loss=0.0),
)
_plant(
    "no_resend_to_new_path",
    "a server whose client moved waits for its timers",
    (MovingConnection, "_switched", lambda self, now: None),
    settings=_moves("outage", "rebinding", loss=0.0),
)
_plant(
    "no_resend_after_hole",
    "the end of a hole wakes nobody",
    (paths, "KICK_AFTER_PTO", 10**9),
    settings=_quiet_moves("outage", loss=0.0),
    unfound=(
        "60 seeds: probes at short intervals (`probes_grow_rare`) mend it a little later, within what "
        "this tier allows. Shown by test_moves.py: test_an_unnoticed_hole_stalls_one_probe_more."
    ),
)
_plant(
    "probes_grow_rare",
    "in a hole the probes become rarer and rarer",
    (_Recovery, "cap_backoff", lambda self, interval: None),
    settings=_moves("outage", loss=0.0),
)
_plant(
    "no_pings_after_move",
    "a client that moved says nothing by itself",
    (limits, "MOVE_PINGS", ()),
    settings=_quiet_moves("move", loss=0.05),
    unfound="Seed 15 found it once; a later state of the product does not show it there (no more tried).",
)
_plant(
    "one_ping_after_move",
    "a client that moved speaks once, and does not ask again",
    (limits, "MOVE_PINGS", (0.0,)),
    settings=_quiet_moves("move", loss=0.05),
    unfound=(
        "60 seeds, and no test of tests/transport fails: a lost ping is sent again by its timer, and a "
        "lost answer is asked for again (`challenge_once`). Pings 2 to 4 back those two up."
    ),
)
_plant(
    "challenge_once",
    "a lost challenge of a new path is not repeated",
    (paths, "CHALLENGE_INTERVAL", math.inf),
    settings=_quiet_moves("move", loss=0.05),
    unfound=(
        "60 seeds: the pings of MOVE_PINGS bring the server back. Shown by test_moves.py: "
        "test_a_lost_path_response_does_not_strand_the_server."
    ),
)
_plant(
    "old_path_for_ever",
    "a server answers to the address that it first knew",
    wrap(MovingConnection, "receive_datagram", _first_path),
    settings=_moves("move"),
)
_plant(
    "server_not_told_of_move",
    "a server's session does not learn that its client moved",
    (MovingConnection, "_announce_path", lambda self: None),
    settings=_moves("move"),
)
_plant(
    "keys_renewed_too_often",
    "the keys are renewed again before the last renewal has arrived",
    wrap(Connection, "datagrams_to_send", _keys_too_often),
    settings=_moves("rebinding"),
)
_plant(
    "window_lost_with_stream",
    "bytes of a stream that was given up stay in the connection's window",
    wrap(ScheduledConnection, "_credit", _no_credit),
    settings=_resets,
    unfound=(
        "60 seeds: what was lost of a window of 16 kB before the connection ended did not close it. Shown "
        "by test_streams.py: test_windows_survive_streams_that_nobody_read."
    ),
)
_plant(
    "window_update_lost",
    "a lost MAX_STREAM_DATA is not sent again",
    (ScheduledConnection, "_on_max_stream_data_delivery", _lost_update),
    settings=_narrow,
)
_plant(
    "streams_out_of_order",
    "a stream is opened before those below it",
    (ScheduledConnection, "_open_through", _one_stream),
    unfound=(
        "60 seeds: sessions use their channels in the order of their numbers. Shown by test_streams.py: "
        "test_channels_may_be_used_in_any_order."
    ),
)
_plant(
    "blocked_stream_forgotten",
    "a stream that waited for MAX_STREAMS is not looked at again",
    wrap(ScheduledConnection, "_unblock_streams", lambda _: lambda self, is_unidirectional: None),
    settings=_narrow,
)
_plant(
    "given_up_twice",
    "RESET_STREAM and STOP_SENDING are two losses of a channel",
    (ScheduledConnection, "is_first_reset", lambda self, stream_id: True),
    settings=_resets,
    unfound=(
        "50 seeds: a session takes no notice of a second loss. Shown by test_streams.py: "
        "test_an_aborted_channel_tells_the_peer_and_takes_nothing_more."
    ),
)
_plant(
    "aborted_still_heard",
    "a session is given what still comes on a stream that it gave up",
    (ScheduledConnection, "is_aborted", lambda self, stream_id: False),
    settings=_resets,
    unfound=(
        "40 seeds: a session drops what comes on a channel that it has buried. Shown by test_streams.py: "
        "test_an_aborted_channel_tells_the_peer_and_takes_nothing_more."
    ),
)
_plant(
    "backlog_never_shrinks",
    "bytes of a stream that was reset count as unacknowledged for ever",
    (_Sender, "drop_unacknowledged", lambda self: None),
    settings=_resets,
)
_plant(
    "unparked_late",
    "what came before the sign-in is read after what came later",
    wrap(ServerSession, "welcome", _unparked_late),
    wrap(Session, "data_to_send", _late_pieces),
    settings=_reorders,
    unfound=(
        "40 seeds: the very next flush takes them up, before anything else comes. The order within a "
        "channel is held by `parked_out_of_order`."
    ),
)
_plant(
    "session_timer_forgotten",
    "a session's timer wakes nobody",
    (Coupling, "get_timer", lambda self: None),
    settings=_moves("rebinding"),
)
_plant(
    "last_words_dropped",
    "a connection is closed before what was said last has arrived",
    wrap(Coupling, "give_output", _impolite),
)
