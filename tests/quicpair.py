"""Real QUIC in virtual time: N clients and one server, each a real `Connection`, over a simulated network.

    with pinned_aioquic(seed=7):
        world = World(seed=7, latency=0.025, loss=0.01)
        server = world.serve(make_session)          # make_session(peer_address) -> session
        alice = world.dial(session)                 # an End; its handshake runs as the world runs
        world.run(lambda: alice.is_open)            # until true, or `limit` virtual seconds
        session.say(...); alice.flush()
        alice.migrate("10.0.9.9")                   # noticed: new address, new connection id, resend at once
        alice.rebind("10.0.9.9")                    # silent: a NAT gave it another address
        world.network.hole(2.0)                     # nothing passes for 2 s (`to=`, `sender=`: one way only)
        world.run_for(5.0)

Sessions are any `quicmsg.transport.Pumped`. `on_activity(end)` is called as the real `Link` does, after the
session was fed; call `end.flush()` after calling into a session from elsewhere. `World.at(time, function)`
schedules anything. `server.restart()` forgets every connection (clients then meet stateless resets).

Same seed, same run, to the packet, inside `pinned_aioquic`. The network can delay, lose, double, reorder
(jitter) and drop what is sent to an address that nobody has any more; change `world.network`'s fields at any
time. `network.drop` is a predicate (sender, to, data) for surgical loss.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from functools import cache
from typing import Any

from certificates import authority
from pinned import pinned_aioquic
from virtual_network import Address, Network

from quicmsg.errors import ErrorCode
from quicmsg.limits import TIMER_LATENESS
from quicmsg.transport import Pumped, address_text
from quicmsg.transport.admission import Admission
from quicmsg.transport.connection import Connection, LinkStats, configuration
from quicmsg.transport.coupling import Coupling
from quicmsg.transport.endpoint import addressed_id
from quicmsg.transport.listener import server_configuration
from quicmsg.transport.resuming import ClientTickets
from quicmsg.transport.trust import Trust

__all__ = ["SERVER", "End", "Network", "Server", "World", "client_configuration", "pinned_aioquic"]

SERVER: Address = ("10.0.0.1", 4433)
EVENTS_AT_ONE_INSTANT_MAX = 20_000


class End:
    """One end of a connection, bound to a session; what `Link` is in the real world."""

    def __init__(
        self,
        world: World,
        connection: Connection,
        address: Address,
        claim: Callable[[End], Pumped | None],
        on_activity: Callable[[End], None] | None,
        host: Server | None,
    ) -> None:
        self.connection = connection
        self.address = address
        self.is_over = False
        self.end: tuple[int, str] | None = None
        self._world = world
        self._host = host
        self._farewell: list[tuple[bytes, Address]] = []
        self._echoes = 0
        self._on_activity = on_activity
        self._version = 0
        self._coupling = Coupling(
            connection,
            claim=lambda: claim(self),
            local_address=lambda: address_text(self.address),
            now=world.now,
        )

    # ---- as a Link

    @property
    def session(self) -> Any:
        return self._coupling.session

    @property
    def is_open(self) -> bool:
        return self._coupling.session is not None and not self.is_over

    @property
    def peer_address(self) -> str:
        return self._coupling.peer_address

    @property
    def local_address(self) -> str:
        return address_text(self.address)

    def stats(self) -> LinkStats:
        return self.connection.stats()

    def keep_ticket(self, owner: bytes) -> None:
        """Server: the client proved to be `owner`."""
        self.connection.keep_ticket(owner)

    def flush(self) -> None:
        """Let the session's output go, before time moves on."""
        self._world.dirty[self] = None

    def close(self, code: int = ErrorCode.NO_ERROR, text: str = "") -> None:
        """End it now."""
        self.connection.close(error_code=code, reason_phrase=text)
        self.flush()

    def migrate(self, host: str | None = None) -> None:
        """Client: we know that our address changed (or that we want another port)."""
        self.rebind(host)
        self.connection.migrate(self._world.now)
        if self.session is not None:
            self.session.path_changed(self.local_address, self._world.now)
            self._activity()
        self.flush()

    # ---- the world around it

    def rebind(self, host: str | None = None) -> None:
        """Client: our address changes and nobody tells us. What is sent to the old one is lost."""
        self._world.owners.pop(self.address, None)
        self.address = self._world.free_address(host or self.address[0])
        self._world.owners[self.address] = self.receive

    def kill(self) -> None:
        """The process is gone: no farewell, no timers."""
        self.is_over = True
        self._version += 1
        self._world.owners.pop(self.address, None)

    def receive(self, sender: Address, data: bytes) -> None:
        if self.is_over:
            self._repeat_farewell()
            return
        self.connection.receive_datagram(data, sender, self._world.now)
        self.flush()

    def serve(self) -> None:
        """One turn: events, session, output, datagrams, timer. As `Endpoint` does."""
        if self.is_over:
            return
        now = self._world.now
        self._pump(now)
        datagrams = self.connection.datagrams_to_send(now)
        for data, to in datagrams:
            self._world.network.carry(self.address, to, data)
        if self._host is not None:
            self._host.route(self)
        if self.connection.has_ended:
            repeats = self._host is not None and self.connection.is_address_proved
            self._farewell = datagrams if repeats else []
            self._pump(now)
        self._forget_or_arm()

    # ---- private

    def _pump(self, now: float) -> None:
        if self.is_over:
            return
        fed = self._coupling.feed(now)
        if self.connection.has_ended:
            self._finish(now)
            return
        if fed and self.session is not None:
            self._activity()
        self._coupling.give_output(now)

    def _finish(self, now: float) -> None:
        self.is_over = True
        self.end = self._coupling.end()
        if self._host is None:
            self._world.owners.pop(self.address, None)
        if self.session is not None:
            self.session.connection_lost(*self.end, now)
            self._activity()

    def _activity(self) -> None:
        if self._on_activity is not None:
            self._on_activity(self)

    def _repeat_farewell(self) -> None:
        """Server: as `Endpoint` does, at growing distance, until the closing period is over."""
        self._echoes += 1
        if self._echoes & (self._echoes - 1) == 0:
            for data, to in self._farewell:
                self._world.network.carry(self.address, to, data)

    def _forget_or_arm(self) -> None:
        if self.is_over and (self.connection.is_terminated or not self._farewell):
            if self._host is not None:
                self._host.forget(self)
            return
        self._arm()

    def _arm(self) -> None:
        self._version += 1
        version = self._version
        times = [self._coupling.get_timer()] if not self.is_over else []
        due = self.connection.get_timer()
        if due is not None:
            times.append(due + TIMER_LATENESS)
        known = [time for time in times if time is not None]
        if known:
            self._world.at(max(min(known), self._world.now + 1e-6), lambda: self._fire(version))

    def _fire(self, version: int) -> None:
        if version != self._version:
            return
        due = self.connection.get_timer()
        if due is not None and due < self._world.now:
            self.connection.handle_timer(self._world.now)
        if self.is_over:
            self._forget_or_arm()
        self.flush()


