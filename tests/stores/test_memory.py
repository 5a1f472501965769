"""The memory stores keep the rules."""

from __future__ import annotations

from dataclasses import replace

import pytest

from websessions import AsyncMemoryStore, MemoryStore
from websessions.sid import Key
from websessions.testing import AsyncStoreSuite, StoreSuite
from websessions.testing.bench import MakeStore


def _corrupt(store: MemoryStore | AsyncMemoryStore, key: Key) -> None:
    records = store._records._records
    records[key] = replace(records[key], data=b'{"cut')


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return lambda clock, **options: MemoryStore(clock=clock, **options)

    def corrupt(self, store: MemoryStore, key: Key) -> None:
        _corrupt(store, key)


class TestAsyncMemoryStore(AsyncStoreSuite):
    @pytest.fixture
    def make_store(self) -> MakeStore:
        return lambda clock, **options: AsyncMemoryStore(clock=clock, **options)

    def corrupt(self, store: AsyncMemoryStore, key: Key) -> None:
        _corrupt(store, key)
