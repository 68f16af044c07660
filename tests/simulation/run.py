"""One seed: people talk while everything goes wrong, then it becomes quiet, and everything must be well."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections import Counter
from dataclasses import dataclass
from random import Random

from pinned import pinned_aioquic

from simulation.bounds import check_bounds
from simulation.checker import Checker, Final
from simulation.device import Device
from simulation.history import History
from simulation.kernel import Kernel
from simulation.manners import watched_manners
from simulation.network import Network
from simulation.people import People
from simulation.quic_checks import check_transport, watch_closely
from simulation.quic_network import QuicNetwork
from simulation.quic_settings import draw_quic
from simulation.server import Server
from simulation.settings import Settings, bounded, draw
from simulation.trace import FrameTrace
from simulation.troubles import Troubles

QUIET_MAX = 150.0
"""Seconds after the last fault until everything has to be well."""
TAPS = (8.0, 16.0, 24.0)
"""When, in the quiet time, the person taps every red cross."""
OUTAGE_MAX = 2.5
"""Shorter than what makes a client doubt its connection."""
LOOK_INTERVAL = 0.5
WATCH_INTERVAL = 0.2
DRAW = {"streams": draw, "quic": draw_quic}


@dataclass(slots=True)
class Report:
    """How a seed went. `survived` counts the faults by kind."""

    seed: int
    problems: list[str]
    hash: str
    messages: int
    events: int
    simulated: float
    survived: Counter[str]


class Simulation:
    """A world with its people and its troubles."""

    def __init__(self, seed: int, settings: Settings, *, trace: bool = False) -> None:
        self.seed = seed
        self.settings = settings
        self.kernel = Kernel()
        self.history = History(lambda: self.kernel.now)
        self.history.trace = trace
        make_network = QuicNetwork if settings.tier == "quic" else Network
        self.network = make_network(self.kernel, Random(f"network {seed}"))
        self.network.weather = settings.weather
        random = Random(f"server {seed}")
        self.server = Server(self.kernel, self.network, random, self.history, sqlite=settings.sqlite)
        self.server.disk.commit_max = settings.commit_max
        self.server.disk.stall_chance = settings.stall_chance
        self.server.disk.queue_max = settings.queue_max
        self.people = People(self)
        self.devices = self.people.devices
        ids = {device.name: device.device for device in self.devices}
        self.checker = Checker(ids, settings.patience)
        self._troubles = Troubles(self)
        self._beyond: list[str] = []
        self.complaints: list[str] = []
        """Filled by `watched_manners`."""

    def run(self) -> Report:
        """Run it to its end."""
        watch_closely(self)
        self.server.start()
        self.people.start()
        self._troubles.start()
        self.kernel.call_later(0.0, self._watch)
        self.kernel.run_until(self.settings.duration)
        problems = self._run_quiet()
        happened = self.history.hash() + (self.network.air.hash if self.settings.tier == "quic" else "")
        hashed = hashlib.sha256(happened.encode()).hexdigest()
        now, events = self.kernel.now, self.kernel.events
        return Report(self.seed, problems, hashed, self.people.sent, events, now, self._survived())

    def close(self) -> None:
        """Let go of disks and locks."""
        for device in self.devices:
            device.disk.close()
        self.server.close()

    # ---- private

    def _watch(self) -> None:
        if not self._beyond:
            self._beyond = check_bounds(self)
            self.kernel.call_later(WATCH_INTERVAL, self._watch)

    def _run_quiet(self) -> list[str]:
        self.people.rest()
        self._troubles.end()
        began = self.kernel.now
        for after in TAPS:
            self.kernel.call_at(began + after, self.people.tap_red_crosses)
        problems = ["nothing was checked"]
        while problems and self.kernel.now < began + QUIET_MAX:
            self.kernel.run_until(self.kernel.now + LOOK_INTERVAL)
            self.checker.see(self.history.happenings)
            problems = self.checker.problems + self._beyond + self.complaints or self._unfinished()
            if not problems:
                problems = self._check()
            if not problems:
                # What is well has to stay so.
                self.kernel.run_until(self.kernel.now + 2.0)
                problems = self._check()
            if any("I6" not in problem for problem in problems):
                break  # time does not heal this
        return problems if self.kernel.now < began + QUIET_MAX else problems and self._check()

    def _unfinished(self) -> list[str]:
        """What shows cheaply that it is too early to look."""
        if self.server.hub is None or self.server.is_busy:
            return ["I6: the server is down, or busy"]
        for device in self.devices:
            if device.revoked:
                continue
            if not device.is_up or device.disk.is_busy or device.is_processing:
                return [f"I6: {device.name} is down, or busy"]
            if device.mailbox.waiting() or device.mailbox.outbox.conversations():
                return [f"I6: {device.name} has something to do"]
            for known in device.mailbox.conversations.values():
                if known.head > known.received or known.stale:
                    return [f"I6: {device.name} has not everything of {known.name}"]
        return []

    def _check(self) -> list[str]:
        self.checker.see(self.history.happenings)
        finals = {device.name: _final(device) for device in self.devices if device.running}
        problems = self.checker.finish(finals) + self._check_memory() + self._beyond + self.complaints
        return problems + self._check_opens() + self._check_calm() + check_transport(self)

    def _check_opens(self) -> list[str]:
        """Who has opened a channel, and has a connection, gets an answer."""
        return [
            f"I6: {device.name} got no answer to its Open of {name}"
            for device in self.devices
            if device.running and device.session is not None and device.is_up
            for name, channel in device.session._by_name.items()
            if not channel.opened
        ]

    def _check_calm(self) -> list[str]:
        if not self.settings.calm:
            return []
        ups = self.history.count("up")
        bad = [w for w in ("down", "raced", "suspect", "escalated", "failed") if self.history.count(w)]
        if ups != len(self.devices):
            bad.append(f"{ups} connections of {len(self.devices)} devices")
        return [f"calm: {what}" for what in bad]

    def _check_memory(self) -> list[str]:
        """What the server holds is what is connected."""
        hub = self.server.hub
        if hub is None or self.server.is_busy:
            return ["I6: the server is down, or busy"]
        problems = []
        conversations = hub._conversations
        wanted = {id(topic) for peer in hub._directory.peers.values() for topic in peer.topics.values()}
        for key, topic in conversations._topics._topics.items():
            if id(topic) not in wanted:
                problems.append(f"I6: the topic {key} is kept for nobody")
        for peer in hub._directory.peers.values():
            closed = [number for number in peer.topics if number not in peer.session._channels]
            problems += [f"I6: a topic is kept for the closed channel {number}" for number in closed]
        return problems

    def _survived(self) -> Counter[str]:
        survived: Counter[str] = Counter()
        for _, what, details in self.history.happenings:
            match what:
                case "crashed":
                    survived["power cuts" if details[1] else "client kills"] += 1
                case "server crashed":
                    survived["server power cuts" if details[0] else "server kills"] += 1
                case "in doubt":
                    survived["commits cut that survived" if details[1] else "commits cut that did not"] += 1
                case "moved" | "restored" | "reset" | "failed" | "raced" | "gave back":
                    survived[what] += 1
                case "fault" if "crash" not in str(details[0]) and details[0] not in ("move", "rebinding"):
                    survived[str(details[0])] += 1
        return survived


def _final(device: Device) -> Final:
    marks = device.mailbox.conversations.values()
    return Final(
        device.disk.contents(),
        {found.name: found.delivered_mark for found in marks},
        {found.name: found.read_mark for found in marks},
    )


def simulate(
    seed: int,
    *,
    trace: bool = False,
    with_frames: bool = False,
    settings: Settings | None = None,
    tier: str = "streams",
) -> Report:
    """Run one seed."""
    drawn = copy.deepcopy(settings) if settings else DRAW[tier](seed)
    pinned = pinned_aioquic(seed) if drawn.tier == "quic" else contextlib.nullcontext()
    with bounded(drawn.bounds), pinned, watched_manners() as complaints:
        simulation = Simulation(seed, drawn, trace=trace)
        simulation.complaints = complaints
        if with_frames:
            simulation.network.watch = FrameTrace(simulation.history)
        try:
            return simulation.run()
        finally:
            simulation.close()
