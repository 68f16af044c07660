"""What people do in a world: talk, read, join and leave, press buttons, take another device in hand."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from quicmsg.protocol import frames
from quicmsg.protocol.outbox import Outcome
from quicmsg.store import CreateGroup, MakeCode, RevokeDevice, SignIn
from simulation.device import Device

if TYPE_CHECKING:
    from simulation.run import Simulation

SIZES = (16, 40, 40, 300, 3_000)
ASK_AGAIN = 0.7
"""Seconds until somebody who got no code for a second device asks again."""


class People:
    """Everybody, with their devices."""

    def __init__(self, simulation: Simulation) -> None:
        self.sent = 0
        self.devices: list[Device] = []
        self._simulation = simulation
        self._settings = simulation.settings
        self._kernel = simulation.kernel
        self._random = Random(f"people {simulation.seed}")
        self._sent_before: list[tuple[Device, str, bytes, bytes]] = []
        self._quiet = False
        self._settle_in()

    def start(self) -> None:
        """The world begins."""
        for device in self.devices:
            if device.name in self._settings.late:
                self._kernel.call_later(self._random.uniform(0.5, 2.0), self._link, device)
            else:
                self._kernel.call_later(self._random.uniform(0.0, 0.5), self.start_device, device)
        if self._settings.revoked in {device.name for device in self.devices}:
            at = self._settings.duration * self._random.uniform(0.3, 0.8)
            self._kernel.call_at(at, self._revoke, self._settings.revoked)
        self._plan()

    def start_device(self, device: Device) -> None:
        if not device.running and not device.revoked and device.name not in self._settings.late:
            device.start()

    def rest(self) -> None:
        """Nobody does anything any more, but for tapping red crosses."""
        self._quiet = True

    def tap_red_crosses(self) -> None:
        for device in self.devices:
            for message_id in list(device.mailbox.outbox._by_id):
                message = device.mailbox.outbox.get(message_id)
                if message is not None and message.outcome is Outcome.FAILED:
                    device.resend(message_id)

    # ---- private: before

    def _settle_in(self) -> None:
        settings, simulation = self._settings, self._simulation
        for user, count in settings.devices.items():
            for number in range(count):
                self._add(user, number)
        users = list(settings.devices)
        creator = self.devices[0]
        for number in range(settings.groups):
            members = tuple(user for user in users if self._random.random() < 0.8)
            name, request_id = f"#group{number}", number.to_bytes(16, "big")
            simulation.server.prepare(
                CreateGroup(name, creator.user, creator.device, members, True, 1, request_id)
            )

    def _add(self, user: str, number: int) -> None:
        settings, simulation = self._settings, self._simulation
        random = Random(f"{user} {number} {simulation.seed}")
        name = f"{user}/{number}"
        device = Device(
            user, number, self._kernel, simulation.network, random, simulation.history,
            forgetful=name in settings.forgetful,
        )  # fmt: skip
        device.thinking = settings.thinking[name]
        device.reads = settings.reads
        device.gives_back = settings.gives_back
        device.reads_publicly = user not in settings.private
        device.foreground = self._random.random() < settings.foreground
        device.disk.slowness = settings.journal_slowness
        device.disk.stall_chance = settings.journal_stalls
        self.devices.append(device)
        if name not in settings.late:
            code = "" if number == 0 else f"link {name}"
            if code:
                simulation.server.prepare(MakeCode("link", user, code, 10**15))
            simulation.server.prepare(SignIn(user, device.public_key, name, code, False, 1))

    # ---- private: what they do

    def _plan(self) -> None:
        self._kernel.call_later(self._random.expovariate(sum(self._rates().values())), self._act)

    def _rates(self) -> dict[str, float]:
        settings = self._settings
        return {
            "send": settings.rate,
            "change_membership": settings.membership_rate,
            "touch_outbox": settings.by_hand,
            "edit_position": settings.edits,
            "send_again": settings.repeats,
        }

    def _act(self) -> None:
        if self._quiet:
            return
        device = self._random.choice(self.devices)
        rates = self._rates()
        (what,) = self._random.choices(list(rates), list(rates.values()))
        if device.running:
            getattr(self, f"_{what}")(device)
        self._plan()

    def _send(self, device: Device) -> None:
        users, groups = list(self._settings.devices), self._settings.groups
        conversations = [f"@{user}" for user in users] + [f"#group{n}" for n in range(groups)] * 2
        conversation = self._random.choice(conversations)
        for _ in range(self._random.choice([1, 1, 1, 2, 5])):
            self.sent += 1
            message_id = self._random.randbytes(16)
            # A frame has to fit into a stream's window.
            size = min(self._random.choice(SIZES), self._settings.weather.window // 2)
            body = message_id.ljust(size, b".")
            device.send(conversation, body, message_id)
            self._sent_before.append((device, conversation, body, message_id))

    def _send_again(self, _device: Device) -> None:
        """The program lost track: the same message under the same id; or, a bug of its own, another one."""
        if self._sent_before:
            device, conversation, body, message_id = self._random.choice(self._sent_before[-20:])
            if self._random.random() < 0.2:
                body += b"!"
            if device.running:
                device.send(conversation, body, message_id)

    def _change_membership(self, device: Device) -> None:
        if self._settings.groups:
            group = f"#group{self._random.randrange(self._settings.groups)}"
            if self._random.random() < 0.4:
                device.request(frames.Leave, group)
            elif self._random.random() < 0.6:
                device.request(frames.Join, group)
            else:
                device.request(frames.Invite, group, self._random.choice(list(self._settings.devices)))

    def _touch_outbox(self, device: Device) -> None:
        waiting = list(device.mailbox.outbox._by_id)
        if waiting:
            message_id = self._random.choice(waiting)
            if self._random.random() < 0.5:
                device.resend(message_id)
            else:
                device.cancel(message_id)

    def _edit_position(self, device: Device) -> None:
        known = device.mailbox.conversations
        if known:
            name = self._random.choice(sorted(known))
            seq = self._random.randint(0, known[name].head + 1)
            device.read(name, seq, public=device.reads_publicly)

    # ---- private: devices come and go

    def _link(self, device: Device) -> None:
        """Ask the first device for a code, until there is one; then the new device starts."""
        first = next(d for d in self.devices if d.user == device.user)
        if device.name not in self._settings.late or first.revoked:
            return
        if first.running and first.is_up:
            first.on_code = lambda code: self._linked(device, code)
            first.request(frames.Link)
        self._kernel.call_later(ASK_AGAIN, self._link, device)

    def _linked(self, device: Device, code: str) -> None:
        if device.name in self._settings.late:
            self._settings.late.discard(device.name)
            device.code = code
            self.start_device(device)

    def _revoke(self, name: str) -> None:
        device = next(d for d in self.devices if d.name == name)
        self._simulation.server.ask(RevokeDevice(device.user, device.device, 1))
