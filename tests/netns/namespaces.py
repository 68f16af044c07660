"""Network namespaces that vanish with the process that made them.

A namespace is held by a child that waits for the end of its stdin: however this process ends, kill -9
included, the kernel closes the pipe, the child ends, and the namespace goes with everything in it. So nothing
needs to be named, and nothing can be left over. Needs root, iproute2, nftables and util-linux.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_FLUSH_CONNTRACK = """
import socket, struct
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:  # NETLINK_NETFILTER
    # IPCTNL_MSG_CT_DELETE without a tuple, acknowledged: what `conntrack -F` sends.
    netlink.send(struct.pack("=IHHIIBBH", 20, 1 << 8 | 2, 1 | 4, 1, 0, 0, 0, 0))
    (error,) = struct.unpack_from("=i", netlink.recv(4096), 16)
raise SystemExit(-error)
"""


def missing() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "needs root on Linux"
    absent = [tool for tool in ("ip", "nft", "unshare", "nsenter", "setpriv") if shutil.which(tool) is None]
    if absent:
        return f"needs {', '.join(absent)} (Debian: iproute2, nftables, util-linux)"
    tried = subprocess.run(
        ["unshare", "--net", "nft", "add", "table", "ip", "probe"],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Namespace:
    """One network namespace, with only a loopback device at first."""

    def __init__(self) -> None:
        self._holder = subprocess.Popen(
            ["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.write(b"?")  # the echo says that the namespace is there
        self._holder.stdin.flush()
        assert os.read(self._holder.stdout.fileno(), 1) == b"?"
        self.ip("link set lo up")

    @property
    def pid(self) -> int:
        """By which `ip` knows the namespace."""
        return self._holder.pid

    @property
    def inside(self) -> list[str]:
        """Put before a command: run it in here, and end it when its parent ends."""
        return ["nsenter", "--target", str(self.pid), "--net", "setpriv", "--pdeathsig", "KILL"]

    def run(self, *command: str, text: str = "") -> str:
        """Run a command in here; what it printed."""
        done = subprocess.run(
            [*self.inside, *command], input=text, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}: {text} {done.stderr}"
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Several `ip` commands in one go, hence within a millisecond."""
        self.run("ip", "-batch", "-", text="\n".join(commands))

    def nft(self, script: str) -> None:
        """Load nftables rules."""
        self.run("nft", "-f", "-", text=script)

    def set(self, **values: int) -> None:
        """Network settings (sysctl), double underscores for slashes."""
        for name, value in values.items():
            # The settings that are seen are those of the reader's namespace.
            self.run("sh", "-c", f"echo {value} > /proc/sys/net/{name.replace('__', '/')}")

    def flush_connections(self) -> None:
        """Forget every connection that a NAT in here keeps in mind; `conntrack -F` without the package."""
        self.run(sys.executable, "-c", _FLUSH_CONNTRACK)

    def close(self) -> None:
        """Remove it, as soon as the processes in it have ended."""
        assert self._holder.stdin is not None
        assert self._holder.stdout is not None
        self._holder.stdin.close()
        self._holder.stdout.close()
        self._holder.wait()


class Topology:
    """Alice with two uplinks, bob and a server, around a router that loses packets and translates addresses.

        alice  c0 10.77.1.2 --- 10.77.1.1  router  10.77.4.1 --- 10.77.4.2  server
               c1 10.77.2.2 --- 10.77.2.1          10.77.3.1 --- 10.77.3.2  bob

    c1 is down at first.
    """

    server_address = "10.77.4.2"

    def __init__(self, stack: ExitStack) -> None:
        self.alice, self.bob, self.server, self.router = (Namespace() for _ in range(4))
        for namespace in (self.alice, self.bob, self.server, self.router):
            stack.callback(namespace.close)
        self._connect(self.alice, "c0", 1)
        self._connect(self.alice, "c1", 2)
        self._connect(self.bob, "b0", 3)
        self._connect(self.server, "s0", 4)
        self.alice.ip("link set c1 down", "route replace default via 10.77.1.1")
        self.router.set(ipv4__ip_forward=1)

    def lose(self, percent: int) -> None:
        """Drop so many percent of everything that the router forwards, at random."""
        rule = f"numgen random mod 100 < {percent} counter drop;" if percent else ""
        self._filter("lossy", rule)

    def drop_everything(self, is_dropped: bool) -> None:
        """A hole that nobody is told of."""
        self._filter("hole", 'iifname "r1" drop; oifname "r1" drop;' if is_dropped else "")

    def translate(self, source: str) -> None:
        """From now on the router shows alice as this address (and port range), also in what is under way."""
        self.router.nft(
            f"""table ip translation {{ }}
            flush table ip translation
            table ip translation {{
                chain out {{
                    type nat hook postrouting priority 100;
                    ip saddr 10.77.1.0/24 ip protocol udp snat to {source};
                }}
            }}"""
        )
        self.router.flush_connections()

    # ---- private

    def _connect(self, namespace: Namespace, device: str, number: int) -> None:
        self.router.ip(
            f"link add r{number} type veth peer name {device} netns {namespace.pid}",
            f"addr add 10.77.{number}.1/24 dev r{number}",
            f"link set r{number} up",
        )
        namespace.ip(
            f"addr add 10.77.{number}.2/24 dev {device}",
            f"link set {device} up",
            f"route replace default via 10.77.{number}.1",
        )

    def _filter(self, name: str, rules: str) -> None:
        self.router.nft(
            f"""table ip {name} {{ }}
            flush table ip {name}
            table ip {name} {{
                chain passing {{
                    type filter hook forward priority 0;
                    {rules}
                }}
            }}"""
        )


@contextmanager
def topology() -> Iterator[Topology]:
    """Make it, and remove it whatever happens."""
    with ExitStack() as stack:
        yield Topology(stack)
