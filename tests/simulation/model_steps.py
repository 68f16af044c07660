"""Every order of events of one sender S, one server V and one recipient R: nothing is left to chance.

Seeds look at many long lives; this looks at *all* short ones, breadth first, so that the first violation is
also the shortest. What moves is what moves in the product: S's journal and outbox, a channel for each of the
two (first frame Open, its position is an acknowledgement; the server reads on once it is answered), the
store's queue of operations, a commit, and only then the answers (the server that dies between the two is the
one that dies with all of its tail on the disk); R's inbox, its program, its journal, Ack.

Crashes: of each of the three, with every part of the unsynced writes that can survive (any first few of
them), hence at every commit boundary. A break takes a connection with all that is on its way. A message that
shows the red cross is on the wire like any other, and "resend" is a new connection, so both are in here as
breaks. Windows, sync and sign-in are left out: they decide when something is said, not what.

Checked in every state: I1 to I5, I7, and that what is on the server is in S's journal. Without a fault each
step goes forward, so that no run is endless; a state without a next step that is not the end is *stuck*.

`model.py` looks at all of it, and is the command.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from simulation.model_state import (
    ACCEPTED,
    FORGOTTEN,
    HANDED,
    NEW,
    NO_CHANNEL,
    QUEUED,
    STORED,
    WAITING,
    ImpossibleError,
    Recipient,
    Sender,
    Server,
    State,
    Step,
    Wires,
    journaled,
    put,
    restarted,
)

MUTANTS = {
    "ack_before_fsync": "the server says Accepted when it has received, not when it has committed",
    "publish_before_fsync": "the recipient gets what is not committed yet",
    "no_dedupe": "the server stores a message again that was sent again",
    "delivered_on_send": "the server takes what it has sent for delivered",
    "ack_before_persist": "the recipient acknowledges what its journal has not committed",
    "no_resend": "the sender does not write again what it wrote on an earlier connection",
    "forget_on_write": "the sender's journal forgets a message once it is on the wire",
    "send_before_queued": "the sender writes a message that its journal has not committed",
    "resend_reversed": "after a reconnect the sender writes the newest message first",
    "live_only": "the server delivers only what is new since the Open",
    "open_is_no_ack": "the position in the recipient's Open is not taken for an acknowledgement",
    "untold_open": "a position that was moved by the Open of a broken connection is told to nobody",
    "silent_duplicate": "the server says nothing about a message that it has already",
    "received_survives": "the recipient opens after what it had received before its crash",
}


class Model:
    """The steps, and what must hold; `bug` is one of MUTANTS, or nothing."""

    def __init__(self, messages: int, faults: int, bug: str = "") -> None:
        assert not bug or bug in MUTANTS
        self.bug = bug
        none = (NEW,) * messages, (0,) * messages
        self.start = State(Sender(*none), Server(), Recipient(), Wires(), faults)

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next without a fault."""
        s, v, r, w, _ = state
        if NEW in s.messages:
            number = s.messages.index(NEW)
            handed = s._replace(messages=put(s.messages, number, HANDED), tail=(*s.tail, number))
            yield f"S's user sends {number}", self._spoken(state._replace(s=handed))
        if s.tail:
            yield "S's journal commits", self._spoken(state._replace(s=journaled(s, len(s.tail))))
        if not s.up:
            yield "S connects", self._sender_connects(state)
        if w.up_s and v.sender != WAITING:
            yield f"V receives {_words(w.up_s[0])} from S", self._server_hears_sender(state)
        if v.tail:
            yield "V commits, and tells", self._answered(state)
        if w.down_s:
            yield f"S receives {_words(w.down_s[0])}", self._sender_hears(state)
        if not r.up:
            yield "R connects", self._recipient_connects(state)
        if w.up_r and v.recipient != WAITING:
            yield f"V receives {_words(w.up_r[0])} from R", self._server_hears_recipient(state)
        if w.down_r:
            yield f"R receives {_words(w.down_r[0])}", self._recipient_hears(state)
        if r.shown > r.processed:
            shown = min(r.shown + 1, len(r.entries))
            asked = r._replace(processed=r.processed + 1, shown=shown)
            yield f"R's program has processed {r.processed + 1}", self._acknowledged(state._replace(r=asked))
        if r.processed > r.durable:
            durable = r._replace(durable=r.processed)
            yield "R's journal commits", self._acknowledged(state._replace(r=durable))

    def faults(self, state: State) -> Iterator[Step]:
        """Everything that can break next."""
        if not state.faults:
            return
        s, v, r, _, _ = state
        state = state._replace(faults=state.faults - 1)
        if s.up:
            yield "S's connection breaks", self._sender_gone(state)
        if r.up:
            yield "R's connection breaks", self._recipient_gone(state)
        for kept in range(len(s.tail) + 1):
            after = self._sender_gone(state._replace(s=restarted(journaled(s, kept))))
            yield f"S crashes, {kept} of {len(s.tail)} writes survive", after
        for kept in range(len(v.tail) + 1):
            survived, _ = self._committed(v, kept)
            fresh = Server(survived.log, survived.position)
            after = self._recipient_gone(self._sender_gone(state))._replace(v=fresh)
            yield f"V crashes, {kept} of {len(v.tail)} operations survive", after
        for kept in range(r.durable, r.processed + 1):
            forgotten = len(r.entries) if self.bug == "received_survives" else 0
            fresh_r = Recipient(r.entries[:kept], kept, kept, kept, forgotten=forgotten)
            after = self._recipient_gone(state._replace(r=fresh_r))
            yield f"R crashes, {kept - r.durable} of {r.processed - r.durable} writes survive", after

    def problem(self, state: State) -> str:
        """What of the contract does not hold here; empty: all of it does."""
        s, v, r, _, _ = state
        for number, (outcome, seq) in enumerate(zip(s.messages, s.seqs, strict=True)):
            if ACCEPTED <= outcome <= STORED and v.log[seq - 1 : seq] != (number,):
                return f"I1: S was told that {number} is stored as {seq}, and the log is {v.log}"
        if r.entries != v.log[: len(r.entries)]:
            return f"I2: R has {r.entries}, which is not how the log begins: {v.log}"
        if len(set(r.entries)) < len(r.entries):
            return f"I3: R has {r.entries}"
        if max(s.mark, v.position) > r.durable:
            told = max(s.mark, v.position)
            return f"I4: delivered is said up to {told}, and R's journal has {r.durable}"
        if len(set(v.log)) < len(v.log):
            return f"I5: the log is {v.log}"
        if list(v.log) != sorted(v.log):
            return f"I7: S sent in the order of the numbers, and the log is {v.log}"
        if any(s.messages[number] < QUEUED for number in v.log):
            return f"contract 5: the log is {v.log}, and S's journal has not all of it: {s.messages}"
        return ""

    def is_end(self, state: State) -> bool:
        """All is where it should be, and everybody knows."""
        s, v, r, _, _ = state
        stored = all(outcome == STORED for outcome in s.messages)
        return stored and s.mark == r.durable == v.position == len(v.log) == len(s.messages)

    # ---- private: S

    def _sender_connects(self, state: State) -> State:
        s = state.s._replace(up=True, written=state.s.written if self.bug == "no_resend" else 0)
        known = sum(seq > 0 for seq in s.seqs)
        w = state.w._replace(up_s=(("Open", 0, known),))
        return self._spoken(state._replace(s=s, w=w))

    def _spoken(self, state: State) -> State:
        """S writes what its outbox has, each message once on a connection."""
        s, w = state.s, state.w
        if not s.up:
            return state
        lowest = HANDED if self.bug == "send_before_queued" else QUEUED
        due = [n for n, outcome in enumerate(s.messages) if lowest <= outcome <= QUEUED]
        due = [number for number in due if not s.written >> number & 1]
        if not due:
            return state
        written = s.written | sum(1 << number for number in due)
        messages = s.messages
        if self.bug == "resend_reversed":
            due.reverse()
        if self.bug == "forget_on_write":
            messages = tuple(FORGOTTEN if n in due else outcome for n, outcome in enumerate(messages))
        sends = tuple(("Send", number) for number in due)
        return state._replace(
            s=s._replace(written=written, messages=messages), w=w._replace(up_s=w.up_s + sends)
        )

    def _sender_hears(self, state: State) -> State:
        s = state.s
        frame, *rest = state.w.down_s
        state = state._replace(w=state.w._replace(down_s=tuple(rest)))
        match frame:
            case ("Opened" | "Receipt", int(position)):
                return state._replace(s=s._replace(mark=max(s.mark, position)))
            case ("Accepted" | "Deliver", int(number), int(seq)):
                if s.messages[number] > QUEUED and s.seqs[number]:
                    return state
                s = s._replace(
                    messages=put(s.messages, number, ACCEPTED),
                    seqs=put(s.seqs, number, seq),
                    tail=(*s.tail, ~number),
                )
                return state._replace(s=s)
        raise AssertionError(frame)

    # ---- private: V

    def _server_hears_sender(self, state: State) -> State:
        v = state.v
        frame, *rest = state.w.up_s
        w = state.w._replace(up_s=tuple(rest))
        match frame:
            case ("Open", _, int(received)):
                v = v._replace(sender=WAITING, tail=(*v.tail, ("open S", received)))
            case ("Send", int(number)):
                v = v._replace(tail=(*v.tail, ("append", number, True)))
                if self.bug == "ack_before_fsync" and number not in v.log:
                    told = ("Accepted", number, len(self._committed(v, len(v.tail))[0].log))
                    w = w._replace(down_s=(*w.down_s, told))
            case _:
                raise AssertionError(frame)
        return self._published(state._replace(v=v, w=w), soon=True)

    def _server_hears_recipient(self, state: State) -> State:
        v = state.v
        frame, *rest = state.w.up_r
        w = state.w._replace(up_r=tuple(rest))
        match frame:
            case ("Open", int(position), int(received)):
                v = v._replace(recipient=WAITING, tail=(*v.tail, ("open R", position, received)))
            case ("Ack", int(position)):
                v = v._replace(tail=(*v.tail, ("move", position, True)))
            case _:
                raise AssertionError(frame)
        return state._replace(v=v, w=w)

    def _committed(self, v: Server, count: int) -> tuple[Server, list[tuple[Any, ...]]]:
        """The first `count` operations are run and on the disk; and what there is to answer."""
        log, position = list(v.log), v.position
        answers: list[tuple[Any, ...]] = []
        for operation in v.tail[:count]:
            match operation:
                case ("append", int(number), bool(asked)):
                    known = number in log and self.bug != "no_dedupe"
                    if not known:
                        log.append(number)
                    tell = asked and not (known and self.bug == "silent_duplicate")
                    answers.append(("appended", number, log.index(number) + 1, tell))
                case ("open S", int(received)):
                    answers.append(("opened S", received, position))
                case ("open R", int(believed), int(received)):
                    moved = 0 if self.bug == "open_is_no_ack" or believed <= position else believed
                    position = max(position, moved)
                    answers.append(("opened R", received, len(log), moved))
                case ("move", int(processed), bool(tell)):
                    moved = processed if tell and processed > position else 0
                    position = max(position, processed)
                    answers.append(("moved", moved))
                case _:
                    raise AssertionError(operation)
        return v._replace(log=tuple(log), position=position, tail=v.tail[count:]), answers

    def _answered(self, state: State) -> State:
        v, answers = self._committed(state.v, len(state.v.tail))
        w = state.w
        for answer in answers:
            receipt = 0
            match answer:
                case ("appended", int(number), int(seq), bool(asked)):
                    if asked:
                        v = v._replace(sender=max(v.sender, seq) if seq <= v.sender + 1 else v.sender)
                        w = w._replace(down_s=(*w.down_s, ("Accepted", number, seq)))
                case ("opened S", int(received), int(position)):
                    v = v._replace(sender=received)
                    w = w._replace(down_s=(*w.down_s, ("Opened", position)))
                case ("opened R", int(received), int(head), int(moved)):
                    v = v._replace(recipient=head if self.bug == "live_only" else received)
                    w = w._replace(down_r=(*w.down_r, ("Opened",)))
                    receipt = moved
                case ("moved", int(moved)):
                    receipt = moved
                case _:
                    raise AssertionError(answer)
            if receipt and v.sender >= 0:
                w = w._replace(down_s=(*w.down_s, ("Receipt", receipt)))
        return self._published(state._replace(v=v, w=w), soon=False)

    def _published(self, state: State, *, soon: bool) -> State:
        """Each open channel is told what it has not been told; `soon`: before the commit."""
        v, w = state.v, state.w
        if soon:
            if self.bug != "publish_before_fsync":
                return state
            log = self._committed(v, len(v.tail))[0].log
        else:
            log = v.log
        if 0 <= v.sender < len(log) and not soon and self.bug != "silent_duplicate":
            new = tuple(("Deliver", log[n], n + 1) for n in range(v.sender, len(log)))
            v, w = v._replace(sender=len(log)), w._replace(down_s=w.down_s + new)
        if 0 <= v.recipient < len(log):
            new = tuple(("Deliver", log[n], n + 1) for n in range(v.recipient, len(log)))
            v, w = v._replace(recipient=len(log)), w._replace(down_r=w.down_r + new)
            if self.bug == "delivered_on_send":
                v = v._replace(tail=(*v.tail, ("move", len(log), True)))
        return state._replace(v=v, w=w)

    # ---- private: R

    def _recipient_connects(self, state: State) -> State:
        r = state.r
        received = max(len(r.entries), r.forgotten)
        w = state.w._replace(up_r=(("Open", r.durable, received),))
        return state._replace(r=r._replace(up=True, opened=False, acknowledged=r.durable), w=w)

    def _recipient_hears(self, state: State) -> State:
        r = state.r
        frame, *rest = state.w.down_r
        state = state._replace(w=state.w._replace(down_r=tuple(rest)))
        match frame:
            case ("Opened",):
                return self._acknowledged(state._replace(r=r._replace(opened=True)))
            case ("Deliver", int(number), int(seq)):
                if seq <= len(r.entries):
                    return state
                if seq > len(r.entries) + 1:
                    raise ImpossibleError(f"I2: a gap, R gets {seq} after {len(r.entries)}")
                entries = (*r.entries, number)
                shown = len(entries) if r.shown == r.processed else r.shown
                return state._replace(r=r._replace(entries=entries, shown=shown))
        raise AssertionError(frame)

    def _acknowledged(self, state: State) -> State:
        """R says how far its journal is, once its channel is open."""
        r, w = state.r, state.w
        position = r.processed if self.bug == "ack_before_persist" else r.durable
        if not (r.up and r.opened and position > r.acknowledged):
            return state
        return state._replace(
            r=r._replace(acknowledged=position), w=w._replace(up_r=(*w.up_r, ("Ack", position)))
        )

    # ---- private: connections that end; what they had asked for is done, and told to nobody who is gone

    def _sender_gone(self, state: State) -> State:
        s, v = state.s, state.v
        written = s.written if self.bug == "no_resend" else 0
        tail = tuple(("append", op[1], False) if op[0] == "append" else op for op in v.tail)
        return state._replace(
            s=s._replace(up=False, written=written),
            v=v._replace(sender=NO_CHANNEL, tail=tuple(op for op in tail if op[0] != "open S")),
            w=state.w._replace(up_s=(), down_s=()),
        )

    def _recipient_gone(self, state: State) -> State:
        tell = self.bug != "untold_open"
        v = state.v
        tail = tuple(("move", op[1], tell) if op[0] == "open R" else op for op in v.tail)
        return state._replace(
            r=state.r._replace(up=False, opened=False, acknowledged=0),
            v=v._replace(recipient=NO_CHANNEL, tail=tail),
            w=state.w._replace(up_r=(), down_r=()),
        )


def _words(frame: tuple[Any, ...]) -> str:
    match frame:
        case ("Send", number):
            return f"Send({number})"
        case ("Accepted" | "Deliver" as kind, number, seq):
            return f"{kind}({number} is {seq})"
        case (kind, *values):
            return f"{kind}({', '.join(map(str, values))})"
    raise AssertionError(frame)
