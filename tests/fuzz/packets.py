"""An end of a QUIC connection that sends whatever frames it is given, and frames of every type to give it."""

from __future__ import annotations

from random import Random
from typing import Any, Final

from aioquic import tls
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilderStop

from quicmsg.transport.connection import Connection

RawFrame = tuple[int, bytes]
_EDGES: Final = (
    0,
    1,
    2,
    4,
    8,
    63,
    64,
    255,
    2**14 - 1,
    2**14,
    2**18,
    2**20 - 1,
    2**20,
    2**20 + 1,
    2**30,
    2**60,
    2**62 - 1,
)
_UNKNOWN: Final = (0x1F, 0x20, 0x2F, 0x32, 0x40, 0xAF, 0x4000, 2**30, 2**62 - 1)
FRAME_TYPES: Final = (*range(0x1F), 0x30, 0x31)


class Raw(Connection):
    """A connection that also sends the frames in `raw`, whatever they are, and cares for no congestion."""

    def __init__(self, **arguments: Any) -> None:
        self.raw: list[RawFrame] = []
        super().__init__(**arguments)

    def _write_application(self, builder: Any, network_path: Any, now: float) -> None:
        crypto = self._cryptos[tls.Epoch.ONE_RTT]
        if self.raw and crypto.send.is_valid():
            self._loss._cc.congestion_window = 10**9
            builder.max_flight_bytes = 10**9
            builder.start_packet(QuicPacketType.ONE_RTT, crypto)
            while self.raw and builder.remaining_flight_space > len(self.raw[0][1]) + 16:
                kind, payload = self.raw.pop(0)
                builder.start_frame(kind, capacity=len(payload) + 8).push_bytes(payload)
            if self.raw:
                raise QuicPacketBuilderStop
        super()._write_application(builder, network_path, now)


class FrameMaker:
    """Draws QUIC frames for one end. `is_careful`: nearly all valid, which gets deeper; else nearly none."""

    def __init__(self, random: Random, *, is_careful: bool, from_client: bool) -> None:
        self._random = random
        self._risk = 0.003 if is_careful else 0.3
        self._kinds = [
            0x00,
            0x01,
            0x02,
            0x03,
            0x04,
            0x05,
            *range(0x08, 0x12),
            0x0E,
            0x0F,
            0x0E,
            0x14,
            0x15,
            0x1A,
            0x1B,
        ]
        self._kinds = 4 * self._kinds + ([0x18, 0x19] if from_client else [0x07, 0x18, 0x1E])
        self._from_client = from_client
        self._next_id = 8  # aioquic gives out seven ids of its own
        self._offsets: dict[int, int] = {}
        self._ended: set[int] = set()

    def frame(self) -> RawFrame:
        random = self._random
        if self._is_wrong(0.2):
            return random.choice(_UNKNOWN), random.randbytes(random.randint(0, 20))
        kind = random.choice(FRAME_TYPES) if self._is_wrong() else random.choice(self._kinds)
        payload = self._payload(kind)
        if self._is_wrong(0.2):
            payload = payload[: random.randint(0, len(payload))]
        return kind, payload

    # ---- private

    def _is_wrong(self, share: float = 1.0) -> bool:
        return self._random.random() < self._risk * share

    def _payload(self, kind: int) -> bytes:
        random = self._random
        match kind:
            case 0x02 | 0x03:
                return self._ack(kind)
            case 0x04:
                stream_id = self._stream_id()
                final = self._offsets.get(stream_id, 0)
                self._ended.add(stream_id)
                end = self._number(2**14) if self._is_wrong() else encode_uint_var(final)
                return encode_uint_var(stream_id) + self._number(2**14) + end
            case 0x05 | 0x11 | 0x15:
                return encode_uint_var(self._stream_id()) + self._number(2**40)
            case 0x06:
                data = random.randbytes(random.choice((0, 1, 30, 900)))
                return self._number(3000) + encode_uint_var(len(data)) + data
            case 0x07:
                return self._bytes(random.choice((1, 60)))
            case _ if 0x08 <= kind <= 0x0F:
                return self._stream(kind)
            case 0x10 | 0x14:
                return self._number(2**60)
            case 0x12 | 0x13 | 0x16 | 0x17:
                return self._number(2**60)
            case 0x18:
                return self._new_id()
            case 0x19:
                return self._number(3)
            case 0x1A | 0x1B:
                return random.randbytes(8)
            case 0x1C:
                return self._number(20) + self._number(20) + self._bytes(random.choice((0, 5, 300)))
            case 0x1D:
                return self._number(60) + self._bytes(random.choice((0, 5, 300)))
            case 0x31:
                return self._bytes(random.choice((0, 10, 300)))
        return random.randbytes(random.randint(0, 30)) if kind == 0x30 else b""

    def _stream(self, kind: int) -> bytes:
        random, stream_id = self._random, self._stream_id()
        data = random.randbytes(random.choice((0, 1, 1, 50, 600)))
        payload, offset = encode_uint_var(stream_id), self._offsets.get(stream_id, 0)
        if kind & 0x04:
            offset = max(0, offset + random.choice((0, 0, 0, 1, 50, -1, -50)))
            payload += self._number(2**20) if self._is_wrong() else encode_uint_var(offset)
        elif offset > 0 and not self._is_wrong():
            data = b""  # at offset 0, where there is something already
        if kind & 0x01:
            if offset + len(data) < self._offsets.get(stream_id, 0) and not self._is_wrong():
                data += bytes(self._offsets[stream_id] - offset - len(data)) if kind & 0x04 else b""
            self._ended.add(stream_id)
        self._offsets[stream_id] = max(self._offsets.get(stream_id, 0), offset + len(data))
        return payload + (encode_uint_var(len(data)) + data if kind & 0x02 else data)

    def _new_id(self) -> bytes:
        random = self._random
        if self._is_wrong(3):
            size = random.choice((0, 1, 20, 21))
            return self._number(9) + self._number(9) + bytes([size]) + random.randbytes(size + 16)
        # Old ones are given up with each new one, since an end keeps eight.
        self._next_id += 1
        retire = max(0, self._next_id - random.choice((0, 1)))
        return encode_uint_var(self._next_id) + encode_uint_var(retire) + b"\x08" + random.randbytes(8 + 16)

    def _ack(self, kind: int) -> bytes:
        random = self._random
        count = random.choice((0, 0, 1, 3))
        largest = random.randint(4 * count, 4 * count + 20)
        if self._is_wrong():
            count = random.choice((40, 2**20, 2**62 - 1))
        payload = encode_uint_var(largest) + self._number(2**20) + encode_uint_var(count) + self._number(1)
        payload += b"".join(self._number(1) + self._number(1) for _ in range(min(count, 40)))
        return payload + (self._number(99) + self._number(99) + self._number(99) if kind == 0x03 else b"")

    def _stream_id(self) -> int:
        if self._is_wrong():
            return self._random.choice((1, 2, 3, 508, 512, 2**20, 2**62 - 1))
        used = [4 * number for number in range(20 if self._from_client else 2)]
        return self._random.choice([stream_id for stream_id in used if stream_id not in self._ended] or used)

    def _number(self, usual_max: int) -> bytes:
        if self._is_wrong():
            return encode_uint_var(self._random.choice(_EDGES))
        return encode_uint_var(self._random.randint(0, usual_max))

    def _bytes(self, size: int) -> bytes:
        claimed = self._random.choice(_EDGES) if self._is_wrong() else size
        return encode_uint_var(claimed) + self._random.randbytes(size)
