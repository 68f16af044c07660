"""Each defence taken away, and the test that must notice: `python -m tests.security --mutants`.

A mutant is planted in a process of its own, by a plugin of pytest (this module), before tests are collected.
A test that passes without its defence shows nothing.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
VARIABLE = "QUICMSG_SECURITY_MUTANT"
HUGE = 10**9


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is replaced (`module:name.name`), by what, and the test that fails then."""

    row: int
    target: str
    value: Any
    test: str


def always(answer: Any) -> Callable[..., Any]:
    return lambda *_, **__: answer


TRANSPORT = "tests/security/test_threats_transport.py::test_threat_"
SESSIONS = "tests/security/test_threats_sessions.py::test_threat_"
ATTACKS = "tests/transport/test_attacks.py::test_"
RIGHTS = "tests/security/test_rights.py::test_"
PROCESSES = "tests/security/test_threats_processes.py::test_threat_"

MUTANTS: dict[str, Mutant] = {
    "no Retry": Mutant(1, "quicmsg.transport.admission:RETRY_ABOVE", HUGE, TRANSPORT + "01"),
    "answers small strangers": Mutant(
        2, "quicmsg.transport.admission:DATAGRAM_SIZE", 1, ATTACKS + "strangers_get_few_and_small_answers"
    ),
    "endless CRYPTO": Mutant(
        3,
        "quicmsg.transport.guards:CRYPTO_SIZE_MAX",
        HUGE,
        ATTACKS + "endless_handshake_data_ends_the_connection",
    ),
    "aioquic's own windows": Mutant(
        4,
        "quicmsg.transport.streams:ScheduledConnection._write_stream_limits",
        "aioquic.quic.connection:QuicConnection._write_stream_limits",
        ATTACKS + "window_inflation_is_refused",
    ),
    "any number of gaps": Mutant(
        5,
        "quicmsg.transport.guards:STREAM_GAPS_MAX",
        HUGE,
        ATTACKS + "streams_full_of_holes_end_the_connection_quickly",
    ),
    "endless moving": Mutant(
        7, "quicmsg.transport.paths:PATH_CHANGES_PER_MINUTE", HUGE, TRANSPORT + "07_a_client"
    ),
    "no bound on output": Mutant(8, "quicmsg.limits:OUTPUT_MAX", HUGE, SESSIONS + "08_a_deaf"),
    "a notice for each message": Mutant(
        8,
        "quicmsg.protocol.server:ServerSession._notice",
        lambda self, name, head, change: self._write(0, _frames().Notice(name, head, change)),
        SESSIONS + "08_notices",
    ),
    "slow readers live": Mutant(
        8, "quicmsg.transport.coupling:SEND_BUFFER_MAX", HUGE, ATTACKS + "a_slow_reader_is_closed"
    ),
    "a window that does not wait": Mutant(
        9, "quicmsg.transport.streams:CONNECTION_WINDOW", HUGE, ATTACKS + "a_deaf_session"
    ),
    "silent channels stay": Mutant(
        10, "quicmsg.protocol.server:ServerSession._end_silent", always(None), SESSIONS + "10_silent"
    ),
    "opened twice": Mutant(
        10,
        "quicmsg.protocol.server:ServerSession._handle_open",
        "security mutant: opened_twice",
        SESSIONS + "10_a_conversation",
    ),
    "any length": Mutant(11, "quicmsg.protocol.codec:FRAME_SIZE_MAX", 2**32, SESSIONS + "11_a_prefix"),
    "everybody is a member": Mutant(
        15,
        "quicmsg.store.memory:MemoryStore._member",
        "security mutant: everybody_is_a_member",
        RIGHTS + "threat_15_every_role",
    ),
    "forbidden is told from unknown": Mutant(
        15,
        "quicmsg.store.memory:MemoryStore._open",
        "security mutant: forbidden",
        RIGHTS + "threat_15_unknown",
    ),
    "who left stays subscribed": Mutant(
        15,
        "quicmsg.server.conversations:Conversations._remove",
        always(None),
        RIGHTS + "threat_15_who_is_removed",
    ),
    "a removed device goes on": Mutant(
        15, "quicmsg.server.hub:Hub._revoked", always(None), RIGHTS + "a_removed_device"
    ),
    "acks beyond what was sent": Mutant(
        16, "quicmsg.protocol.server:ServerSession._check_position", always(None), SESSIONS + "16"
    ),
    "positions go back": Mutant(
        16, "quicmsg.store.memory:MemoryStore._go_forward", "security mutant: go_back", SESSIONS + "16"
    ),
    "signatures without the connection": Mutant(
        17, "quicmsg.server.hub:sign_in_message", "security mutant: sign_in_message", SESSIONS + "17"
    ),
    "a rate for each session": Mutant(
        18,
        "quicmsg.server.directory:Directory.budget",
        lambda self, user, now: _budget(now),
        SESSIONS + "18_all_devices",
    ),
    "no rate": Mutant(18, "quicmsg.protocol.budget:Tokens.spend", always(True), SESSIONS + "18_all_devices"),
    "free requests": Mutant(
        18, "quicmsg.protocol.budget:Tokens.level", always(1.0), SESSIONS + "18_requests"
    ),
    "free syncs": Mutant(18, "quicmsg.protocol.server:fetch_cost", always(0), SESSIONS + "18_a_thousand"),
    "free pings": Mutant(18, "quicmsg.limits:CONTROL_BURST", HUGE, SESSIONS + "18_a_flood"),
    "free acks": Mutant(18, "quicmsg.limits:ACK_COST", 0.0, SESSIONS + "18_acks"),
    "first come, first served": Mutant(
        18, "quicmsg.server.submitter:STORE_FLIGHT_MAX", HUGE, SESSIONS + "18_users_take_turns"
    ),
    "commits of any size": Mutant(
        18, "quicmsg.server.submitter:STORE_FLIGHT_SIZE_MAX", HUGE, SESSIONS + "18_what_is_at_the_store"
    ),
    "nobody is sent away": Mutant(
        18, "quicmsg.server.submitter:Submitter.is_over_share", always(False), SESSIONS + "18_when"
    ),
    "any number of operations": Mutant(
        18, "quicmsg.limits:OPERATIONS_MAX", HUGE, SESSIONS + "18_one_session"
    ),
    "any number of names": Mutant(
        18, "quicmsg.server.newcomers:Newcomers.came", always(None), SESSIONS + "18_an_address"
    ),
    "much before the sign-in": Mutant(
        18, "quicmsg.protocol.server:ServerSession._park", always(None), SESSIONS + "18_before"
    ),
    "any number of handshakes": Mutant(
        18, "quicmsg.transport.admission:HANDSHAKES_BURST", HUGE, TRANSPORT + "18_one_address_begins"
    ),
    "each IPv6 address for itself": Mutant(
        18, "quicmsg.transport.admission:network_of", lambda host: host, TRANSPORT + "18_one_address"
    ),
    "no reading ahead": Mutant(
        18,
        "quicmsg.transport.endpoint:RECEIVE_AHEAD",
        1,
        "tests/transport/test_fairness.py::test_threat_18_a_flood_of_one",
    ),
    "stuffed into groups": Mutant(
        18,
        "quicmsg.store.rules:may_be_added",
        always(True),
        "tests/store/test_store_memory.py::TestMemory -k put_into_groups",
    ),
    "junk is parsed": Mutant(19, "quicmsg.transport.admission:KNOCKS_BURST", HUGE, TRANSPORT + "19_junk"),
    "all addresses are remembered": Mutant(
        19, "quicmsg.transport.rates:BUCKETS_MAX", HUGE, TRANSPORT + "19_forged"
    ),
    "strangers flood the log": Mutant(
        20,
        "quicmsg.server.strangers:STRANGER_LOGS_PER_SECOND",
        HUGE,
        "tests/server/test_strangers.py::test_refused",
    ),
    "printed as it came": Mutant(
        21,
        "quicmsg.client.cli_text:harmless",
        lambda text: text,
        "tests/security/test_threats_client.py::test_threat_21_nothing",
    ),
    "JSON as it came": Mutant(
        21,
        "quicmsg.client.cli_text:_shown_in_json",
        lambda text: text,
        "tests/security/test_threats_client.py::test_threat_21_nothing",
    ),
    "any certificate": Mutant(26, "quicmsg.transport.trust:Trust.check", always(None), PROCESSES + "26"),
}


