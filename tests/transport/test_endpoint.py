"""The endpoint on real loopback sockets, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop
from certificates import Authority, Files, authority, write
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from talk import Talk

from quicmsg.errors import CertificateError, ConfigurationError, ConnectError, ErrorCode
from quicmsg.limits import FAILED_AFTER
from quicmsg.transport.dialer import _Race
from quicmsg.transport.quic import Link, Listener, Trust, dial, listen

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}


class Stage:
    """A server, its sessions, and clients; everything is closed in the end, and that is checked."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.sessions: list[Any] = []
        self.make_session: Callable[[str], Any] = self._make_session
        self.listener: Listener
        self.links: list[Link] = []
        self._changed = asyncio.Event()

    async def serve(self, *addresses: tuple[str, int]) -> int:
        self.listener = await listen(
            addresses or [("127.0.0.1", 0)],
            certificate_file=self.files.certificate,
            private_key_file=self.files.key,
            make_session=lambda address: self.make_session(address),
            on_activity=self.activity,
            reset_key=b"reset",
            retry_key=b"retry",
        )
        return self.listener.addresses[0][1]

    async def dial(self, port: int, session: Any, host: str = "127.0.0.1", **options: Any) -> Link:
        options.setdefault("trust", Trust(ca_file=self.files.ca))
        options.setdefault("server_name", "localhost")
        options.setdefault("timeout", 5.0)
        link = await dial(host, port, session=session, on_activity=self.activity, **options)
        self.links.append(link)
        return link

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def activity(self, _link: Link | None = None) -> None:
        self._changed.set()

    async def close(self) -> None:
        for link in self.links:
            link.close(ErrorCode.NO_ERROR, "")
        if hasattr(self, "listener"):
            await self.listener.close()

    def _make_session(self, _address: str) -> Talk:
        self.sessions.append(Talk())
        return self.sessions[-1]


Scene = Callable[[Stage], Awaitable[None]]


@pytest.fixture(params=LOOPS)
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Scene], None]:
    """Run a scene on a loop, then check that no file descriptor, task or timer is left."""

    def run(scene: Scene) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:

            async def main() -> None:
                within = _descriptors()
                stage = Stage(write(tmp_path))
                try:
                    await scene(stage)
                finally:
                    await stage.close()
                loop: Any = asyncio.get_running_loop()
                timers = [timer for timer in getattr(loop, "_scheduled", []) if not timer.cancelled()]
                assert timers == []
                assert asyncio.all_tasks() == {asyncio.current_task()}
                assert _descriptors() == within

            runner.run(main())

    return run


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


Play = Callable[[Scene], None]


def test_a_client_changes_its_address_in_the_middle(play: Play) -> None:
    """127.0.0.1 to 127.0.0.2 with 20 busy conversations both ways: nothing lost, doubled or reordered."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        theirs, server = stage.sessions[0], stage.listener.links[0]
        for number in range(40):
            for channel in range(20):
                ours.say(channel)
                if number > 0:
                    theirs.say(channel)
            link.flush()
            if number > 0:
                server.flush()
            if number == 20:
                link.migrate("127.0.0.2")
            await stage.until(lambda number=number: theirs.heard[19] > number)  # type: ignore[misc]
        await stage.until(lambda: theirs.total == 20 * 40 and ours.total == 20 * 39)
        await stage.until(lambda: len(theirs.moves) == 1)
        assert ours.problems == theirs.problems == []
        assert link.local_address.startswith("127.0.0.2:")
        assert theirs.moves == ours.moves == [link.local_address] == [server.peer_address]
        assert link.stats().migrations == server.stats().migrations == 1
        assert ours.channel_binding == theirs.channel_binding

    play(scene)


def test_many_moves_leave_few_connection_ids(play: Play) -> None:
    """Retired ids are forgotten; there are always spare ones for the next move."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        for number in range(12):
            link.migrate(f"127.0.0.{number + 2}")
            ours.say(0)
            link.flush()
            await stage.until(lambda number=number: stage.sessions[0].total == number + 1)  # type: ignore[misc]
        await stage.until(lambda: stage.sessions[0].moves[-1:] == ours.moves[-1:])
        assert len(stage.listener._endpoint._routes) <= 9

    play(scene)


