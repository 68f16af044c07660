"""A world that a test can tell as a story: people by name, what they do, and what they must come to see.

Nothing happens by chance. An expectation runs the world until it is met, or fails with what was seen.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from quicmsg.errors import ErrorCode
from quicmsg.limits import SEQ_MAX
from quicmsg.protocol import frames
from quicmsg.server.conversations import key_of
from quicmsg.store import MakeCode, SignIn
from simulation.checker import Checker, Final
from simulation.device import Device
from simulation.history import History
from simulation.kernel import Kernel
from simulation.network import Network, Pipe, Weather
from simulation.server import Server

PATIENCE = 60.0


class Story:
    """A server and some people, each with one device or more; everybody is connected when it begins."""

    def __init__(self, **devices: int) -> None:
        self.kernel = Kernel()
        self.history = History(lambda: self.kernel.now)
        self.network = Network(self.kernel, Random(1))
        self.network.weather = Weather(delay=0.02)
        self.server = Server(self.kernel, self.network, Random(2), self.history)
        self.people: dict[str, Person] = {}
        for user, count in devices.items():
            for number in range(count):
                self._add(user, number)
        self.server.start()
        for person in self.people.values():
            person.device.start()
        self.until(lambda: all(person.device.is_up for person in self.people.values()), "not everybody is up")

    def __getitem__(self, name: str) -> Person:
        """ "bob" is bob's first device, "bob/1" his second."""
        return self.people[name if "/" in name else f"{name}/0"]

    def wait(self, seconds: float) -> None:
        self.kernel.run_until(self.kernel.now + seconds)

    def until(self, met: Callable[[], bool], complaint: str, patience: float = PATIENCE) -> None:
        if not met():
            self.kernel.run_until(self.kernel.now + patience, met)
        assert met(), f"{complaint}\n{self.tail()}"

    def ends_well(self) -> None:
        """Everything has arrived everywhere, once, in order, and every tick is true."""
        problems = ["nothing was checked"]
        deadline = self.kernel.now + PATIENCE
        while problems and self.kernel.now < deadline:
            self.wait(0.5)
            problems = self.problems()
        assert not problems, "\n".join([*problems, self.tail()])

    def problems(self) -> list[str]:
        devices = [person.device for person in self.people.values()]
        checker = Checker({device.name: device.device for device in devices})
        checker.run(self.history.happenings)
        finals = {}
        for device in devices:
            known = device.mailbox.conversations.values()
            delivered = {found.name: found.delivered_mark for found in known}
            read = {found.name: found.read_mark for found in known}
            finals[device.name] = Final(device.disk.contents(), delivered, read)
        return checker.finish(finals)

    def count(self, what: str, device: str = "") -> int:
        return sum(
            happened == what and (not device or details[0] == device)
            for _, happened, details in self.history.happenings
        )

    def tail(self) -> str:
        return "\n".join(
            f"{now:.3f} {what} {details}" for now, what, details in self.history.happenings[-15:]
        )

    def log(self, key: str) -> list[bytes]:
        """The texts of a conversation, as the server has them."""
        return self.server.log(key)

    def _add(self, user: str, number: int) -> None:
        device = Device(user, number, self.kernel, self.network, Random(f"{user}{number}"), self.history)
        code = "" if number == 0 else f"link {device.name}"
        if code:
            self.server.prepare(MakeCode("link", user, code, 10**15))
        self.server.prepare(SignIn(user, device.public_key, device.name, code, False, 1))
        self.people[device.name] = Person(self, device)


