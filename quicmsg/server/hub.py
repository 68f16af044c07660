"""The heart of the server: what sessions ask, the store answers, and everybody concerned is told.

No sockets, no clock, no asyncio: the hub is called with sessions and the store's answers, so the simulator
runs this very code. `conversations.py` has the life of a message, `topics.py` what is in memory of open
conversations, `directory.py` who is connected.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from quicmsg import limits
from quicmsg.errors import ErrorCode
from quicmsg.protocol import events
from quicmsg.protocol.frames import ChangeEntry
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import SessionState
from quicmsg.protocol.signin import sign_in_message
from quicmsg.server.conversations import Conversations, address_for
from quicmsg.server.directory import Directory, Environment, Peer
from quicmsg.server.newcomers import Newcomers
from quicmsg.server.strangers import Strangers
from quicmsg.server.submitter import Submitter
from quicmsg.store import (
    Change,
    ChangeMember,
    CreateGroup,
    GroupChanged,
    MakeCode,
    Refusal,
    Result,
    RevokeDevice,
    SignedIn,
    SignIn,
)
from quicmsg.store.writer import StoreWriter


class Hub:
    """Connects sessions with the store and with each other.

    Args:
        writer: the store's threads (or the simulator's): callbacks come back one at a time, in order.
        epoch: the store's.
        invite_only: new names need an invite code.
    """

    def __init__(
        self, writer: StoreWriter, environment: Environment, *, epoch: int, invite_only: bool
    ) -> None:
        self._writer = writer
        self._environment = environment
        self._epoch = epoch
        self._invite_only = invite_only
        self._submitter = Submitter(writer, self._revoked)
        self._directory = Directory()
        self._strangers = Strangers(environment)
        self._newcomers = Newcomers(environment)
        self._conversations = Conversations(writer, self._submitter, self._directory, environment, self.pump)

    # ---- sessions come and go

    @property
    def sessions(self) -> int:
        """How many sessions are attached, signed in or not."""
        return len(self._directory.peers)

    def knows(self, session: ServerSession) -> bool:
        """Is it attached?"""
        return session in self._directory.peers

    def attach(self, session: ServerSession, wake: Callable[[], None]) -> None:
        """A new connection; `wake` makes its transport flush (cheap, may be called often)."""
        self._directory.peers[session] = Peer(session, wake)

    def pump(self, session: ServerSession) -> None:
        """Handle everything that a session reports; call it after each input to the session."""
        peer = self._directory.peers.get(session)
        while peer is not None and (event := session.next_event()) is not None:
            self._handle(peer, event)
        if peer is not None:
            peer.wake()

    def room(self) -> None:
        """The store's queue is short again: take up what had to wait."""
        self._submitter.room()

    def drain(self, deadline: float) -> None:
        """Tell every client that the server stops, within `deadline` seconds."""
        for peer in list(self._directory.peers.values()):
            peer.session.go_away(ErrorCode.GOING_AWAY, deadline)
            peer.wake()

    def close(self) -> None:
        """End every session."""
        for peer in list(self._directory.peers.values()):
            peer.session.close(ErrorCode.GOING_AWAY, "the server stops", now=self._environment.now())
            self.pump(peer.session)

    def revoke(self, user: str, device: bytes, answer: Callable[[Result], None]) -> None:
        """Remove a device of a user; once that is durable its session ends, and `answer` is called."""

        def revoked(result: Result) -> None:
            peer = self._directory.device(user, device)
            if peer is not None and not isinstance(result, Refusal):
                self._revoked(peer.session)
            answer(result)

        self._writer.submit(RevokeDevice(user, device, self._time_ms()), revoked)

    def _revoked(self, session: ServerSession) -> None:
        """Also when the store says so in answer to whatever this device asked: it gets no more messages."""
        if session.user:
            session.close(
                ErrorCode.REVOKED, "this device was removed from the account", now=self._environment.now()
            )
            self.pump(session)

    # ---- private: what sessions ask

    def _handle(self, peer: Peer, event: events.Event) -> None:
        match event:
            case events.MessageSubmitted():
                self._conversations.submit(peer, event)
            case events.EntriesWanted():
                self._conversations.deliver(peer, event)
            case events.PositionMoved():
                self._conversations.move(peer, event)
            case events.OpenRequested():
                self._conversations.open(peer, event)
            case events.ChannelClosed():
                self._conversations.closed(peer, event.channel)
            case events.SyncRequested():
                self._sync(peer, event)
            case events.FetchRequested():
                self._conversations.fetch(peer, event)
            case events.GroupRequested():
                self._group(peer, event)
            case events.LinkRequested():
                self._link(peer, event.ref)
            case events.SignInRequested():
                self._sign_in(peer, event)
            case events.ClientMoved():
                self._environment.log(
                    "moved", user=peer.session.user, old=event.old_address, new=event.new_address
                )
            case events.SessionEnded():
                self._detach(peer, event)
            case _:
                raise AssertionError(f"a server session reported a {type(event).__name__}")

    def _detach(self, peer: Peer, event: events.SessionEnded) -> None:
        session = peer.session
        self._directory.remove(peer)
        self._submitter.withdraw(session)
        for channel in list(peer.topics):
            self._conversations.closed(peer, channel)
        log = self._environment.log if session.user else self._strangers.log
        log("ended", user=session.user, address=session.observed_address, code=event.code, why=event.text)
        peer.wake()

    def _sign_in(self, peer: Peer, event: events.SignInRequested) -> None:
        message = sign_in_message(event.user, event.public_key, event.binding)
        if not self._environment.verify(event.public_key, event.signature, message):
            self._refuse_sign_in(peer, event.user, ErrorCode.SIGN_IN_REFUSED, "the signature is not valid")
            return
        address = peer.session.observed_address
        crowded = not self._newcomers.may_come(address)
        operation = SignIn(
            event.user,
            event.public_key,
            event.label,
            event.code,
            self._invite_only or crowded,
            self._time_ms(),
        )

        def signed_in(result: Result) -> None:
            if isinstance(result, Refusal):
                if crowded and not self._invite_only and result.code is ErrorCode.INVITE_NEEDED:
                    result = Refusal(ErrorCode.BUSY, "too many new names from this address: try again later")
                self._refuse_sign_in(peer, event.user, result.code, result.text)
                return
            assert isinstance(result, SignedIn)
            if result.new_user:
                self._newcomers.came(address)
            self._welcome(peer, result)

        self._submitter.submit(peer.session, operation, signed_in)

    def _refuse_sign_in(self, peer: Peer, user: str, code: ErrorCode, text: str) -> None:
        self._strangers.log(
            "refused", user=user, address=peer.session.observed_address, code=int(code), why=text
        )
        peer.session.refuse_sign_in(code, text, self._environment.now())
        self.pump(peer.session)

    def _welcome(self, peer: Peer, result: SignedIn) -> None:
        session = peer.session
        if session.state is not SessionState.SIGNING_IN:
            return
        older = self._directory.sign_in(peer, result.user, result.device)
        if older is not None:
            # Only now that the newer one is confirmed (else a failed attempt would cost the good one).
            older.session.close(
                ErrorCode.REPLACED, "this device connected again", now=self._environment.now()
            )
            self.pump(older.session)
        self._environment.log(
            "signed in", user=result.user, device=result.device.hex(), address=session.observed_address
        )
        session.budget = self._directory.budget(result.user, self._environment.now())
        session.welcome(
            user=result.user,
            device=result.device,
            epoch=self._epoch,
            account_head=0,
            time_ms=self._time_ms(),
            now=self._environment.now(),
        )
        self.pump(session)

    def _sync(self, peer: Peer, event: events.SyncRequested) -> None:
        session = peer.session
        after = event.cursor if event.epoch == self._epoch else 0

        def read(changes: list[Change]) -> None:
            page = changes[: limits.SYNC_PAGE_ENTRIES]
            entries = [ChangeEntry(address_for(c.conversation, session.user), c.head, c.change) for c in page]
            cursor = page[-1].change if page else after
            session.sync_page(self._epoch, entries, cursor, more=len(changes) > len(page))
            self.pump(session)

        self._writer.read(
            lambda store: store.changes(session.user, after=after, limit=limits.SYNC_PAGE_ENTRIES + 1), read
        )

    # ---- private: groups and devices

    def _group(self, peer: Peer, event: events.GroupRequested) -> None:
        session = peer.session
        if not event.conversation.startswith("#"):
            session.failed(event.ref, ErrorCode.NAME_INVALID, "a group's name begins with #")
            return
        request_id = hashlib.sha256(session.device + event.ref.to_bytes(8, "big")).digest()[:16]
        at_ms = self._time_ms()
        operation: CreateGroup | ChangeMember
        if event.action == "create":
            operation = CreateGroup(
                event.conversation, session.user, session.device, event.users, event.open, at_ms, request_id
            )
        else:
            user = event.users[0] if event.users else session.user
            operation = ChangeMember(
                event.conversation, session.user, session.device, user, event.action, at_ms, request_id
            )

        def changed(result: Result) -> None:
            if isinstance(result, Refusal):
                session.failed(event.ref, result.code, result.text)
            else:
                assert isinstance(result, GroupChanged)
                self._conversations.group_changed(event.conversation, result)
                session.done(event.ref)
            self.pump(session)

        self._submitter.submit(session, operation, changed)

    def _link(self, peer: Peer, ref: int) -> None:
        session = peer.session
        code = self._environment.make_code()
        expires = self._time_ms() + int(limits.LINK_CODE_LIFETIME * 1000)

        def made(result: Result) -> None:
            if isinstance(result, Refusal):
                session.failed(ref, result.code, result.text)
            else:
                session.done(ref, code)
            self.pump(session)

        operation = MakeCode("link", session.user, code, expires, session.device)
        self._submitter.submit(session, operation, made)

    def _time_ms(self) -> int:
        return self._environment.time_ms()