def test_what_is_under_way_to_the_old_address_is_still_read(play: Play) -> None:
    """The server's last packet before the move, and then the server is gone: it is heard all the same."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        stage.sessions[0].say(0)
        stage.listener.links[0].flush()
        stage.listener._endpoint.flush_now()
        stage.listener._endpoint.close()
        link.migrate("127.0.0.2")
        await stage.until(lambda: ours.total == 1)

    play(scene)


def test_answers_leave_from_where_the_client_was_last_heard(play: Play) -> None:
    """A client behind a NAT whose other side changes: its packets arrive at another of our addresses, and
    answers from the old one would not get through."""

    async def scene(stage: Stage) -> None:
        port = await stage.serve(("0.0.0.0", 0))
        with contextlib.closing(Relay(port)) as relay:
            ours = Talk()
            link = await stage.dial(relay.port, ours)
            relay.target = "127.0.0.2"
            ours.say(0)
            link.flush()
            await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
            stage.sessions[0].say(0)
            stage.listener.links[0].flush()
            await stage.until(lambda: ours.total == 1)
            assert stage.listener.links[0].local_address == f"127.0.0.2:{port}"

    play(scene)


class Relay:
    """A NAT between one client and the server; lets nothing in but from the address it sends to."""

    def __init__(self, server_port: int) -> None:
        self.target = "127.0.0.1"
        self._server_port = server_port
        self._client: tuple[str, int] | None = None
        self._sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        self._loop = asyncio.get_running_loop()
        for one in self._sockets:
            one.bind(("127.0.0.1", 0))
            one.setblocking(False)
        self.port = self._sockets[0].getsockname()[1]
        self._loop.add_reader(self._sockets[0], self._from_client)
        self._loop.add_reader(self._sockets[1], self._from_server)

    def close(self) -> None:
        for one in self._sockets:
            self._loop.remove_reader(one)
            one.close()

    def _from_client(self) -> None:
        data, self._client = self._sockets[0].recvfrom(2048)
        self._sockets[1].sendto(data, (self.target, self._server_port))

    def _from_server(self) -> None:
        data, sender = self._sockets[1].recvfrom(2048)
        if sender[0] == self.target and self._client is not None:
            self._sockets[0].sendto(data, self._client)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2"])
def test_a_wildcard_server_answers_from_the_address_that_was_used(play: Play, host: str) -> None:
    """The kernel would choose another source address, and the client would drop the answers."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(("0.0.0.0", 0)), ours, host)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert link.peer_address == stage.listener.links[0].local_address
        assert link.peer_address.startswith(host + ":")

    play(scene)


@pytest.mark.parametrize("bound", ["::1", "::"])
def test_ipv6(play: Play, bound: str) -> None:
    """The same over IPv6, also on a wildcard bind, and over a move to another port."""
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("this computer has no IPv6 loopback address")

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve((bound, 0)), ours, "::1", server_name="::1")
        link.migrate(None)
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].moves != [])
        assert stage.sessions[0].moves == [link.local_address]
        assert link.local_address.startswith("[::1]:")

    play(scene)


def _has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True


def test_a_name_with_a_dead_first_address_is_reached_at_its_second(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attempts are staggered: what does not answer is not waited for."""

    async def both(_host: str, port: int, _local: str | None) -> list[tuple[str, int]]:
        return [("127.0.0.3", port), ("127.0.0.1", port)]

    async def scene(stage: Stage) -> None:
        port = await stage.serve()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.3", port))
            ours = Talk()
            link = await stage.dial(port, ours, "server.example")
        assert link.peer_address == f"127.0.0.1:{port}"
        assert ours.ended == []

    monkeypatch.setattr("quicmsg.transport.dialer._resolve", both)
    play(scene)


def test_of_two_addresses_that_both_answer_one_is_used(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session is connected once; the slower attempt is closed."""

    async def both(_host: str, port: int, _local: str | None) -> list[tuple[str, int]]:
        return [("127.0.0.1", port), ("127.0.0.2", port)]

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(("0.0.0.0", 0)), ours, "server.example")
        ours.say(0)
        link.flush()
        await stage.until(lambda: sum(session.total for session in stage.sessions) == 1)
        await stage.until(lambda: len(stage.listener.links) == 1 and not stage.listener._half_open)
        assert ours.problems == ours.ended == []

    monkeypatch.setattr("quicmsg.transport.dialer._resolve", both)
    monkeypatch.setattr("quicmsg.transport.dialer.ADDRESS_STAGGER", 0.0)
    play(scene)


def test_the_first_handshake_to_finish_wins() -> None:
    """Also when two finish in the same turn of the loop."""

    async def main() -> None:
        ours: Any = Talk()
        race = _Race(ours, lambda _: None, "localhost", Trust(), None)
        first, second = object(), object()
        assert race._claim(first) is ours  # type: ignore[arg-type]
        assert race._claim(second) is None  # type: ignore[arg-type]
        assert race.winner is first

    asyncio.run(main())


def test_nothing_listens(play: Play) -> None:
    """A port that nobody has: said at once, in words."""

    async def scene(stage: Stage) -> None:
        with pytest.raises(
            ConnectError, match=r"nothing answers at 127\.0\.0\.1:\d+ over UDP.*is the server"
        ):
            await stage.dial(_free_port(), Talk(), timeout=FAILED_AFTER)

    play(scene)


