"""A client of a world: the real bookkeeper, mailbox, journal and sessions; simulated are person and program.

`connected.py` mirrors `quicmsg/client/connector.py`; the commands of a person here mirror the few lines of
`quicmsg/client/postbox.py` that wait for the journal.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from quicmsg.client.bookkeeper import Bookkeeper
from quicmsg.client.journal_writes import Cancelled, MessageRow, MessageState, Queue, Requeued
from quicmsg.client.values import ClientEvent, State
from quicmsg.errors import QuicmsgError
from quicmsg.protocol import events
from quicmsg.protocol.client import Request
from quicmsg.protocol.frames import Entry, Kind
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import Outcome
from simulation.connected import Connected
from simulation.history import History
from simulation.journal import Journal
from simulation.kernel import Kernel, Timer
from simulation.network import Network


class Books(Bookkeeper):
    """Notes in the history what a program would be told, with the epoch that it is about."""

    def __init__(self, device: Device, touched: Callable[[], None]) -> None:
        super().__init__(device.disk, device.mailbox, touched)
        self._device = device
        self._stored_epochs: dict[bytes, int] = {}
        self._tick_epochs: deque[int] = deque()
        self._tick_epoch = 0

    def _handle(self, event: events.Event) -> None:
        if isinstance(event, events.MessageStored):
            self._stored_epochs[event.message_id] = self.mailbox.conversations[event.conversation].epoch
        elif isinstance(event, events.PositionsChanged):
            epoch = self.mailbox.conversations[event.conversation].epoch
            moved = (event.delivered_to > event.delivered_from) + (event.read_to > event.read_from)
            self._tick_epochs.extend([epoch] * moved)
        elif isinstance(event, events.ConversationReset):
            self._device.note("reset", event.conversation, event.epoch, event.position)
        super()._handle(event)

    def _tick(
        self,
        conversation: str,
        state: State,
        own: list[tuple[bytes, int]] | None,
        error: QuicmsgError | None,
    ) -> None:
        self._tick_epoch = self._tick_epochs.popleft()
        super()._tick(conversation, state, own, error)

    def _tell(self, event: ClientEvent) -> None:
        pass

    def _tell_state(
        self,
        message_id: bytes,
        conversation: str,
        state: State,
        seq: int | None = None,
        reason: str = "",
        code: int | None = None,
    ) -> None:
        match state:
            case State.STORED:
                epoch = self._stored_epochs[message_id]
                self._device.note("stored", conversation, epoch, seq, message_id)
            case State.DELIVERED | State.READ:
                self._device.note("tick", conversation, self._tick_epoch, seq, message_id, state.value)
            case State.REJECTED:
                self._device.note("rejected", conversation, message_id, reason)
            case State.FAILED:
                self._device.note("failed", message_id)

    def _look_again(self) -> None:
        self._device.think_soon()


class Device(Connected):
    """One device of a user: its disk, its process, its place in the network.

    Attributes:
        thinking: seconds that the program needs for one message; `reads`: the chance that it reads it;
            `gives_back`: that it leaves a message without having processed it, and asks again.
    """

    def __init__(
        self, user: str, number: int, kernel: Kernel, network: Network, random: Random, history: History,
        *, forgetful: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(user, number, kernel, network, random, history)
        self.disk = Journal(
            kernel, random, history, name=self.name, user=user, device=self.device,
            forgetful=forgetful,
        )  # fmt: skip
        self.disk.on_death = self.crash
        self.on_crash: Callable[[], None] = lambda: None
        self.thinking = 0.001
        self.reads = 0.0
        self.reads_publicly = True
        self.gives_back = 0.0
        self.books = Books(self, self._touched)
        self._outbox_timer: Timer | None = None
        self._with_program: Entry | None = None
        self._busy = False

    def note(self, what: str, *details: object) -> None:
        self._history.note(what, self.name, *details)

    @property
    def is_processing(self) -> bool:
        """A message is with the program."""
        return self.running and self._busy

    # ---- life

    def start(self) -> None:
        self.running = True
        self._life += 1
        self.mailbox = Mailbox(self.user, self.device)
        self.books = Books(self, self._touched)
        self.disk.open()
        assert self.disk.file is not None
        snapshot = self.disk.file.load()
        if self.disk.disk is not None and self.disk.disk.dead:
            self.crash()
            return
        self.note("started")
        for row in snapshot.conversations:
            self.note("stands", row.name, row.epoch, row.position)
        self.books.load(snapshot, self._kernel.now)
        self._drain()
        self._connect()
        self._think()

    def crash(self, *, power: bool = False) -> None:
        """kill -9, or a power cut: what is not on the disk is gone."""
        if not self.running:
            return
        self.note("crashed", power)
        self.running = False
        self._life += 1
        self.disk.crash(power=power)
        self._drop_links()
        self._busy = False
        if self._outbox_timer is not None:
            self._outbox_timer.cancel()
            self._outbox_timer = None
        self.on_crash()

    # ---- what a person does

    def send(self, conversation: str, body: bytes, message_id: bytes) -> None:
        """As `Postbox.queue`, under an id that the program has made: the same again is the same message."""

        def durable(known: MessageRow | None, error: QuicmsgError | None) -> None:
            if error is not None:
                self.note("refused", message_id)
            elif known is None:
                self.books.queued(conversation, body, message_id, self._kernel.now)
            elif known.state is not MessageState.STORED and message_id in self.mailbox.outbox:
                self.resend(message_id)
            # Else it was answered, or cancelled, before or during the write.

        queue = Queue(message_id, conversation, Kind.TEXT, 0, body, 1)
        self.disk.write_after(lambda file: file.message(message_id), queue, durable)

    def resend(self, message_id: bytes) -> None:
        message = self.mailbox.outbox.get(message_id)
        was_rejected = message is not None and message.outcome is Outcome.REJECTED

        def durable(_error: QuicmsgError | None) -> None:
            if self.books.requeued(message_id, self._kernel.now, was_rejected=was_rejected):
                self.note("resent", message_id)

        if message is not None:
            written = message.outcome is not Outcome.REJECTED and message.channel is not None
            self.disk.post(Requeued(message_id), durable)
            if written:
                self._race()

    def cancel(self, message_id: bytes) -> None:
        if message_id in self.mailbox.outbox:
            self.disk.post(
                Cancelled(message_id), lambda _error: self.books.cancelled(message_id, self._kernel.now)
            )

    def read(self, conversation: str, seq: int, *, public: bool = True) -> None:
        def processed_is_durable(_error: QuicmsgError | None) -> None:
            write = self.books.read_up_to(conversation, seq, public=public)
            if write is None:
                return
            if write.public:
                epoch = self.mailbox.conversations[conversation].epoch
                self.note("read", conversation, epoch, write.position)
            self.disk.post(write, lambda _error: self._touched())

        if conversation in self.mailbox.conversations:
            self.disk.flush(processed_is_durable)

    def request(self, make: type[Request], *arguments: object) -> None:
        """Ask on channel 0, if there is a connection."""
        if self.session is not None and self.is_up:
            self.session.request(make(self._random.getrandbits(62), *arguments))
            self._touched()

    # ---- private: the mailbox

    def _touched(self) -> None:
        if not self.running:
            return
        if self.session is not None and self.link is not None:
            self.session.service(self._kernel.now)
            self.on_input(self.link)
            if self.link is not None:
                self._network.touch(self.link.client)
        self._drain()

    def _drain(self) -> None:
        self.books.drain()
        self._arm()

    def _arm(self) -> None:
        due = self.mailbox.outbox.get_timer()
        timer = self._outbox_timer
        if timer is not None:
            if due is not None and timer.when <= due and timer.function is not None:
                return
            timer.cancel()
            self._outbox_timer = None
        if due is not None and self.running:
            self._outbox_timer = self._kernel.call_at(due, self._escalate)

    def _escalate(self) -> None:
        self._outbox_timer = None
        steps = self.mailbox.escalate(self._kernel.now)
        if steps and self.session is not None:
            self.note("escalated", sorted(step.value for step in steps))
            self.session.doubt(steps, self._kernel.now)
        self._touched()

    # ---- private: the program

    def think_soon(self) -> None:
        if not self._busy and self.mailbox.waiting():
            self._kernel.call_later(0.0, self._think)

    def _think(self) -> None:
        """Take the next entry, if the program is free; show it, unless it is known since before a restore; be
        done with it after a while."""
        if not self.running or self._busy or (item := self.books.take()) is None:
            return
        self._busy = True
        name, entry = item
        if not self.books.may_be_repeated(name, entry):
            self._show(name, entry, False, None)
            return
        self.disk.ask(
            lambda file: file.known(entry.message_id, entry.sender),
            lambda known, error: self._show(name, entry, known, error),
        )

    def _show(self, name: str, entry: Entry, known: bool | None, error: QuicmsgError | None) -> None:
        assert error is None
        what = "repeated" if known else "shown"
        self.note(what, name, self.books._out[name], entry.seq, entry.message_id, entry.body, entry.sender)
        thinking = 0.0 if known else self._random.uniform(0.0, self.thinking)
        self._kernel.call_later(thinking, self._done, self._life, name, entry, known)

    def _done(self, life: int, name: str, entry: Entry, known: bool) -> None:
        if life != self._life:
            return
        self._busy = False
        if not known and self.gives_back and self._random.random() < self.gives_back:
            self.note("gave back", name, self.books._out[name], entry.seq, entry.message_id)
            self.books.put_back(name, entry)
        else:
            self.books.processed(name, entry)
            if not known and self._random.random() < self.reads:
                self.read(name, entry.seq, public=self.reads_publicly)
        self._think()
