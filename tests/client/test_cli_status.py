"""Exit statuses of the line client: one real process for each, and nothing lost whatever the status."""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import certificates
import pytest
from cli_processes import CLIENT, Place, environment, lines, mute_server, one_line, running, server

import quicmsg

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that knows bob."""
    with server(tmp_path_factory.mktemp("cli")) as found:
        assert found.run("bob", "whoami").returncode == 0
        yield found


@pytest.fixture
def nobody(tmp_path: Path, place: Place) -> Place:
    """An address where nothing is."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    return Place(f"127.0.0.1:{port}", place.ca, tmp_path)


def test_0_the_message_is_stored(place: Place) -> None:
    """0: the asked state was reached, and the answer says where the message stands."""
    done = place.run("alice", "send", "--to", "@bob", "--json", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer["state"] == "stored"
    assert answer["seq"] >= 1
    assert len(answer["message_id"]) == 32


def test_0_the_message_is_read(place: Place) -> None:
    """0 for `--until read` only after the recipient's program has printed it and said so."""
    with running(place.start("reader", "listen", "--read", "--count", "1", "--json")) as reader:
        assert place.run("alice", "whoami").returncode == 0
        sent = place.run("alice", "send", "--to", "@reader", "--until", "read", "--timeout", "20", "look")
        assert reader.stdout is not None
        printed = json.loads(reader.stdout.readline())
        assert reader.wait(20) == 0
    assert printed["text"] == "look"
    assert (sent.returncode, sent.stderr) == (0, "")
    assert sent.stdout.startswith("read @reader 1 ")


def test_1_another_process_has_the_journal(place: Place) -> None:
    """1: an error that is none of the others; it says who is in the way."""
    with running(place.start("alice", "pipe")) as other:
        assert other.stdout is not None
        other.stdout.readline()
        done = place.run("alice", "send", "--to", "@bob", "hello")
    assert done.returncode == 1
    assert str(other.pid) in one_line(done.stderr)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "COMMAND"),
        (("frobnicate",), "frobnicate"),
        (("send", "hello"), "--to"),
        (("send", "--to", "bob", "hello"), "write @user or #group"),
        (("send", "--to", "@bob", "--until", "eternity", "hello"), "eternity"),
        (("send", "--to", "@bob", "--timeout", "-1", "hello"), "--timeout"),
        (("listen", "--count", "0"), "--count"),
        (("cancel", "12"), "32 hexadecimal digits"),
        (("create", "team"), "#name"),
    ],
)
def test_2_the_command_line_is_wrong(nobody: Place, words: tuple[str, ...], reason: str) -> None:
    """2: one line that names what is wrong and where help is; nothing is tried."""
    done = nobody.run("alice", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert reason in one_line(done.stderr)
    assert "--help" in done.stderr
    assert not (nobody.base / "alice").exists()


def test_2_an_environment_variable_is_wrong(nobody: Place) -> None:
    """2: a bad variable is as bad as a bad flag, and said in the same way."""
    done = nobody.run("alice", "send", "--to", "@bob", "hello", QUICMSG_SEND_TIMEOUT="soon")
    assert done.returncode == 2
    assert "'soon'" in one_line(done.stderr)


def test_variables_set_the_options(place: Place) -> None:
    """QUICMSG_SERVER, QUICMSG_USER, QUICMSG_DATA and QUICMSG_CA stand in for the flags."""
    variables = {"SERVER": place.address, "USER": "bob", "DATA": str(place.base / "bob"), "CA": str(place.ca)}
    done = subprocess.run(
        [*CLIENT, "whoami", "--json"], capture_output=True, check=True,
        env=environment(**{f"QUICMSG_{name}": value for name, value in variables.items()}),
    )  # fmt: skip
    assert json.loads(done.stdout)["user"] == "bob"


async def test_3_and_4_nothing_is_answered(tmp_path: Path) -> None:
    """3 after 12 s without an answer, 4 when `--timeout` was shorter; the message is kept, its id is told."""
    files = certificates.write(tmp_path)
    async with mute_server(tmp_path, files.certificate, files.key, files.ca) as mute:
        failed, late = await asyncio.gather(
            asyncio.to_thread(mute.run, "alice", "send", "--to", "@bob", "--json", "hello"),
            asyncio.to_thread(mute.run, "ann", "send", "--to", "@bob", "--timeout", "1", "hello"),
        )
    assert (failed.returncode, failed.stderr) == (3, "")
    error = json.loads(failed.stdout)["error"]
    kept = mute.outbox("alice")
    assert [row["message_id"] for row in kept] == [error["message_id"]]
    assert error["name"] == "TIMEOUT"
    assert late.returncode == 4
    assert mute.outbox("ann")[0]["message_id"] in one_line(late.stderr)


def test_4_nobody_processed_it_in_time(place: Place) -> None:
    """4: stored is not delivered, and the error says how far it came."""
    assert place.run("sleeper", "whoami").returncode == 0
    done = place.run("alice", "send", "--to", "@sleeper", "--until", "delivered", "--timeout", "0.5", "hello")
    assert (done.returncode, done.stdout) == (4, "")
    assert "is stored (seq 1)" in one_line(done.stderr)


def test_5_nothing_answers_and_the_message_is_sent_later(tmp_path: Path) -> None:
    """5: no connection. The message is in the outbox, and goes out before that of the next command."""
    with server(tmp_path) as place:
        assert place.run("bob", "whoami").returncode == 0
    with running(place.start("bob", "history", "@alice")) as asking:
        down = place.run("alice", "send", "--to", "@bob", "--json", "first")
        assert asking.wait(20) == 5
    assert down.returncode == 5
    error = json.loads(down.stdout)["error"]
    assert error["name"] == "UNREACHABLE"
    assert "kept in the outbox" in error["message"]
    assert [row["message_id"] for row in place.outbox("alice")] == [error["message_id"]]
    with server(tmp_path, address=place.address):
        assert place.run("alice", "send", "--to", "@bob", "second").returncode == 0
        heard = lines(place.run("bob", "listen", "--count", "2", "--json").stdout)
        assert [message["text"] for message in heard] == ["first", "second"]
        again = place.run("alice", "resend", error["message_id"])
        assert (again.returncode, again.stdout) == (0, f"stored {error['message_id']}\n")
    assert place.outbox("alice") == []


def test_6_the_name_belongs_to_another_key(place: Place) -> None:
    """6: the sign-in was refused; the message is kept for when that is cured."""
    thief = Place(place.address, place.ca, place.base / "thief")
    done = thief.run("bob", "send", "--to", "@alice", "hello")
    assert (done.returncode, done.stdout) == (6, "")
    assert "kept in the outbox" in one_line(done.stderr)
    assert len(thief.outbox("bob")) == 1
    assert thief.run("bob", "pipe").returncode == 6


def test_6_a_code_links_a_second_device(place: Place) -> None:
    """`link` prints the code that makes the difference between 6 and 0; it works once."""
    code = place.run("bob", "link").stdout.strip()
    second, third = (Place(place.address, place.ca, place.base / name) for name in ("second", "third"))
    assert second.run("bob", "whoami", "--code", code).returncode == 0
    assert second.run("bob", "whoami").returncode == 0
    assert third.run("bob", "whoami", "--code", code).returncode == 6


def test_7_the_ca_is_another_one(place: Place, tmp_path: Path) -> None:
    """7: a server that the given CA does not vouch for is not talked to; the message is kept."""
    files = certificates.write(tmp_path)
    done = place.run("carol", "send", "--to", "@bob", "hello", ca=files.ca)
    assert (done.returncode, done.stdout) == (7, "")
    assert "ca.pem" in one_line(done.stderr)
    assert len(place.outbox("carol")) == 1
    assert place.run("carol", "whoami", ca=tmp_path / "missing.pem").returncode == 7


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"names": ("example.org",)}, "example.org"),
        ({"days": (-500, -100)}, "expired"),
    ],
)
async def test_7_the_certificate_is_no_good(tmp_path: Path, options: dict[str, object], reason: str) -> None:
    """7: a certificate for another name, or one that expired, in words that say which."""
    files = certificates.write(tmp_path, **options)
    async with mute_server(tmp_path, files.certificate, files.key, files.ca) as place:
        done = await asyncio.to_thread(place.run, "alice", "send", "--to", "@bob", "hello")
    assert (done.returncode, done.stdout) == (7, "")
    assert reason in one_line(done.stderr)
    assert len(place.outbox("alice")) == 1


