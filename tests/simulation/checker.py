"""Does a history keep the contract? A pure function of what happened, and of what was left at the end.

Each invariant of the model (facts: the delivery contract) and where it is checked in this tier:

| | what must hold | where |
|---|---|---|
| I1 | what was told as stored is never lost or renumbered | `on_stored`, `finish` |
| I2 | one order without gaps; each device shows a prefix of it | `on_committed`, `_in_order` |
| I3 | nothing is shown twice, also over restarts | `on_shown` |
| I4 | ticks are true: delivered is on a disk of everybody, read was said | `on_tick` |
| I5 | one effect per id; each message in exactly one place | `on_committed`, `_check_places` |
| I6 | progress: once faults stop, everything arrives and is ticked | `finish`, `run.py` |
| I7 | one sender's order | `_check_order` |
| I8 | failed resolves, rejected is never stored | `_check_places`; `on_committed`, `on_rejected` |
| I9 | body and sender are what a member sent | `on_shown`, `on_committed` |
| I10 | ticks, positions and states never go back, none is told twice | `on_tick`, `on_stored`, `on_stands` |
| I11 | a stalled conversation delays no other | `on_stored`, `on_shown` in worlds with stalls |
| I12 | what a session holds is bounded | `bounds.py`, all through the run |
| I13 | every crash restarts by itself | any exception, and I6 |
| I14 | nothing happens for who is not signed in | `on_committed`; `strangers.py` |
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from quicmsg.protocol.frames import Kind
from quicmsg.server.conversations import key_of
from simulation.history import Happening
from simulation.journal import OnDisk


@dataclass(slots=True)
class Logged:
    """An entry of a log, as it was committed."""

    message_id: bytes
    device: bytes
    kind: int


@dataclass(slots=True)
class Final:
    """What one device has at the end."""

    disk: OnDisk
    delivered_marks: dict[str, int]
    read_marks: dict[str, int]


def user_of(device: str) -> str:
    return device.partition("/")[0]


@dataclass
class Checker:
    """Reads a history once, in order; `problems` says what is wrong with it."""

    device_ids: dict[str, bytes]
    patience: float = float("inf")
    """Seconds within which what is in no stalled conversation has to be stored, and shown."""
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.epoch = 1
        self.logs: dict[str, list[Logged]] = defaultdict(list)
        self.members: dict[str, dict[str, int]] = defaultdict(dict)
        self.places: dict[tuple[bytes, str], int] = {}
        self.kept: dict[str, set[bytes]] = defaultdict(set)
        self.shown: dict[str, set[bytes]] = defaultdict(set)
        self.last_shown: dict[tuple[str, str, int], int] = {}
        self.before_last: dict[tuple[str, str, int], int] = {}
        self.told: dict[str, set[tuple[bytes, int, str]]] = defaultdict(set)
        self.begins: dict[tuple[bytes, str], int] = {}
        self.stood: dict[tuple[str, str, int], int] = {}
        self.author: dict[bytes, str] = {}
        self.queued_at: dict[bytes, float] = {}
        self.committed_at: dict[bytes, float] = {}
        self.stalled: set[tuple[str, str]] = set()
        self.reads: dict[tuple[str, str, int], int] = defaultdict(int)
        self.reads_now: dict[tuple[str, str, int], int] = defaultdict(int)
        self.revoked: set[bytes] = set()
        self.queued: dict[tuple[str, str], list[bytes]] = defaultdict(list)
        self.stored: dict[tuple[bytes, int], tuple[str, int]] = {}
        self.stored_at: dict[bytes, float] = {}
        self.started_at: dict[str, float] = {}
        self.ticked: set[tuple[bytes, str]] = set()
        self.refused: set[bytes] = set()
        self.unordered: set[bytes] = set()
        self.now = 0.0
        self._seen = 0

    def run(self, happenings: Iterable[Happening]) -> None:
        for now, what, details in happenings:
            self.now = now
            handler = getattr(self, "on_" + what.replace(" ", "_"), None)
            if handler is not None:
                handler(*details)

    def see(self, happenings: list[Happening]) -> None:
        """What has happened since the last time."""
        seen, self._seen = self._seen, len(happenings)
        self.run(happenings[seen:])

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
        if kind == Kind.TEXT and self.device_ids.get(self.author.get(message_id, "")) != device:
            self.problem(f"I14: {message_id.hex()} is stored in {key}, and its device never queued it")
        self.places[message_id, key] = seq
        self.committed_at[message_id] = self.now
        log.append(Logged(message_id, device, kind))

    def on_joined(self, key: str, user: str, oldest: int) -> None:
        self.members[key][user] = oldest

    def on_left(self, key: str, user: str, _seq: int) -> None:
        self.members[key].pop(user, None)
        for (device, queued_in), message_ids in self.queued.items():
            if queued_in == key and user_of(device) == user:
                # One may be refused and the next stored, when its sender comes back in between.
                self.unordered.update(m for m in message_ids if (m, key) not in self.places)

    def on_linked(self, user: str, device: bytes, positions: dict[str, int]) -> None:
        """A new device starts where the account stands."""
        for key, position in positions.items():
            self.begins[device, key] = position

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

    def on_stands(self, device: str, conversation: str, epoch: int, position: int) -> None:
        """Where a start finds itself in a conversation."""
        before = self.stood.get((device, conversation, epoch), 0)
        if position < before:
            self.problem(f"I10: {device} stood at {before} of {conversation}, and starts at {position}")

    def on_processed(self, device: str, conversation: str, epoch: int, position: int) -> None:
        place = (device, conversation, epoch)
        self.stood[place] = max(self.stood.get(place, 0), position)

    def on_stalled(self, device: str, conversation: str) -> None:
        self.stalled.add((user_of(device), key_of(conversation, user_of(device))))

    def on_queued(self, device: str, conversation: str, message_id: bytes) -> None:
        self.author.setdefault(message_id, device)
        self.queued_at.setdefault(message_id, self.now)
        line = self.queued[device, key_of(conversation, user_of(device))]
        if message_id not in line:
            line.append(message_id)

    def on_rejected(self, device: str, conversation: str, message_id: bytes, _text: str) -> None:
        key = key_of(conversation, user_of(device))
        self.unordered.add(message_id)
        seq, oldest = self.places.get((message_id, key)), self.members[key].get(user_of(device))
        removed = self.device_ids[device] in self.revoked
        if seq is not None and oldest is not None and seq >= oldest and not removed:
            # Who has left, or whose device was removed, cannot ask any more about what was stored before.
            self.problem(f"I8: {message_id.hex()} is stored, and was rejected")
        elif (message_id, key) not in self.places:
            self.refused.add(message_id)

    def on_resent(self, _device: str, message_id: bytes) -> None:
        self.refused.discard(message_id)

    def on_cancelled(self, _device: str, message_id: bytes) -> None:
        self.unordered.add(message_id)

    def on_stored(self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes) -> None:
        key = key_of(conversation, user_of(device))
        self._in_time(device, key, self.queued_at.get(message_id, self.now), "stored")
        if (message_id, epoch, "delivered") in self.told[device]:
            self.problem(f"I10: {device} is told that {message_id.hex()} is stored, after it was delivered")
        if epoch == self.epoch and self.places.get((message_id, key)) != seq:
            self.problem(f"I1: {device} was told {message_id.hex()} is stored as {seq} in {key}; it is not")
        known = self.stored.get((message_id, epoch))
        if known is not None and known != (key, seq):
            self.problem(f"I1: {message_id.hex()} was {known}, and is {key} {seq} now")
        if epoch == self.epoch:
            self.stored[message_id, epoch] = (key, seq)
            self.stored_at[message_id] = self.now

    def on_shown(
        self,
        device: str,
        conversation: str,
        epoch: int,
        seq: int,
        message_id: bytes,
        body: bytes,
        sender: str,
    ) -> None:
        key = key_of(conversation, user_of(device))
        if message_id in self.shown[device] or message_id in self.kept[device]:
            self.problem(f"I3: {device} shows {message_id.hex()} twice ({key} {seq})")
        self.shown[device].add(message_id)
        if not body.startswith(message_id):
            self.problem(f"I9: {device} shows another body for {message_id.hex()}")
        if user_of(self.author.get(message_id, "")) != sender:
            self.problem(f"I9: {device} shows {message_id.hex()} as sent by {sender}")
        self._in_time(device, key, self.committed_at.get(message_id, self.now), "shown")
        self._in_order(device, key, epoch, seq, message_id)

    def on_gave_back(self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes) -> None:
        """The program left it without having processed it: it may come again."""
        self.shown[device].discard(message_id)
        place = (device, key_of(conversation, user_of(device)), epoch)
        self.last_shown[place] = self.before_last.get(place, 0)

    def _in_time(self, device: str, key: str, since: float, what: str) -> None:
        if self.now - since > self.patience and (user_of(device), key) not in self.stalled:
            self.problem(f"I11: {device} waited {self.now - since:.2f} s for something of {key} to be {what}")

    def on_repeated(
        self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes, *_: object
    ) -> None:
        self._in_order(device, key_of(conversation, user_of(device)), epoch, seq, message_id)

    def _in_order(self, device: str, key: str, epoch: int, seq: int, message_id: bytes) -> None:
        last = self.last_shown.get((device, key, epoch), 0)
        if seq <= last:
            self.problem(f"I2: {device} shows {seq} after {last} in {key}")
        self.before_last[device, key, epoch] = last
        self.last_shown[device, key, epoch] = seq
        if epoch != self.epoch:
            return
        log = self.logs[key]
        if seq > len(log) or log[seq - 1].message_id != message_id:
            self.problem(f"I2: {device} shows {message_id.hex()} as {key} {seq}; the log has another")
            return
        oldest = max(
            self.members[key].get(user_of(device), seq),
            self.begins.get((self.device_ids[device], key), 0) + 1,
        )
        for skipped in range(max(last, oldest - 1), seq - 1):
            if not self._may_skip(device, log[skipped]):
                self.problem(f"I2: {device} shows {key} {seq} without {skipped + 1}")
                return

    def _may_skip(self, device: str, entry: Logged) -> bool:
        own = entry.device == self.device_ids[device]
        seen = entry.message_id in self.kept[device] or entry.message_id in self.shown[device]
        return own or seen or entry.kind != Kind.TEXT

    def on_kept(self, device: str, message_id: bytes) -> None:
        self.kept[device].add(message_id)

    def on_read(self, device: str, conversation: str, epoch: int, position: int) -> None:
        place = (user_of(device), key_of(conversation, user_of(device)), epoch)
        self.reads[place] = max(self.reads[place], position)

    def on_read_kept(self, device: str, conversation: str, epoch: int, position: int) -> None:
        place = (device, key_of(conversation, user_of(device)), epoch)
        self.reads_now[place] = max(self.reads_now[place], position)

    def on_revoked(self, device_id: bytes) -> None:
        self.revoked.add(device_id)

    def _read_by(self, user: str, key: str, epoch: int) -> int:
        """What its devices have noted as read; what a removed one noted, the server need not have heard."""
        return max(
            self.reads_now[device, key, epoch]
            for device, device_id in self.device_ids.items()
            if user_of(device) == user and device_id not in self.revoked
        )

    def on_tick(
        self, device: str, conversation: str, epoch: int, seq: int, message_id: bytes, state: str
    ) -> None:
        key = key_of(conversation, user_of(device))
        self.ticked.add((message_id, state))
        if (message_id, epoch, state) in self.told[device]:
            self.problem(f"I10: {device} is told twice that {key} {seq} is {state}")
        self.told[device].add((message_id, epoch, state))
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

    def finish(self, finals: dict[str, Final]) -> list[str]:
        """Everything must have arrived, and every message must be in exactly one place; what is wrong."""
        safety, self.problems = self.problems, []
        for message_id, epoch in self.stored:
            key, seq = self.stored[message_id, epoch]
            if self.places.get((message_id, key)) != seq:
                self.problem(f"I1: {message_id.hex()} was stored as {key} {seq}, and is lost")
        self._check_order()
        for device, final in finals.items():
            self._check_places(device, final)
            self._check_arrived(device, final)
            self._check_ticks(device, final)
        unfinished, self.problems = self.problems, safety
        return safety + unfinished

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
        disk = final.disk
        for (queued_by, key), message_ids in self.queued.items():
            if queued_by != device:
                continue
            for message_id in message_ids:
                places = (disk.outbox, disk.messages, disk.cancelled)
                found = sum(message_id in place for place in places)
                if found != 1:
                    self.problem(f"I5: {device} has {message_id.hex()} of {key} in {found} places")
                if not disk.outbox.get(message_id, True):
                    self.problem(f"I6: {device} still has {message_id.hex()} of {key} in its outbox")

    def _check_arrived(self, device: str, final: Final) -> None:
        user = user_of(device)
        for key, log in self.logs.items():
            oldest = self.members[key].get(user)
            if oldest is None:
                continue
            oldest = max(oldest, self.begins.get((self.device_ids[device], key), 0) + 1)
            for seq in range(oldest, len(log) + 1):
                entry = log[seq - 1]
                if entry.kind != Kind.TEXT and entry.device == self.device_ids[device]:
                    continue  # what it did to the group itself may have passed by in another life
                if entry.message_id not in final.disk.messages:
                    self.problem(f"I6: {device} never got {key} {seq} of {len(log)}")
                    break
                kept = final.disk.messages[entry.message_id]
                if kept != seq and not (kept is None and self.epoch > 1):
                    self.problem(f"I6: {device} has {key} {seq} as {kept}")
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
            if final.read_marks.get(name, 0) > final.delivered_marks.get(name, 0):
                self.problem(f"I4: {device} has more of {name} read than delivered")
            if final.delivered_marks.get(name, 0) < seq:
                mark = final.delivered_marks.get(name, 0)
                self.problem(f"I6: {device} never learnt that {key} {seq} is delivered (mark {mark})")
            told = (message_id, "delivered") in self.ticked
            if not told and self.started_at[device] < self.stored_at[message_id]:
                self.problem(f"I6: {device} was never told that {key} {seq} is delivered")
            read = min(self._read_by(u, key, epoch) for u in others)
            if final.read_marks.get(name, 0) < min(read, seq):
                self.problem(f"I6: {device} never learnt that {key} {seq} is read")

    def _own_of(self, device: str) -> set[tuple[str, bytes]]:
        return {
            (device, m) for (d, _), message_ids in self.queued.items() if d == device for m in message_ids
        }
