"""One seed: a server and some devices live through their troubles, then it is quiet, and all must be well."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import proofs

from simulation.shell import pins
from simulation.shell.device import Device
from simulation.shell.faults import Faults
from simulation.shell.process import Process
from simulation.shell.settings import Settings, bounded, draw
from simulation.shell.watching import journal_class, store_class
from simulation.shell.world import World

SETTLING_MAX = 30.0
QUIET_MAX = 90.0
"""Seconds after the last fault until everything has to be well."""
CLOSING_MAX = 30.0
MOVES = {"new address", "move by hand", "netlink noise", "nat rebinding", "clock step", "slow disk"}
"""Through these a connection lives on."""


@dataclass(slots=True)
class Report:
    """How a seed went."""

    seed: int
    problems: list[str]
    hash: str
    messages: int
    datagrams: int
    simulated: float
    counts: Counter[str] = field(default_factory=Counter)


class Simulation:
    """The life of a world, from its start to its end."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.faults = Faults(world)
        self.sent = 0
        self._draw = Random(f"people {world.seed}")
        self._over = False
        self._texts: list[tuple[Device, str, str, str]] = []

    async def live(self) -> list[str]:
        """Run it; what is wrong in the end."""
        world, settings = self.world, self.world.settings
        await self._settle_in()
        world.set_weather()
        self._plan()
        self.faults.begin()
        await asyncio.sleep(settings.duration)
        self._over = True
        self.faults.end()
        problem = await self._quiet()
        problems = world.checker.problems[:1] or ([problem] if problem else [])
        if not problems:
            problems = await self._close() or world.checker.problems
        return problems + self._check_links()

    # ---- before

    async def _settle_in(self) -> None:
        """Everybody has signed in, and the groups are made, before anything goes wrong."""
        world = self.world
        world.start_server()
        await self._until(lambda: world.server is not None, "the server does not start")
        first: dict[str, Device] = {}
        for device in world.devices:
            if device.user in first:
                client = first[device.user].client
                assert client is not None
                device.code = await self._ask(first[device.user], client.link_code())
            first.setdefault(device.user, device)
            device.start()
            await self._until(lambda device=device: _is_up(device), f"{device.name} does not get up")
        for number in range(world.settings.groups):
            creator = world.devices[0]
            members = [user for user in world.settings.users if self._draw.random() < 0.8]
            await self._ask(creator, creator.make_group(f"#group{number}", members))

    async def _ask(self, device: Device, work: object) -> str:
        assert device.process is not None
        return await device.process.start(work)  # type: ignore[arg-type,return-value]

    async def _until(self, met: object, complaint: str) -> None:
        loop = self.world.loop
        deadline = loop.now + SETTLING_MAX
        while not met():  # type: ignore[operator]
            assert loop.now < deadline, complaint
            await asyncio.sleep(0.05)

    # ---- people

    def _plan(self) -> None:
        settings = self.world.settings
        rate = settings.rate + settings.membership_rate + settings.by_hand
        self.world.later(self._draw.expovariate(rate), self._act)

    def _act(self) -> None:
        if self._over:
            return
        settings, device = self.world.settings, self._draw.choice(self.world.devices)
        choice = self._draw.random() * (settings.rate + settings.membership_rate + settings.by_hand)
        if choice < settings.rate:
            self._send(device)
        elif choice < settings.rate + settings.membership_rate:
            self._change_membership(device)
        else:
            self._meddle(device)
        self._plan()

    def _send(self, device: Device) -> None:
        settings, random = self.world.settings, self._draw
        conversations = [f"@{user}" for user in settings.users] + ["#group0"] * 2 * settings.groups
        conversation = random.choice(conversations)
        for _ in range(random.choice([1, 1, 1, 2, 5])):
            self.sent += 1
            text = f"{self.sent} of {device.name} ".ljust(random.choice(settings.sizes), ".")
            message_id = random.randbytes(16).hex() if random.random() < 0.1 else None
            if message_id is not None:
                self._texts.append((device, conversation, text, message_id))
            hurry = random.uniform(0.0, 1.0) if random.random() < settings.hurry else None
            device.do(device.send(conversation, text, message_id, random.random() < 0.5, hurry))

    def _change_membership(self, device: Device) -> None:
        if self.world.settings.groups:
            what = self._draw.choice(["leave", "join", "join", "invite"])
            other = self._draw.choice(list(self.world.settings.users))
            device.do(device.change_membership(what, "#group0", other))

    def _meddle(self, device: Device) -> None:
        random = self._draw
        match random.choice(["resend", "cancel", "again", "look back"]):
            case "resend":
                device.do(device.touch_outbox(random.random(), cancel=False))
            case "cancel":
                device.do(device.touch_outbox(random.random(), cancel=True))
            case "again" if self._texts:
                device, conversation, text, message_id = random.choice(self._texts)
                device.do(device.send(conversation, text, message_id, waits=True, hurry=None))
            case _:
                user = random.choice(list(self.world.settings.users))
                device.do(device.look_back(f"@{user}", random.choice([1, 5, 50])))

    # ---- after

    async def _quiet(self) -> str:
        world = self.world
        deadline = world.loop.now + QUIET_MAX
        problem = "nothing was checked"
        while problem and world.loop.now < deadline and not world.checker.problems:
            await asyncio.sleep(0.5)
            problem = self._down() or world.checker.unfinished() or await self._ask_all()
        return problem

    async def _ask_all(self) -> str:
        """What a program says in the end that is not (or not yet) what it should say."""
        for device in self.world.devices:
            if device.is_running:
                assert device.process is not None
                answer = await device.process.start(self._question(device))
                if answer:
                    return answer
        return ""

    def _down(self) -> str:
        if self.world.server is None:
            return "C5 progress: the server is down"
        down = [device.name for device in self.world.devices if not _is_up(device)]
        return f"C5 progress: {down} are not connected" if down else ""

    async def _close(self) -> list[str]:
        """Let everything end by itself."""
        world = self.world
        world.checker.check_order()
        world.is_closing = True
        for device in world.devices:
            device.stop()
        late = await self._wait([d.process for d in world.devices])
        world.stop_server()
        late += await self._wait([world.past_servers[-1]])
        processes = [process for device in world.devices for process in device.past] + world.past_servers
        return late + [left for process in processes if process.alive for left in process.leftovers()]

    async def _wait(self, processes: list[Process | None]) -> list[str]:
        loop = self.world.loop
        deadline = loop.now + CLOSING_MAX
        while waiting := [p for p in processes if p is not None and p.alive and not p.has_ended]:
            if loop.now > deadline:
                return [f"{process.name} does not end" for process in waiting]
            await asyncio.sleep(0.1)
        await asyncio.sleep(0.1)
        return []

    async def _question(self, device: Device) -> str:
        checker, client = self.world.checker, device.client
        assert client is not None
        for message_id in checker.own[device.name]:
            state = await client.state(message_id.hex())
            wanted = checker.wanted_state(device.name, message_id)
            if str(state) not in wanted:
                return f"C5 places: {device.name} says {message_id.hex()} is {state}, not {wanted}"
        for row in await client.outbox():
            if str(row.state) != "rejected":
                return f"C5 places: {device.name} still has {row.message_id} in its outbox"
        return ""

    def _check_links(self) -> list[str]:
        """A calm world has no trouble at all; and what only moves is never disconnected (C7 moves)."""
        settings = self.world.settings
        only_moves = bool(settings.faults) and settings.faults.keys() <= MOVES and not settings.weather.loss
        if not (settings.calm or only_moves):
            return []
        leaving: set[object] = set()
        downs = 0
        for _, what, details in self.world.history.happenings:
            if what == "stopping":
                leaving.add(details[0])
            downs += what == "link" and details[1] == "down" and details[0] not in leaving
        problems = [f"C7 moves: {downs} connections went down"] if downs else []
        if settings.calm:
            seen = Counter(
                str(details[1] if what == "link" else details[2])
                for _, what, details in self.world.history.happenings
                if what in ("link", "state")
            )
            problems += [f"calm: {state}" for state in ("failed", "moved") if seen[state]]
            if seen["up"] != len(self.world.devices):
                problems.append(f"calm: {seen['up']} connections")
        return problems