class Server:
    """The server's side: routes datagrams to its ends, admits new ones with the real `Admission`."""

    def __init__(
        self,
        world: World,
        make_session: Callable[[str], Pumped],
        on_activity: Callable[[End], None] | None,
        address: Address,
    ) -> None:
        self.address = address
        self.ends: list[End] = []
        self._world = world
        self._make_session = make_session
        self._on_activity = on_activity
        self._routes: dict[bytes, End] = {}
        self._known: dict[End, tuple[int, set[bytes], bytes]] = {}
        self._hosts: dict[End, str] = {}
        self._chain, self._key = _server_certificate()
        self.start()

    def start(self) -> None:
        """Begin to listen."""
        self.admission = Admission(
            server_configuration(self._chain, self._key), reset_key=b"reset key", retry_key=b"retry key"
        )
        self._world.owners[self.address] = self.receive

    def stop(self) -> None:
        """The process is gone."""
        for end in self.ends:
            end.kill()
        self.ends.clear()
        for known in (self._routes, self._known, self._hosts):
            known.clear()
        self._world.owners.pop(self.address, None)

    def restart(self) -> None:
        """The process is gone, and another one listens, which remembers nothing."""
        self.stop()
        self.start()

    def receive(self, sender: Address, data: bytes) -> None:
        end = self._routes.get(addressed_id(data)) or self._admit(sender, data)
        if end is not None:
            end.receive(sender, data)

    def route(self, end: End) -> None:
        """Learn the connection ids by which this end may be addressed now, and where it is."""
        version, ids, first = self._known[end]
        if version != end.connection.ids_version:
            current = {first, *end.connection.connection_ids}
            for gone in ids - current:
                self._routes.pop(gone, None)
            for connection_id in current:
                self._routes[connection_id] = end
            self._known[end] = end.connection.ids_version, current, first
        address = end.connection.get_peer_address()
        if address is not None and address[0] != self._hosts[end]:
            self.admission.moved(self._hosts[end], address[0])
            self._hosts[end] = address[0]

    def forget(self, end: End) -> None:
        """It is over: who still writes to it is a stranger from now on."""
        if end in self._known:
            for connection_id in self._known.pop(end)[1]:
                self._routes.pop(connection_id, None)
            self.admission.closed(self._hosts.pop(end), was_half_open=end.session is None)

    # ---- private

    def _admit(self, sender: Address, data: bytes) -> End | None:
        verdict = self.admission.decide(data, sender, self._world.now)
        if isinstance(verdict, Connection):
            end = End(self._world, verdict, self.address, self._claim, self._on_activity, self)
            self.ends.append(end)
            self._known[end] = -1, set(), addressed_id(data)
            self._hosts[end] = sender[0]
            self.route(end)
            self.admission.opened(sender[0])
            return end
        if verdict is not None:
            self._world.network.carry(self.address, sender, verdict)
        return None

    def _claim(self, end: End) -> Pumped:
        self.admission.established()
        return self._make_session(end.peer_address)


