"""A network of fake connections: channels are first in, first out, and overtake each other.

Loss is delay, since streams are reliable; a hole in the network holds things back until it ends; a broken
connection swallows everything. A client that has moved is not reached by the server until something that
it sent from its new address has arrived there. Bytes are cut into pieces at random places, and are sent only
as far as the receiver's window goes, which it opens by the bytes that it has consumed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from quicmsg.errors import ErrorCode
from quicmsg.limits import TIMER_LATENESS
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import Outgoing, Session
from simulation.kernel import Kernel, Timer
from simulation.weather import Host, Listener, Owner, Weather

__all__ = ["Host", "Link", "Network", "Pipe", "Weather"]


class Pipe:
    """One direction of a link."""

    def __init__(self, link: Link, *, upward: bool) -> None:
        self.link = link
        self.upward = upward
        self.held: list[tuple[float, int, bytes, bool]] = []
        self.waiting_for_move = False
        self.finishing: tuple[int, str] | None = None
        self.outstanding: dict[int, int] = {}
        self._arrival: dict[int, float] = {}
        self._waiting: dict[int, deque[Outgoing]] = {}
        self._reset: set[int] = set()
        self._release_at = 0.0
        self._in_flight = 0

    def send(self, item: Outgoing) -> None:
        """Take what a session says."""
        if item.reset is not None:
            self._waiting.pop(item.channel, None)
            self._reset.add(item.channel)
            kernel = self.link.network.kernel
            kernel.call_later(self._delay(), self._arrive_reset, item.channel, item.reset)
            return
        self._waiting.setdefault(item.channel, deque()).append(item)
        self._push(item.channel)

    def credit(self, channel: int, size: int) -> None:
        """The receiver has consumed bytes."""
        left = self.outstanding.get(channel, 0) - size
        assert left >= 0, "more was consumed than was sent"
        self.outstanding[channel] = left
        if self._waiting.get(channel):
            self._push(channel)

    def finish(self, code: int, text: str) -> None:
        """The sender closes the connection once everything has arrived."""
        self.finishing = (code, text)
        self._check_finished()

    def stall(self, channel: int, seconds: float) -> None:
        """What comes on this channel from now on gets stuck for so long; no other channel does."""
        until = self.link.network.kernel.now + seconds
        self._arrival[channel] = max(until, self._arrival.get(channel, 0.0))

    def empty(self) -> bool:
        return not self._in_flight and not any(self._waiting.values())

    def release(self, *, moved: bool = False) -> None:
        """The hole is over: what was held arrives, in its order."""
        if self.waiting_for_move and not moved:
            return
        self.waiting_for_move = False
        if self._blocked():
            return
        held, self.held = self.held, []
        for sent_at, channel, data, end in held:
            self._deliver(sent_at, channel, data, end)

    # ---- private

    def _push(self, channel: int) -> None:
        network = self.link.network
        waiting = self._waiting[channel]
        while waiting:
            item = waiting[0]
            room = network.weather.window - self.outstanding.get(channel, 0)
            if room <= 0 and item.data:
                return
            size = min(len(item.data), room)
            if size > 1 and network.random.random() < network.weather.split:
                size = network.random.randrange(1, size)
            whole = size == len(item.data)
            data, rest = item.data[:size], item.data[size:]
            if whole:
                waiting.popleft()
            else:
                waiting[0] = Outgoing(channel, rest, item.end)
            self.outstanding[channel] = self.outstanding.get(channel, 0) + size
            arrival = max(network.kernel.now + self._delay(), self._arrival.get(channel, 0.0))
            self._arrival[channel] = arrival
            self._in_flight += 1
            network.kernel.call_at(
                arrival, self._arrive, network.kernel.now, channel, data, item.end and whole
            )

    def _delay(self) -> float:
        weather, random = self.link.network.weather, self.link.network.random
        delay = weather.delay
        if weather.jitter:
            delay += random.expovariate(1 / weather.jitter)
        if weather.loss and random.random() < weather.loss:
            delay += 0.2 + random.expovariate(5)
        if weather.stall and random.random() < weather.stall:
            delay += random.uniform(1.0, 4.0)
        return delay

    def _blocked(self) -> bool:
        host, now = self.link.host, self.link.network.kernel.now
        return now < (host.up_blocked_until if self.upward else host.down_blocked_until)

    def _arrive(self, sent_at: float, channel: int, data: bytes, end: bool) -> None:
        if self.link.broken:
            return
        if self.held or self.waiting_for_move or self._blocked():
            self.held.append((sent_at, channel, data, end))
            self._plan_release()
            return
        self._deliver(sent_at, channel, data, end)

    def _plan_release(self) -> None:
        host, kernel = self.link.host, self.link.network.kernel
        until = host.up_blocked_until if self.upward else host.down_blocked_until
        if until > kernel.now and self._release_at != until:
            self._release_at = until
            kernel.call_at(until + self.link.network.random.uniform(0.0, 0.3), self.release)

    def _deliver(self, sent_at: float, channel: int, data: bytes, end: bool) -> None:
        self._in_flight -= 1
        if channel in self._reset:
            self.outstanding[channel] -= len(data)
        else:
            self.link.arrived(self, sent_at, channel, data, end)
        self._check_finished()

    def _arrive_reset(self, channel: int, code: int) -> None:
        if not self.link.broken:
            self.link.arrived_reset(self, channel, code)

    def _check_finished(self) -> None:
        if self.finishing is not None and self.empty() and not self.link.broken:
            self.link.network.kernel.call_later(self._delay(), self.link.ended_by_peer, self)


class End:
    """One end of a link."""

    def __init__(self, link: Link, owner: Owner, session: Session, out: Pipe) -> None:
        self.link = link
        self.owner = owner
        self.session = session
        self.out = out
        self.gone = False
        self._timer: Timer | None = None

    def flush(self) -> None:
        """Everything that the session says goes out; its clock is set."""
        if self.gone:
            return
        session, link = self.session, self.link
        back = link.up if self.out is link.down else link.down
        for channel, size in session.take_consumed():
            back.credit(channel, size)
        for item in session.data_to_send():
            link.sent(self.out, item)
        close = session.take_close()
        if close is not None:
            self.gone = True
            self.out.finish(*close)
        self._arm()

    def _arm(self) -> None:
        due = None if self.gone else self.session.get_timer()
        if self._timer is not None:
            if due is not None and self._timer.when == due + TIMER_LATENESS:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = self.link.network.kernel.call_at(due + TIMER_LATENESS, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if not self.gone:
            self.session.handle_timer(self.link.network.kernel.now)
            self.owner.on_input(self.link)
            self.link.network.touch(self)


class Link:
    """One connection of a client to the server."""

    def __init__(
        self, network: Network, host: Host, owner: Owner, session: ClientSession, number: int
    ) -> None:
        self.network = network
        self.host = host
        self.number = number
        self.broken = False
        self.moved_at: float | None = None
        self.up = Pipe(self, upward=True)
        self.down = Pipe(self, upward=False)
        self.client = End(self, owner, session, self.up)
        self.server: End | None = None

    @property
    def address(self) -> str:
        return f"{self.host.name}:{self.host.address}"

    def establish(self, owner: Owner, session: ServerSession) -> None:
        """The handshake is complete at both ends."""
        self.server = End(self, owner, session, self.down)

    def sent(self, pipe: Pipe, item: Outgoing) -> None:
        if self.network.watch is not None:
            self.network.watch(self, pipe.upward, item)
        if self.broken and pipe is self.up:
            self.network.answer_stranger(self)
        if not self.broken:
            pipe.send(item)

    def arrived(self, pipe: Pipe, sent_at: float, channel: int, data: bytes, end: bool) -> None:
        target = self.server if pipe is self.up else self.client
        now = self.network.kernel.now
        if target is None:
            return
        if pipe is self.up and self.moved_at is not None and sent_at >= self.moved_at:
            self.moved_at = None
            self.network.kernel.call_later(self.network.weather.delay, self._reached_again)
        if target.gone:
            pipe.credit(channel, len(data))
            return
        target.session.receive_data(channel, data, end, now)
        target.owner.on_input(self)
        self.network.touch(target)

    def arrived_reset(self, pipe: Pipe, channel: int, code: int) -> None:
        target = self.server if pipe is self.up else self.client
        if target is None or target.gone:
            return
        target.session.receive_reset(channel, code, self.network.kernel.now)
        target.owner.on_input(self)
        self.network.touch(target)

    def ended_by_peer(self, pipe: Pipe) -> None:
        assert pipe.finishing is not None
        self.lose(self.server if pipe is self.up else self.client, *pipe.finishing)
        self.broken = True

    def lose(self, end: End | None, code: int, text: str) -> None:
        """This end learns that the connection is over."""
        if end is None or end.gone:
            return
        end.session.connection_lost(code, text, self.network.kernel.now)
        end.owner.on_input(self)
        end.gone = True

    def break_down(self, random: Random) -> None:
        """It swallows everything from now on; each end may be told, soon or late, or not."""
        self.broken = True
        for end in (self.client, self.server):
            if random.random() < 0.6:
                delay = random.choice([0.0, 1.0, 5.0])
                text = "the connection broke"
                self.network.kernel.call_later(delay, self.lose, end, int(ErrorCode.UNREACHABLE), text)

    def abandon(self, random: Random) -> None:
        """The client's process is gone: what gets lost now stays lost; sometimes the kernel says goodbye."""
        self.client.gone = True
        self.broken = random.random() < 0.5
        if random.random() < 0.3:
            self.up.finish(ErrorCode.UNREACHABLE, "")

    def abort_channel(self, channel: int, code: int) -> None:
        """The client is told that the server gave this channel up."""
        self.arrived_reset(self.down, channel, code)

    def move(self, *, aware: bool, only_socket: bool = False) -> None:
        """The client's address has changed: the server talks to the old one until it hears from the new."""
        if not self.broken:
            self.host.address += 1
            self.moved_at = self.network.kernel.now
            self.down.waiting_for_move = True

    def _reached_again(self) -> None:
        if self.broken or self.server is None or self.server.gone or self.moved_at is not None:
            return
        session = self.server.session
        assert isinstance(session, ServerSession)
        session.path_changed(self.address, self.network.kernel.now)
        self.server.owner.on_input(self)
        self.network.touch(self.server)
        self.down.release(moved=True)


