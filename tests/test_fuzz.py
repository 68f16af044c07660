"""The fuzzing targets, each with its share of inputs; `python -m tests.fuzz` has more. 0 findings, no growth.

And planted bugs that they must find: a fuzzer that finds nothing proves nothing until then.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any
from unittest import mock

import pytest
from fuzz import codec
from fuzz.corpus import CODEC
from fuzz.engine import MEMORY_GROWTH_MAX, Target, run
from fuzz.targets import TARGETS

from quicmsg.errors import ProtocolError
from quicmsg.protocol import channels, conversation, frames, server, server_conversations
from quicmsg.protocol.codec import FrameReader
from quicmsg.store import memory
from quicmsg.transport import endpoint, guards

INPUTS = {"codec": 100_000, "frames": 20_000, "quic": 3_000, "datagrams": 4_000, "amplification": 500}
"""Of each target, for every change."""
BATCHES = {"codec": 2, "frames": 1, "quic": 2, "datagrams": 2, "amplification": 2}
"""Parts with a seed each, so that both cores have something to do."""


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """aioquic has a word for every hostile frame."""
    logger = logging.getLogger("quic")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "seed"), [(name, seed) for name in TARGETS for seed in range(BATCHES[name])]
)
def test_nothing_is_found(name: str, seed: int) -> None:
    """No exception, no broken invariant, no memory that grows."""
    report = run(TARGETS[name], seed=100 + seed, inputs=INPUTS[name] // BATCHES[name])
    assert [finding.text for finding in report.findings] == []
    assert report.memory_growth < MEMORY_GROWTH_MAX


@pytest.mark.parametrize("stream", CODEC, ids=lambda stream: stream.hex()[:24])
@pytest.mark.parametrize("control", [False, True])
def test_bytes_that_once_said_something_new(stream: bytes, control: bool) -> None:
    """The corpus: each reaches another line of the decoder or of the oracle."""
    codec.check(stream, control, Random(1))


def test_a_case_is_the_same_every_time() -> None:
    """Otherwise the command that a finding comes with would not replay it."""
    for target in TARGETS.values():
        first, second = (target.case(Random("again")) for _ in range(2))
        assert first == second, target.name


def test_a_finding_names_its_case_and_does_not_end_the_run() -> None:
    """The report has what replays it."""

    def case(random: Random) -> Counter[str]:
        assert random.random() > 0.3, "low"
        return Counter(inputs=1)

    report = run(Target("test", "", case), seed=1, inputs=50)
    assert report.inputs == 50
    assert 0 < len(report.findings) < 50
    again = Random(f"test 1 {report.findings[0].case}")
    assert again.random() <= 0.3


# ---- planted bugs ------------------------------------------------------------------------------


def _no_recursion_caught(self: Any, body: bytes) -> Any:
    try:
        return self._decoder.decode(body)
    except ValueError as error:
        raise ProtocolError("malformed") from error


def _park_all(self: Any, channel: int, data: bytes, end: bool, now: float) -> None:
    self._parked.append((channel, data, end))
    self._parked_size += len(data)


def _deliver_all(self: Any, seq: int) -> None:
    self.covered.reach(seq)


def _answer_nothing(self: Any, message_id: bytes) -> None:
    self.in_flight.pop(message_id, None)


def _forget_silently(self: Any, channel: Any) -> None:
    self._bury(channel)
    self._by_name.pop(channel.conversation, None)


def _everybody(self: Any, conversation: str, user: str) -> memory.Member:
    return memory.Member(1, 0, 0, 0, False)


def _nothing(*_arguments: Any, **_named: Any) -> None:
    return None


def _no_room_needed(self: Any) -> None:
    return None


def _forgets_timers(self: Any, peer: Any) -> None:
    if peer.timer is None and not peer.connection.is_established:
        return
    _ARM(self, peer)


_ARM = endpoint.Endpoint._arm
PLANTED: dict[str, tuple[str, int, Any, str, Any]] = {
    "deep frames raise": ("codec", 5_000, FrameReader, "_decode", _no_recursion_caught),
    "clients write server entries": ("frames", 20_000, frames, "SERVER_KINDS", frozenset()),
    "acknowledgements are not checked": (
        "frames", 30_000, server_conversations.ServerConversations, "_check_position", _nothing,
    ),
    "bytes are not credited": (
        "frames", 20_000, server_conversations.ServerConversations, "_credit", _nothing,
    ),
    "everybody is a member": ("frames", 20_000, memory.MemoryStore, "_member", _everybody),
    "parking has no bound": ("frames", 30_000, server.ServerSession, "_park", _park_all),
    "a channel closes in silence": (
        "frames", 20_000, server_conversations.ServerConversations, "_forget", _forget_silently,
    ),
    "a client's window has no bound": ("frames", 30_000, channels.ClientChannel, "deliver", _deliver_all),
    "answers to nothing are taken": ("frames", 20_000, channels.ClientChannel, "answered", _answer_nothing),
    "positions run ahead": (
        "frames", 20_000, conversation.Conversation, "past_own", lambda found, position: 2**50,
    ),
    "a close goes to anybody": (
        "amplification", 200, guards.GuardedConnection, "_unproved_room", _no_room_needed,
    ),
    "half-open ends have no timer": ("datagrams", 2_000, endpoint.Endpoint, "_arm", _forgets_timers),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    """Within the inputs of the table."""
    name, inputs, owner, attribute, replacement = PLANTED[bug]
    with mock.patch.object(owner, attribute, replacement):
        assert _finds(TARGETS[name], inputs)


def _finds(target: Target, inputs: int) -> bool:
    """Stop at the first one."""
    return bool(run(target, seed=1, inputs=inputs, stop_at_first=True).findings)
