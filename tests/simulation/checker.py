"""Does a history keep the contract? A pure function of what happened, and of what was left at the end.

The names I1 to I10 are those of `docs/guarantees.md`'s model: stored is never lost (I1), one order without
gaps (I2), shown once (I3), true receipts (I4), one effect per id (I5), progress (I6), a sender's order (I7),
failed resolves and rejected is never stored (I8), the right body (I9), nothing goes back (I10).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from quicmsg.protocol.frames import Kind
from quicmsg.server.conversations import key_of
from simulation.history import Happening
from simulation.journal import JournalState


@dataclass(slots=True)
class Logged:
    """An entry of a log, as it was committed."""

    message_id: bytes
    device: bytes
    kind: int


@dataclass(slots=True)
class Final:
    """What one device has at the end."""

    state: JournalState
    delivered_marks: dict[str, int]
    read_marks: dict[str, int]


def user_of(device: str) -> str:
    return device.partition("/")[0]


@dataclass
class Checker:
    """Reads a history once, in order; `problems` says what is wrong with it."""

    device_ids: dict[str, bytes]
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.epoch = 1
        self.logs: dict[str, list[Logged]] = defaultdict(list)
        self.members: dict[str, dict[str, int]] = defaultdict(dict)
        self.places: dict[tuple[bytes, str], int] = {}
        self.kept: dict[str, set[bytes]] = defaultdict(set)
        self.shown: dict[str, set[bytes]] = defaultdict(set)
        self.last_shown: dict[tuple[str, str, int], int] = {}
        self.last_tick: dict[tuple[str, str, int, str], int] = {}
        self.reads: dict[tuple[str, str, int], int] = defaultdict(int)
        self.reads_now: dict[tuple[str, str, int], int] = defaultdict(int)
        self.queued: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        self.stored: dict[tuple[bytes, int], tuple[str, int]] = {}
        self.stored_at: dict[bytes, float] = {}
        self.started_at: dict[str, float] = {}
        self.ticked: set[tuple[bytes, str]] = set()
        self.refused: set[bytes] = set()
        self.unordered: set[bytes] = set()
        self.now = 0.0

    def run(self, happenings: Iterable[Happening]) -> None:
        for now, what, details in happenings:
            self.now = now
            handler = getattr(self, "on_" + what.replace(" ", "_"), None)
            if handler is not None:
                handler(*details)

    def problem(self, text: str) -> None:
        self.problems.append(f"{self.now:.4f}: {text}")

    # ---- the server

    def on_committed(self, key: str, seq: int, message_id: bytes, device: bytes, kind: int) -> None:
        log = self.logs[key]
        if seq != len(log) + 1:
            self.problem(f"I2: {key} goes from {len(log)} to {seq}")
        if (message_id, key) in self.places:
            self.problem(f"I5: {message_id.hex()} is twice in {key}")
        if message_id in self.refused:
            self.problem(f"I8: {message_id.hex()} was rejected, and is stored now")
        self.places[message_id, key] = seq
        log.append(Logged(message_id, device, kind))

    def on_joined(self, key: str, user: str, oldest: int) -> None:
        self.members[key][user] = oldest

    def on_left(self, key: str, user: str, _seq: int) -> None:
        self.members[key].pop(user, None)
        for (device, queued_in), message_ids in self.queued.items():
            if queued_in == key and user_of(device) == user:
                # One may be refused and the next stored, when its sender comes back in between.
                self.unordered.update(m for m in message_ids if (m, key) not in self.places)

    def on_opened(self, key: str) -> None:
        if key.startswith("@"):
            for user in key[1:].split(":"):
                self.members[key].setdefault(user, 1)

    def on_lost(self, lengths: dict[str, int]) -> None:
        """A crash took committed entries away (a planted bug): what was promised stays promised."""
        for key, log in self.logs.items():
            for entry in log[lengths.get(key, 0) :]:
                del self.places[entry.message_id, key]
            del log[lengths.get(key, 0) :]

    def on_restored(self, lengths: dict[str, int], members: dict[str, dict[str, int]]) -> None:
        """A backup came back: what was stored after it is lost, and everybody must notice."""
        self.on_lost(lengths)
        self.epoch += 1
        for (user, key, epoch), position in list(self.reads.items()):
            if epoch == self.epoch - 1:
                self.reads[user, key, self.epoch] = min(position, lengths.get(key, 0))
        self.members = defaultdict(dict, {key: dict(found) for key, found in members.items()})
        for message_id, epoch in list(self.stored):
            key, seq = self.stored[message_id, epoch]
            if seq > lengths.get(key, 0):
                del self.stored[message_id, epoch]

    # ---- a device

    def on_started(self, device: str) -> None:
        self.shown[device] = set()
        self.started_at[device] = self.now
        for place in [place for place in self.last_shown if place[0] == device]:
            del self.last_shown[place]
        for tick in [tick for tick in self.last_tick if tick[0] == device]:
            del self.last_tick[tick]

    def on_queued(self, device: str, conversation: str, message_id: bytes) -> None:
        self.queued[device, key_of(conversation, user_of(device))].append(message_id)

    def on_rejected(self, device: str, conversation: str, message_id: bytes, _text: str) -> None:
        key = key_of(conversation, user_of(device))
        self.unordered.add(message_id)
        seq, oldest = self.places.get((message_id, key)), self.members[key].get(user_of(device))
        if seq is not None and oldest is not None and seq >= oldest:
            # What was stored before its sender left cannot be asked about any more: sent again it heals.
            self.problem(f"I8: {message_id.hex()} is stored, and was rejected")
        elif (message_id, key) not in self.places:
            self.refused.add(message_id)

    def on_resent(self, _device: str, message_id: bytes) -> None:
        self.refused.discard(message_id)

    def on_cancelled(self, _device: str, message_id: bytes) -> None:
        self.unordered.add(message_id)

    def on_stored(self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes) -> None:
        key = key_of(conversation, user_of(device))
        if epoch == self.epoch and self.places.get((message_id, key)) != seq:
            self.problem(f"I1: {device} was told {message_id.hex()} is stored as {seq} in {key}; it is not")
        known = self.stored.get((message_id, epoch))
        if known is not None and known != (key, seq):
            self.problem(f"I1: {message_id.hex()} was {known}, and is {key} {seq} now")
        if epoch == self.epoch:
            self.stored[message_id, epoch] = (key, seq)
            self.stored_at[message_id] = self.now

    def on_shown(
        self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes, body: bytes
    ) -> None:
        key = key_of(conversation, user_of(device))
        if message_id in self.shown[device] or message_id in self.kept[device]:
            self.problem(f"I3: {device} shows {message_id.hex()} twice ({key} {seq})")
        self.shown[device].add(message_id)
        if not body.startswith(message_id):
            self.problem(f"I9: {device} shows another body for {message_id.hex()}")
        self._in_order(device, key, epoch, seq, message_id)

    def on_repeated(self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes) -> None:
        self._in_order(device, key_of(conversation, user_of(device)), epoch, seq, message_id)

    def _in_order(self, device: str, key: str, epoch: int, seq: int, message_id: bytes) -> None:
        last = self.last_shown.get((device, key, epoch), 0)
        if seq <= last:
            self.problem(f"I2: {device} shows {seq} after {last} in {key}")
        self.last_shown[device, key, epoch] = seq
        if epoch != self.epoch:
            return
        log = self.logs[key]
        if seq > len(log) or log[seq - 1].message_id != message_id:
            self.problem(f"I2: {device} shows {message_id.hex()} as {key} {seq}; the log has another")
            return
        oldest = self.members[key].get(user_of(device), seq)
        for skipped in range(max(last, oldest - 1), seq - 1):
            if not self._may_skip(device, log[skipped]):
                self.problem(f"I2: {device} shows {key} {seq} without {skipped + 1}")
                return

    def _may_skip(self, device: str, entry: Logged) -> bool:
        own = entry.device == self.device_ids[device]
        seen = entry.message_id in self.kept[device] or entry.message_id in self.shown[device]
        return own or seen or entry.kind != Kind.TEXT

    def on_kept(self, device: str, _conversation: str, _epoch: int, _seq: int, message_id: bytes) -> None:
        self.kept[device].add(message_id)

    def on_read(self, device: str, conversation: str, epoch: int, position: int) -> None:
        place = (user_of(device), key_of(conversation, user_of(device)), epoch)
        self.reads[place] = max(self.reads[place], position)

    def on_read_kept(self, device: str, conversation: str, epoch: int, position: int) -> None:
        place = (user_of(device), key_of(conversation, user_of(device)), epoch)
        self.reads_now[place] = max(self.reads_now[place], position)

    def on_tick(
        self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes, state: str
    ) -> None:
        key = key_of(conversation, user_of(device))
        self.ticked.add((message_id, state))
        if epoch != self.epoch:
            return
        for user, oldest in self.members[key].items():
            if user == user_of(device) or oldest > seq:
                continue
            if state == "read" and self.reads[user, key, epoch] < seq:
                self.problem(f"I4: {device} is told that {user} has read {key} {seq}")
            if not any(user_of(d) == user and message_id in self.kept[d] for d in self.device_ids):
                self.problem(f"I4: {device} is told that {user} has {key} {seq} ({state})")

    # ---- the end

    def finish(self, finals: dict[str, Final]) -> None:
        """Everything must have arrived, and every message must be in exactly one place."""
        for message_id, epoch in self.stored:
            key, seq = self.stored[message_id, epoch]
            if self.places.get((message_id, key)) != seq:
                self.problem(f"I1: {message_id.hex()} was stored as {key} {seq}, and is lost")
        self._check_order()
        for device, final in finals.items():
            self._check_places(device, final)
            self._check_arrived(device, final)
            self._check_ticks(device, final)

    def _check_order(self) -> None:
        for (device, key), message_ids in self.queued.items():
            last = 0
            for message_id in message_ids:
                seq = self.places.get((message_id, key))
                if seq is None or message_id in self.unordered:
                    continue
                if seq < last:
                    self.problem(f"I7: {device}'s messages changed their order in {key}: {seq} after {last}")
                    return
                last = seq

    def _check_places(self, device: str, final: Final) -> None:
        state = final.state
        for (queued_by, key), message_ids in self.queued.items():
            if queued_by != device:
                continue
            for message_id in message_ids:
                found = (
                    (message_id in state.outbox)
                    + (message_id in state.messages)
                    + (message_id in state.cancelled)
                )
                if found != 1:
                    self.problem(f"I5: {device} has {message_id.hex()} of {key} in {found} places")
                if message_id in state.outbox and not state.outbox[message_id][1]:
                    self.problem(f"I6: {device} still has {message_id.hex()} of {key} in its outbox")

    def _check_arrived(self, device: str, final: Final) -> None:
        user = user_of(device)
        for key, log in self.logs.items():
            oldest = self.members[key].get(user)
            if oldest is None:
                continue
            for seq in range(oldest, len(log) + 1):
                entry = log[seq - 1]
                if entry.kind != Kind.TEXT and entry.device == self.device_ids[device]:
                    continue  # what it did to the group itself may have passed by in another life
                kept = final.state.messages.get(entry.message_id)
                if kept is None:
                    self.problem(f"I6: {device} never got {key} {seq} of {len(log)}")
                    break
                if kept.seq != seq and not (kept.seq is None and self.epoch > 1):
                    self.problem(f"I6: {device} has {key} {seq} as {kept.seq}")
                    break

    def _check_ticks(self, device: str, final: Final) -> None:
        user, own = user_of(device), self._own_of(device)
        for (message_id, epoch), (key, seq) in self.stored.items():
            if (device, message_id) not in own or user not in self.members[key]:
                continue
            if epoch != self.epoch:
                continue
            others = [u for u, oldest in self.members[key].items() if u != user]
            name = key if key.startswith("#") else f"@{others[0] if others else user}"
            if not others:
                continue
            if final.delivered_marks.get(name, 0) < seq:
                mark = final.delivered_marks.get(name, 0)
                self.problem(f"I6: {device} never learnt that {key} {seq} is delivered (mark {mark})")
            told = (message_id, "delivered") in self.ticked
            if not told and self.started_at[device] < self.stored_at[message_id]:
                self.problem(f"I6: {device} was never told that {key} {seq} is delivered")
            read = min(self.reads_now[u, key, epoch] for u in others)
            if final.read_marks.get(name, 0) < min(read, seq):
                self.problem(f"I6: {device} never learnt that {key} {seq} is read")

    def _own_of(self, device: str) -> set[tuple[str, bytes]]:
        return {
            (device, m) for (d, _), message_ids in self.queued.items() if d == device for m in message_ids
        }
