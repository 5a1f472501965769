"""What a rule is tried on: a store, a clock, and what the store's author says it can do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import pytest

from ..codec import Codec
from ..direct import AsyncSessionStore, SessionStore
from ..sid import Key, Sid
from ..store import Insert, Load, Record
from .any_store import AnyStore
from .clock import FakeClock

__all__ = ["Bench", "Capabilities", "MakeStore"]


MakeStore: TypeAlias = Callable[..., SessionStore | AsyncSessionStore]
"""`make(clock, **options)` makes a store on the clock, with options out of `StoreOptions`."""


class Capabilities:
    """What a store can do. A suite says where one can do less; the tests it can not pass then are
    skipped, each with the name of what is missing.

    Attributes:
        versions: its records have a `version`. Without, a write is guarded by the data that was
            read, and data that was changed and changed back counts as unchanged.
        keeps_expired: an expired record stays where it is until it is swept. False for a store
            whose database drops it by itself.
        graces: a record that was moved with a grace is found by its previous key meanwhile. False
            for a store where the old key is dead at once.
        concurrent: it may be used by several threads, or tasks, at once.
        resolution: the smallest difference of two moments that it can keep.
    """

    versions: bool = True
    keeps_expired: bool = True
    graces: bool = True
    concurrent: bool = True
    resolution: timedelta = timedelta(microseconds=1)

    def corrupt(self, store: Any, key: Key) -> Awaitable[None] | None:
        """Overwrite the data stored under `key` with some that no codec wrote.

        Only the author of a store knows how; a coroutine is awaited.
        """
        pytest.skip("corrupt() is not overridden: the suite has no way to damage a record")

    async def prepare(self, store: AnyStore) -> None:
        """Make a store that has just been made ready, and empty."""
        await store.sync()
        await store.clear()

    def need(self, *names: str) -> None:
        """Skip the test if the store lacks one of these abilities."""
        for name in names:
            if not getattr(self, name):
                pytest.skip(f"{name} is False: the store can not do this")


class Bench:
    """One test's clock and stores."""

    def __init__(self, make_store: MakeStore, suite: Capabilities) -> None:
        self.clock = FakeClock()
        self._make_store = make_store
        self._suite = suite
        self._made: list[AnyStore] = []

    async def store(self, **options: Any) -> AnyStore:
        """An empty store that is ready for use. It does not sweep unless the options say so."""
        options.setdefault("check_expiration_interval", None)
        store = AnyStore(self._make_store(self.clock, **options))
        self._made.append(store)
        await self._suite.prepare(store)
        return store

    async def close(self) -> None:
        for store in self._made:
            await store.close()

    def after(self, span: timedelta | float) -> datetime:
        """The moment a timedelta, or seconds, from now."""
        return self.clock() + (span if isinstance(span, timedelta) else timedelta(seconds=span))

    # Records. Their data is what the store's own codec makes of a small session.

    @staticmethod
    def key(name: str) -> Key:
        return Sid(f"{name:_<43}").digest()

    @staticmethod
    def data(codec: Codec, value: object) -> bytes:
        return codec.encode({"value": value})

    def insert(
        self, store: AnyStore, name: str, value: object = "", *, lasts: timedelta | float = 100
    ) -> Insert:
        """The call that inserts a record which lasts for so many seconds."""
        data = self.data(store.store.codec, value)
        return Insert(self.key(name), data, self.after(lasts), {"value": value})

    async def inserted(
        self, store: AnyStore, name: str, value: object = "", *, lasts: timedelta | float = 100
    ) -> Record:
        """The record, inserted."""
        record = await store.ask(self.insert(store, name, value, lasts=lasts))
        assert record is not None, "an insert of a new key has to succeed"
        return record

    async def loaded(self, store: AnyStore, name: str) -> Record:
        """The record, which has to be there."""
        record = await store.ask(Load(self.key(name)))
        assert record is not None, f"the record {name!r} has to be there"
        return record

    async def is_there(self, store: AnyStore, name: str) -> bool:
        return await store.ask(Load(self.key(name))) is not None

    def value(self, store: AnyStore, record: Record) -> object:
        """The value that `data` put into it."""
        return store.store.codec.decode(record.data)["value"]
