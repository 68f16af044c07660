"""What sessions say, in words, for `--trace --frames`."""

from __future__ import annotations

from quicmsg.errors import ProtocolError
from quicmsg.protocol.codec import FrameReader
from quicmsg.protocol.session import Outgoing
from simulation.history import History
from simulation.network import Link


class FrameTrace:
    """Notes every frame as a session writes it. It does not change the run, but its hash."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._readers: dict[tuple[int, bool, int], FrameReader] = {}

    def __call__(self, link: Link, upward: bool, item: Outgoing) -> None:
        arrow = f"{link.host.name} {'->' if upward else '<-'} {link.number}.{item.channel}"
        key = (link.number, upward, item.channel)
        reader = self._readers.setdefault(key, FrameReader(control=item.channel == 0))
        reader.feed(item.data)
        try:
            while (frame := reader.next_frame()) is not None:
                self._history.note("frame", arrow, _short(frame))
        except ProtocolError as error:
            self._history.note("frame", arrow, str(error))
        if item.end or item.reset is not None:
            self._history.note("frame", arrow, "end" if item.reset is None else f"reset {item.reset}")


def _short(frame: object) -> str:
    fields = []
    for name in frame.__struct_fields__:  # type: ignore[attr-defined]
        value = getattr(frame, name)
        fields.append(value.hex()[-6:] if isinstance(value, bytes) else str(value))
    return f"{type(frame).__name__}({', '.join(fields)})"
