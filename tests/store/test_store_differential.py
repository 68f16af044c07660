"""Random operations: the SQLite store answers and reads exactly as the memory store does."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from given import EPOCH, device, everything, key
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quicmsg.store import (
    Append,
    ChangeMember,
    CreateGroup,
    MakeCode,
    MovePosition,
    OpenConversation,
    Operation,
    RevokeDevice,
    SignIn,
    memory,
    rules,
    schema,
    sqlite,
    sqlite_operations,
    sqlite_tables,
)

USERS = ("ann", "bob", "cid", "dan")
CONVERSATIONS = ("@ann:bob", "@ann:cid", "@bob:bob", "#team", "#club", "@bob:ann", "#None", "@ann:zed")
DEVICES = (("ann", 1), ("ann", 2), ("bob", 1), ("cid", 1), ("bob", 2), ("dan", 1))

users = st.sampled_from(USERS)
# Mostly such as exist, so that most operations get past the first check.
devices = st.sampled_from(DEVICES[:4] * 4 + DEVICES)
conversations = st.sampled_from(("@ann:bob", "#team", "#team", "#club") * 3 + CONVERSATIONS)
positions = st.integers(0, 9)
times = st.integers(1, 20)
# Few, so that they collide: with each other, and with the ids of the entries that requests make.
request_ids = st.sampled_from([b"r", b"s", b"t", b"u", b"v"])
message_ids = st.sampled_from(
    [bytes([n]) * 16 for n in range(9)] + [rules.entry_id(b"r", user) for user in ("ann", "bob")]
)
codes = st.sampled_from(["", "c1", "c2"])


@st.composite
def operations(draw: st.DrawFn) -> Operation:
    (user, number), conversation, at_ms = draw(devices), draw(conversations), draw(times)
    me = device(user, number)
    match draw(st.sampled_from("AAAAAAAAOOOOMMMMMMGGJJJJJJSSSCCR")):
        case "A":
            body, kind = draw(st.sampled_from([b"", b"x"])), draw(st.integers(0, 1))
            return Append(conversation, user, me, draw(message_ids), kind, 0, body, at_ms)
        case "O":
            epoch = draw(st.sampled_from([EPOCH, EPOCH, 0, 1]))
            return OpenConversation(conversation, user, me, epoch, draw(positions), at_ms)
        case "M":
            return MovePosition(conversation, user, me, draw(positions), draw(positions), draw(st.booleans()))
        case "G":
            members = tuple(draw(st.lists(st.sampled_from((*USERS, "zed")), max_size=4)))
            return CreateGroup(conversation, user, me, members, draw(st.booleans()), at_ms, draw(request_ids))
        case "J":
            change, other = draw(st.sampled_from(["join", "invite", "leave"])), draw(users)
            other = draw(st.sampled_from([user, other]))
            return ChangeMember(conversation, user, me, other, change, at_ms, draw(request_ids))
        case "S":
            return SignIn(user, key(user, number), draw(codes), draw(codes), draw(st.booleans()), at_ms)
        case "C":
            return MakeCode(draw(st.sampled_from(["link", "invite"])), user, draw(codes), draw(times))
    return RevokeDevice(user, device(user, draw(st.sampled_from([2, 2, 1]))), at_ms)


batches = st.lists(st.lists(operations(), min_size=1, max_size=9), min_size=4, max_size=12)


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So small that random operations reach them."""
    monkeypatch.setattr(rules, "CONVERSATIONS_PER_USER_MAX", 3)
    monkeypatch.setattr(rules, "ADDED_PER_USER_MAX", 2)
    monkeypatch.setattr(rules, "ADDED_BY_ONE_MAX", 1)
    for engine in (memory, sqlite_operations):
        monkeypatch.setattr(engine, "MEMBERS_MAX", 3)
        monkeypatch.setattr(engine, "DEVICES_PER_USER_MAX", 2)
        monkeypatch.setattr(engine, "LINK_CODES_PER_USER_MAX", 1)
    monkeypatch.setattr(sqlite_tables, "STORE_HOT_ROWS", 3)


SETUP: list[Operation] = [
    *(SignIn(user, key(user), "", "", False, 1) for user in USERS[:3]),
    MakeCode("link", "ann", "c0", 9),
    SignIn("ann", key("ann", 2), "", "c0", False, 2),
    OpenConversation("@ann:bob", "ann", device("ann"), 0, 0, 1),
    CreateGroup("#team", "ann", device("ann"), ("bob",), True, 3, b"q"),
]


def open_store(path: Path) -> sqlite.SqliteStore:
    # A connect of one's own: without the witness, whose syncs would be most of the time of this test.
    return sqlite.SqliteStore(path, epoch_source=lambda: EPOCH, connect=lambda path: schema.connect(path))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches)
def test_both_stores_answer_alike(script: list[list[Operation]]) -> None:
    """Every result and every read, also after the file was closed and opened in between."""
    reference = memory.MemoryStore(EPOCH)
    memory_disk = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here is about durability
    with tempfile.TemporaryDirectory(dir=memory_disk) as folder:
        path = Path(folder) / "server.db"
        store = open_store(path)
        for number, batch in enumerate([SETUP, *script]):
            assert store.execute(batch) == reference.execute(batch)
            if number % 4 == 2:
                store.close()
                store = open_store(path)
        for got, expected in zip(
            everything(store, USERS, CONVERSATIONS), everything(reference, USERS, CONVERSATIONS), strict=True
        ):
            assert got == expected
        store.close()
