"""How long a client is without its server after the server was killed and started again.

`python -m tests.simulation.recovery [--seeds 40]` prints the distribution, in virtual time over real QUIC
connections: the process is gone without a word, and is back half a second later on the same disk and keys.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from enum import Enum
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pinned import pinned_aioquic

from quicmsg.store import SignIn
from simulation.device import Device
from simulation.history import History
from simulation.kernel import Kernel
from simulation.quic_network import QuicNetwork
from simulation.server import Server
from simulation.weather import Weather

DOWN = 0.5
"""Seconds between the kill and the restart."""
PATIENCE = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.recovery", description=__doc__)
    parser.add_argument("--seeds", type=int, default=40)
    seeds = parser.parse_args().seeds
    for kind in Kind:
        took = sorted(recover(seed, kind) for seed in range(1, seeds + 1))
        print(  # noqa: T201
            f"{kind.value}: usable again after {statistics.median(took):.2f} s (median), {took[-1]:.2f} s at "
            f"most, {seeds} seeds, server back after {DOWN} s"
        )
    return 0


class Kind(Enum):
    """What the client is doing."""

    SENDING = "somebody who sends every second"
    WATCHING = "somebody who looks at the screen"
    AWAY = "a program in the background (it asks every 15 s)"


def recover(seed: int, kind: Kind) -> float:
    """Seconds from the kill of the server until a client has what it needs: who sends, that a message which
    it sent afterwards is stored; who does not, a connection."""
    with pinned_aioquic(seed):
        return _Recovery(seed, kind).run()


class _Recovery:
    def __init__(self, seed: int, kind: Kind) -> None:
        self.random = Random(f"recovery {seed}")
        self.kernel = Kernel()
        self.history = History(lambda: self.kernel.now)
        network = QuicNetwork(self.kernel, Random(f"network {seed}"))
        network.weather = Weather(delay=self.random.choice([0.001, 0.01, 0.05]), jitter=0.002)
        self.server = Server(self.kernel, network, Random(f"server {seed}"), self.history)
        self.device = Device("alice", 0, self.kernel, network, Random(f"alice {seed}"), self.history)
        self.device.foreground = kind is not Kind.AWAY
        key, name = self.device.public_key, self.device.name
        self.server.store.execute([SignIn("alice", key, name, "", False, 1)])
        self.sending = kind is Kind.SENDING
        self.sent = 0

    def run(self) -> float:
        self.server.start()
        self.device.start()
        self._until(lambda: self.device.is_up)
        if self.sending:
            self._send()
        self.kernel.run_until(self.kernel.now + self.random.uniform(20.0, 40.0))
        killed, before = self.kernel.now, self.sent
        self.server.crash()
        self.kernel.call_later(DOWN, self.server.start)
        self._until(lambda: self._is_stored_after(before) if self.sending else self._is_back(killed))
        return self.kernel.now - killed

    def _send(self) -> None:
        self.sent += 1
        self.device.send("@alice", b"x" * 40, self.sent.to_bytes(16, "big"))
        self.kernel.call_later(1.0, self._send)

    def _is_stored_after(self, before: int) -> bool:
        return any(
            what == "stored" and int.from_bytes(details[-1], "big") > before  # type: ignore[arg-type]
            for _, what, details in self.history.happenings[-50:]
        )

    def _is_back(self, since: float) -> bool:
        return self.device.is_up and any(
            what == "up" and now > since for now, what, _ in self.history.happenings[-50:]
        )

    def _until(self, met: object) -> None:
        done = self.kernel.run_until(self.kernel.now + PATIENCE, met)  # type: ignore[arg-type]
        assert done, f"not usable again within {PATIENCE} s"


if __name__ == "__main__":
    sys.exit(main())
