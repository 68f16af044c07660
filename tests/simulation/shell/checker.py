"""Does what programs were told and shown keep the contract? Reads happenings as they come.

Programs' own observations (the public API) are compared with what was durable at that moment: the server's
log as its store committed it, each device's journal as its file committed it. C1 to C7 are the points of the
contract in `docs/guarantees.md`.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from quicmsg.protocol.frames import Kind

RANK = {"queued": 0, "failed": 0, "rejected": 0, "cancelled": 0, "stored": 1, "delivered": 2, "read": 3}
TICKS = ("delivered", "read")


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry of the log, as it was committed."""

    message_id: bytes
    sender: str
    device: bytes
    kind: int
    body: bytes


def user_of(device: str) -> str:
    return device.partition("/")[0]


class Checker:
    """`problems` says what broke the contract; `unfinished` what has not arrived yet."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.now = 0.0
        self.device_ids: dict[str, bytes] = {}
        self.logs: dict[str, list[Logged]] = defaultdict(list)
        self.places: dict[bytes, tuple[str, int]] = {}
        self.members: dict[str, dict[str, int]] = defaultdict(dict)
        self.kept: dict[str, set[bytes]] = defaultdict(set)
        self.own: dict[str, dict[bytes, tuple[str, bytes]]] = defaultdict(dict)
        """Of each device: what its journal has queued, in order: conversation and body."""
        self.told: dict[bytes, set[str]] = defaultdict(set)
        self.unordered: set[bytes] = set()
        self.cancelled: set[bytes] = set()
        self.reads: dict[tuple[str, str], int] = defaultdict(int)
        self._refused: set[bytes] = set()
        self._rejected_rows: set[bytes] = set()
        self._stored_rows: set[bytes] = set()
        self._shown: dict[str, set[bytes]] = defaultdict(set)
        self._last_shown: dict[tuple[str, str], int] = {}
        self._rank: dict[tuple[str, bytes], int] = {}
        self._restarts: dict[str, float] = {}
        self._stored_at: dict[bytes, float] = {}

    def see(self, now: float, what: str, details: tuple[object, ...]) -> None:
        self.now = now
        handler = getattr(self, "on_" + what, None)
        if handler is not None:
            handler(*details)

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.now:.4f}: {text}")

    # ---- the server's disk

    def on_committed(
        self, key: str, seq: int, message_id: bytes, sender: str, device: bytes, kind: int, body: bytes
    ) -> None:
        log = self.logs[key]
        if seq != len(log) + 1:
            self.problem(f"C2 order: {key} goes from {len(log)} to {seq}")
        if kind == Kind.TEXT:
            if message_id in self.places:
                self.problem(f"C3 once: {message_id.hex()} is stored twice")
            if message_id in self._refused:
                self.problem(f"C5 rejected: {message_id.hex()} was rejected, and is stored now")
            self.places[message_id] = (key, seq)
        log.append(Logged(message_id, sender, device, kind, body))

    def on_joined(self, key: str, user: str, oldest: int) -> None:
        self.members[key][user] = oldest

    def on_left(self, key: str, user: str) -> None:
        self.members[key].pop(user, None)
        for device, own in self.own.items():
            if user_of(device) == user:
                # One may be refused and the next stored, when its sender comes back in between.
                self.unordered.update(m for m, (k, _) in own.items() if k == key and m not in self.places)

    def on_opened(self, key: str) -> None:
        if key.startswith("@"):
            for user in key[1:].split(":"):
                self.members[key].setdefault(user, 1)

    # ---- a device's disk

    def on_queued(self, device: str, key: str, message_id: bytes, body: bytes) -> None:
        self.own[device].setdefault(message_id, (key, body))
        if key.startswith("#") and user_of(device) not in self.members[key]:
            self.unordered.add(message_id)  # as in `on_left`

    def on_stored_row(self, device: str, message_id: bytes, _seq: int) -> None:
        if message_id not in self.own[device]:
            return  # what it did to a group
        self._stored_rows.add(message_id)
        self._stored_at.setdefault(message_id, self.now)
        if message_id not in self.places:
            self.problem(f"C1 stored: {device} has {message_id.hex()} as stored; the server has not")

    def on_rejected_row(self, _device: str, message_id: bytes) -> None:
        self._rejected_rows.add(message_id)
        self.unordered.add(message_id)

    def on_requeued_row(self, _device: str, message_id: bytes) -> None:
        self._refused.discard(message_id)
        self._rejected_rows.discard(message_id)

    def on_cancelled_row(self, _device: str, message_id: bytes) -> None:
        self.cancelled.add(message_id)
        self.unordered.add(message_id)

    def on_kept(self, device: str, key: str, seq: int, message_id: bytes) -> None:
        self.kept[device].add(message_id)
        log = self.logs[key]
        if seq > len(log) or log[seq - 1].message_id != message_id:
            self.problem(f"C2 order: {device} keeps {message_id.hex()} as {key} {seq}; the log has another")

    # ---- what a program was told

    def on_started(self, device: str) -> None:
        self._shown[device] = set()
        self._restarts[device] = self.now
        for place in [place for place in self._last_shown if place[0] == device]:
            del self._last_shown[place]
        for place in [place for place in self._rank if place[0] == device]:
            del self._rank[place]

    def on_queue_returned(self, device: str, message_id: bytes) -> None:
        if message_id not in self.own[device]:
            self.problem(f"C5 queued: {device} was told that {message_id.hex()} is queued; it is on no disk")

    def on_cancel_returned(self, device: str, message_id: bytes) -> None:
        if message_id not in self.cancelled and message_id not in self._stored_rows:
            self.problem(f"C5 cancelled: {device} was told that {message_id.hex()} is cancelled; it is not")

    def on_resend_returned(self, device: str, message_id: bytes) -> None:
        if message_id in self._rejected_rows:
            self.problem(f"C5 queued: {device} sends {message_id.hex()} again; its disk has it as rejected")

    def on_told_stored(self, device: str, message_id: bytes, seq: int) -> None:
        self._stored(device, message_id, seq)

    def on_state(self, device: str, message_id: bytes, state: str, seq: int | None) -> None:
        known = self._rank.get((device, message_id), 0)
        if RANK[state] < known:
            self.problem(f"C4 ticks: {device} sees {message_id.hex()} go back to {state}")
        self._rank[device, message_id] = max(known, RANK[state])
        self.told[message_id].add(state)
        if RANK[state] >= RANK["stored"]:
            assert seq is not None
            self._stored(device, message_id, seq)
        if state in TICKS:
            self._tick(device, message_id, state)
        elif state == "queued" and message_id not in self.own[device]:
            self.problem(f"C5 queued: {message_id.hex()} of {device} is on no disk")
        elif state == "rejected":
            self._rejected(device, message_id)
        elif state == "cancelled" and message_id not in self.cancelled:
            self.problem(f"C5 cancelled: {message_id.hex()} of {device} is not on its disk as cancelled")

    def on_shown(self, device: str, key: str, seq: int, message_id: bytes, sender: str, text: str) -> None:
        if message_id in self._shown[device] or message_id in self.kept[device]:
            self.problem(f"C3 once: {device} shows {message_id.hex()} twice ({key} {seq})")
        self._shown[device].add(message_id)
        last = self._last_shown.get((device, key), 0)
        self._last_shown[device, key] = max(seq, last)
        log = self.logs[key]
        if seq > len(log) or log[seq - 1].message_id != message_id:
            self.problem(f"C2 order: {device} shows {message_id.hex()} as {key} {seq}; the log has another")
            return
        if (log[seq - 1].sender, log[seq - 1].body) != (sender, text.encode()):
            self.problem(f"C2 content: {device} shows another text or sender for {key} {seq}")
        if seq <= last:
            self.problem(f"C2 order: {device} shows {key} {seq} after {last}")
        oldest = self.members[key].get(user_of(device), seq)
        for skipped in range(max(last, oldest - 1), seq - 1):
            if not self._may_skip(device, log[skipped]):
                self.problem(f"C2 order: {device} shows {key} {seq} without {skipped + 1}")
                return

    def on_abandoned(self, device: str, message_id: bytes) -> None:
        """Its program has left its loop without asking for the next: the message comes again."""
        self._shown[device].discard(message_id)
        for place in self._last_shown:
            key = place[1]
            if place[0] == device and self.places.get(message_id, ("", 0))[0] == key:
                self._last_shown[place] = min(self._last_shown[place], self.places[message_id][1] - 1)

    def on_read(self, device: str, key: str, seq: int, public: bool) -> None:
        if public:
            place = (user_of(device), key)
            self.reads[place] = max(self.reads[place], seq)

    def on_looked_back(
        self, device: str, key: str, seen: tuple[tuple[int, bytes], ...], from_server: bool
    ) -> None:
        log = self.logs[key]
        for seq, message_id in seen:
            if seq > len(log) or log[seq - 1].message_id != message_id:
                self.problem(f"C2 order: {device} finds {message_id.hex()} as {key} {seq} in its history")
        seqs = [seq for seq, _ in seen]
        if seqs != sorted(set(seqs)) or (from_server and seqs and seqs[-1] - seqs[0] != len(seqs) - 1):
            self.problem(f"C2 order: the history of {key} at {device} is {seqs}")

    # ---- private

    def _stored(self, device: str, message_id: bytes, seq: int) -> None:
        key, place = self.places.get(message_id, ("", 0))
        if place != seq:
            self.problem(
                f"C1 stored: {device} is told {message_id.hex()} is {seq}; the log has {key} {place}"
            )
        if message_id not in self._stored_rows and message_id not in self.kept[device]:
            self.problem(
                f"C1 stored: {device} is told {message_id.hex()} is stored before its own disk has it"
            )
        self._stored_at.setdefault(message_id, self.now)

    def _tick(self, device: str, message_id: bytes, state: str) -> None:
        if message_id not in self.places:
            return  # reported as not stored
        key, seq = self.places[message_id]
        for user, oldest in self.members[key].items():
            if user == user_of(device) or oldest > seq:
                continue
            if state == "read" and self.reads[user, key] < seq:
                self.problem(f"C4 ticks: {device} is told that {user} has read {key} {seq}")
            if not any(message_id in self.kept[d] for d in self.device_ids if user_of(d) == user):
                self.problem(f"C4 ticks: {device} is told that {user} has {key} {seq} ({state})")

    def _rejected(self, device: str, message_id: bytes) -> None:
        key, seq = self.places.get(message_id, ("", 0))
        if message_id not in self._rejected_rows:
            self.problem(f"C5 rejected: {device} is told so of {message_id.hex()} before its disk has it")
        oldest = self.members[key].get(user_of(device)) if key else None
        if oldest is not None and seq >= oldest:
            self.problem(f"C5 rejected: {message_id.hex()} is stored, and was rejected")
        elif not key:
            self._refused.add(message_id)

    def _may_skip(self, device: str, entry: Logged) -> bool:
        own = entry.device == self.device_ids[device]
        seen = entry.message_id in self.kept[device] or entry.message_id in self._shown[device]
        return own or seen or entry.kind != Kind.TEXT

    # ---- the end

    def unfinished(self) -> str:
        """Something that has not arrived yet; "": everything has."""
        for device, own in self.own.items():
            for message_id, (key, _) in own.items():
                if message_id not in self.places:
                    if not (self._rejected_rows | self.cancelled) & {message_id}:
                        return f"C5 progress: {device} has not got {message_id.hex()} through to {key}"
                elif (reason := self._without_tick(device, message_id)) is not None:
                    return reason
        for key, log in self.logs.items():
            for device, device_id in self.device_ids.items():
                oldest = self.members[key].get(user_of(device))
                if oldest is None:
                    continue
                for seq in range(oldest, len(log) + 1):
                    entry = log[seq - 1]
                    mine = entry.device == device_id
                    if entry.kind == Kind.TEXT and not mine and entry.message_id not in self.kept[device]:
                        return f"C5 progress: {device} never got {key} {seq} of {len(log)}"
        return ""

    def check_order(self) -> None:
        """One sender's messages keep the order in which its journal has queued them."""
        for device, own in self.own.items():
            last: dict[str, int] = defaultdict(int)
            for message_id, (key, _) in own.items():
                if message_id in self.unordered or message_id not in self.places:
                    continue
                seq = self.places[message_id][1]
                if seq < last[key]:
                    self.problem(
                        f"C2 order: {message_id.hex()} of {device} is {key} {seq}, after {last[key]}"
                    )
                last[key] = max(last[key], seq)

    def wanted_state(self, device: str, message_id: bytes) -> set[str]:
        """What the client may say of this message when all is quiet."""
        if message_id not in self.places:
            return {"cancelled"} if message_id in self.cancelled else {"rejected"}
        key, seq = self.places[message_id]
        others = [user for user in self.members[key] if user != user_of(device)]
        if user_of(device) not in self.members[key]:
            # What was stored before its sender left, and whose answer was lost, cannot be asked about.
            return {"stored", "delivered", "read", "rejected"}
        if not others:
            return {"stored", "delivered", "read"}
        if all(self.reads[user, key] >= seq for user in others if self.members[key][user] <= seq):
            return {"delivered", "read"}
        return {"delivered"}

    def _without_tick(self, device: str, message_id: bytes) -> str | None:
        if self._restarts.get(device, 0.0) > self._stored_at.get(message_id, self.now):
            return None  # the life that waited for it is over
        if "delivered" not in self.wanted_state(device, message_id) or self.told[message_id] & set(TICKS):
            return None
        if self.wanted_state(device, message_id) >= {"stored"}:
            return None
        return f"C4 ticks: {device} was never told that {message_id.hex()} is delivered"
