"""One seed: people talk while everything goes wrong, then it becomes quiet, and everything must be well."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from random import Random

from pinned import pinned_aioquic

from quicmsg.errors import ErrorCode
from quicmsg.protocol import frames
from quicmsg.protocol.outbox import Outcome
from quicmsg.store import CreateGroup, MakeCode, SignIn
from simulation.checker import Checker, Final
from simulation.device import Device
from simulation.history import History
from simulation.kernel import Kernel
from simulation.network import Network
from simulation.quic_checks import check_transport
from simulation.quic_network import QuicNetwork
from simulation.quic_settings import draw_quic
from simulation.server import Server, execute
from simulation.settings import Settings, bounded, draw
from simulation.trace import FrameTrace

QUIET_MAX = 150.0
"""Seconds after the last fault until everything has to be well."""
TAPS = (8.0, 16.0, 24.0)
"""When, in the quiet time, the person taps every red cross."""
DRAW = {"streams": draw, "quic": draw_quic}


@dataclass(slots=True)
class Report:
    """How a seed went."""

    seed: int
    problems: list[str]
    hash: str
    messages: int
    events: int
    simulated: float


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
        self.server = Server(self.kernel, self.network, Random(f"server {seed}"), self.history)
        self.devices: list[Device] = []
        self._people = Random(f"people {seed}")
        self._trouble = Random(f"trouble {seed}")
        self._quiet = False
        self._sent = 0
        self._settle_in()

    def run(self) -> Report:
        """Run it to its end."""
        duration = self.settings.duration
        self.server.start()
        for device in self.devices:
            self.kernel.call_later(self._people.uniform(0.0, 0.5), self._start_device, device)
        self._plan_person()
        for fault, mean in self.settings.faults.items():
            self._plan_fault(fault, mean)
        if self.settings.restores:
            self.kernel.call_at(duration * 0.3, self.server.back_up)
            self.kernel.call_at(duration * 0.6, self._restore)
        self.kernel.run_until(duration)
        problems = self._run_quiet()
        happened = self.history.hash() + (self.network.air.hash if self.settings.tier == "quic" else "")
        hashed = hashlib.sha256(happened.encode()).hexdigest()
        return Report(self.seed, problems, hashed, self._sent, self.kernel.events, self.kernel.now)

    # ---- private: before

    def _settle_in(self) -> None:
        settings, server = self.settings, self.server
        server.disk.commit_max = settings.commit_max
        server.disk.stall_chance = settings.stall_chance
        server.disk.queue_max = settings.queue_max
        for user, count in settings.devices.items():
            for number in range(count):
                device = Device(
                    user,
                    number,
                    self.kernel,
                    self.network,
                    Random(f"{user} {number} {self.seed}"),
                    self.history,
                )
                device.thinking = settings.thinking[device.name]
                device.reads = settings.reads
                device.reads_publicly = user not in settings.private
                device.foreground = self._people.random() < settings.foreground
                device.disk.slowness = settings.journal_slowness
                self.devices.append(device)
                code = "" if number == 0 else f"link {device.name}"
                server.store.execute([MakeCode("link", user, code, 10**15)] if code else [])
                server.store.execute([SignIn(user, device.public_key, device.name, code, False, 1)])
        users = list(settings.devices)
        for number in range(settings.groups):
            members = tuple(user for user in users if self._people.random() < 0.8)
            creator = self.devices[0]
            group = CreateGroup(
                f"#group{number}", creator.user, creator.device, members, True, 1, number.to_bytes(16, "big")
            )
            execute(server.store, [group], self.history)

    # ---- private: people

    def _plan_person(self) -> None:
        rate = self.settings.rate + self.settings.membership_rate + self.settings.by_hand
        self.kernel.call_later(self._people.expovariate(rate), self._act)

    def _act(self) -> None:
        if self._quiet:
            return
        device = self._people.choice(self.devices)
        rate = self.settings.rate + self.settings.membership_rate + self.settings.by_hand
        choice = self._people.random() * rate
        if choice < self.settings.rate:
            self._send(device)
        elif choice < self.settings.rate + self.settings.membership_rate:
            self._change_membership(device)
        else:
            self._touch_outbox(device)
        self._plan_person()

    def _send(self, device: Device) -> None:
        users, groups = list(self.settings.devices), self.settings.groups
        conversations = [f"@{user}" for user in users] + [f"#group{n}" for n in range(groups)] * 2
        conversation = self._people.choice(conversations)
        for _ in range(self._people.choice([1, 1, 1, 2, 5])):
            if device.running:
                self._sent += 1
                message_id = self._people.randbytes(16)
                size = self._people.choice([16, 40, 40, 300])
                device.send(conversation, message_id.ljust(size, b"."), message_id)

    def _change_membership(self, device: Device) -> None:
        if self.settings.groups:
            group = f"#group{self._people.randrange(self.settings.groups)}"
            if self._people.random() < 0.4:
                device.request(frames.Leave, group)
            elif self._people.random() < 0.6:
                device.request(frames.Join, group)
            else:
                device.request(frames.Invite, group, self._people.choice(list(self.settings.devices)))

    def _touch_outbox(self, device: Device) -> None:
        waiting = list(device.state.outbox)
        if device.running and waiting:
            message_id = self._people.choice(waiting)
            if self._people.random() < 0.5:
                device.resend(message_id)
            else:
                device.cancel(message_id)

    # ---- private: trouble

    def _plan_fault(self, fault: str, mean: float) -> None:
        self.kernel.call_later(self._trouble.expovariate(1 / mean), self._fault, fault, mean)

    def _fault(self, fault: str, mean: float) -> None:
        if self._quiet:
            return
        device = self._trouble.choice(self.devices)
        if fault in ("client crash", "server crash") and self._trouble.random() < 0.7:
            # Most interesting while a write is on its way to the disk.
            busy = [d for d in self.devices if d.disk.is_busy and d.running]
            device = self._trouble.choice(busy) if busy else device
        self.history.note("fault", fault, device.name)
        getattr(self, "_make_" + fault.replace(" ", "_").replace("-", "_"))(device)
        self._plan_fault(fault, mean)

    def _make_server_crash(self, _device: Device) -> None:
        self.server.crash()
        self.kernel.call_later(self._trouble.uniform(0.05, 4.0), self._start_server)

    def _start_server(self) -> None:
        if self.server.hub is None:
            self.server.start()

    def _make_client_crash(self, device: Device) -> None:
        device.crash()
        self.kernel.call_later(self._trouble.uniform(0.05, 4.0), self._start_device, device)

    def _start_device(self, device: Device) -> None:
        if not device.running:
            device.start()

    def _make_hole(self, device: Device) -> None:
        until = self.kernel.now + self._trouble.uniform(0.2, 12.0)
        device.host.up_blocked_until = device.host.down_blocked_until = until

    def _make_one_way_hole(self, device: Device) -> None:
        until = self.kernel.now + self._trouble.uniform(0.2, 8.0)
        if self._trouble.random() < 0.5:
            device.host.up_blocked_until = until
        else:
            device.host.down_blocked_until = until

    def _make_break(self, device: Device) -> None:
        if device.link is not None:
            device.link.break_down(self._trouble)

    def _make_move(self, device: Device) -> None:
        device.rebind(aware=True)

    def _make_rebinding(self, device: Device) -> None:
        device.rebind(aware=False)

    def _make_reset(self, device: Device) -> None:
        session = device.session
        if session is not None and device.link is not None and len(session._channels) > 1:
            channel = self._trouble.choice([n for n in session._channels if n])
            device.link.abort_channel(channel, int(ErrorCode.INTERNAL))

    def _make_drain(self, _device: Device) -> None:
        self.server.stop()
        self.kernel.call_later(self._trouble.uniform(0.8, 3.0), self._start_server)

    def _make_slow_disk(self, device: Device) -> None:
        device.disk.slowness = self._trouble.choice([0.001, 0.1, 0.8])

    def _restore(self) -> None:
        self.server.crash()
        self.server.restore()
        self.kernel.call_later(0.2, self._start_server)

    # ---- private: the end

    def _run_quiet(self) -> list[str]:
        self._quiet = True
        self.network.weather.clear_up()
        for device in self.devices:
            device.host.up_blocked_until = device.host.down_blocked_until = self.kernel.now
            device.thinking, device.disk.slowness = 0.001, 0.002
            self._start_device(device)
        self.server.disk.stall_chance = 0.0
        self._start_server()
        began = self.kernel.now
        for after in TAPS:
            self.kernel.call_at(began + after, self._tap)
        problems = ["nothing was checked"]
        while problems and self.kernel.now < began + QUIET_MAX:
            self.kernel.run_until(self.kernel.now + 0.5)
            problems = self._check() + self._check_memory()
            if not problems:
                # What is well has to stay so.
                self.kernel.run_until(self.kernel.now + 2.0)
                problems = self._check()
            if any("I6" not in problem for problem in problems):
                break  # time does not heal this
        return problems

    def _tap(self) -> None:
        for device in self.devices:
            for message_id in list(device.mailbox.outbox._by_id):
                message = device.mailbox.outbox.get(message_id)
                if message is not None and message.outcome is Outcome.FAILED:
                    device.resend(message_id)

    def _check(self) -> list[str]:
        checker = Checker({device.name: device.device for device in self.devices})
        checker.run(self.history.happenings)
        finals = {}
        for device in self.devices:
            marks = device.mailbox.conversations.values()
            finals[device.name] = Final(
                device.state,
                {found.name: found.delivered_mark for found in marks},
                {found.name: found.read_mark for found in marks},
            )
        checker.finish(finals)
        return checker.problems + self._check_calm() + check_transport(self)

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


def simulate(
    seed: int,
    *,
    trace: bool = False,
    with_frames: bool = False,
    settings: Settings | None = None,
    tier: str = "streams",
) -> Report:
    """Run one seed."""
    drawn = settings or DRAW[tier](seed)
    pinned = pinned_aioquic(seed) if drawn.tier == "quic" else contextlib.nullcontext()
    with bounded(drawn.bounds), pinned:
        simulation = Simulation(seed, drawn, trace=trace)
        if with_frames:
            simulation.network.watch = FrameTrace(simulation.history)
        return simulation.run()
