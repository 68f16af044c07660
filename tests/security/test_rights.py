"""Threat row 15: who may do what. Every role times every frame of the protocol, each cell told in one word.

The table below is complete by test: a frame or a role without a cell fails. Unknown and forbidden have one
answer, to the byte; what is refused changes nothing in the store and is heard by nobody.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from hubrig import Rig, Wire, message

from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import Frame
from quicmsg.protocol.server import ServerSession
from quicmsg.store import ChangeMember, OpenConversation, RevokeDevice, SignIn
from quicmsg.store.sqlite import SqliteStore

ROLES = ("nobody", "stranger", "member", "other device", "maker", "former", "revoked")
"""Not signed in; signed in and no member; a member, on either of two devices; who made the group; who left;
a device of a member that was removed while its session lives."""

ENTRY_ID = (1).to_bytes(16, "big")

SAMPLES: tuple[Frame, ...] = (
    frames.Hello(1, 1, "agent", (), True),
    frames.Authenticate("mel", b"k" * 32, b"s" * 64, "label", ""),
    frames.Welcome(1, "mel", bytes(16), 7, 0, "192.0.2.1:1", 0, 1, ()),
    frames.Sync(7, 0),
    frames.SyncPage(7, (), 0, False),
    frames.Notice("#team", 1, 1),
    frames.Ping(1),
    frames.Pong(1, 0, 0),
    frames.Moved("192.0.2.1:1"),
    frames.State(True),
    frames.GoAway(0, 0, ""),
    frames.Close(0, ""),
    frames.Create(9, "#new", ("ann",), False),
    frames.Invite(9, "#team", "zoe"),
    frames.Join(9, "#team"),
    frames.Leave(9, "#team"),
    frames.Link(9),
    frames.Done(9, ""),
    frames.Failed(9, 1, ""),
    frames.Open("#team", 0, 0, 0),
    frames.Opened(7, 1, 0, 0, False, ()),
    frames.Send(b"m" * 16, 0, 0, b"text"),
    frames.Accepted(ENTRY_ID, 1, 1),
    frames.Rejected(ENTRY_ID, 1, ""),
    frames.Deliver(1, ENTRY_ID, "ann", bytes(16), 0, 0, b"forged", 1),
    frames.Ack(1),
    frames.Read(1, True),
    frames.Receipt((frames.MemberEntry("ann", 1, 1),)),
    frames.Fetch(9, 0, 0, 10),
    frames.Page(9, (), True),
    frames.Refused(1, "", 0),
)

IN = ("member", "other device", "maker")
OUT = ("stranger", "former")


def row(inside: str, outside: str, revoked: str, nobody: str, **others: str) -> dict[str, str]:
    cells = dict.fromkeys(IN, inside) | dict.fromkeys(OUT, outside)
    return cells | {"revoked": revoked, "nobody": nobody} | others


EARLY = "closed SIGN_IN_REQUIRED"
NOT_FOR_CLIENTS = row("closed UNEXPECTED", "closed UNEXPECTED", "closed UNEXPECTED", EARLY)
NOT_ON_A_CHANNEL = row("reset UNEXPECTED", "refused UNKNOWN", "reset UNEXPECTED", "nothing")
HARMLESS = row("nothing", "nothing", "nothing", EARLY)
GONE = "closed REVOKED"

TABLE: dict[type[Frame], dict[str, str]] = {
    frames.Hello: NOT_FOR_CLIENTS | {"nobody": "nothing"},
    frames.Authenticate: NOT_FOR_CLIENTS,
    frames.Welcome: NOT_FOR_CLIENTS,
    frames.Sync: row("SyncPage", "SyncPage", "SyncPage", EARLY),
    frames.SyncPage: NOT_FOR_CLIENTS,
    frames.Notice: NOT_FOR_CLIENTS,
    frames.Ping: row("Pong", "Pong", "Pong", "Pong"),
    frames.Pong: HARMLESS,
    frames.Moved: NOT_FOR_CLIENTS,
    frames.State: HARMLESS,
    frames.GoAway: NOT_FOR_CLIENTS,
    frames.Close: HARMLESS,
    frames.Create: row("Done", "Done", GONE, EARLY),
    frames.Invite: row("Done", "failed UNKNOWN", GONE, EARLY),
    frames.Join: row("Done", "failed UNKNOWN", GONE, EARLY),
    frames.Leave: row("Done", "failed UNKNOWN", GONE, EARLY, former="Done"),
    frames.Link: row("Done", "Done", GONE, EARLY),
    frames.Done: NOT_FOR_CLIENTS,
    frames.Failed: NOT_FOR_CLIENTS,
    frames.Open: row("Opened", "refused UNKNOWN", GONE, "nothing"),
    frames.Opened: NOT_ON_A_CHANNEL,
    frames.Send: row("Accepted", "refused UNKNOWN", GONE, "nothing"),
    frames.Accepted: NOT_ON_A_CHANNEL,
    frames.Rejected: NOT_ON_A_CHANNEL,
    frames.Deliver: NOT_ON_A_CHANNEL,
    frames.Ack: row("nothing", "refused UNKNOWN", GONE, "nothing"),
    frames.Read: row("nothing", "refused UNKNOWN", GONE, "nothing"),
    frames.Receipt: NOT_ON_A_CHANNEL,
    frames.Fetch: row("Page", "refused UNKNOWN", "nothing", "nothing"),
    frames.Page: NOT_ON_A_CHANNEL,
    frames.Refused: NOT_ON_A_CHANNEL,
}
"""What the actor is told. Fetch and Sync of a device that was removed behind the hub's back (which no command
does) are still answered: the store reads without looking at devices. `Hub.revoke` ends the session itself."""
TABLE[frames.Fetch]["revoked"] = "Page"


class Scene:
    """`#team`, made by ann, with mel on two devices; fay was in it and left; zoe and sid never were."""

    def __init__(self) -> None:
        self.rig = Rig()
        self.ann = self.rig.connect("ann")
        self.mel = self.rig.connect("mel")
        self.mel.ask(0, frames.Link(1))
        self.mel2 = self.rig.connect("mel", 1, code="CODE")
        self.fay, self.sid, self.zoe = (self.rig.connect(user) for user in ("fay", "sid", "zoe"))
        self.ann.ask(0, frames.Create(1, "#team", ("mel", "fay"), False))
        for wire in (self.ann, self.mel, self.mel2, self.fay):
            wire.open(1, "#team")
        self.ann.ask(1, message(1, "secret of the team"))
        self.fay.ask(0, frames.Leave(2, "#team"))
        for wire in (self.ann, self.mel, self.mel2, self.fay, self.sid, self.zoe):
            assert wire.is_up
            wire.heard(Frame)
            wire.frames.clear()

    def actor(self, role: str) -> ServerSession:
        match role:
            case "nobody":
                session = ServerSession(now=self.rig.time)
                self.rig.hub.attach(session, lambda: None)
                session.connected(
                    channel_binding=bytes(32), observed_address="192.0.2.9:1", now=self.rig.time
                )
                return session
            case "revoked":
                self.rig.store.execute([RevokeDevice("mel", self.mel.device, 1)])
                return self.mel.session
        wire: Wire = {
            "stranger": self.sid, "member": self.mel, "other device": self.mel2, "maker": self.ann,
            "former": self.fay,
        }[role]  # fmt: skip
        return wire.session

    def tell(self, session: ServerSession, channel: int, *said: Frame) -> None:
        session.receive_data(channel, b"".join(map(encode, said)), False, self.rig.time)
        self.rig.hub.pump(session)
        self.rig.writer.run()

    def act(self, role: str, frame: Frame) -> list[str]:
        """Let this role say this frame where it belongs; what it is told, in words."""
        session = self.actor(role)
        if type(frame) in frames.CONTROL_FRAMES:
            self.tell(session, 0, frame)
        elif role in IN or role == "revoked":
            # Their channel is open already: an Open is said on another one, once that is closed.
            if isinstance(frame, frames.Open):
                session.receive_reset(1, 0, self.rig.time)
                self.rig.hub.pump(session)
                self.tell(session, 2, frame)
            else:
                self.tell(session, 1, frame)
        else:
            opening = frames.Open("#team", 0, 0, 0)
            self.tell(session, 2, opening, *([] if isinstance(frame, frames.Open) else [frame]))
        return answers(session)

    def others(self, session: ServerSession) -> list[list[Frame]]:
        """What everybody else has heard since the scene was set."""
        wires = (self.ann, self.mel, self.mel2, self.fay, self.sid, self.zoe)
        return [wire.heard(Frame) for wire in wires if wire.session is not session]


def answers(session: ServerSession) -> list[str]:
    words: list[str] = []
    for item in session.data_to_send():
        reader = FrameReader(control=item.channel == 0)
        reader.feed(item.data)
        while (said := reader.next_frame()) is not None:
            words.append(word(said))
        if item.reset is not None:
            words.append(f"reset {ErrorCode(item.reset).name}")
    return [w for w in words if w not in ("reset NO_ERROR", "Notice", "Receipt", "Deliver")]


def word(said: Frame) -> str:
    match said:
        case frames.Close() | frames.Failed() | frames.Refused() | frames.Rejected():
            name = {"Close": "closed"}.get(type(said).__name__, type(said).__name__.lower())
            return f"{name} {ErrorCode(said.code).name}"
        case _:
            return type(said).__name__


def test_threat_15_the_table_has_every_frame_and_every_role() -> None:
    """A new frame must say who may send it, before this passes again."""
    known = {*frames.CONTROL_FRAMES, *frames.CONVERSATION_FRAMES}
    assert set(TABLE) == known == {type(frame) for frame in SAMPLES}
    assert all(set(cells) == set(ROLES) for cells in TABLE.values())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("frame", SAMPLES, ids=lambda frame: type(frame).__name__)
def test_threat_15_every_role_with_every_frame(role: str, frame: Frame) -> None:
    """Row 15: the cell says what the actor is told; what is refused changes nothing, and nobody hears it."""
    scene = Scene()
    session = scene.actor(role) if role != "revoked" else scene.mel.session
    before = scene.rig.store.snapshot()
    expected = TABLE[type(frame)][role]
    told = scene.act(role, frame) or ["nothing"]
    if role == "revoked":
        assert expected in told, told
    elif expected.startswith("closed"):
        assert told == [expected], told
    else:
        assert told[0] == expected, told
    if expected.split()[0] in ("closed", "refused", "failed", "reset") or role == "nobody":
        after = scene.rig.store.snapshot()
        if role == "revoked":
            after.devices = before.devices  # type: ignore[attr-defined]
        assert after == before
        assert not any(scene.others(session))


REFUSABLE: dict[str, tuple[int, Callable[[str], Frame]]] = {
    "open": (3, lambda name: frames.Open(name, 0, 0, 0)),
    "invite": (0, lambda name: frames.Invite(5, name, "zoe")),
    "invite nobody": (0, lambda name: frames.Invite(5, name, "no-such-user")),
    "join": (0, lambda name: frames.Join(5, name)),
    "leave": (0, lambda name: frames.Leave(5, name)),
}


@pytest.mark.parametrize("verb", REFUSABLE)
@pytest.mark.parametrize("role", ["stranger", "former"])
def test_threat_15_unknown_and_forbidden_are_one_answer(role: str, verb: str) -> None:
    """Row 15: the same bytes for a group that is not there, and for one that is none of one's business. Who
    left a group knows that it is there: its second `leave` is the one exception."""
    channel, make = REFUSABLE[verb]
    heard = []
    for name in ("#team", "#nope"):
        scene = Scene()
        session = scene.actor(role)
        scene.tell(session, channel, make(name))
        heard.append(b"".join(item.data for item in session.data_to_send()))
    if (role, verb) != ("former", "leave"):
        assert heard[0] == heard[1] != b""


def test_threat_15_a_stranger_learns_no_direct_conversation_of_others() -> None:
    """Row 15: an address is always one's own side of a conversation; there is no name for somebody else's."""
    scene = Scene()
    scene.ann.open(2, "@mel")
    scene.ann.ask(2, message(5, "between us"))
    for number, name in enumerate(("@ann", "@mel"), start=3):
        scene.sid.open(number, name)
        assert scene.sid.heard(frames.Opened, number)[0].head == 0
    assert "between us" not in repr(scene.sid.heard(Frame))


def test_threat_15_the_work_is_the_same_class(tmp_path: Path) -> None:
    """Row 15: the store answers unknown and forbidden with the same number of statements, give or take two
    look-ups by an index (tens of microseconds; 1 ms is the bound)."""
    store = SqliteStore(tmp_path / "server.db", epoch_source=lambda: 7)
    users = {name: SignIn(name, name.encode().ljust(32), "", "", False, 1) for name in ("ann", "sid")}
    devices = {}
    for name, operation in users.items():
        devices[name] = store.execute([operation])[0].device  # type: ignore[union-attr]
    from quicmsg.store import CreateGroup

    store.execute([CreateGroup("#team", "ann", devices["ann"], (), False, 1, b"r" * 16)])
    connection = store._tables.connection
    assert isinstance(connection, sqlite3.Connection)
    counts = []
    for name in ("#team", "#nope"):
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
        store.execute(
            [
                OpenConversation(name, "sid", devices["sid"], 0, 0, 1),
                ChangeMember(name, "sid", devices["sid"], "sid", "join", 1, b"q" * 16),
            ]
        )
        connection.set_trace_callback(None)
        counts.append(len(statements))
    store.close()
    assert abs(counts[0] - counts[1]) <= 2, counts


def test_threat_15_who_is_removed_hears_nothing_more() -> None:
    """Row 15: leaving ends the open channels at once, on every device of the user."""
    scene = Scene()
    scene.mel.ask(0, frames.Leave(7, "#team"))
    for wire in (scene.mel, scene.mel2):
        wire.heard(Frame)
        assert 1 in wire.ended
        wire.frames.clear()
    scene.ann.ask(1, message(8, "without mel"))
    assert "without mel" not in repr(scene.mel.heard(Frame) + scene.mel2.heard(Frame))


def test_a_removed_device_ends_at_its_next_word_and_at_once_by_the_hub() -> None:
    """Row 15: whatever it asks of the store; and `Hub.revoke` does not wait for that. Others live on."""
    scene = Scene()
    done: list[object] = []
    scene.rig.hub.revoke("mel", scene.mel.device, done.append)
    scene.rig.writer.run()
    assert done
    assert [frame.code for frame in scene.mel.heard(frames.Close)] == [ErrorCode.REVOKED]
    scene.ann.ask(1, message(9, "for those who are left"))
    assert scene.mel2.heard(frames.Deliver)
    assert scene.mel2.is_up
    assert not scene.rig.connect("mel").is_up
