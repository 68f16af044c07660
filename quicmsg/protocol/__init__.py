"""START HERE. The protocol of quicmsg, pure: no I/O, no clock, no randomness.

What it promises (docs/guarantees.md has it for users): a message reported *stored* is never lost;
every member sees the same gap-free order; each message is shown once, however often it was sent; receipts
are truthful and never go back; nothing disappears; trouble in one conversation does not delay another;
when an address changes, the conversation goes on.

How it is built:

- A *channel* is one ordered byte stream. Channel 0 is for control; each open conversation has one of its
  own (on QUIC channel n is stream 4n). Only the client opens channels; the first frame says what it is for.
- A *conversation* is an append-only log with a server-made `seq` from 1 without gaps. The log is the queue:
  live delivery, catch-up and offline delivery are one path. Members are *positions* in it.
- The sender's `message_id` is an idempotency key for ever, so sending again is always safe. The client's
  *outbox* keeps a message until the server has accepted (committed) it.
- Receipts are positions, that is, state: a lost one is repaired by the next.

Reading order: `frames.py` (what is said), `codec.py` (bytes), `session.py` (what both ends share),
`heartbeat.py`, `outbox.py`, `conversation.py` and `mailbox.py` (what a client knows), `client.py`,
`channels.py`, `server.py`, `events.py`; then `quicmsg/server/hub.py`, `quicmsg/transport/quic.py`,
`quicmsg/client/__init__.py`.
"""