class World:
    """Virtual time, the network, and everybody in it."""

    def __init__(
        self,
        seed: int = 0,
        *,
        latency: float = 0.025,
        jitter: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
    ) -> None:
        """`latency` is one way; `jitter` the mean of an exponential delay on top, which reorders."""
        self.now = 1000.0
        self.random = random.Random(seed)
        self.network = Network(self, latency=latency, jitter=jitter, loss=loss, duplicate=duplicate)
        self.owners: dict[Address, Callable[[Address, bytes], None]] = {}
        self.dirty: dict[End, None] = {}
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._next_port = 40_000
        self._hash = hashlib.sha256()

    # ---- who is there

    def serve(
        self,
        make_session: Callable[[str], Pumped],
        *,
        on_activity: Callable[[End], None] | None = None,
        address: Address = SERVER,
    ) -> Server:
        """Start a server."""
        return Server(self, make_session, on_activity, address)

    def dial(
        self,
        session: Pumped,
        *,
        host: str = "10.0.1.1",
        to: Address = SERVER,
        on_activity: Callable[[End], None] | None = None,
        tickets: ClientTickets | None = None,
    ) -> End:
        """Begin a handshake from a host; it proceeds as the world runs; with `tickets` it resumes."""
        settings, trust = client_configuration(), Trust(fingerprint=authority().fingerprint)
        connection = Connection(
            configuration=settings,
            trust=trust,
            resumes=None if tickets is None else tickets.take(settings.server_name, trust),
            on_ticket=None if tickets is None else tickets.put,
        )
        return self.join(connection, session, host=host, to=to, on_activity=on_activity)

    def join(
        self,
        connection: Connection,
        session: Pumped,
        *,
        host: str = "10.0.1.1",
        to: Address = SERVER,
        on_activity: Callable[[End], None] | None = None,
    ) -> End:
        """As `dial`, with a client connection of one's own (an attacker's, for instance)."""
        end = End(self, connection, self.free_address(host), lambda _: session, on_activity, None)
        self.owners[end.address] = end.receive
        connection.connect(to, self.now)
        end.flush()
        return end

    def free_address(self, host: str) -> Address:
        """A new port of a host."""
        self._next_port += 1
        return host, self._next_port

    # ---- time

    def at(self, time: float, function: Callable[[], None]) -> None:
        """Call at a point in time (not before now)."""
        self._count += 1
        heapq.heappush(self._heap, (max(time, self.now), self._count, function))

    def after(self, seconds: float, function: Callable[[], None]) -> None:
        """Call some time from now."""
        self.at(self.now + seconds, function)

    def run_for(self, seconds: float) -> None:
        """Let time pass."""
        self._run(self.now + seconds, None)

    def run(self, until: Callable[[], bool], *, limit: float = 60.0) -> float:
        """Let time pass until something is true; gives the seconds that took. Fails after `limit`."""
        start = self.now
        if not self._run(self.now + limit, until):
            raise AssertionError(f"not within {limit} s of virtual time")
        return self.now - start

    @property
    def hash(self) -> str:
        """Of every datagram so far: equal seeds give equal hashes."""
        return self._hash.hexdigest()

    # ---- used by the network and the ends

    def arrive(self, sender: Address, to: Address, data: bytes) -> None:
        owner = self.owners.get(to)
        if owner is not None:
            owner(sender, data)

    def note(self, sender: Address, to: Address, data: bytes) -> None:
        self._hash.update(repr((round(self.now, 6), sender, to)).encode() + data)

    # ---- private

    def _run(self, stop: float, until: Callable[[], bool] | None) -> bool:
        at_one_instant = 0
        while True:
            while self.dirty:
                end = next(iter(self.dirty))
                del self.dirty[end]
                end.serve()
            if until is not None and until():
                return True
            if not self._heap or self._heap[0][0] > stop:
                self.now = stop
                return False
            time, _, function = heapq.heappop(self._heap)
            at_one_instant = at_one_instant + 1 if time == self.now else 0
            assert at_one_instant < EVENTS_AT_ONE_INSTANT_MAX, "time stands still"
            self.now = time
            function()


def client_configuration() -> Any:
    """Settings of a client that expects the server's name to be localhost."""
    return configuration(is_client=True, server_name="localhost")


@cache
def _server_certificate() -> tuple[bytes, bytes]:
    return authority().issue()