# ---- planting, in the process of the test ------------------------------------------------------


def _frames() -> Any:
    return importlib.import_module("quicmsg.protocol.frames")


def _budget(now: float) -> Any:
    return importlib.import_module("quicmsg.protocol.budget").Budget(now)


def _find(path: str) -> tuple[Any, str]:
    module, _, names = path.partition(":")
    owner = importlib.import_module(module)
    *parents, name = names.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    return owner, name


def _special(name: str, old: Any) -> Any:
    """Replacements that need the original."""

    def everybody_is_a_member(self: Any, conversation: str, user: str) -> Any:
        members = self._state.members.get(conversation, {})
        return old(self, conversation, user) or next(iter(members.values()), None)

    def opened_twice(self: Any, channel: Any, frame: Any, now: float) -> None:
        self._by_name.pop(getattr(frame, "conversation", ""), None)
        old(self, channel, frame, now)

    def forbidden(self: Any, op: Any) -> Any:
        result = old(self, op)
        if op.conversation in self._state.logs and type(result).__name__ == "Refusal":
            return type(result)(result.code, "not for you")
        return result

    def sign_in_message(user: str, public_key: bytes, binding: bytes) -> bytes:
        result: bytes = old(user, public_key, b"A" * 32)
        return result

    def go_back(self: Any, conversation: str, user: str, *rest: Any) -> Any:
        from dataclasses import replace

        members = self._state.members[conversation]
        members[user] = replace(members[user], received=max(rest[1] - 1, 0))
        return old(self, conversation, user, *rest)

    made = (everybody_is_a_member, opened_twice, forbidden, sign_in_message, go_back)
    return {function.__name__: function for function in made}[name]


