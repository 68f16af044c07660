"""Whatever an attacker does with other people's addresses, they get at most three times what came from them.

A case is one trace: packets in the name of a victim that never answers, before, during or after a
handshake.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any, Final

from certificates import authority
from quicpair import SERVER, End, Server, World, client_configuration, pinned_aioquic
from transport.talk import Talk

from fuzz.datagrams import damaged
from fuzz.engine import Target
from fuzz.packets import FrameMaker, Raw
from quicmsg.limits import HANDSHAKE_TIMEOUT, RETRY_ABOVE
from quicmsg.transport.trust import Trust

VICTIM: Final = ("10.9.9.9", 999)


class Trace:
    """One trace; `got` and `gave` count the victim's bytes."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.world = World(random.getrandbits(32), latency=0.005, loss=random.choice((0.0, 0.2)))
        self.server: Server = self.world.serve(lambda _: Talk())
        if random.random() < 0.2:
            self.server.admission.half_open = RETRY_ABOVE  # Retry is on
        self.got = self.gave = 0
        self.proved = False
        self.world.network.drop = self._watch
        self.said: list[bytes] = []

    def run(self) -> Counter[str]:
        connection = Raw(
            configuration=client_configuration(), trust=Trust(fingerprint=authority().fingerprint)
        )
        end = self.world.join(connection, Talk())
        if self.random.random() < 0.5:
            self.world.run_for(2.0)
            self._after_the_handshake(end, connection)
        else:
            self.world.run_for(self.random.choice((0.0, 0.004, 0.011, 0.02)))
            for _ in range(self.random.randint(1, 6)):
                self._spoof(self.random.choice(self.said))
                self.world.run_for(self.random.choice((0.0, 0.01, 1.0)))
        if self.random.random() < 0.5:
            end.kill()
        self.world.run_for(HANDSHAKE_TIMEOUT + 1)
        self._spoof(self.random.randbytes(self.random.choice((21, 44, 1200))))
        self.world.run_for(1.0)
        return Counter(inputs=1, sent=self.gave, received=self.got, proved=int(self.proved))

    # ---- private

    def _watch(self, sender: Any, to: Any, data: bytes) -> bool:
        if to == VICTIM:
            self.gave += len(data)
            if self._is_proved():
                return True
            assert self.gave <= 3 * self.got, f"the victim got {self.gave} bytes for {self.got}"
            return True
        if to == SERVER:
            self.said.append(data)
        return False

    def _is_proved(self) -> bool:
        """By a copy of the client's Handshake packet (RFC 9000 section 8.1): the limit ends there."""
        paths = [path for end in self.server.ends for path in end.connection._network_paths]
        self.proved = self.proved or any(path.addr == VICTIM and path.is_validated for path in paths)
        return self.proved

    def _spoof(self, data: bytes) -> None:
        if self.random.random() < 0.3:
            data = damaged(self.random, data, self.said)
        if data:
            self.got += len(data)
            self.world.arrive(VICTIM, SERVER, data)
            self._is_proved()

    def _after_the_handshake(self, end: End, connection: Raw) -> None:
        """Fresh packets of its own connection in the victim's name, while the server has much to say."""
        random, world = self.random, self.world
        frames = FrameMaker(random, is_careful=random.random() < 0.8, from_client=True)
        for _ in range(random.randint(1, 8)):
            if end.is_over or not self.server.ends:
                return
            ours = self.server.ends[0]
            if ours.session is not None and random.random() < 0.5:
                ours.session.say(0, random.choice((1, 100)))
                ours.flush()
            connection.raw += [frames.frame() for _ in range(random.randint(1, 3))]
            for data, _ in connection.datagrams_to_send(world.now):
                self._spoof(data)
            if random.random() < 0.1 and not ours.is_over:
                ours.close(0, "bye" * random.choice((1, 80)))
            world.run_for(random.choice((0.0, 0.02, 0.3, 1.0)))


def case(random: Random) -> Counter[str]:
    """One trace."""
    with pinned_aioquic(random.getrandbits(32)):
        return Trace(random).run()


TARGET: Final = Target("amplification", "traces in the name of a victim that never answers", case)
