"""`pipe`: JSON lines both ways, against a real server; what docs/line-client.md shows is what happens."""

from __future__ import annotations

import json
import queue
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_processes import Place, lines, running, server

from quicmsg.limits import PIPE_LINE_SIZE_MAX

pytestmark = pytest.mark.slow
DOCUMENT = Path(__file__).resolve().parent.parent.parent / "docs" / "line-client.md"
PATIENCE = 20


class Talk:
    """A pipe process: say operations, expect events."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def say(self, **operation: Any) -> None:
        self.say_line(json.dumps(operation))

    def say_line(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def expect(self, **wanted: Any) -> dict[str, Any]:
        """Skip to the next event that has all of this; the test's timeout bounds it."""
        while (event := self._events.get(timeout=PATIENCE)) is not None:
            if wanted.items() <= event.items():
                return event
        raise AssertionError(f"it ended without {wanted}")

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._events.put(json.loads(line))
        self._events.put(None)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that knows bob."""
    with server(tmp_path_factory.mktemp("pipe")) as found:
        assert found.run("bob", "whoami").returncode == 0
        yield found


def test_two_pipes_talk_and_one_moves(place: Place) -> None:
    """Send, print, acknowledge, read, move, group, close: each side is told what is so."""
    with running(place.start("bob", "pipe")) as first, running(place.start("ann", "pipe")) as second:
        bob, ann = Talk(first), Talk(second)
        assert bob.expect(event="connection")["state"] == "up"
        ann.expect(event="connection", state="up")
        ann.say(op="send", to="@bob", text="hello\u202e", ref="one")
        queued = ann.expect(event="state", ref="one")
        assert (queued["state"], queued["seq"]) == ("queued", None)
        stored = ann.expect(event="state", state="stored", ref="one")
        heard = bob.expect(event="message")
        assert (heard["text"], heard["sender"], heard["seq"]) == ("hello\u202e", "ann", stored["seq"])
        assert heard["message_id"] == queued["message_id"]
        ann.expect(event="state", state="delivered", message_id=queued["message_id"])
        bob.say(op="read", conversation="@ann", seq=heard["seq"], ref=2)
        bob.expect(event="done", op="read", ref=2)
        ann.expect(event="receipt", user="bob", read=heard["seq"])
        ann.expect(event="state", state="read", ref="one")
        ann.say(op="migrate", address="127.0.0.2", ref=3)
        ann.expect(event="done", ref=3)
        moved = ann.expect(event="connection", state="moved")
        assert moved["observed_address"].startswith("127.0.0.2:")
        bob.say(op="send", to="@ann", text="still there?", ref=4)
        ann.expect(event="message", text="still there?")
        ann.say(op="create", conversation="#pair", members=["bob"], ref=5)
        ann.expect(event="done", op="create", ref=5)
        bob.expect(event="member", conversation="#pair", user="bob", change="joined")
        bob.say(op="leave", conversation="#pair", ref=6)
        ann.expect(event="member", conversation="#pair", user="bob", change="left")
        ann.say(op="history", conversation="@bob", ref=7)
        assert [m["text"] for m in ann.expect(event="history", ref=7)["messages"]] == [
            "hello\u202e", "still there?",
        ]  # fmt: skip
        for talk in (ann, bob):
            talk.say(op="close", ref="end")
            talk.expect(event="done", op="close", ref="end")
            assert talk.process.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("line", "name", "said"),
    [
        ("nonsense", "MALFORMED", "not an operation"),
        ('{"op":"fly","ref":7}', "MALFORMED", "fly"),
        ('{"op":"send","to":"@bob","ref":7}', "MALFORMED", "text"),
        ('{"op":"send","to":"@bob","text":"x","typo":1,"ref":7}', "MALFORMED", "typo"),
        ('{"op":"send","to":"@bob","text":"\xff","id":"12","ref":7}', "FORBIDDEN", "message id"),
        ('{"op":"send","to":"bob","text":"x","ref":7}', "NAME_INVALID", "@user"),
        ('{"op":"read","conversation":"@bob","seq":-1,"ref":7}', "MALFORMED", "seq"),
        ('{"op":"read","conversation":"@stranger","seq":1,"ref":7}', "UNKNOWN", "@stranger"),
        ('{"op":"cancel","message_id":"01a1fb1b72f17b74856af3dfe2a10de8","ref":7}', "UNKNOWN", "outbox"),
        ('{"op":"migrate","address":"192.0.2.77","ref":7}', "INTERNAL", "192.0.2.77"),
        ('{"op":"join","conversation":"#nowhere","ref":7}', "UNKNOWN", ""),
        ('{"op":"send","to":"@bob","text":"' + "x" * 20_000 + '","ref":7}', "TOO_BIG", "16384"),
        ("[" * 5_000, "MALFORMED", "not an operation"),
        ("x" * (PIPE_LINE_SIZE_MAX + 1), "MALFORMED", "skipped"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_bad_line_is_an_error_event_and_the_pipe_goes_on(
    mistakes: Talk, line: str, name: str, said: str
) -> None:
    """Whatever a line says, what is wrong comes back with its ref, and the next line is carried out."""
    mistakes.say_line(line)
    error = mistakes.expect(event="error")
    assert (error["name"], error.get("ref")) == (name, 7 if '"ref":7' in line else None)
    assert said in error["message"]
    mistakes.say(op="read", conversation="@bob", seq=1, ref="next")
    mistakes.expect(event="done", ref="next")


@pytest.fixture(scope="module")
def mistakes(place: Place) -> Iterator[Talk]:
    """A pipe that is told nonsense."""
    assert place.run("mia", "send", "--to", "@bob", "hello").returncode == 0
    with running(place.start("mia", "pipe")) as process:
        talk = Talk(process)
        talk.expect(event="connection", state="up")
        yield talk
        talk.say(op="close")
        assert process.wait(PATIENCE) == 0


def test_ten_thousand_sends_piped_in_keep_their_order(place: Place) -> None:
    """No deadlock, although nothing is read before all is written; once each, and in order, also where some
    have an id of their own."""
    count = 10_000
    ids = [{"id": f"01a1fb1b72f17b7485{n:014x}"} if n % 3 == 1 else {} for n in range(count)]
    sends = [{"op": "send", "to": "@bulk", "text": str(n)} | ids[n] for n in range(count)]
    given = "".join(json.dumps(send) + "\n" for send in sends)
    assert place.run("bulk", "whoami").returncode == 0
    with running(place.start("sender", "pipe")) as process:
        assert process.stdin is not None
        process.stdin.write(given)
        process.stdin.close()
        assert process.stdout is not None
        states = [event["state"] for event in lines(process.stdout.read()) if event["event"] == "state"]
        assert process.wait(PATIENCE) == 0
    assert (states.count("queued"), states.count("stored"), states.count("failed")) == (count, count, 0)
    heard = lines(place.run("bulk", "listen", "--json", "--count", str(count)).stdout)
    assert [message["text"] for message in heard] == [str(n) for n in range(count)]


def test_the_same_id_is_the_same_message(place: Place) -> None:
    """A program that repeats itself after a crash makes no second copy, and is told where it stands."""
    send = {"op": "send", "to": "@bob", "text": "once", "id": "01a1fb1b72f17b74856af3dfe2a10de9", "ref": 1}
    first = lines(place.run("rita", "pipe", stdin=json.dumps(send)).stdout)
    again = lines(place.run("rita", "pipe", stdin=json.dumps(send)).stdout)
    other = lines(place.run("rita", "pipe", stdin=json.dumps(send | {"text": "twice"})).stdout)
    stored = [e["seq"] for e in (*first, *again) if e.get("state") == "stored"]
    assert stored == [1, 1]
    assert [e["name"] for e in other if e["event"] == "error"] == ["CONFLICT"]
    assert place.run("rita", "history", "@bob").stdout.count("once") == 1


def test_it_starts_without_a_server_and_keeps_everything(tmp_path: Path) -> None:
    """Down is said, the send is queued; when the server comes, it is stored without being asked again."""
    with server(tmp_path) as place:
        assert place.run("bob", "whoami").returncode == 0
    with running(place.start("ann", "pipe")) as process:
        ann = Talk(process)
        ann.say(op="send", to="@bob", text="patience", ref=1)
        ann.expect(event="connection", state="down")
        with server(tmp_path, address=place.address):
            ann.expect(event="connection", state="up")
            assert ann.expect(event="state", state="stored", ref=1)["seq"] == 1
            ann.say(op="close")
            assert process.wait(PATIENCE) == 0


def test_a_refusal_after_a_time_without_a_server_ends_it(tmp_path: Path) -> None:
    """First nothing is there, then a server that is not the trusted one: told, and status 7."""
    with server(tmp_path / "one") as place:
        pass
    with running(place.start("ann", "pipe")) as process:
        ann = Talk(process)
        ann.expect(event="connection", state="down")
        with server(tmp_path / "two", address=place.address):
            assert ann.expect(event="error")["name"] == "CERTIFICATE"
            assert process.wait(PATIENCE) == 7


def test_what_nobody_reads_is_not_acknowledged(place: Place) -> None:
    """A program that has stopped reading holds back "delivered", and the connection lives on."""
    with running(place.start("lazy", "pipe")) as process:
        Talk(process).expect(event="synced")
    text = "x" * 4_000
    with running(place.start("lazy", "pipe")) as process:
        assert process.stdout is not None
        for n in range(60):  # more than a pipe and the reader's buffer hold
            assert n or json.loads(process.stdout.readline())["event"] == "connection"
        sends = "".join(json.dumps({"op": "send", "to": "@lazy", "text": text}) + "\n" for _ in range(60))
        sent = lines(place.run("busy", "pipe", stdin=sends).stdout)
        last = max(e["seq"] for e in sent if e.get("state") == "stored")
        assert last == 60
        told = [e["delivered"] for e in sent if e["event"] == "receipt"]
        assert max(told, default=0) < last
        assert process.poll() is None
        heard = 0
        for line in process.stdout:
            heard += json.loads(line)["event"] == "message"
            if heard == last:
                break
        process.terminate()
        assert process.wait(PATIENCE) == 143
    assert place.run("lazy", "listen", "--timeout", "1").stdout == "", "all of it was acknowledged"


def test_a_pipe_that_is_killed_while_nobody_reads_loses_nothing(place: Place) -> None:
    """What is in the pipe, and what comes after the restart, is together all of it."""
    with running(place.start("victim", "pipe")) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["state"] == "up"
        operation = {"op": "send", "to": "@victim", "text": "x" * 4_000}
        place.run("killer", "pipe", stdin=(json.dumps(operation) + "\n") * 60)
        process.kill()
        rest = process.stdout.read()
    before = lines(rest[: rest.rindex("\n") + 1])
    after = lines(place.run("victim", "listen", "--json", "--timeout", "1").stdout)
    printed = [event["seq"] for event in before if event["event"] == "message"]
    assert 0 < len(printed) < 60, "it was stuck in the middle"
    again = [event["seq"] for event in after if event.get("event") == "message"]
    assert {*printed, *again} == set(range(1, 61))


def test_the_session_in_the_document_happens_as_shown(place: Place) -> None:
    """docs/line-client.md: each line said gives the lines shown, with ids, times and addresses of its own."""
    session = re.search(r"```text\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert session is not None
    own = ("message_id", "address", "observed_address", "stall_ms", "seq")
    said = 0
    with running(place.start("doc", "pipe")) as process:
        talk = Talk(process)
        for line in session[1].splitlines():
            shown = json.loads(line[2:])
            if line.startswith(">"):
                talk.say(**shown)
                said += 1
                continue
            wanted = {name: value for name, value in shown.items() if name not in own}
            assert talk.expect(**wanted).keys() == shown.keys()
        assert process.wait(PATIENCE) == 0
    assert said >= 5
