"""QUIC frames of every type into a real connection, from a hostile client or a hostile server.

Nothing may be raised; what the peer can make us hold stays bounded; nobody stays for ever; and an honest
client of the same server is served meanwhile.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final
from unittest import mock

from certificates import authority
from quicpair import SERVER, End, Server, World, client_configuration, pinned_aioquic
from transport.talk import Talk

from fuzz.engine import Target
from fuzz.packets import FrameMaker, Raw
from quicmsg import limits
from quicmsg.transport import admission
from quicmsg.transport.connection import Connection
from quicmsg.transport.trust import Trust

ROUNDS: Final = 60
PATHS_MAX: Final = 8
"""What aioquic keeps of a peer's addresses and connection ids."""


class Duel:
    """A hostile end and ours, and a network that lets the hostile one do as it likes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.world = World(random.getrandbits(32), latency=0.001)
        self.by_server = random.random() < 0.3
        self.frames = FrameMaker(random, is_careful=random.random() < 0.5, from_client=not self.by_server)
        self.said: list[tuple[Any, Any, bytes]] = []
        self.inputs = self.rounds = 0
        self.server: Server = self.world.serve(lambda _: Talk(consumes=random.random() < 0.7))

    def run(self) -> Counter[str]:
        with pinned_aioquic(self.random.getrandbits(32)):
            honest = self._honest() if not self.by_server else None
            hostile, ours = self._meet()
            for _ in range(ROUNDS):
                if hostile.is_over or ours.is_over:
                    break
                self._round(hostile)
                check(ours.connection)
                self.rounds += 1
            if honest is not None:
                self._is_served(*honest)
                honest[0].close()
            hostile.kill()
            self.world.run_for(limits.IDLE_TIMEOUT + 1)
            assert ours.is_over, "it is held for ever"
        return Counter(inputs=self.inputs, rounds=self.rounds, survived=int(self.rounds == ROUNDS))

    # ---- private

    def _honest(self) -> tuple[End, Talk, Talk]:
        ours = Talk()
        end = self.world.dial(ours, host="10.0.2.2")
        self.world.run(lambda: end.is_open and self.server.ends[0].is_open)
        return end, ours, self.server.ends[0].session

    def _is_served(self, end: End, ours: Talk, theirs: Talk) -> None:
        theirs.consumes = ours.consumes = True
        before = theirs.heard[3], ours.heard[3]
        ours.say(3, 5)
        end.flush()
        self.world.run(lambda: theirs.heard[3] == before[0] + 5, limit=3)
        theirs.say(3, 5)
        self.server.ends[0].flush()
        self.world.run(lambda: ours.heard[3] == before[1] + 5, limit=3)
        assert ours.problems == theirs.problems == []

    def _meet(self) -> tuple[End, End]:
        """(The hostile end, ours), their handshake complete."""
        client = Connection if self.by_server else Raw
        with mock.patch.object(admission, "Connection", Raw if self.by_server else Connection):
            connection = client(
                configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
            )
            end = self.world.join(connection, Talk(consumes=self.random.random() < 0.7))
            count = len(self.server.ends)
            self.world.run(
                lambda: len(self.server.ends) > count and self.server.ends[-1].is_open and end.is_open
            )
        self.world.network.drop = self._watch
        theirs = self.server.ends[-1]
        if self.by_server:
            end.session.say(0)  # a server may only use what the client has opened
            end.session.say(1)
            end.flush()
            self.world.run_for(0.01)
        return (theirs, end) if self.by_server else (end, theirs)

    def _watch(self, sender: Any, to: Any, data: bytes) -> bool:
        if (sender == SERVER) == self.by_server and sender[0] != "10.0.2.2":
            self.said.append((sender, to, data))
        return False

    def _round(self, hostile: End) -> None:
        random, world = self.random, self.world
        made = [self.frames.frame() for _ in range(random.randint(1, 4))]
        self.inputs += len(made)
        connection = hostile.connection
        assert isinstance(connection, Raw)
        connection.raw += made
        if not self.by_server and random.random() < 0.1:
            hostile.rebind(f"10.0.3.{random.randrange(250)}")
        hostile.flush()
        if self.said and random.random() < 0.05:
            sender, to, data = random.choice(self.said[-50:])
            if random.random() < 0.5 and not self.by_server:
                sender = (f"10.0.4.{random.randrange(250)}", 4)
            world.arrive(sender, to, data)
        world.run_for(random.choice((0.001, 0.003, 0.05)))
        if random.random() < 0.01:
            world.run_for(5)


def check(connection: Connection) -> None:
    """What one peer can make us hold."""
    streams = list(dict.values(connection._streams))
    held = sum(len(stream.receiver._buffer) for stream in streams)
    assert held <= limits.CONNECTION_WINDOW
    assert 0 <= connection.buffered <= limits.SEND_BUFFER_MAX + 2**20
    assert len(streams) <= limits.SERVER_CHANNELS_MAX + 1
    assert all(len(stream.receiver._ranges) <= limits.STREAM_GAPS_MAX + 1 for stream in streams)
    assert all(len(s.receiver._buffer) <= limits.STREAM_WINDOW for s in streams)
    assert len(connection._network_paths) <= PATHS_MAX + 1
    assert len(connection.connection_ids) <= PATHS_MAX
    assert len(connection._peer_cid_available) <= PATHS_MAX
    crypto = [stream.receiver for stream in connection._crypto_streams.values()]
    assert all(len(receiver._buffer) <= limits.CRYPTO_SIZE_MAX for receiver in crypto)
    if connection.has_ended:
        return
    assert len(connection._events) <= PATHS_MAX, "events that nobody takes"
    due = connection.get_timer()
    assert connection.is_terminated or due is not None, "no timer: it would never end"


def case(random: Random) -> Counter[str]:
    """One duel."""
    return Duel(random).run()


TARGET: Final = Target("quic", "QUIC frames of every type into a connection, either end", case)