def run_elsewhere(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """Not in the checkout, where a server may have left its certs/ca.pem."""
    variables = {**environment(), "PYTHONPATH": str(Path(quicmsg.__file__).parent.parent)}
    return subprocess.run(command, capture_output=True, text=True, env=variables, cwd=directory, check=False)


def test_7_a_pinned_authority_has_changed(tmp_path: Path) -> None:
    """Without a CA file the first authority is shown and pinned; another one later is an error."""
    base = tmp_path / "first"
    words = ["--data", str(tmp_path / "state"), "--user", "ann", "whoami"]
    with server(base) as place:
        given = [*CLIENT, "--server", place.address, *words]
        first = subprocess.run(
            given, capture_output=True, text=True, env=environment(), cwd=tmp_path, check=False
        )
    with server(tmp_path / "second", address=place.address):
        second = subprocess.run(
            given, capture_output=True, text=True, env=environment(), cwd=tmp_path, check=False
        )
    assert (first.returncode, second.returncode) == (0, 7)
    assert "fingerprint" in first.stderr
    assert "not the pinned one" in one_line(second.stderr)


def test_8_the_server_refuses(place: Place) -> None:
    """8: nobody of that name, or a group of others; the message stays for a person to decide."""
    done = place.run("dora", "send", "--to", "@nobody", "--json", "hello")
    assert (done.returncode, done.stderr) == (8, "")
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["name"]) == (0x20, "UNKNOWN")
    assert [row["state"] for row in place.outbox("dora")] == ["rejected"]
    cancelled = place.run("dora", "cancel", error["message_id"])
    assert (cancelled.returncode, place.outbox("dora")) == (0, [])
    assert place.run("dora", "cancel", error["message_id"]).returncode == 0, "again is harmless"
    assert place.run("dora", "resend", error["message_id"]).returncode == 8
    assert place.run("dora", "join", "#secret").returncode == 8
    assert place.run("dora", "history", "@nobody").returncode == 8


