"""What a store has to hold, told by what it has acknowledged: the assertions of the explorer.

The ledger listens to every call and its answer, and knows of each request what its handler
changed. From that it derives each live session's content, one acknowledged write after the other:
a write changes the keys that its handler changed and leaves the others alone. The store is
compared with that after every step. So a lost key, a session or a sid that comes back, an owner
that goes back, a second live sid and somebody else's session are all one thing: a store that is
not what it acknowledged.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ..codec import Codec
from ..sid import Key
from ..store import Call, Clock, Delete, Insert, Load, Record, Replace, Touch

__all__ = ["Ledger", "Violation"]

_ABSENT = object()


class Violation(AssertionError):
    """The store, or what an answer said of it, is not what it has to be."""


@dataclass
class _Live:
    content: dict[str, Any]
    expires: datetime


@dataclass
class _Intended:
    """What a request is about to save: what it had read, and what its handler made of it."""

    key: Key | None
    base: Mapping[str, Any]
    mine: Mapping[str, Any]
    emptied: bool

    def changes_of(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """The content, with the handler's changes made to it."""
        if self.emptied:
            return dict(self.mine)
        changed = {key: self.mine.get(key, _ABSENT) for key in [*self.base, *self.mine]}
        kept = {key for key, value in changed.items() if value == self.base.get(key, _ABSENT)}
        result = {**content, **{key: changed[key] for key in changed if key not in kept}}
        return {key: value for key, value in result.items() if value is not _ABSENT}

    @property
    def is_a_change(self) -> bool:
        return self.emptied or dict(self.base) != dict(self.mine)


