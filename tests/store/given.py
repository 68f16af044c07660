"""Short words for store tests: people, their devices, their conversations."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence

from quicmsg.store import (
    Append,
    Appended,
    ChangeMember,
    CreateGroup,
    Done,
    GroupChanged,
    LogEntry,
    MakeCode,
    Moved,
    MovePosition,
    OpenConversation,
    Opened,
    Operation,
    Refusal,
    Result,
    SignedIn,
    SignIn,
    Store,
    rules,
)

EPOCH = 4711


def key(user: str, number: int = 1) -> bytes:
    """The public key of a user's device."""
    return f"{user}/{number}".encode("utf-8", "surrogatepass").ljust(32, b".")


def device(user: str, number: int = 1) -> bytes:
    return rules.device_id(key(user, number))


class Given:
    """A store, and the operations on it in one line each; every operation gets a later time."""

    def __init__(self, store: Store, reopen: Callable[[Store], Store]) -> None:
        self.store = store
        self._reopen = reopen
        self._numbers = itertools.count(1)

    def reopen(self) -> None:
        """Close the store and open what it left behind."""
        self.store = self._reopen(self.store)

    def run(self, operation: Operation) -> Result:
        (result,) = self.store.execute([operation])
        return result

    def refusal(self, operation: Operation) -> str:
        """The name of the code of the refusal that this must be."""
        result = self.run(operation)
        assert isinstance(result, Refusal), result
        assert result.text
        return result.code.name

    # ---- operations

    def users(self, *users: str) -> None:
        for user in users:
            assert isinstance(self.run(self.sign_in(user)), SignedIn)

    def direct(self, first: str, second: str) -> str:
        conversation = f"@{min(first, second)}:{max(first, second)}"
        assert isinstance(self.open(conversation, first), Opened)
        return conversation

    def group(self, conversation: str, creator: str, *members: str, open: bool = False) -> GroupChanged:
        result = self.run(self.create(conversation, creator, *members, open=open))
        assert isinstance(result, GroupChanged), result
        return result

    def say(self, conversation: str, user: str, text: str) -> Appended:
        result = self.run(self.message(conversation, user, text))
        assert isinstance(result, Appended), result
        return result

    def open(
        self, conversation: str, user: str, *, position: int = 0, number: int = 1, epoch: int = EPOCH
    ) -> Opened:
        operation = OpenConversation(conversation, user, device(user, number), epoch, position, self._time())
        result = self.run(operation)
        assert isinstance(result, Opened), result
        return result

    def move(
        self,
        conversation: str,
        user: str,
        received: int = 0,
        *,
        read: int = 0,
        public: bool = True,
        number: int = 1,
    ) -> Moved:
        operation = MovePosition(conversation, user, device(user, number), received, read, public)
        result = self.run(operation)
        assert isinstance(result, Moved), result
        return result

    def member(self, conversation: str, actor: str, change: str, user: str | None = None) -> GroupChanged:
        result = self.run(self.change(conversation, actor, change, user))
        assert isinstance(result, GroupChanged), result
        return result

    def link(self, user: str, number: int) -> SignedIn:
        assert self.run(MakeCode("link", user, f"code-{user}-{number}", 10**15)) == Done()
        result = self.run(self.sign_in(user, number, code=f"code-{user}-{number}"))
        assert isinstance(result, SignedIn), result
        return result

    # ---- operations, to be run

    def message(
        self, conversation: str, user: str, text: str, *, message_id: bytes | None = None, number: int = 1
    ) -> Append:
        seed = f"{conversation}/{user}/{text}".encode("utf-8", "surrogatepass")
        new_id = hashlib.sha256(seed).digest()[:16] if message_id is None else message_id
        return Append(conversation, user, device(user, number), new_id, 0, 0, text.encode(), self._time())

    def create(self, conversation: str, creator: str, *members: str, open: bool = False) -> CreateGroup:
        at_ms = self._time()
        request_id = at_ms.to_bytes(16, "big")
        return CreateGroup(conversation, creator, device(creator), members, open, at_ms, request_id)

    def change(self, conversation: str, actor: str, change: str, user: str | None = None) -> ChangeMember:
        at_ms = self._time()
        request_id = at_ms.to_bytes(16, "big")
        return ChangeMember(conversation, actor, device(actor), user or actor, change, at_ms, request_id)

    def sign_in(
        self,
        user: str,
        number: int = 1,
        *,
        code: str = "",
        invite_only: bool = False,
        at_ms: int | None = None,
    ) -> SignIn:
        at_ms = self._time() if at_ms is None else at_ms
        return SignIn(user, key(user, number), f"{user}'s {number}", code, invite_only, at_ms)

    # ---- reads

    def texts(self, conversation: str, user: str, **bounds: int) -> list[str]:
        return [entry.body.decode() for entry in self.entries(conversation, user, **bounds)]

    def entries(self, conversation: str, user: str, **bounds: int) -> list[LogEntry]:
        return self.store.entries(conversation, user, **{"limit": 1000, **bounds})

    def feed(self, user: str, after: int = 0) -> list[str]:
        return [change.conversation for change in self.store.changes(user, after=after, limit=100)]

    def _time(self) -> int:
        return 1_700_000_000_000 + next(self._numbers)


def everything(store: Store, users: Sequence[str], conversations: Sequence[str]) -> Iterator[object]:
    """All that can be asked, one answer after the other."""
    yield store.head()
    for user in users:
        yield user, store.devices(user)
        for after, limit in itertools.product((0, 3, 7), (2, 99)):
            yield user, after, limit, store.changes(user, after=after, limit=limit)
    for conversation in conversations:
        yield conversation, store.members(conversation)
        for user, after, limit in itertools.product(users, (0, 3), (2, 99)):
            yield conversation, user, store.entries(conversation, user, after=after, limit=limit)
            yield conversation, user, store.entries(conversation, user, after=after, before=6, limit=limit)
