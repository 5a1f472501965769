"""The memory stores keep the rules."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from websessions import AsyncMemoryStore, MemoryStore
from websessions.sid import Key
from websessions.store import Call, Sweep
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


class _SlowSweep(MemoryStore):
    """A store whose sweeps end when they are told to."""

    def __init__(self) -> None:
        super().__init__(check_expiration_interval=0.001)
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.ended = False

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if isinstance(calls[0], Sweep):
            self.begun.set()
            assert self.may_end.wait(30)
            self.ended = True
        return super().perform(calls)


@pytest.mark.parametrize("restarted", [False, True])
def test_closing_waits_for_a_sweep_that_is_under_way(restarted: bool) -> None:
    """It has a connection that would be left behind; also that of a sweeper stopped before."""
    store = _SlowSweep()
    store.start_expiring_sessions()
    assert store.begun.wait(30)
    if restarted:
        store.stop_expiring_sessions()
        store.start_expiring_sessions()
    closing = threading.Thread(target=store.close)
    closing.start()
    closing.join(0.02)
    assert closing.is_alive()
    store.may_end.set()
    closing.join(30)
    assert store.ended