def test_nothing_answers(play: Play) -> None:
    """A host that swallows packets: said when the time is over, and the session was told nothing."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            with pytest.raises(ConnectError, match="nothing answers"):
                await stage.dial(deaf.getsockname()[1], ours, timeout=0.3)
        assert (ours.channel_binding, ours.ended) == (b"", [])

    play(scene)


def test_a_cancelled_dial_leaves_nothing(play: Play) -> None:
    """Somebody presses Ctrl-C while it connects."""

    async def scene(stage: Stage) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
            deaf.bind(("127.0.0.1", 0))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stage.dial(deaf.getsockname()[1], Talk())

    play(scene)


def test_a_port_that_is_taken(play: Play) -> None:
    """Named, with the remedy."""

    async def scene(stage: Stage) -> None:
        port = await stage.serve()
        other = Stage(stage.files)
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port} is in use.*another port"):
            await other.serve(("127.0.0.1", port))
        with pytest.raises(ConfigurationError, match="not an address of this computer"):
            await other.serve(("192.0.2.1", 0))

    play(scene)


def test_a_local_address_that_does_not_exist(play: Play) -> None:
    """At dialling and at moving; after a refused move the connection goes on from where it was."""

    async def scene(stage: Stage) -> None:
        port, ours = await stage.serve(), Talk()
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 cannot be used"):
            await stage.dial(port, Talk(), local_address="192.0.2.1")
        with pytest.raises(ConfigurationError, match="one is IPv4 and the other IPv6"):
            await stage.dial(port, Talk(), local_address="::1")
        link = await stage.dial(port, ours, local_address="127.0.0.9")
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1 cannot be used"):
            link.migrate("192.0.2.1")
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert ours.moves == []
        assert ours.observed.startswith("127.0.0.9:")

    play(scene)


def test_certificates_that_are_not_trusted(play: Play, tmp_path: Path) -> None:
    """Unknown authority, wrong name, expired, another key than the pinned one: each its own words."""
    other_ca = tmp_path / "other.pem"
    other_ca.write_bytes(authority(b"B" * 32, "other authority").pem)
    root = authority()

    async def scene(stage: Stage) -> None:
        port = await stage.serve()

        async def refused(words: str, **options: Any) -> str:
            ours = Talk()
            with pytest.raises(CertificateError, match=words) as caught:
                await stage.dial(port, ours, **options)
            assert (ours.channel_binding, ours.ended) == (b"", [])
            return caught.value.fingerprint

        unknown = "from an authority that is not in"
        assert await refused(unknown, trust=Trust(ca_file=other_ca)) == root.fingerprint
        assert await refused("nobody vouches", trust=Trust()) == root.fingerprint
        assert await refused("not for 'example.org' but for localhost", server_name="example.org") == ""
        assert await refused("is not the pinned one", trust=Trust(fingerprint="00" * 32)) == ""
        pinned = Trust(fingerprint=root.fingerprint)
        assert await refused("not for 'example.org'", server_name="example.org", trust=pinned) == ""
        await refused("cannot be read", trust=Trust(ca_file=tmp_path / "nothing.pem"))
        for days, words in (((-90, -50), "expired on 2025-11-12"), ((3000, 4000), "valid only from")):
            stage.listener.set_certificate(*root.issue(days=days))
            await refused(words)
            await refused(words, trust=pinned)
        # Signed by somebody else, with the pinned authority shown beside it.
        forged, key = authority(b"B" * 32).issue()
        leaf = forged.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
        stage.listener.set_certificate(leaf + root.pem, key)
        await refused("not issued by the pinned authority", trust=pinned)
        # Signed by a pinned server certificate, which is no authority.
        server = x509.load_pem_x509_certificates(root.issue()[0])[0]
        impostor = Authority(Ed25519PrivateKey.from_private_bytes(b"L" * 32), server)
        stage.listener.set_certificate(*impostor.issue(seed=b"N" * 32))
        await refused("not issued by", trust=Trust(fingerprint=impostor.fingerprint))

    play(scene)


def test_pins_and_renewed_certificates_are_accepted(play: Play) -> None:
    """The authority's fingerprint outlives the leaf; a leaf's own fingerprint works too."""

    async def scene(stage: Stage) -> None:
        port, root = await stage.serve(), authority()
        await stage.dial(port, Talk(), trust=Trust(fingerprint=root.fingerprint))
        stage.listener.set_certificate(*root.issue(seed=b"N" * 32))
        await stage.dial(port, Talk(), trust=Trust(fingerprint=root.fingerprint.upper()))
        chain, key = root.issue()
        leaf = chain.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n"
        stage.listener.set_certificate(leaf, key)
        with pytest.raises(CertificateError) as caught:
            await stage.dial(port, Talk(), trust=Trust())
        assert caught.value.fingerprint != root.fingerprint
        await stage.dial(port, Talk(), trust=Trust(fingerprint=caught.value.fingerprint))
        with pytest.raises(ConfigurationError, match="does not belong"):
            stage.listener.set_certificate(chain, root.issue(seed=b"N" * 32)[1])

    play(scene)


def test_garbage_disturbs_nobody(play: Play) -> None:
    """Random datagrams, and mutated real ones, beside a connection that goes on."""

    async def scene(stage: Stage) -> None:
        port, ours = await stage.serve(), Talk()
        link = await stage.dial(port, ours)
        draw = random.Random(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for size in range(1, 1400, 7):
                sender.sendto(draw.randbytes(size), ("127.0.0.1", port))
                sender.sendto(b"\xc3\0\0\0\x01\x08" + draw.randbytes(1194), ("127.0.0.1", port))
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 1)
        assert len(stage.sessions) == 1

    play(scene)


def test_an_exception_in_one_session_closes_that_connection_only(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged; the peer is told; others do not notice."""

    class Broken(Talk):
        def receive_data(self, channel: int, data: bytes, end: bool, now: float) -> None:
            raise ZeroDivisionError

    async def scene(stage: Stage) -> None:
        port, good, bad = await stage.serve(), Talk(), Talk()
        link = await stage.dial(port, good)
        await stage.until(lambda: len(stage.sessions) == 1)
        stage.make_session = lambda _: stage.sessions.append(Broken()) or stage.sessions[-1]  # type: ignore[func-returns-value]
        broken = await stage.dial(port, bad)
        bad.say(0)
        broken.flush()
        await stage.until(lambda: bool(bad.ended))
        good.say(0)
        link.flush()
        await stage.until(lambda: stage.sessions[0].total == 1)
        assert bad.ended == [(ErrorCode.INTERNAL, "internal error")]
        assert stage.sessions[1].ended == [(ErrorCode.INTERNAL, "internal error")]
        assert len(stage.listener._endpoint._peers) == len(stage.listener.links) == 1
        assert good.ended == []

    with caplog.at_level(logging.ERROR):
        play(scene)
    assert "ZeroDivisionError" in caplog.text


