"""All targets by name."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Final

from fuzz import amplification, codec, datagrams, hostile_server, quic, siege
from fuzz.engine import Target


def _either(random: Random) -> Counter[str]:
    return (siege if random.random() < 0.6 else hostile_server).case(random)


FRAMES: Final = Target("frames", "hostile frames into sessions, hub, store and mailbox", _either)
TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (codec.TARGET, FRAMES, quic.TARGET, datagrams.TARGET, amplification.TARGET)
}
