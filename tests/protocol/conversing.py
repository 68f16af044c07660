"""Sessions that are signed in and have conversations open, for tests that speak frame by frame."""

from __future__ import annotations

from quicmsg import limits
from quicmsg.protocol import events, frames
from quicmsg.protocol.client import ClientSession
from quicmsg.protocol.codec import FrameReader, encode
from quicmsg.protocol.frames import CONTROL, Entry
from quicmsg.protocol.mailbox import Mailbox
from quicmsg.protocol.server import ServerSession
from quicmsg.protocol.session import Session

DEVICE = b"d" * 16
ALICE = b"a" * 16


def message_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def entry(seq: int, body: bytes = b"hi", *, device: bytes = DEVICE) -> Entry:
    return Entry(seq, message_id(seq), "bob", device, 0, 0, body, seq)


def send(number: int, body: bytes = b"hi") -> bytes:
    return encode(frames.Send(message_id(number), 0, 0, body))


def drain(session: Session) -> list[events.Event]:
    return list(iter(session.next_event, None))


def said(session: Session) -> dict[int, list[frames.Frame]]:
    """What goes out, by channel."""
    out = {}
    for item in session.data_to_send():
        reader = FrameReader(control=item.channel == CONTROL)
        reader.feed(item.data)
        out[item.channel] = list(iter(reader.next_frame, None))
    return out


def server(conversations: dict[int, str], *, head: int = 0) -> ServerSession:
    """Signed in, with these channels opened."""
    session = ServerSession(now=0.0)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    session.welcome(user="alice", device=ALICE, epoch=1, account_head=0, time_ms=0, now=0.0)
    for number, name in conversations.items():
        session.receive_data(number, encode(frames.Open(name, 0, 0, 0)), False, 0.0)
        open_verdict(session, number, head=head)
    session.data_to_send()
    session.take_consumed()
    return session


def open_verdict(session: ServerSession, number: int, *, head: int = 0) -> None:
    session.opened(number, epoch=1, oldest=1, head=head, position=0, reset=False, members=[], now=0.0)


def client() -> tuple[ClientSession, Mailbox]:
    mailbox = Mailbox("alice", ALICE)

    def sign(binding: bytes) -> frames.Authenticate:
        return frames.Authenticate("alice", bytes(32), bytes(64), "", "")

    session = ClientSession(mailbox, sign=sign, agent="test", foreground=True, now=0.0)
    session.connected(channel_binding=bytes(32), observed_address="192.0.2.1:1", now=0.0)
    welcome = frames.Welcome(1, "alice", ALICE, 1, 0, "192.0.2.1:1", 0, limits.BODY_SIZE_MAX, ())
    session.receive_data(CONTROL, encode(welcome), False, 0.0)
    session.data_to_send()
    return session, mailbox