def test_8_the_text_is_too_long(place: Place) -> None:
    """8: a limit. Nothing is queued, because it could never be sent."""
    done = place.run("edith", "send", "--to", "@bob", "-", stdin="x" * 20_000)
    assert done.returncode == 8
    assert "16384" in one_line(done.stderr)
    assert place.outbox("edith") == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_130_and_143_a_signal_ends_it_in_good_order(place: Place, number: int, status: int) -> None:
    """Ctrl+C and SIGTERM: no traceback, the journal is free again, what was printed is acknowledged."""
    user = f"listener{status}"
    with running(place.start(user, "listen", "--json")) as listener:
        sent = place.run("alice", "send", "--to", f"@{user}", "--timeout", "20", "before")
        while sent.returncode == 8:  # it has not signed in yet
            sent = place.run("alice", "send", "--to", f"@{user}", "--timeout", "20", "before")
        assert listener.stdout is not None
        assert json.loads(listener.stdout.readline())["text"] == "before"
        listener.send_signal(number)
        _, errors = listener.communicate(timeout=20)
    assert (listener.returncode, errors) == (status, "")
    after = place.run(user, "listen", "--timeout", "1")
    assert (after.returncode, after.stdout) == (4, ""), "it was acknowledged"


def test_141_nobody_reads_what_it_says(place: Place) -> None:
    """A closed stdout ends it quietly, as it would end any filter, and what was not written is not lost."""
    for text in ("one", "two"):
        assert place.run("alice", "send", "--to", "@bob", text).returncode == 0
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(
        place.words("bob", "listen"), stdout=writer, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        os.close(writer)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (141, "")
    heard = lines(place.run("bob", "listen", "--json", "--timeout", "1").stdout)
    assert [message["text"] for message in heard if "text" in message][-2:] == ["one", "two"]


def test_closed_descriptors_do_not_get_mixed_up_with_files(place: Place) -> None:
    """With stdout closed the journal would get its number, and the answer be written into the journal."""
    closed = [
        "/bin/sh",
        "-c",
        'exec "$@" <&- >&-',
        "sh",
        *place.words("lena", "send", "--to", "@bob", "hello"),
    ]
    done = subprocess.run(closed, stderr=subprocess.PIPE, text=True, env=environment(), check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "lena: hello" in place.run("lena", "history", "@bob").stdout


def test_an_unreadable_data_directory_is_one_line(place: Place, tmp_path: Path) -> None:
    """1: a file where the directory should be; the line names it."""
    (tmp_path / "gail").write_text("not a directory")
    done = Place(place.address, place.ca, tmp_path).run("gail", "send", "--to", "@bob", "hello")
    assert done.returncode == 1
    assert str(tmp_path / "gail") in one_line(done.stderr)


def test_bytes_that_are_no_text_are_refused(place: Place) -> None:
    """8: what is not UTF-8 is not guessed at."""
    done = place.run("alice", "send", "--to", "@bob", "-", stdin=b"\xff\xfe")
    assert done.returncode == 8
    assert "UTF-8" in one_line(done.stderr)


def test_what_peers_write_cannot_touch_the_terminal(place: Place) -> None:
    """Escape, direction and control characters are printed as what they are; JSON has the exact text."""
    text = "a\x1b[31mb\u202ec\rd\nё"
    assert place.run("hank", "whoami").returncode == 0
    assert place.run("alice", "send", "--to", "@hank", text).returncode == 0
    plain = place.run("hank", "listen", "--count", "1").stdout
    assert plain.endswith(" @alice alice: a\\x1b[31mb\\u202ec\\rd\\nё\n")
    assert place.run("hank", "listen", "--timeout", "0.5").stdout == "", "the last one was acknowledged, too"
    found = lines(place.run("hank", "history", "@alice", "--json").stdout)[0]
    assert (found["event"], found["text"]) == ("message", text)
    assert datetime.datetime.fromisoformat(found["stored_at"]).tzinfo is not None


def test_groups_are_made_joined_and_left(place: Place) -> None:
    """create, invite, join, leave, conversations: what one does the other sees."""
    for user in ("ines", "john", "kate"):
        assert place.run(user, "whoami").returncode == 0
    assert place.run("ines", "create", "#club", "john", "--open").returncode == 0
    assert place.run("bob", "create", "#club").returncode == 8, "the name is taken"
    assert place.run("kate", "join", "#club", "--json").stdout == '{"conversation":"#club","done":"joined"}\n'
    assert place.run("john", "send", "--to", "#club", "hello club").returncode == 0
    assert place.run("kate", "conversations").stdout == "#club\n"
    assert "john: hello club" in place.run("kate", "history", "#club").stdout
    assert place.run("kate", "leave", "#club").returncode == 0
    assert place.run("john", "invite", "#club", "bob").returncode == 0
    assert "#club" in place.run("bob", "conversations").stdout