class Ledger:
    """The books of one run.

    Args:
        codec: the store's.
        clock: the store's.
        graces: whether the store finds a session by the id that it had before, while that lasts.
    """

    def __init__(self, codec: Codec, clock: Clock, *, graces: bool = True) -> None:
        self._codec = codec
        self._clock = clock
        self._live: dict[Key, _Live] = {}
        self._ended: set[Key] = set()
        self._names: dict[Key, str] = {}
        self._intended: dict[str, _Intended] = {}
        self._may_begin: set[str] = set()
        self._wrote: dict[str, Key] = {}
        self._has_graces = graces
        self._graces: dict[Key, tuple[Key, datetime]] = {}

    # What requests tell

    def began(self, key: Key, content: Mapping[str, Any], expires: datetime) -> None:
        """There is a session already when the requests arrive."""
        self._live[key] = _Live(dict(content), expires)

    def arrives(self, who: str) -> None:
        """Its next request comes in; what the one before did is past."""
        self._may_begin.discard(who)
        self._wrote.pop(who, None)

    def may_begin(self, who: str) -> None:
        """Its request came without a live session, or has ended it: it may begin a new one."""
        self._may_begin.add(who)

    def intends(
        self,
        who: str,
        key: Key | None,
        base: Mapping[str, Any],
        mine: Mapping[str, Any],
        *,
        emptied: bool = False,
    ) -> None:
        """It is about to save.

        Args:
            who: the party.
            key: its session, if it has one.
            base: what it had read.
            mine: what its handler made of that.
            emptied: the handler wants nothing else to be in it, whoever wrote it.
        """
        mine = copy.deepcopy(dict(mine))
        self._intended[who] = _Intended(key, base, mine, emptied)

    def settled(self, who: str) -> None:
        """It was told that it has saved.

        Raises:
            Violation: its changes were not stored, though its session lives.
        """
        intended = self._intended.pop(who, None)
        if intended is None or intended.key is None or not intended.is_a_change:
            return
        if self._found(intended.key) is not None:
            raise Violation(f"{who} was told that its changes are saved; they never were")

    def given(self, who: str, key: Key) -> None:
        """Its response gave it the id of this session.

        Raises:
            Violation: there never was such a session, or it is not the one that it has written.
        """
        if not self.knows(key):
            raise Violation(f"{who} was given the id of a session that nobody began")
        wrote = self._wrote.get(who, key)
        if wrote != key:
            raise Violation(
                f"{who} has written {self.name(wrote)} and was given the id of {self.name(key)}"
            )

    def knows(self, key: Key) -> bool:
        """Whether there was ever such a session."""
        return key in self._live or key in self._ended

    # What the store answers

    def note(self, who: str, call: Call[Any], answer: Any) -> None:
        """A call was answered.

        Raises:
            Violation: it could not be answered that way.
        """
        self._expire()
        match call, answer:
            case (Load(key), None) | (Delete(key), False):
                if self._found(key) is not None:
                    raise Violation(f"{who} was told that {self.name(key)} is not there; it is")
            case Load(key), Record():
                if answer.key != self._found(key):
                    self._alive(key, f"{who} has read")
                    raise Violation(f"{who} asked for {self.name(key)}, and got another one")
                self._compare(answer.key, answer, f"{who} has read {self.name(answer.key)}:")
            case Insert(key), Record():
                self._insert(who, key, answer)
            case Replace(seen), Record():
                self._alive(seen.key, f"a write of {who} was acknowledged for")
                self._replace(who, seen.key, answer)
                until = call.grace_until
                if self._has_graces and answer.key != seen.key and until is not None:
                    self._graces[seen.key] = answer.key, until
            case Touch(key), True:
                self._alive(key, f"{who} was told that it touched")
                self._live[key].expires = call.expires
            case Delete(key), True:
                self._end(self._found(key) or key)

    def _insert(self, who: str, key: Key, written: Record) -> None:
        if key in self._ended:
            raise Violation(f"{who} brought {self.name(key)} back, which had ended")
        if key in self._live:
            raise Violation(f"{who} was told that it inserted {self.name(key)}; it was there")
        if who not in self._may_begin:
            raise Violation(f"{who} began a new session in the place of one that it had read")
        intended = self._intended.pop(who, None)
        content = {} if intended is None else dict(intended.mine)
        self._wrote[who] = key
        self._live[key] = _Live(content, written.expires)

    def _replace(self, who: str, key: Key, written: Record) -> None:
        live = self._live.pop(key)
        intended = self._intended.pop(who, None)
        content = live.content if intended is None else intended.changes_of(live.content)
        if written.key != key:
            self._ended.add(key)
        if self.knows(written.key):
            raise Violation(
                f"{who} moved a session to {self.name(written.key)}, which is no new id"
            )
        self._live[written.key] = _Live(content, written.expires)
        self._wrote[who] = written.key

    def _end(self, key: Key) -> None:
        self._live.pop(key, None)
        self._ended.add(key)

    def _expire(self) -> None:
        now = self._clock()
        for key in [key for key, live in self._live.items() if live.expires <= now]:
            self._end(key)

    def _found(self, key: Key) -> Key | None:
        """Where the session is that this key finds: its own, or one that has a grace for it."""
        if key in self._live:
            return key
        to, until = self._graces.get(key, (None, None))
        return to if until is not None and until > self._clock() and to in self._live else None

    def _alive(self, key: Key, what: str) -> None:
        if key in self._ended:
            raise Violation(f"{what} {self.name(key)}, which had ended")
        if key not in self._live:
            raise Violation(f"{what} {self.name(key)}, which nobody began")

    # What the store holds

    def compare(self, records: Sequence[Record]) -> None:
        """Compare all live records with the books.

        Raises:
            Violation: they differ.
        """
        self._expire()
        for record in records:
            self._alive(record.key, "there is")
            self._compare(record.key, record, f"{self.name(record.key)}:")
            expires = self._live[record.key].expires
            if record.expires != expires:
                raise Violation(
                    f"{self.name(record.key)} expires at {record.expires}, not at {expires}"
                )
        there = {record.key for record in records}
        if len(there) < len(records):
            raise Violation("a session is there twice")
        for key in self._live:
            if key not in there:
                raise Violation(f"{self.name(key)} is gone, and nobody has ended it")

    def _compare(self, key: Key, record: Record, where: str) -> None:
        expected, found = self._live[key].content, self.content(record)
        for name in sorted({*expected, *found}):
            right, wrong = expected.get(name, _ABSENT), found.get(name, _ABSENT)
            if right != wrong:
                raise Violation(f"{where} {name!r} {_is(wrong)}; it {_should_be(right)}")

    def content(self, record: Record) -> dict[str, Any]:
        """What a record holds."""
        return self._codec.decode(record.data)

    def name(self, key: Key) -> str:
        """The session, as a report names it: the first that was met is "session 1"."""
        return self._names.setdefault(key, f"session {len(self._names) + 1}")


def _is(value: object) -> str:
    return "is not there" if value is _ABSENT else f"is {value!r}"


def _should_be(value: object) -> str:
    return "should not be there" if value is _ABSENT else f"should be {value!r}"
