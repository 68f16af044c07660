"""What goes wrong in a world: processes die, power fails, networks lose and hold back, disks are slow."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from quicmsg.errors import ErrorCode
from simulation.device import Device
from simulation.strangers import Stranger

if TYPE_CHECKING:
    from simulation.run import Simulation

WRITES_OF_A_COMMIT = 14
"""Writes and syncs after which a planned crash falls: about as many as a commit has, or a few."""


class Troubles:
    """All faults; each seed draws which, and how often."""

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        self._settings = simulation.settings
        self._kernel = simulation.kernel
        self._devices = simulation.people.devices
        self._random = Random(f"trouble {simulation.seed}")
        self._quiet = False
        self._strangers = 0
        for device in self._devices:
            device.on_crash = lambda device=device: self._restart(device)  # type: ignore[misc]
        simulation.server.on_crash = self._restart_server

    def start(self) -> None:
        for fault, mean in self._settings.faults.items():
            self._plan(fault, mean)
        if self._settings.restores:
            duration = self._settings.duration
            self._kernel.call_at(duration * 0.3, self._simulation.server.back_up)
            self._kernel.call_at(duration * 0.6, self._restore)

    def end(self) -> None:
        """From now on all is well."""
        self._quiet = True
        self._simulation.network.weather.clear_up()
        for device in self._devices:
            device.host.up_blocked_until = device.host.down_blocked_until = self._kernel.now
            device.thinking, device.gives_back = 0.001, 0.0
            device.disk.slowness, device.disk.stall_chance = 0.002, 0.0
            if device.disk.disk is not None:
                device.disk.disk.cut_after(0)
            self._simulation.people.start_device(device)
        stored = self._simulation.server.stored
        if stored.disk is not None:
            stored.disk.cut_after(0)
        self._simulation.server.disk.stall_chance = 0.0
        self._simulation.server.start()

    # ---- private

    def _plan(self, fault: str, mean: float) -> None:
        self._kernel.call_later(self._random.expovariate(1 / mean), self._happen, fault, mean)

    def _happen(self, fault: str, mean: float) -> None:
        if self._quiet:
            return
        device = self._random.choice(self._devices)
        if fault == "client crash" and self._random.random() < 0.7:
            # Most interesting while a write is on its way to the disk, or a message is with the program.
            busy = [d for d in self._devices if d.running and (d.disk.is_busy or d.is_processing)]
            device = self._random.choice(busy) if busy else device
        self._simulation.history.note("fault", fault, device.name)
        getattr(self, "_make_" + fault.replace(" ", "_").replace("-", "_"))(device)
        self._plan(fault, mean)

    # ---- private: processes

    def _make_server_crash(self, _device: Device) -> None:
        server, disk = self._simulation.server, self._simulation.server.stored.disk
        if disk is not None and self._random.random() < 0.6:
            # In the middle of a commit; or of what a start does.
            disk.cut_after(self._random.randint(1, WRITES_OF_A_COMMIT), kills=self._random.random() < 0.4)
            if self._random.random() < 0.8:
                return
        server.crash(power=disk is not None and self._random.random() < 0.6)

    def _restart_server(self) -> None:
        delay = 0.01 if self._quiet else self._random.choice([0.05, 0.5, 3.0]) * self._random.random()
        self._kernel.call_later(delay, self._simulation.server.start)
        if self._simulation.server.stored.disk is not None and self._strikes_again():
            again = delay + self._random.uniform(0.0, 0.1)
            self._kernel.call_later(again, lambda: self._quiet or self._simulation.server.crash(power=True))

    def _strikes_again(self) -> bool:
        """Power that comes back may go again before the first commit."""
        return not self._quiet and self._random.random() < 0.2

    def _make_client_crash(self, device: Device) -> None:
        disk = device.disk.disk
        if disk is not None and device.running and self._random.random() < 0.6:
            disk.cut_after(self._random.randint(1, WRITES_OF_A_COMMIT), kills=self._random.random() < 0.4)
            if self._random.random() < 0.8:
                return
        device.crash(power=disk is not None and self._random.random() < 0.6)

    def _restart(self, device: Device) -> None:
        # Now and then for long: then there is much to catch up with.
        longest = 0.01 if self._quiet else self._random.choice([0.1, 1.0, 3.0, self._settings.duration])
        delay = self._random.uniform(0.0, longest)
        self._kernel.call_later(delay, self._simulation.people.start_device, device)
        if device.disk.disk is not None and self._strikes_again():
            again = delay + self._random.uniform(0.0, 0.1)
            self._kernel.call_later(again, lambda: self._quiet or device.crash(power=True))

    def _make_drain(self, _device: Device) -> None:
        self._simulation.server.stop()

    def _make_slow_disk(self, device: Device) -> None:
        device.disk.slowness = self._random.choice([0.001, 0.1, 0.8])

    def _restore(self) -> None:
        server = self._simulation.server
        server.crash()
        server.restore()
        self._kernel.call_later(0.2, server.start)

    # ---- private: the network

    def _make_hole(self, device: Device) -> None:
        until = self._kernel.now + self._random.uniform(0.2, 12.0)
        device.host.up_blocked_until = device.host.down_blocked_until = until

    def _make_one_way_hole(self, device: Device) -> None:
        until = self._kernel.now + self._random.uniform(0.2, 8.0)
        if self._random.random() < 0.5:
            device.host.up_blocked_until = until
        else:
            device.host.down_blocked_until = until

    def _make_outage(self, device: Device) -> None:
        """A hole that no heartbeat notices."""
        if device.host.up_blocked_until > self._kernel.now:
            return
        until = self._kernel.now + self._random.uniform(0.2, 2.0)
        self._simulation.history.note("outage", device.name, until)
        device.host.up_blocked_until = device.host.down_blocked_until = until

    def _make_break(self, device: Device) -> None:
        if device.link is not None:
            device.link.break_down(self._random)

    def _make_move(self, device: Device) -> None:
        device.rebind(aware=True)

    def _make_rebinding(self, device: Device) -> None:
        device.rebind(aware=False)

    def _make_reset(self, device: Device) -> None:
        channel = self._some_channel(device)
        if channel and device.link is not None:
            device.link.abort_channel(channel, int(ErrorCode.INTERNAL))

    def _make_stall(self, device: Device) -> None:
        """What is said on one channel gets stuck for a while; no other channel does."""
        channel = self._some_channel(device)
        if channel and device.link is not None and device.session is not None:
            names = {c.number: name for name, c in device.session._by_name.items()}
            if channel in names:
                self._simulation.history.note("stalled", device.name, names[channel])
                pipe = device.link.up if self._random.random() < 0.5 else device.link.down
                pipe.stall(channel, self._random.uniform(1.0, 2.9))

    def _make_stranger(self, device: Device) -> None:
        self._strangers += 1
        Stranger(self._simulation.network, self._strangers, device, self._random)

    def _some_channel(self, device: Device) -> int:
        session = device.session
        channels = [number for number in session._channels if number] if session is not None else []
        return self._random.choice(channels) if channels else 0
