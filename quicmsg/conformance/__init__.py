"""A second implementation of the wire, to hold servers (and the document) to what they promise.

It does what `docs/protocol.md` says, with the `msgpack` package instead of our codec, and with stock aioquic
instead of our transport: an error that client and server of quicmsg have in common shows up here. So nothing
but `quicmsg.errors` may be imported, and numbers are repeated, not shared.

Reading order: `wire.py` (frames), `link.py` (a connection), `peer.py` (a user at it), `checking.py` (what a
check is), then the checks by subject: `framing.py`, `signing.py`, `messages.py`, `positions.py`, `groups.py`.
"""
