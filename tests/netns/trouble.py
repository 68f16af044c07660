"""What can happen to a network, done to alice's while 50 conversations go on; and what came of it.

Nobody tells the client: it must notice by itself, from netlink, from send errors, from silence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from namespaces import Topology, topology
from roaming import Chat, Places, chat

from quicmsg.demo.account import Account

CONVERSATIONS = 50
IN_FLIGHT = 200
"""Messages of each side that must be under way when the network changes."""
HOLE = 5.0
LOSSES = (0, 1, 5)


@dataclass
class Trouble:
    """One thing that happens, and when."""

    name: str
    is_told: bool
    """Alice's computer sees it: her client can know at once."""
    cause: Callable[[Topology], Awaitable[float]]
    """Does it; returns when the network was usable again."""
    address: str
    """Where the server sees alice afterwards."""
    is_hole: bool = False


@dataclass
class Outcome:
    """What came of it."""

    trouble: Trouble
    loss: int
    account: Account
    in_flight: tuple[int, int]
    """Of alice, of bob, when it began."""
    back_after: dict[str, float | None] = field(default_factory=dict)
    """Seconds from the network's return to the first arrival, by receiver."""
    silence: dict[str, float] = field(default_factory=dict)
    """The longest wait for the next message while some were under way, by receiver."""
    sign_ins: int = 0
    moves: list[str] = field(default_factory=list)
    """As the server logged them: new addresses of alice."""
    told: list[str] = field(default_factory=list)
    """States of alice's link, as her program was told."""
    log: str = ""
    alices_log: str = ""

    def line(self) -> str:
        """For a table."""
        account = self.account
        numbers = f"{account.lost}/{account.doubled}/{account.disordered}/{account.failed}"
        back = [self.back_after[user] for user in ("bob", "alice")]
        return (
            f"{self.trouble.name:<28}{self.loss:>3} % {len(account.lives):>6}  {numbers:<9}"
            f"{self.in_flight[0]:>5}{self.in_flight[1]:>5} "
            + "".join(f"{'never' if b is None else f'{b * 1000:.0f}':>7}" for b in back)
            + "".join(f"{self.silence[user] * 1000:>8.0f}" for user in ("bob", "alice"))
            + f"{self.sign_ins - 2:>7}  {' '.join(self.told)}"
        )


HEADER = (
    f"{'':<28}{'loss':>5} {'sent':>6}  {'wrong':<9}{'in flight':>10} {'first':>7}{'':>7}{'longest':>8}{'':>8}"
    f"{'signed':>7}  alice's\n"
    f"{'trouble':<28}{'':>5} {'':>6}  {'':<9}{'up':>5}{'down':>5} {'up':>7}{'down':>7}{'up':>8}{'down':>8}"
    f"{'again':>7}  link"
)
"""wrong: lost/doubled/out of order/shown as failed. first: ms from the network's return to the first message
that arrived, up (alice to bob) and down. longest: ms between arrivals while something was under way."""


async def run(trouble: Trouble, loss: int, directory: Path) -> Outcome:
    """Talk, let it happen, talk on, and give an account."""
    with topology() as network:
        places = Places(network.server.inside, network.alice.inside, network.bob.inside)
        if trouble.name.startswith("NAT"):
            network.translate("10.77.4.1:20000-29999")
        network.lose(loss)
        listen = f"{Topology.server_address}:0"
        async with chat(
            directory, conversations=CONVERSATIONS, listen=listen, names=[Topology.server_address],
            places=places,
        ) as both:  # fmt: skip
            began, returned = await _talk(both, trouble, network)
            account = await both.finish()
            return _outcome(both, trouble, loss, account, began, returned)


async def _talk(both: Chat, trouble: Trouble, network: Topology) -> tuple[float, float]:
    async with both.talking(0.05):
        async with both.filled(IN_FLIGHT):
            began = time.monotonic()
        returned = await trouble.cause(network)
        await asyncio.sleep(1.5)  # talk on at the new address
    return began, returned


def _outcome(
    both: Chat, trouble: Trouble, loss: int, account: Account, began: float, returned: float
) -> Outcome:
    flights = [len(account.in_flight_at(began, user)) for user in ("alice", "bob")]
    outcome = Outcome(trouble, loss, account, (flights[0], flights[1]))
    for user in ("alice", "bob"):
        outcome.back_after[user] = account.first_after(user, returned)
        outcome.silence[user] = account.longest_wait(user, began, returned + 3)
    outcome.log = both.server.log()
    outcome.alices_log = both.alice.log()
    outcome.sign_ins = outcome.log.count(" signed in ")
    outcome.moves = [
        line.rpartition("new=")[2] for line in outcome.log.splitlines() if " moved user=alice " in line
    ]
    outcome.told = [event["state"] for event in both.alice.events if event["event"] == "connection"]
    return outcome


# ---- what can happen ------------------------------------------------------------------------------


async def replace_address(network: Topology) -> float:
    """The same uplink, another address: a DHCP lease that ended."""
    network.alice.ip(
        "addr del 10.77.1.2/24 dev c0",
        "addr add 10.77.1.3/24 dev c0",
        "route replace default via 10.77.1.1",
    )
    return time.monotonic()


async def change_subnet(network: Topology) -> float:
    """Another uplink with an address of its own; the first goes down: from Wi-Fi to mobile."""
    network.alice.ip(
        "link set c1 up",
        "route replace default via 10.77.2.1 dev c1",
        "link set c0 down",
    )
    return time.monotonic()


async def rebind_port(network: Topology) -> float:
    """The NAT forgets what it knew, and gives another port."""
    network.translate("10.77.4.1:40000-49999")
    return time.monotonic()


async def rebind_address(network: Topology) -> float:
    """The NAT gets another public address."""
    network.router.ip("addr add 10.77.4.9/24 dev r4")
    network.translate("10.77.4.9:40000-49999")
    return time.monotonic()


async def unplug(network: Topology) -> float:
    """The link goes down, and comes back after five seconds: a tunnel that the computer notices."""
    network.alice.ip("link set c0 down")
    await asyncio.sleep(HOLE)
    network.alice.ip("link set c0 up", "route replace default via 10.77.1.1")
    return time.monotonic()


async def unplug_and_move(network: Topology) -> float:
    """The link goes down, and five seconds later another one is there."""
    network.alice.ip("link set c0 down")
    await asyncio.sleep(HOLE)
    network.alice.ip("link set c1 up", "route replace default via 10.77.2.1 dev c1")
    return time.monotonic()


async def go_silent(network: Topology) -> float:
    """Five seconds in which nothing passes, and no computer sees why."""
    network.drop_everything(True)
    await asyncio.sleep(HOLE)
    network.drop_everything(False)
    return time.monotonic()


TROUBLES = {
    "address": Trouble("replaced address", True, replace_address, "10.77.1.3:"),
    "subnet": Trouble("another subnet", True, change_subnet, "10.77.2.2:"),
    "nat-port": Trouble("NAT: another port", False, rebind_port, "10.77.4.1:4"),
    "nat-address": Trouble("NAT: another address", False, rebind_address, "10.77.4.9:4"),
    "link": Trouble("link down for 5 s", True, unplug, "10.77.1.2:", is_hole=True),
    "link-move": Trouble("link down 5 s, other subnet", True, unplug_and_move, "10.77.2.2:", is_hole=True),
    "silence": Trouble("silence for 5 s", False, go_silent, "10.77.1.2:", is_hole=True),
}