class Network:
    """All links."""

    def __init__(self, kernel: Kernel, random: Random) -> None:
        self.kernel = kernel
        self.random = random
        self.weather = Weather()
        self.links: list[Link] = []
        self.reset_chance = 0.7
        self.listener: Listener | None = None
        self.watch: Callable[[Link, bool, Outgoing], None] | None = None
        """Told everything that a session says (upward or not), for a trace."""
        self._dirty: dict[End, None] = {}
        self._made = 0
        kernel.settled = self.flush

    def dial(self, host: Host, owner: Owner, session: ClientSession) -> Link:
        """A new connection; its session is told when the handshake is complete."""
        self._made += 1
        link = Link(self, host, owner, session, self._made)
        self.links = [known for known in self.links if not known.broken]
        self.links.append(link)
        self.kernel.call_later(2 * link.up._delay(), self._handshake, link)
        self.touch(link.client)
        return link

    def touch(self, end: End) -> None:
        """An end's session may have something to say, after the present event."""
        self._dirty[end] = None

    def flush(self) -> None:
        while self._dirty:
            dirty, self._dirty = self._dirty, {}
            for end in dirty:
                end.flush()

    def break_all_of(self, server: Listener) -> None:
        """The server's process is gone, and all connections with it. Nobody is told."""
        for link in self.links:
            if link.server is not None and link.server.owner is server:
                link.broken = True
                link.server.gone = True

    def answer_stranger(self, link: Link) -> None:
        """A server that does not know the connection (any more) says so, if the packets get there."""
        up = self.listener is not None and not link.up._blocked() and not link.down._blocked()
        if up and not link.client.gone and self.random.random() < self.reset_chance:
            text = "the server does not know this connection any more"
            self.kernel.call_later(
                2 * self.weather.delay, link.lose, link.client, int(ErrorCode.GOING_AWAY), text
            )

    # ---- private

    def _handshake(self, link: Link) -> None:
        if link.client.gone or link.broken:
            return
        host = link.host
        blocked = max(host.up_blocked_until, host.down_blocked_until)
        if self.listener is None or blocked > self.kernel.now:
            # Packets of the handshake are sent again, until the session gives up.
            again = max(blocked, self.kernel.now + 0.2) + self.random.uniform(0.0, 0.5)
            self.kernel.call_at(again, self._handshake, link)
            return
        now = self.kernel.now
        binding = link.number.to_bytes(32, "big")
        session = self.listener.accept(link)
        session.connected(channel_binding=binding, observed_address=link.address, now=now)
        client = link.client.session
        assert isinstance(client, ClientSession)
        client.connected(channel_binding=binding, observed_address=link.address, now=now)
        link.client.owner.on_input(link)
        assert link.server is not None
        self.touch(link.client)
        self.touch(link.server)