def _is_up(device: Device) -> bool:
    return device.is_running and device.client is not None and device.client.is_up


def simulate(seed: int, *, trace: bool = False, settings: Settings | None = None) -> Report:
    """Run one seed."""
    complaints = pins.Complaints()
    with _directory() as directory, complaints.listening(), _collected():
        world = World(seed, settings or draw(seed), directory, trace=trace)
        simulation = Simulation(world)
        classes = {
            "journal_file": journal_class(world.note, world.device_names),
            "sqlite_store": store_class(world.note),
        }
        with pins.simulated(seed, world.loop, world.internet, **classes), bounded(world.settings.bounds):
            problems = _run(simulation)
        problems += complaints.found
        digest = hashlib.sha256((world.history.hash() + world.internet.hash).encode()).hexdigest()
        counts = Counter(simulation.faults.made)
        net = world.internet
        counts.update(lost=net.lost, doubled=net.doubled, corrupted=net.corrupted)
        return Report(seed, problems, digest, simulation.sent, net.sent, world.loop.now - 1000.0, counts)


def _run(simulation: Simulation) -> list[str]:
    world = simulation.world
    loop = world.loop
    try:
        asyncio.set_event_loop(loop)
        try:
            problems = loop.run_until_complete(simulation.live())
        except Exception as error:  # a deadlock, a livelock, an assertion: what the programs did is a find
            problems = [*world.checker.problems, f"the world ended: {error!r}"]
        gc.collect()
        problems += loop.problems
    finally:
        _bury(world)
    return problems


def _bury(world: World) -> None:
    """What was killed has left tasks behind; so has everything, when a seed has failed."""
    processes = [process for device in world.devices for process in device.past] + world.past_servers
    for process in processes:
        process.kill()
    for process in processes:
        process.bury()
    world.loop.close()


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    """Files in memory where there is such a place: here an fsync proves nothing, and costs."""
    name = tempfile.mkdtemp(prefix="quicmsg-shell-", dir=proofs.scratch())
    try:
        yield Path(name)
    finally:
        shutil.rmtree(name)


@contextlib.contextmanager
def _collected() -> Iterator[None]:
    """Garbage is collected at the end only, so that finalizers run at no other time than in the next run.
    What was there before is left out of it: to look through it costs as much as a fifth of a seed."""
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.enable()
