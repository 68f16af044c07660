"""`Client`: what a program uses. See `connect`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import TracebackType

from quicmsg import limits
from quicmsg.client.checks import check_address, check_group, check_name, encode_text
from quicmsg.client.connector import Connector
from quicmsg.client.identity import Identity
from quicmsg.client.inbox import Inbox, Messages
from quicmsg.client.journal import HistoryPage, Journal, JournalFile, MessageState
from quicmsg.client.postbox import Postbox
from quicmsg.client.requests import Requests
from quicmsg.client.target import Target
from quicmsg.client.tracking import Events, Sent, Tracker
from quicmsg.client.values import (
    Connection,
    ConnectionChanged,
    Message,
    OutboxMessage,
    State,
    message_of,
    parse_message_id,
)
from quicmsg.errors import (
    ConfigurationError,
    ConnectError,
    OfflineError,
    StorageError,
)
from quicmsg.protocol import events as protocol_events
from quicmsg.protocol import frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.events import Event
from quicmsg.protocol.frames import Entry
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.outbox import Outcome
from quicmsg.version import AGENT


class Client:
    """One device of one user, connected or not. Made by `connect`.

    What is sent goes into an outbox on this device's disk first, and from there to the server, over as many
    connections, addresses and restarts as it takes. What is received is acknowledged when the program has
    processed it.
    """

    def __init__(
        self,
        user: str,
        identity: Identity,
        journal: Journal,
        target: Target,
        *,
        code: str,
        offline: str,
        foreground: bool,
        local_address: str | None,
    ) -> None:
        self.user = user
        self.device = identity.device.hex()
        self._identity = identity
        self._offline = offline
        self._code = code
        self._foreground = foreground
        self._loop = asyncio.get_running_loop()
        self._tracker = Tracker()
        self._mailbox = Mailbox(user, identity.device)
        self._postbox = Postbox(journal, self._mailbox, self._tracker, self._touched)
        self._journal = journal
        self._inbox = Inbox(self._postbox, user)
        self._connector = Connector(
            target,
            make_session=self._make_session,
            handle=self._handle,
            changed=self._link_changed,
            active=self._drain,
            local_address=local_address,
        )
        self._requests = Requests(lambda: self._connector.session, self._touched)
        self._was_up = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._touch_pending = False
        self._closed = False

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- sending

    async def send(self, conversation: str, text: str, *, message_id: str | None = None) -> Sent:
        """Send a text to `@user` or `#group`; returns when the server has stored it durably.

        Raises DeliveryError when that is not confirmed within 12 s (the message stays in the outbox and
        goes on trying), RefusedError when it never will be, OfflineError at once when the link is down
        and the client was made with `offline="fail"` (then nothing was queued).
        """
        if self._offline == "fail" and not self.is_up:
            raise OfflineError(
                f"the link is down ({self._why_down()}); nothing was sent or queued", message_id=b""
            )
        sent = await self.queue(conversation, text, message_id=message_id)
        return await sent.stored()

    async def queue(self, conversation: str, text: str, *, message_id: str | None = None) -> Sent:
        """As `send`, but return as soon as the message is in the outbox on this device's disk; wait on
        the returned `Sent` with `.stored()`, `.delivered()`, `.read()`."""
        self._check_usable()
        check_address(conversation)
        body = encode_text(text)
        raw_id = None if message_id is None else parse_message_id(message_id)
        return await self._postbox.queue(conversation, body, raw_id)

    async def resend(self, message_id: str) -> Sent:
        """Send a failed or rejected message of the outbox again, under the same id: it can never become a
        second copy. Raises RefusedError when it is not in the outbox."""
        self._check_usable()
        raw_id = parse_message_id(message_id)
        message = self._mailbox.outbox.get(raw_id)
        written = message is not None and message.outcome is not Outcome.REJECTED and message.channel
        sent = await self._postbox.resend(raw_id)
        if written and self._connector.session is not None:
            # Bytes are never written twice to a live stream: what is unanswered there needs another path.
            self._connector.race()
        return sent

    async def cancel(self, message_id: str) -> None:
        """Take a message out of the outbox. If it had reached the server before, it shows up as stored."""
        self._check_usable()
        await self._postbox.cancel(parse_message_id(message_id))

    async def outbox(self) -> list[OutboxMessage]:
        """What the server has not accepted, in the order in which it will be sent."""
        found = []
        for row in await self._journal.read(JournalFile.outbox):
            live = self._mailbox.outbox.get(row.message_id)
            failed = live is not None and live.outcome is Outcome.FAILED
            state = State.FAILED if failed else State(row.state.value)
            text = row.body.decode("utf-8", "replace")
            reason = "not confirmed in time" if failed else row.text
            found.append(OutboxMessage(row.message_id.hex(), row.conversation, text, state, reason))
        return found

    async def state(self, message_id: str) -> State | None:
        """Where a message of this device is now; None: never heard of it."""
        row = await self._journal.read(JournalFile.message, parse_message_id(message_id))
        if row is None:
            return None
        if row.state is not MessageState.STORED or row.seq is None:
            live = self._mailbox.outbox.get(row.message_id)
            return State.FAILED if live and live.outcome is Outcome.FAILED else State(row.state.value)
        return self._postbox.reached(row.conversation, row.seq)

    # ---- receiving

    def messages(self, conversation: str | None = None) -> Messages:
        """Iterate over messages as they come, of all conversations or of one. Asking for the next one is
        the acknowledgement of the one before: then, and not before, its sender sees "delivered"."""
        self._check_usable()
        return self._inbox.messages(conversation)

    async def read(self, conversation: str, seq: int, *, public: bool = True) -> None:
        """Say that everything up to `seq` was read (and so processed); not `public`: to one's own devices."""
        self._check_usable()
        check_address(conversation)
        self._inbox.acknowledge(conversation, seq)
        await self._postbox.read(conversation, seq, public=public)

    async def history(
        self, conversation: str, *, before: int | None = None, limit: int = 50
    ) -> list[Message]:
        """The newest `limit` messages below `before` (None: the newest), oldest first. From the server when
        the link is up, else what this device has."""
        self._check_usable()
        check_address(conversation)
        collected: list[Entry] = []
        if self.is_up:
            below = limits.SEQ_MAX if before is None else before
            while len(collected) < limit:
                size = min(limit - len(collected), limits.PAGE_MESSAGES_MAX)
                page = await self._requests.fetch(conversation, before=below, limit=size)
                collected = page + collected
                if len(page) < size:
                    break
                below = page[0].seq
        else:
            collected = await self._journal.read(JournalFile.history, conversation, before, limit)
        return [message_of(conversation, entry, self.user) for entry in collected]

    def conversations(self) -> list[str]:
        """The conversations that this user is in, as far as this device knows."""
        return sorted(c.name for c in self._mailbox.conversations.values() if not c.lost)

    # ---- groups and devices

    async def create(
        self, conversation: str, members: list[str] | tuple[str, ...] = (), *, open: bool = False
    ) -> None:
        """Make `#name`; you and `members` are in it. `open`: anybody may join. Raises RefusedError."""
        for name in members:
            check_name(name)
        check_group(conversation)
        await self._requests.request(lambda ref: frames.Create(ref, conversation, tuple(members), open))

    async def invite(self, conversation: str, user: str) -> None:
        """Add a user to a group that you are in."""
        check_name(user)
        check_group(conversation)
        await self._requests.request(lambda ref: frames.Invite(ref, conversation, user))

    async def join(self, conversation: str) -> None:
        """Join an open group; for a member nothing changes."""
        check_group(conversation)
        await self._requests.request(lambda ref: frames.Join(ref, conversation))

    async def leave(self, conversation: str) -> None:
        """Leave a group."""
        check_group(conversation)
        await self._requests.request(lambda ref: frames.Leave(ref, conversation))

    async def link_code(self) -> str:
        """A one-time code with which another device can sign in as this user, within ten minutes."""
        self._check_usable()
        return await self._requests.request(frames.Link)

    # ---- the link

    @property
    def is_up(self) -> bool:
        """Does the server answer?"""
        return self._connector.session is not None and self._connector.state is not Connection.DOWN

    @property
    def observed_address(self) -> str:
        """The address at which the server sees this client; empty when not connected."""
        session = self._connector.session
        return "" if session is None else session.observed_address

    def events(self) -> Events:
        """Subscribe to state changes, receipts, membership and the link, from now on."""
        return self._tracker.subscribe()

    def migrate(self, local_address: str | None = None) -> None:
        """Go on from another address of this computer (None: whatever the system chooses, on a new port).
        The client does this by itself when its network changes. Raises ConfigurationError, ConnectError."""
        self._check_usable()
        self._connector.migrate(local_address)

    async def wait_up(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Wait for the first connection. Raises what stands in its way: CertificateError, SignInError,
        and after `timeout` seconds ConnectError."""
        waiting = self._loop.create_task(self._was_up.wait())
        try:
            await asyncio.wait([waiting], timeout=timeout)
        finally:
            waiting.cancel()
        if self._connector.fatal is not None:
            raise self._connector.fatal
        if not self._was_up.is_set():
            raise self._connector.last_error or ConnectError(f"no answer within {timeout:g} s")

    async def close(self) -> None:
        """Write down and tell what is done, and disconnect. What is still in the outbox stays there."""
        if self._closed:
            return
        self._closed = True
        self._inbox.close()
        if self._timer is not None:
            self._timer.cancel()
        try:
            with contextlib.suppress(StorageError):
                await self._postbox.settle()
            self._service()
            await self._connector.close()
        finally:
            self._requests.abandon(ConnectError("this client was closed"))
            self._tracker.close()
            await self._journal.close()

    # ---- private: sessions

    async def open(self) -> None:
        """Take up what the journal has, and begin to connect; called by `connect`."""
        self._postbox.load(await self._journal.read(JournalFile.load), self._loop.time())
        self._postbox.drain()
        self._arm()
        self._connector.start()

    def _make_session(self, early: bool) -> ClientSession:
        return ClientSession(
            self._mailbox,
            sign=self._authenticate,
            agent=AGENT,
            foreground=self._foreground,
            now=self._loop.time(),
            early=early,
        )

    def _authenticate(self, binding: bytes) -> frames.Authenticate:
        signature = self._identity.sign(self.user, binding)
        label = socket.gethostname()[: limits.LABEL_SIZE_MAX]
        return frames.Authenticate(self.user, self._identity.public_key, signature, label, self._code)

    def _touched(self) -> None:
        """The mailbox has something to say: once per loop turn, however often this is called."""
        if not self._touch_pending:
            self._touch_pending = True
            self._loop.call_soon(self._service)

    def _service(self) -> None:
        self._touch_pending = False
        self._connector.flush()
        self._drain()

    def _drain(self) -> None:
        """Write down and tell what happened."""
        self._postbox.drain()
        self._arm()

    def _link_changed(self, event: ConnectionChanged) -> None:
        if event.state is Connection.UP or self._connector.fatal is not None:
            self._was_up.set()
        if self._connector.fatal is not None:
            self._postbox.failure = self._connector.fatal
            self._postbox.arrived.set()
            self._requests.abandon(self._connector.fatal)
        if event.state is Connection.DOWN and self._offline == "fail":
            self._tracker.fail_queued(f"the link is down ({event.reason})")
        self._tracker.emit(event)

    def _handle(self, event: Event) -> None:
        match event:
            case protocol_events.SignedIn():
                assert self._connector.session is not None
                self._requests.connected(self._connector.session)
            case protocol_events.RequestDone():
                self._requests.done(event)
            case protocol_events.RequestFailed():
                self._requests.failed(event)
            case protocol_events.PageArrived():
                entries = self._requests.page(event)
                if entries is not None:
                    epoch = self._mailbox.conversations[event.conversation].epoch
                    self._journal.post(HistoryPage(event.conversation, tuple(entries), epoch))
            case protocol_events.SessionEnded():
                self._requests.disconnected(event.code)
            case protocol_events.PongReceived():
                pass
            case _:
                raise AssertionError(f"a client session reported {event}")

    def _arm(self) -> None:
        """One timer for the outbox's escalation clock."""
        due = self._mailbox.outbox.get_timer()
        if self._timer is not None:
            if due is not None and self._timer.when() <= due and not self._timer.cancelled():
                return
            self._timer.cancel()
            self._timer = None
        if due is not None and not self._closed:
            self._timer = self._loop.call_at(due, self._escalate)

    def _escalate(self) -> None:
        self._timer = None
        now = self._loop.time()
        steps = self._mailbox.escalate(now)
        if self._connector.session is not None and steps:
            self._connector.session.doubt(steps, now)
            self._connector.pump()
        self._service()

    # ---- private: checks

    def _check_usable(self) -> None:
        if self._closed:
            raise ConfigurationError("this client is closed")
        if isinstance(self._postbox.failure, StorageError):
            raise self._postbox.failure

    def _why_down(self) -> str:
        if self._connector.session is not None:
            return "connected, but nothing is heard"
        return str(self._connector.last_error or "connecting")
