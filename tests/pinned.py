"""`pinned_aioquic(seed)`: the same seed gives the same packets, in every process.

What must be pinned was found by ablation: random bytes, key generation in OpenSSL, and the clock of
certificates and of Retry tokens. The order of streams within a packet needs no pin: `streams._Queue.extend`
sorts.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import random
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import aioquic.quic.connection
import aioquic.quic.packet
import aioquic.quic.retry
import aioquic.tls
from certificates import EPOCH

from quicmsg.transport import admission as admission_module

_REAL_KEYS = (aioquic.tls.x25519, aioquic.tls.x448, aioquic.tls.ec)  # one pin may stand inside another


@contextlib.contextmanager
def pinned_aioquic(seed: int = 0) -> Iterator[None]:
    """Make aioquic and our admission draw from a seeded source, and its clock stand at a fixed date."""
    draw = random.Random(f"crypto {seed}")
    system = _Forward(os, urandom=draw.randbytes)
    x25519, x448, curves = _REAL_KEYS
    ours = {
        "x25519": _Forward(
            x25519, X25519PrivateKey=_KeyMaker(x25519.X25519PrivateKey, lambda: draw.randbytes(32))
        ),
        "x448": _Forward(x448, X448PrivateKey=_KeyMaker(x448.X448PrivateKey, lambda: draw.randbytes(56))),
        "ec": _Forward(
            curves,
            generate_private_key=lambda curve: curves.derive_private_key(
                int.from_bytes(draw.randbytes(31), "big") + 1, curve
            ),
        ),
        "utcnow": lambda: EPOCH + datetime.timedelta(days=300),
    }
    with contextlib.ExitStack() as stack:
        for module in (
            aioquic.quic.connection,
            aioquic.quic.packet,
            aioquic.quic.retry,
            aioquic.tls,
            admission_module,
        ):
            stack.enter_context(mock.patch.object(module, "os", system))
        stack.enter_context(mock.patch.object(admission_module, "time", _Forward(time, time=EPOCH.timestamp)))
        for name, replacement in ours.items():
            stack.enter_context(mock.patch.object(aioquic.tls, name, replacement))
        yield


class _Forward:
    """A module with some of its names replaced."""

    def __init__(self, module: Any, **names: Any) -> None:
        self._module = module
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _KeyMaker:
    """A private key class whose `generate` is seeded; isinstance still means the real class elsewhere."""

    def __init__(self, real: Any, draw: Callable[[], bytes]) -> None:
        self._real = real
        self._draw = draw

    def generate(self) -> Any:
        return self._real.from_private_bytes(self._draw())