def plant(mutant: Mutant) -> None:
    """For the rest of this process."""
    owner, name = _find(mutant.target)
    value = mutant.value
    if isinstance(value, str):
        kind, _, what = value.partition(": ")
        value = _special(what, getattr(owner, name)) if kind == "security mutant" else getattr(*_find(value))
    setattr(owner, name, value)


if os.environ.get(VARIABLE):
    plant(MUTANTS[os.environ[VARIABLE]])


# ---- the table -----------------------------------------------------------------------------------


def is_noticed(mutant: Mutant, name: str) -> bool:
    """Does the test fail with the defence gone? Exit 1 is a failed test; anything else is none of that."""
    if "::" in mutant.test and "[" not in mutant.test and "-k" not in mutant.test:
        path, _, prefix = mutant.test.partition("::")
        words = [path, "-k", prefix.removeprefix("test_")]
    else:
        path, _, rest = mutant.test.partition("::")
        words = [path, "-k", rest.partition("-k ")[2]]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "mutants", "-p", "no:cacheprovider", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {VARIABLE: name, "PYTHONPATH": str(Path(__file__).parent)},
    )  # fmt: skip
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{name}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 1


def table(names: list[str]) -> int:
    """Print one line each; 1 if nobody noticed one of them."""
    missed = tried = 0
    for name, mutant in MUTANTS.items():
        if names and name not in names:
            continue
        noticed = is_noticed(mutant, name)
        missed += not noticed
        tried += 1
        verdict = "noticed" if noticed else "NOT NOTICED"
        test = mutant.test.rpartition("/")[2]
        sys.stdout.write(f"row {mutant.row:2}  {name:35} {verdict:12} {test}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{tried} defences taken away, {missed} not noticed\n")
    return 1 if missed or not tried else 0
