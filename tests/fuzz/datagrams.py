"""Damaged datagrams into the server's endpoint: first flights, later ones, replays, junk, from any address.

The real listener and endpoint run, on a stub of loop and socket. Nothing may be raised or logged as a bug
on this side; no address gets more than three times what it sent before it is validated; nobody is held for
ever; and an honest client of the same server goes on.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from random import Random
from typing import Any, Final
from unittest import mock

from certificates import authority
from quicpair import client_configuration, pinned_aioquic
from transport.talk import Talk

from fuzz.engine import Target
from fuzz.stub_loop import SERVER, StubLoop, StubSocket
from quicmsg import limits
from quicmsg.transport import admission as admission_module
from quicmsg.transport import endpoint, link, listener
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import Connection
from quicmsg.transport.coupling import Coupling
from quicmsg.transport.trust import Trust

DATAGRAMS: Final = 80
_SPECIAL: Final = b"\x00\x01\x3f\x40\x41\x7f\x80\xbf\xc0\xc3\xd0\xe0\xf0\xff\x08\x14\x15"
_VERSIONS: Final = (b"\0\0\0\0", b"\0\0\0\1", b"\x6b\x33\x43\xcf", b"\xff\0\0\x1d", b"\xfa\xfa\xfa\xfa")
HONEST: Final = ("10.0.2.2", 2)


class Watch(logging.Handler):
    """Collects what the endpoint says about bugs on this side."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Client:
    """A client's connection, its session and its datagrams."""

    def __init__(self, loop: StubLoop, address: tuple[str, int]) -> None:
        self.address = address
        self.session = Talk()
        self.connection = Connection(
            configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
        )
        self.coupling = Coupling(
            self.connection, claim=lambda: self.session, local_address=lambda: "10.0.2.2:2", now=loop.now
        )
        self.connection.connect(SERVER, loop.now)

    def turn(self, now: float) -> list[bytes]:
        """Its timers and events; what it sends."""
        due = self.connection.get_timer()
        if due is not None and due < now:
            self.connection.handle_timer(now)
        self.coupling.feed(now)
        if self.connection.has_ended:
            return []
        self.coupling.give_output(now)
        return [data for data, _ in self.connection.datagrams_to_send(now)]