class Person:
    """Somebody with a device in their hand."""

    def __init__(self, story: Story, device: Device) -> None:
        self.story = story
        self.device = device
        self._sent = 0

    # ---- what they do

    def sends(self, conversation: str, text: str) -> bytes:
        """Write a message; it is in the outbox on return. Returns its id."""
        self._sent += 1
        message_id = f"{self.device.name}-{self._sent}".encode().ljust(16, b".")
        self.device.send(conversation, message_id + text.encode(), message_id)
        self.story.until(
            lambda: message_id in self.device.mailbox.outbox or self._has_tick(message_id, "stored"),
            f"{self.device.name} could not queue {text!r}",
        )
        return message_id

    def resends(self, message_id: bytes) -> None:
        self.device.resend(message_id)

    def cancels(self, message_id: bytes) -> None:
        self.device.cancel(message_id)
        self.story.until(lambda: self._noted("cancelled", message_id), "it could not be cancelled")

    def reads(self, conversation: str) -> None:
        self.device.read(conversation, SEQ_MAX)

    def creates(self, group: str, *members: str) -> None:
        self.device.request(frames.Create, group, members, True)
        self.story.until(lambda: group in self.story.server.lengths(), f"{group} was not made")

    def joins(self, group: str) -> None:
        self.device.request(frames.Join, group)
        members = self.story.server.members
        self.story.until(lambda: self.device.user in members()[group], f"could not join {group}")

    def leaves(self, group: str) -> None:
        self.device.request(frames.Leave, group)
        members = self.story.server.members
        self.story.until(lambda: self.device.user not in members()[group], f"could not leave {group}")

    # ---- what happens to them

    def goes_into_a_tunnel(self) -> None:
        self.device.host.up_blocked_until = self.device.host.down_blocked_until = float("inf")

    def comes_out(self) -> None:
        now = self.story.kernel.now
        self.device.host.up_blocked_until = self.device.host.down_blocked_until = now
        for link in self.story.network.links:
            if link.host is self.device.host:
                link.up.release()
                link.down.release()

    def moves(self) -> None:
        self.device.rebind(aware=True)

    def crashes(self) -> None:
        """kill -9, and nothing that was in flight gets there."""
        link = self.device.link
        self.device.crash()
        if link is not None:
            link.broken = True

    def starts(self) -> None:
        self.device.start()
        self.story.until(lambda: self.device.is_up, f"{self.device.name} does not get up")

    def loses_the_connection(self) -> None:
        link = self.device.link
        assert link is not None
        link.broken = True
        link.lose(link.client, ErrorCode.UNREACHABLE, "the connection broke")

    def hears_nothing_on(self, conversation: str, seconds: float = 1000.0) -> None:
        """What the server says on this conversation's channel gets stuck; other channels go on."""
        self._stall(conversation, seconds, upward=False)

    def is_not_heard_on(self, conversation: str, seconds: float = 1000.0) -> None:
        """What is said on this conversation's channel gets stuck; other channels go on."""
        self._stall(conversation, seconds, upward=True)

    # ---- what they see

    def sees(self, message_id: bytes, state: str, patience: float = PATIENCE) -> None:
        """The tick of an own message: queued, stored, failed, rejected, cancelled, delivered, read."""
        self.story.until(
            lambda: self._has_tick(message_id, state),
            f"{self.device.name} does not see {message_id!r} as {state}",
            patience,
        )

    def does_not_see(self, message_id: bytes, state: str) -> None:
        assert not self._has_tick(message_id, state), f"{self.device.name} sees {message_id!r} as {state}"

    def receives(self, *texts: str, patience: float = PATIENCE) -> None:
        """These texts, after what was received before, in this order."""
        wanted = [text.encode() for text in texts]
        self.story.until(
            lambda: self.received()[-len(wanted) :] == wanted,
            f"{self.device.name} has received {self.received()}, not {wanted}",
            patience,
        )

    def received(self) -> list[bytes]:
        happenings = self.story.history.happenings
        return [d[5][16:] for _, what, d in happenings if what == "shown" and d[0] == self.device.name]

    # ---- private

    def _stall(self, conversation: str, seconds: float, *, upward: bool) -> None:
        session, link = self.device.session, self.device.link
        assert session is not None
        assert link is not None
        pipe: Pipe = link.up if upward else link.down
        pipe.stall(session._by_name[conversation].number, seconds)

    def _noted(self, what: str, *details: object) -> bool:
        wanted = (self.device.name, *details)
        return any(w == what and d[: len(wanted)] == wanted for _, w, d in self.story.history.happenings)

    def _has_tick(self, message_id: bytes, state: str) -> bool:
        happenings = self.story.history.happenings
        name = self.device.name
        if state in ("delivered", "read"):
            return any(
                w == "tick" and d[0] == name and d[4:] == (message_id, state) for _, w, d in happenings
            )
        return any(w == state and d[0] == name and message_id in d for _, w, d in happenings)


def direct(first: str, second: str) -> str:
    """The store's key of two people's conversation."""
    return key_of(f"@{first}", second)
