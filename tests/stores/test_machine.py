"""Stores against a model that is a dict: any calls in any order, on a clock that jumps.

A failure is printed as a short program, with the blob that repeats it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final, Literal, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.fixtures.services import Services
from tests.stores.databases import IN_MEMORY, Maker, Making, async_makers, sync_makers
from websessions import AsyncMemoryStore, MemoryStore
from websessions.codec import Codec
from websessions.sid import Key, Sid
from websessions.store import (
    Call,
    Count,
    Delete,
    Insert,
    Load,
    Lock,
    Put,
    Record,
    Replace,
    Scan,
    Sweep,
    Touch,
    Unlock,
)
from websessions.testing import AnyStore, FakeClock
from websessions.testing.any_store import finished

R = TypeVar("R")

NAMES: Final = "abcd"
SIDS: Final = {name: Sid(f"{name:_<43}") for name in NAMES}
KEYS: Final = {name: sid.digest() for name, sid in SIDS.items()}

EXPIRATION: Final = timedelta(seconds=10)
TOUCH_AFTER: Final = timedelta(seconds=3)

names = st.sampled_from(NAMES)
values = st.integers(0, 3)
spans = st.sampled_from([-1, 0, 1, 2, 5, 10, 100]).map(lambda seconds: timedelta(seconds=seconds))


@dataclass
class Row:
    """What the model knows of a record. Each write has a `stamp` of its own."""

    data: bytes
    expires: datetime
    stamp: int
    version: int | None = None
    previous: Key | None = None
    grace_until: datetime | None = None
    holder: str | None = None
    locked_until: datetime | None = None


@dataclass(frozen=True)
class Seen:
    """A record as somebody has seen it, maybe long ago."""

    record: Record
    stamp: int


@dataclass(frozen=True)
class Step:
    """A call that is still to be made: about whom, and how."""

    kind: Literal["insert", "load", "replace", "move", "put", "touch", "delete", "lock", "unlock"]
    name: str
    value: int
    lasts: timedelta
    slack: int
    seen: int
    to: str
    grace: int | None
    holder: str


steps = st.builds(
    Step,
    kind=st.sampled_from(
        [
            *("insert", "insert", "load", "replace", "replace", "move", "put", "touch", "delete"),
            *("lock", "lock", "unlock"),
        ]
    ),
    name=names,
    value=values,
    lasts=spans,
    slack=st.integers(0, 3),
    seen=st.integers(0, 2),
    to=names,
    grace=st.sampled_from([None, 1, 5]),
    holder=st.sampled_from(["ann", "ben"]),
)


class Model:
    """The rules of `store.py` in a dict, by stamps: what each call has to be answered with."""

    def __init__(self, clock: FakeClock, *, versions: bool, graces: bool) -> None:
        self.clock = clock
        self.versions = versions
        self.graces = graces
        self.rows: dict[Key, Row] = {}
        self._stamp = 0

    def live(self, key: Key) -> Row | None:
        row = self.rows.get(key)
        return row if row is not None and row.expires > self.clock() else None

    def graced(self, key: Key) -> Key | None:
        """Where the record is whose previous key this is, in its grace."""
        for there, row in self.rows.items():
            if row.previous == key and row.grace_until and row.grace_until > self.clock():
                return there
        return None

    def found(self, key: Key) -> tuple[Key, Row] | None:
        for there in (key, self.graced(key)):
            if there is not None and (row := self.live(there)) is not None:
                return there, row
        return None

    def related(self, key: Key) -> set[Key]:
        """The keys that a call about this one may be about."""
        row, graced = self.rows.get(key), self.graced(key)
        return (
            {key}
            | ({graced} if graced else set())
            | ({row.previous} if row and row.previous else set())
        )

    def write(self, key: Key, data: bytes, expires: datetime) -> Row:
        self._stamp += 1
        row = self.rows.setdefault(key, Row(data, expires, 0))
        self.rows[key] = replace(row, data=data, expires=expires, stamp=self._stamp, version=None)
        return self.rows[key]

    def put(self, key: Key, data: bytes, expires: datetime) -> Row:
        """Whoever puts may not know what is there: no previous key finds it from here on."""
        row = self.write(key, data, expires)
        row.previous = row.grace_until = None
        return row

    def is_ambiguous(self, seen: Seen) -> bool:
        """The record was seen in an earlier life of its key, which had a version of that number.

        Sids are random, so no key lives twice, and nothing is promised about it.
        """
        row = self.live(seen.record.key)
        return (
            self.versions
            and row is not None
            and row.stamp != seen.stamp
            and row.version == seen.record.version
        )

    def answer(self, call: Call[Any], seen: Seen | None) -> Row | bool | None:
        match call:
            case Load(key):
                found = self.found(key)
                return None if found is None else found[1]
            case Insert(key, data, expires):
                return None if key in self.rows else self.write(key, data, expires)
            case Replace(record, data, expires, _, new_key, grace_until):
                row = self.live(record.key)
                if row is None or seen is None:
                    return None
                if row.stamp != seen.stamp and (self.versions or row.data != record.data):
                    return None
                if new_key is not None and new_key in self.rows:
                    return None
                if new_key is None:
                    return self.write(record.key, data, expires)
                del self.rows[record.key]
                held, row = row, self.write(new_key, data, expires)
                row.holder, row.locked_until = held.holder, held.locked_until
                if grace_until is not None and self.graces:
                    row.previous, row.grace_until = record.key, grace_until
                return row
            case Put(key, data, expires):
                return self.put(key, data, expires)
            case Touch(key, expires, slack):
                row = self.live(key)
                if row is None or expires <= row.expires or expires - row.expires < slack:
                    return False
                row.expires = expires
                return True
            case Lock(key, holder, until):
                row = self.live(key)
                if row is None:
                    return False
                held_until = row.locked_until
                if held_until and held_until > self.clock() and row.holder != holder:
                    return False
                row.holder, row.locked_until = holder, until
                return True
            case Unlock(key, holder):
                if key not in self.rows or self.rows[key].holder != holder:
                    return False
                self.rows[key].holder = self.rows[key].locked_until = None
                return True
            case Delete(key):
                if key not in self.rows:
                    key = self.graced(key) or key
                return self.rows.pop(key, None) is not None
        raise AssertionError(call)


class StoreMachine(RuleBasedStateMachine):
    """One example: a store that is empty at first, and the model beside it."""

    def __init__(
        self, store: AnyStore, clock: FakeClock, run: Callable[[Coroutine[Any, Any, Any]], Any]
    ) -> None:
        super().__init__()
        self.store = store
        self.clock = clock
        self.codec: Codec = store.store.codec
        self._run = run
        self.run(store.clear())
        probe = self.run(store.ask(self._insert("a", 0, EXPIRATION)))
        assert probe is not None
        self.run(store.clear())
        table = getattr(store.store, "table", None)
        graces = table is None or "previous_key" in table.c
        self.model = Model(clock, versions=probe.version is not None, graces=graces)
        self.seen: dict[str, list[Seen]] = {name: [] for name in NAMES}

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        result: R = self._run(work)
        return result

    # The calls, in lists

    @rule(step=steps)
    def call(self, step: Step) -> None:
        self._perform([step])

    @rule(several=st.lists(steps, min_size=2, max_size=4, unique_by=lambda step: step.name))
    def calls(self, several: list[Step]) -> None:
        """Of different kinds, and each about another record."""
        self._perform(self._apart(several))

    def _apart(self, several: list[Step]) -> list[Step]:
        taken: set[Key] = set()
        alone: list[Step] = []
        for step in several:
            about = self.model.related(KEYS[step.name])
            if step.kind == "move":
                about |= self.model.related(KEYS[step.to])
            if not about & taken:
                taken |= about
                alone.append(step)
        return alone

    @rule(several=st.lists(steps, min_size=2, max_size=4, unique_by=lambda step: step.name))
    def calls_of_one_kind(self, several: list[Step]) -> None:
        """Which a store may make one statement of."""
        if several[0].kind != "move":
            kind = several[0].kind
            self._perform(self._apart([Step(**{**vars(step), "kind": kind}) for step in several]))

    def _perform(self, steps: list[Step]) -> None:
        made = [pair for pair in map(self._made, steps) if pair is not None]
        if not made:
            return
        answers = self.run(self.store.perform(*[call for call, _ in made]))
        assert len(answers) == len(made)
        for (call, seen), answer in zip(made, answers, strict=True):
            self._check(call, self.model.answer(call, seen), answer)

    def _made(self, step: Step) -> tuple[Call[Any], Seen | None] | None:
        """The step as a call; None if nothing is promised about it."""
        key, expires = KEYS[step.name], self.clock() + step.lasts
        data = self._data(step.value)
        if step.kind in ("lock", "unlock") and not self.store.store.locks:
            return None
        match step.kind:
            case "lock":
                return Lock(key, step.holder, expires), None
            case "unlock":
                return Unlock(key, step.holder), None
            case "insert":
                return self._insert(step.name, step.value, step.lasts), None
            case "load":
                return Load(key), None
            case "put":
                return Put(key, data, expires, {}), None
            case "touch":
                return Touch(key, expires, timedelta(seconds=step.slack)), None
            case "delete":
                return Delete(key), None
            case "replace" | "move":
                # The last that was seen, or one before.
                seen = self.seen[step.name][-1 - step.seen :][:1]
                if not seen or self.model.is_ambiguous(seen[0]):
                    return None
                new_key = KEYS[step.to] if step.kind == "move" else None
                if new_key == key:
                    return None
                until = None
                # A key that was given away twice would be two records' previous one.
                if step.grace is not None and new_key is not None and not self.model.graced(key):
                    until = self.clock() + timedelta(seconds=step.grace)
                return Replace(seen[0].record, data, expires, {}, new_key, until), seen[0]

    def _check(self, call: Call[Any], expected: Row | bool | None, answer: object) -> None:
        if isinstance(call, Put):
            assert answer is None
        elif isinstance(expected, Row):
            assert isinstance(answer, Record), f"{call} was answered with {answer!r}"
            assert (answer.data, answer.expires) == (expected.data, expected.expires)
            if isinstance(call, Replace) and self.model.versions:
                assert call.seen.version is not None
                assert answer.version is not None
                assert answer.version > call.seen.version
            expected.version = answer.version
            self._remember(answer, expected.stamp)
        else:
            assert answer is expected, f"{call} was answered with {answer!r}"

    def _remember(self, record: Record, stamp: int) -> None:
        for name, key in KEYS.items():
            if key == record.key and Seen(record, stamp) not in self.seen[name]:
                self.seen[name].append(Seen(record, stamp))

    # The public methods

    @rule(name=names, value=values)
    def set(self, name: str, value: int) -> None:
        self.run(self.store.set(SIDS[name], {"value": value}))
        self.model.put(KEYS[name], self._data(value), self.clock() + EXPIRATION)

    @rule(name=names, value=values, lasts=spans)
    def set_with_expiry(self, name: str, value: int, lasts: timedelta) -> None:
        expires = self.clock() + lasts
        self.run(self.store.set(SIDS[name], {"value": value}, expires=expires))
        self.model.put(KEYS[name], self._data(value), expires)

    @rule(name=names)
    def get(self, name: str) -> None:
        found = self.model.found(KEYS[name])
        expected = None if found is None else self.codec.decode(found[1].data)
        assert self.run(self.store.get(SIDS[name])) == expected

    @rule(name=names)
    def touch(self, name: str) -> None:
        self.run(self.store.touch(SIDS[name]))
        if found := self.model.found(KEYS[name]):
            self.model.answer(Touch(found[0], self.clock() + EXPIRATION, TOUCH_AFTER), None)

    @rule(name=names)
    def destroy(self, name: str) -> None:
        self.run(self.store.destroy(SIDS[name]))
        self.model.answer(Delete(KEYS[name]), None)

    @rule()
    def everything(self) -> None:
        live = [row for key in KEYS.values() if (row := self.model.live(key)) is not None]
        decoded = sorted(self.codec.decode(row.data)["value"] for row in live)
        assert sorted(data["value"] for data in self.run(self.store.all())) == decoded
        assert self.run(self.store.length()) == len(live)

    @rule(limit=st.integers(1, 3))
    def scan(self, limit: int) -> None:
        after = None
        for key in sorted(key for key in KEYS.values() if self.model.live(key) is not None):
            page = self.run(self.store.ask(Scan(after, limit)))
            assert page[0].key == key
            assert len(page) <= limit
            after = key
        assert self.run(self.store.ask(Scan(after, limit))) == []

    # Time

    @rule(seconds=st.sampled_from([1, 2, 5, 10, 200]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(name=names, before=st.integers(0, 1))
    def time_passes_until_an_expiry(self, name: str, before: int) -> None:
        """Or until the second before it."""
        row = self.model.rows.get(KEYS[name])
        if row is not None and row.expires > self.clock():
            moment = row.expires - timedelta(seconds=before)
            self.clock.advance(max(timedelta(0), moment - self.clock()))

    @rule(limit=st.integers(1, 3))
    def sweep(self, limit: int) -> None:
        expired = [key for key in self.model.rows if self.model.live(key) is None]
        deleted = 0
        for _ in range(20):
            swept = self.run(self.store.ask(Sweep(limit)))
            assert swept.deleted <= limit
            deleted += swept.deleted
            if not swept.more:
                break
        assert deleted == len(expired)
        for key in expired:
            del self.model.rows[key]

    @rule()
    def clear_expired_sessions(self) -> None:
        expired = [key for key in self.model.rows if self.model.live(key) is None]
        assert self.run(self.store.clear_expired_sessions()) == len(expired)
        for key in expired:
            del self.model.rows[key]

    # At every moment

    @invariant()
    def every_record_is_as_it_should_be(self) -> None:
        """Compares all records, and learns the versions of those that were put."""
        answers = self.run(self.store.perform(*[Load(key) for key in KEYS.values()]))
        for key, answer in zip(KEYS.values(), answers, strict=True):
            found = self.model.found(key)
            assert (answer is None) == (found is None), (key, answer, found)
            if found is None:
                continue
            there, row = found
            assert (answer.key, answer.data, answer.expires) == (there, row.data, row.expires)
            assert answer.grace_until == (None if there == key else row.grace_until)
            assert row.version in (None, answer.version)
            row.version = answer.version
            self._remember(answer, row.stamp)
        live = len({answer.key for answer in answers if answer is not None})
        assert self.run(self.store.ask(Count())) == live

    def _data(self, value: int) -> bytes:
        return self.codec.encode({"value": value})

    def _insert(self, name: str, value: int, lasts: timedelta) -> Insert:
        return Insert(KEYS[name], self._data(value), self.clock() + lasts, {})


OPTIONS: Final[dict[str, Any]] = {
    "expiration": EXPIRATION,
    "touch_after": TOUCH_AFTER,
    "check_expiration_interval": None,
}


def explore(
    make_store: Callable[..., Any],
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    examples: int,
    kind: Callable[..., RuleBasedStateMachine] = StoreMachine,
) -> None:
    """Run a machine over a store, as many examples as asked for."""
    clock = FakeClock()
    store = AnyStore(make_store(clock, **OPTIONS))
    run(store.sync())
    try:
        # It calls whatever it is given, a class in most cases.
        machine = cast(type[RuleBasedStateMachine], lambda: kind(store, clock, run))
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=examples,
                stateful_step_count=20,
                deadline=None,
                print_blob=True,
                suppress_health_check=list(HealthCheck),
            ),
        )
    finally:
        run(store.close())


@contextmanager
def loop() -> Iterator[Callable[[Coroutine[Any, Any, Any]], Any]]:
    with asyncio.Runner() as runner:
        yield runner.run


def test_memory_store() -> None:
    """`MemoryStore` behaves like a dict with expiry and guards."""
    explore(lambda clock, **options: MemoryStore(clock=clock, **options), finished, 200)


def test_async_memory_store() -> None:
    """So does `AsyncMemoryStore`."""
    with loop() as run:
        explore(lambda clock, **options: AsyncMemoryStore(clock=clock, **options), run, 50)


@pytest.mark.parametrize(
    "maker",
    [
        *sync_makers("generated", "url"),
        *sync_makers("generated", "app", "sqlite memory"),
        *sync_makers("own", "url", "sqlite memory"),
        *sync_makers("binary", "app", "sqlite memory"),
    ],
    ids=str,
)
def test_sql_store(maker: Maker, services: Services) -> None:
    """So does `SQLSessionStore`, on every database, engine and kind of table."""
    making = Making(maker, services)
    explore(making, finished, 12)
    making.close()


@pytest.mark.parametrize(
    "maker",
    [
        *async_makers("generated", "url"),
        *async_makers("generated", "app", "aiosqlite memory"),
        *async_makers("own", "url", *IN_MEMORY, "sqlite", "aiosqlite", "pymysql"),
        *async_makers("binary", "app", *IN_MEMORY, "sqlite", "pymysql"),
    ],
    ids=str,
)
def test_async_sql_store(maker: Maker, services: Services) -> None:
    """So does `AsyncSQLSessionStore`, with every driver."""
    with loop() as run:
        making = Making(maker, services)
        explore(making, run, 12)
        run(making.aclose())