class Bombardment:
    """One case: a server, an honest client, and whoever sends what it likes."""

    def __init__(self, random: Random, loop: StubLoop, watch: Watch) -> None:
        self.random, self.loop, self.watch = random, loop, watch
        chain, key = authority().issue()
        self.sessions: list[Talk] = []
        self.admission = Admission(listener.server_configuration(chain, key), reset_key=b"r", retry_key=b"r")
        self.listener = listener.Listener(self.admission, self._session, lambda _: None)
        self.socket = StubSocket(loop)
        self.listener._endpoint.add_socket(self.socket)  # type: ignore[arg-type]
        self.inputs = 0
        self.got: dict[Any, int] = defaultdict(int)
        self.gave: dict[Any, int] = defaultdict(int)
        self.known: list[bytes] = []
        self.proved: set[Any] = set()
        self.clients: list[Client] = []

    def run(self) -> Counter[str]:
        honest = Client(self.loop, HONEST)
        self.talk(honest, until=lambda: bool(self.sessions) and honest.coupling.session is not None)
        theirs = self.sessions[0]
        while self.inputs < DATAGRAMS:
            self._step()
            if self.random.random() < 0.1:
                self.loop.run_for(self.random.choice((0.001, 0.3, 5.0)))
                self.talk(honest, until=lambda: True)
        honest.session.say(1, 3)
        self.talk(honest, until=lambda: theirs.heard[1] == 3)
        theirs.say(1, 3)
        self.listener.links[0].flush()
        self.talk(honest, until=lambda: honest.session.heard[1] == 3)
        assert theirs.problems == honest.session.problems == theirs.ended == []
        self._end()
        return Counter(inputs=self.inputs, sessions=len(self.sessions), answered=len(self.gave))

    # ---- private

    def _session(self, _address: str) -> Talk:
        self.sessions.append(Talk())
        return self.sessions[-1]

    def _step(self) -> None:
        random = self.random
        if not self.clients or random.random() < 0.1:
            self.clients.append(Client(self.loop, ("10.0.3.3", len(self.clients) + 10)))
        client = random.choice(self.clients[-3:])
        for data in client.turn(self.loop.now) or [random.choice(self.known or [random.randbytes(1200)])]:
            self.known.append(data)
            draw = random.random()
            if draw < 0.3:
                self._send(data, client.address)
            if draw > 0.2:
                self._send(damaged(random, data, self.known), self._sender(client))
        if random.random() < 0.05:
            for one in self.listener.links[1:]:
                one.close(5, "why" * 80)
        for data, address in self._take_sent():
            if address == client.address and random.random() < 0.9:
                client.connection.receive_datagram(data, SERVER, self.loop.now)

    def _sender(self, client: Client) -> tuple[str, int]:
        if self.random.random() < 0.7:
            return client.address
        return f"10.0.4.{self.random.randrange(250)}", self.random.randrange(65536)

    def _send(self, data: bytes, sender: tuple[str, int]) -> None:
        self.inputs += 1
        self.got[sender] += len(data)
        self._note_proved()
        self.socket.deliver((data, sender))
        self._note_proved()
        assert not self.watch.records, self.watch.records[0].getMessage() + str(
            self.watch.records[0].exc_info
        )

    def _note_proved(self) -> None:
        """Nobody at a strange address answers a challenge; but a copy of a client's Handshake packet that
        came from there proves it (RFC 9000 section 8.1), which only an observer on the path can make."""
        for peer in self.listener._endpoint._peers:
            self.proved.update(path.addr for path in peer.connection._network_paths if path.is_validated)

    def _take_sent(self) -> list[tuple[bytes, Any]]:
        sent, self.socket.sent = self.socket.sent, []
        for data, address in sent:
            self.gave[address] += len(data)
            if address[0].startswith("10.0.4."):
                assert address in self.proved or self.gave[address] <= 3 * self.got[address], (
                    f"{address} got more than three times"
                )
        return sent

    def talk(self, client: Client, until: Any) -> None:
        """Let the honest client go on for a while."""
        for _ in range(200):
            for data in client.turn(self.loop.now):
                self.socket.deliver((data, client.address))
            self.loop.run_for(0.005)
            for data, address in self._take_sent():
                if address == client.address:
                    client.connection.receive_datagram(data, SERVER, self.loop.now)
            if until():
                return
        raise AssertionError("the honest client is not served")

    def _end(self) -> None:
        """All fall silent: after the longest timeout nothing of them is left."""
        self.loop.run_for(limits.IDLE_TIMEOUT + limits.HANDSHAKE_TIMEOUT + 5)
        self._take_sent()
        server = self.listener._endpoint
        assert not server._peers, f"{len(server._peers)} are held for ever"
        assert not server._routes
        assert not self.listener._hosts
        assert (self.admission.half_open, self.admission.total) == (0, 0)
        assert self.loop.waiting == 0, "a timer is left"


def damaged(random: Random, data: bytes, others: list[bytes]) -> bytes:
    """A datagram with one to seven edits, or something else altogether."""
    draw = random.random()
    if draw < 0.1:
        return random.choice(others)
    if draw < 0.15:
        return random.randbytes(random.choice((1, 2, 7, 21, 25, 43, 60, 1200, 1452)))
    if draw < 0.25 and data[0] & 0x80:
        return data[:1] + random.choice(_VERSIONS) + data[5:]
    changed = bytearray(data)
    for _ in range(random.randint(1, 7)):
        # Headers are where an attacker without keys has a say.
        at = random.randrange(min(len(changed), 60) if random.random() < 0.7 else len(changed))
        match random.randrange(5):
            case 0:
                changed[at] = random.randrange(256)
            case 1:
                changed[at] = random.choice(_SPECIAL)
            case 2:
                changed[at:at] = random.randbytes(random.randint(1, 9))
            case 3:
                changed[at] ^= 1 << random.randrange(8)
            case 4:
                del changed[at + 1 :]
    return bytes(changed)


def case(random: Random) -> Counter[str]:
    """One bombardment; a third of them with Retry on."""
    with staged(random, retry_above=0 if random.random() < 0.3 else limits.RETRY_ABOVE) as bombardment:
        return bombardment.run()


@contextlib.contextmanager
def staged(random: Random, *, retry_above: int = limits.RETRY_ABOVE) -> Iterator[Bombardment]:
    """The listener on the stub of a loop."""
    loop, watch = StubLoop(), Watch()
    asyncio = mock.Mock(get_running_loop=lambda: loop)
    endpoint.logger.addHandler(watch)
    try:
        with (
            pinned_aioquic(random.getrandbits(32)),
            mock.patch.object(admission_module, "RETRY_ABOVE", retry_above),
            mock.patch.object(endpoint, "asyncio", asyncio),
            mock.patch.object(link, "asyncio", asyncio),
            mock.patch.object(listener, "asyncio", asyncio),
        ):
            yield Bombardment(random, loop, watch)
    finally:
        endpoint.logger.removeHandler(watch)


TARGET: Final = Target("datagrams", "damaged datagrams into the server's endpoint", case)
