"""quicmsg: a messaging service over QUIC whose ticks are true, on networks that misbehave."""

from __future__ import annotations
