"""The world of one seed: its internet, its server, its devices, and what is noted of them."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

from certificates import authority

from quicmsg.server import Server
from quicmsg.server.settings import Settings as ServerSettings
from simulation.history import History
from simulation.shell.checker import Checker
from simulation.shell.device import SERVER_NAME, SERVER_PORT, Device
from simulation.shell.internet import Internet
from simulation.shell.loop import VirtualLoop
from simulation.shell.process import Process
from simulation.shell.settings import Settings

V4, V6 = 2, 10
SERVER_ADDRESSES = {V4: "198.51.100.1", V6: "2001:db8:1::1"}


class World:
    """Everything there is. Made before its loop runs; `open` brings it up."""

    def __init__(self, seed: int, settings: Settings, directory: Path, *, trace: bool) -> None:
        self.seed = seed
        self.settings = settings
        self.directory = directory
        self.internet = Internet(Random(f"internet {seed}"))
        self.loop = VirtualLoop(self.internet, Random(f"loop {seed}"))
        self.checker = Checker()
        self.history = History(self.loop.time)
        self.history.trace = trace
        if trace:
            self.internet.trace = lambda text: self.history.note("datagram", text)
        self.devices: list[Device] = []
        self.device_names: dict[bytes, str] = {}
        self.past_servers: list[Process] = []
        self.server: Server | None = None
        self.is_closing = False
        """Nothing starts any more."""
        self._server_stop = asyncio.Event()
        self._server_host = self.internet.add("server", dict(SERVER_ADDRESSES))
        self._settle()

    def note(self, what: str, *details: object) -> None:
        self.history.note(what, *details)
        self.checker.see(self.loop.now, what, details)

    # ---- the server

    @property
    def server_process(self) -> Process | None:
        """The server's present life; None: it is down."""
        last = self.past_servers[-1] if self.past_servers else None
        return last if last is not None and last.alive and not last.has_ended else None

    def start_server(self) -> None:
        if self.server_process is not None or self.is_closing:
            return
        process = Process("server", self._server_host)
        self.past_servers.append(process)
        self._server_stop = asyncio.Event()
        process.start(self._serve(process, self._server_stop))

    def kill_server(self) -> None:
        process = self.server_process
        if process is not None:
            self.note("server_killed")
            self.server = None
            process.kill()

    def stop_server(self) -> None:
        self._server_stop.set()

    # ---- devices

    def start_device(self, device: Device) -> None:
        if not device.is_running and not self.is_closing:
            device.start()

    def set_weather(self) -> None:
        """The seed's own weather, from now on."""
        self.internet.weather = self.settings.weather
        for host in self.internet.hosts.values():
            host.disk_slowness = self.settings.disk_slowness

    def later(self, seconds: float, function: Callable[..., object], *arguments: object) -> None:
        """Call it in nobody's process."""
        self.loop.call_later(seconds, function, *arguments, context=contextvars.Context())

    # ---- private

    def _settle(self) -> None:
        settings = self.settings
        families = [V4] if settings.families == "4" else [V6, V4]
        self.internet.names[SERVER_NAME] = [(family, SERVER_ADDRESSES[family]) for family in families]
        if settings.families == "64-dead":
            self.internet.dead_families.add(V6)
        root, chain, key = certificate()
        certs = self.directory / "certs"
        certs.mkdir()
        (certs / "server.pem").write_bytes(chain)
        (certs / "ca.pem").write_bytes(root)
        descriptor = os.open(certs / "server.key", os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)
        draw = Random(f"devices {self.seed}")
        for user, count in settings.users.items():
            for number in range(count):
                self._add(user, number, draw, certs / "ca.pem")

    def _add(self, user: str, number: int, draw: Random, ca: Path) -> None:
        settings, index = self.settings, len(self.devices) + 1
        name = f"{user}/{number}"
        addresses = {V4: f"192.0.2.{index}"}
        if settings.families != "4":
            addresses[V6] = f"2001:db8:2::{index}"
        nat = f"203.0.113.{index}" if settings.natted[name] else ""
        host = self.internet.add(name, addresses, nat=nat)
        directory = self.directory / name.replace("/", "-")
        device = Device(user, number, host, directory, Random(f"{name} {self.seed}"), self.note)
        device.thinking = settings.thinking[name]
        device.reads, device.restless = settings.reads, settings.restless
        device.reads_publicly = user not in settings.private
        device.foreground = draw.random() < settings.foreground
        device.offline = "fail" if draw.random() < settings.fail_fast else "queue"
        if draw.random() < settings.pinned:
            device.pin(authority().fingerprint)
        else:
            device.ca = ca
        self.devices.append(device)
        self.device_names[device.device] = name
        self.checker.device_ids[name] = device.device

    async def _serve(self, process: Process, stop: asyncio.Event) -> None:
        server = await Server.start(
            ServerSettings(
                listen=(("0.0.0.0", SERVER_PORT), ("::", SERVER_PORT)),
                data=self.directory / "server",
                certs=self.directory / "certs",
            )
        )
        self.server = server
        self.note("server_started")
        await stop.wait()
        self.note("server_stopping")
        await server.stop()
        assert not server.failed.done(), server.failed
        self.server = None
        process.has_ended = True
        self.note("server_stopped")


@functools.cache
def certificate() -> tuple[bytes, bytes, bytes]:
    """CA, chain and key of the server; always the same."""
    root = authority()
    return root.pem, *root.issue((SERVER_NAME,))
