"""A channel that is refused for a while: what was asked on it is over, what was to be sent waits."""

from __future__ import annotations

from conversing import client, drain, said

from quicmsg.errors import ErrorCode
from quicmsg.protocol import events, frames
from quicmsg.protocol.codec import encode


def test_a_question_on_it_has_failed() -> None:
    """The next channel does not ask it again, so nobody may wait for its answer."""
    session, _ = client()
    session.fetch("@bob", ref=9, after=0, before=5, limit=2, now=0.0)
    (channel,) = said(session)
    session.receive_data(channel, encode(frames.Refused(int(ErrorCode.INTERNAL), "damaged", 1000)), True, 0.0)
    failed = [event for event in drain(session) if isinstance(event, events.RequestFailed)]
    assert [(event.ref, event.code, event.text) for event in failed] == [(9, ErrorCode.INTERNAL, "damaged")]