def test_a_server_that_stops_says_so(play: Play) -> None:
    """Clients learn the reason, not only silence; later packets are answered by the kernel with an error."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        await stage.listener.close()
        await link.wait_closed()
        assert ours.ended == [(ErrorCode.GOING_AWAY, "the server stops")]
        assert not link.is_open

    play(scene)


def test_errors_of_the_socket_are_reported(play: Play) -> None:
    """A server that vanished: the kernel knows it from ICMP, and the link passes it on."""

    async def scene(stage: Stage) -> None:
        ours, errors = Talk(), []
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        stage.listener._endpoint.close()  # as if the process had been killed
        link.on_send_error = lambda error: (errors.append(error), stage.activity())  # type: ignore[func-returns-value]
        ours.say(0)
        link.flush()
        await stage.until(lambda: bool(errors))
        assert errors[0].errno == 111  # ECONNREFUSED
        assert link.is_open

    play(scene)


def test_a_megabyte_each_way(play: Play) -> None:
    """Batches, segmentation offload and windows together, on a real socket."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        ours.say(0, 10_000)
        link.flush()
        await stage.until(lambda: bool(stage.sessions) and stage.sessions[0].total == 10_000)
        stage.sessions[0].say(0, 10_000)
        stage.listener.links[0].flush()
        await stage.until(lambda: ours.total == 10_000)
        assert ours.problems == stage.sessions[0].problems == []

    play(scene)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_close_that_was_not_heard_is_said_again(play: Play) -> None:
    """The server's farewell was lost: the client's next packet is answered with it, not with silence."""

    async def scene(stage: Stage) -> None:
        ours = Talk()
        link = await stage.dial(await stage.serve(), ours)
        await stage.until(lambda: len(stage.sessions) == 1)
        server = stage.listener.links[0]
        real = server.peer.socket

        class Deaf:
            def send(self, *_: Any) -> None:
                server.peer.socket = real

        server.peer.socket = Deaf()  # type: ignore[assignment]
        stage.sessions[0].closing = (ErrorCode.REPLACED, "elsewhere")
        server.flush()
        await stage.until(lambda: stage.sessions[0].ended != [])
        assert ours.ended == []
        ours.say(0)
        link.flush()
        await stage.until(lambda: ours.ended != [])
        assert ours.ended == [(ErrorCode.REPLACED, "elsewhere")]

    play(scene)
