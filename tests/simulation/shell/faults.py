"""What goes wrong in a world, at the times that its seed draws."""

from __future__ import annotations

from random import Random

from simulation.shell.device import Device
from simulation.shell.world import V4, V6, World


class Faults:
    """Makes the faults that the seed has drawn, until `end`."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._draw = Random(f"faults {world.seed}")
        self._over = False
        self._addresses = 100
        self.made: dict[str, int] = {}

    def begin(self) -> None:
        for fault, mean in self._world.settings.faults.items():
            self._plan(fault, mean)

    def end(self) -> None:
        """All is well from now on; what is down comes up again."""
        self._over = True
        world = self._world
        world.internet.weather.clear()
        for device in world.devices:
            host = device.host
            host.blocked_up = host.blocked_down = 0.0
            host.disk_slowness = 0.002
            device.thinking, device.restless = 0.001, 0.0
            if device.process is not None:
                device.process.ambush = ""
            if V4 not in host.addresses:
                self._get_address(device)
            world.later(0.0, world.start_device, device)
        for process in world.past_servers:
            process.ambush = ""
            assert process.host is not None
            process.host.disk_slowness = 0.002
        world.later(0.0, world.start_server)

    # ---- private

    def _plan(self, fault: str, mean: float) -> None:
        self._world.later(self._draw.expovariate(1 / mean), self._make, fault, mean)

    def _make(self, fault: str, mean: float) -> None:
        if self._over:
            return
        device = self._draw.choice(self._world.devices)
        self._world.note("fault", fault, device.name)
        self.made[fault] = self.made.get(fault, 0) + 1
        getattr(self, "_" + fault.replace(" ", "_").replace("-", "_"))(device)
        self._plan(fault, mean)

    # ---- processes

    def _server_kill(self, _device: Device) -> None:
        process = self._world.server_process
        if process is None:
            return
        if self._draw.random() < 0.6:
            # Most interesting while a write is on its way to the disk.
            process.ambush = self._draw.choice(["before", "after"])
            process.on_ambush = self._kill_server
        else:
            self._kill_server()

    def _kill_server(self) -> None:
        self._world.kill_server()
        self._world.later(self._draw.uniform(0.05, 4.0), self._start_server)

    def _start_server(self) -> None:
        self._world.start_server()

    def _server_stop(self, _device: Device) -> None:
        self._world.stop_server()
        self._restart_server_after(self._draw.uniform(0.1, 3.0))

    def _restart_server_after(self, seconds: float) -> None:
        if self._world.server_process is None:
            self._world.later(seconds, self._start_server)
        else:
            self._world.later(0.05, self._restart_server_after, seconds)

    def _client_kill(self, device: Device) -> None:
        process = device.process
        if process is None or not device.is_running:
            return
        if self._draw.random() < 0.6:
            process.ambush = self._draw.choice(["before", "after"])
            process.on_ambush = lambda: self._kill(device)
        else:
            self._kill(device)

    def _kill(self, device: Device) -> None:
        if device.is_running:
            device.kill()
        self._world.later(self._draw.uniform(0.05, 4.0), self._world.start_device, device)

    def _client_restart(self, device: Device) -> None:
        device.stop()
        self._restart_after(device, self._draw.uniform(0.05, 2.0))

    def _restart_after(self, device: Device, seconds: float) -> None:
        if device.is_running:
            self._world.later(0.1, self._restart_after, device, seconds)
        else:
            self._world.later(seconds, self._world.start_device, device)

    # ---- the network

    def _hole(self, device: Device) -> None:
        until = self._world.loop.now + self._draw.uniform(0.2, 10.0)
        device.host.blocked_up = device.host.blocked_down = until

    def _one_way_hole(self, device: Device) -> None:
        until = self._world.loop.now + self._draw.uniform(0.2, 8.0)
        if self._draw.random() < 0.5:
            device.host.blocked_up = until
        else:
            device.host.blocked_down = until

    def _nat_rebinding(self, device: Device) -> None:
        self._world.internet.forget(device.host, device.host.nat)

    def _nat_address(self, device: Device) -> None:
        if device.host.nat:
            self._world.internet.forget(device.host, self._fresh("203.0.113."))

    def _new_address(self, device: Device) -> None:
        self._get_address(device)

    def _no_network(self, device: Device) -> None:
        for family in list(device.host.addresses):
            self._world.internet.readdress(device.host, family, None)
        self._world.later(self._draw.uniform(0.1, 6.0), self._get_address, device)

    def _get_address(self, device: Device) -> None:
        internet = self._world.internet
        internet.readdress(device.host, V4, self._fresh("192.0.2."))
        if self._world.settings.families != "4":
            internet.readdress(device.host, V6, self._fresh("2001:db8:3::"))

    def _netlink_noise(self, device: Device) -> None:
        self._world.internet.notice(device.host)

    def _move_by_hand(self, device: Device) -> None:
        device.do(device.move_by_hand())

    # ---- computers

    def _slow_disk(self, device: Device) -> None:
        slowness = self._draw.choice([0.001, 0.05, 0.4])
        process = self._world.server_process
        if process is not None and self._draw.random() < 0.4:
            assert process.host is not None
            process.host.disk_slowness = slowness
        else:
            device.host.disk_slowness = slowness

    def _clock_step(self, device: Device) -> None:
        device.host.clock_step = self._draw.choice([-86_400.0, -1.0, 0.0, 3_600.0])

    def _fresh(self, network: str) -> str:
        self._addresses += 1
        return f"{network}{self._addresses}"
