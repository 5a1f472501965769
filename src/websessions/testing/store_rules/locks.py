"""What locking means, for stores that do it: those whose `locks` is true."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ...store import Clear, Delete, Lock, Put, Replace, Sweep, Touch, Unlock
from ..any_store import AnyStore
from ..bench import Bench, Capabilities

__all__ = ["LockRules"]

ANN, BEN = "a" * 32, "b" * 32
"""Two who lock, by names as long as they may be."""

RIVALS = 8


async def _locking(bench: Bench) -> AnyStore:
    store = await bench.store()
    if not store.store.locks:
        pytest.skip("locks is False: the store can not do this")
    return store


def _lock(bench: Bench, name: str, holder: str, *, lasts: timedelta | float = 30) -> Lock:
    return Lock(bench.key(name), holder, bench.after(lasts))


class LockRules(Capabilities):
    async def test_a_lock_has_one_holder(self, bench: Bench) -> None:
        """Whoever asks first, until it is released; another record's lock is another one."""
        store = await _locking(bench)
        for name in "ab":
            await bench.inserted(store, name)
        assert await store.ask(_lock(bench, "a", ANN)) is True
        assert await store.ask(_lock(bench, "a", BEN)) is False
        assert await store.ask(_lock(bench, "b", BEN)) is True
        assert await store.ask(Unlock(bench.key("a"), ANN)) is True
        assert await store.ask(_lock(bench, "a", BEN)) is True

    async def test_a_lock_is_released_by_its_holder(self, bench: Bench) -> None:
        """Nobody else releases it, and nobody twice."""
        store = await _locking(bench)
        await bench.inserted(store, "a")
        assert await store.ask(Unlock(bench.key("a"), ANN)) is False
        await store.ask(_lock(bench, "a", ANN))
        assert await store.ask(Unlock(bench.key("a"), BEN)) is False
        assert await store.ask(_lock(bench, "a", BEN)) is False
        assert await store.ask(Unlock(bench.key("a"), ANN)) is True
        assert await store.ask(Unlock(bench.key("a"), ANN)) is False

    async def test_a_lock_ends_with_its_lease(self, bench: Bench) -> None:
        """One tick before `until` it is held; at `until` it is anybody's."""
        store = await _locking(bench)
        await bench.inserted(store, "a")
        await store.ask(_lock(bench, "a", ANN, lasts=30))
        bench.clock.advance(timedelta(seconds=30) - self.resolution)
        assert await store.ask(_lock(bench, "a", BEN)) is False
        bench.clock.advance(self.resolution)
        assert await store.ask(_lock(bench, "a", BEN)) is True
        assert await store.ask(Unlock(bench.key("a"), ANN)) is False
        assert await store.ask(_lock(bench, "a", ANN)) is False

    async def test_a_holder_goes_on_with_its_lock(self, bench: Bench) -> None:
        """Asked for again, or by a statement that was repeated, it lasts until the new moment."""
        store = await _locking(bench)
        await bench.inserted(store, "a")
        await store.ask(_lock(bench, "a", ANN, lasts=30))
        bench.clock.advance(20)
        assert await store.ask(_lock(bench, "a", ANN, lasts=30)) is True
        bench.clock.advance(20)
        assert await store.ask(_lock(bench, "a", BEN)) is False

    async def test_what_is_not_there_is_not_locked(self, bench: Bench) -> None:
        """Never inserted, expired or deleted: False, and nothing comes into being."""
        store = await _locking(bench)
        for name in "ab":
            await bench.inserted(store, name, lasts=10)
        await store.ask(Delete(bench.key("b")))
        bench.clock.advance(10)
        for name in "abx":
            assert await store.ask(_lock(bench, name, ANN)) is False
            assert await store.ask(Unlock(bench.key(name), ANN)) is False
            assert not await bench.is_there(store, name)

    async def test_a_lock_is_no_change_and_refuses_none(self, bench: Bench) -> None:
        """Neither taking nor releasing it is a write of the record; who has not asked for it reads,
        writes and touches as ever, and leaves it where it is.
        """
        store = await _locking(bench)
        record = await bench.inserted(store, "a")
        await store.ask(_lock(bench, "a", ANN))
        assert await bench.loaded(store, "a") == record
        data = bench.data(store.store.codec, "new")
        written = await store.ask(Replace(record, data, bench.after(100), {}))
        assert written is not None
        assert await store.ask(Touch(record.key, bench.after(200))) is True
        assert await store.ask(_lock(bench, "a", BEN)) is False
        assert await store.ask(Unlock(record.key, ANN)) is True
        data = bench.data(store.store.codec, "newer")
        assert await store.ask(Replace(written, data, bench.after(300), {})) is not None

    async def test_a_lock_moves_with_its_record(self, bench: Bench) -> None:
        """To its new key, with a grace and without one; the old key has none to give."""
        store = await _locking(bench)
        for name, grace in (("a", 5), ("b", None)):
            seen = await bench.inserted(store, name)
            await store.ask(_lock(bench, name, ANN))
            until = None if grace is None else bench.after(grace)
            to = bench.key(f"new {name}")
            assert await store.ask(Replace(seen, seen.data, seen.expires, {}, to, until))
            assert await store.ask(_lock(bench, name, BEN)) is False
            assert await store.ask(_lock(bench, f"new {name}", BEN)) is False
            assert await store.ask(Unlock(seen.key, ANN)) is False
            assert await store.ask(Unlock(to, ANN)) is True
            assert await store.ask(_lock(bench, f"new {name}", BEN)) is True

    async def test_a_lock_ends_with_its_record(self, bench: Bench) -> None:
        """What has the key after a delete, a sweep or a clear has no lock."""
        store = await _locking(bench)
        for end in (Delete(bench.key("a")), Sweep(10), Clear()):
            await bench.inserted(store, "a", lasts=10)
            assert await store.ask(_lock(bench, "a", ANN, lasts=1000)) is True
            if isinstance(end, Sweep):
                bench.clock.advance(10)
            await store.ask(end)
            await bench.inserted(store, "a")
            assert await store.ask(_lock(bench, "a", BEN)) is True
            await store.ask(Delete(bench.key("a")))

    async def test_a_put_leaves_a_lock_alone(self, bench: Bench) -> None:
        """`set()` writes whatever is there, and so it does not wait for a holder, nor free one."""
        store = await _locking(bench)
        await bench.inserted(store, "a")
        await store.ask(_lock(bench, "a", ANN))
        data = bench.data(store.store.codec, "put")
        await store.ask(Put(bench.key("a"), data, bench.after(100), {"value": "put"}))
        assert bench.value(store, await bench.loaded(store, "a")) == "put"
        assert await store.ask(_lock(bench, "a", BEN)) is False
        assert await store.ask(Unlock(bench.key("a"), ANN)) is True

    async def test_one_of_many_locks_is_given(self, bench: Bench) -> None:
        """However many ask at once, one has it: of a lock that is free, and of one that ended."""
        self.need("concurrent")
        store = await _locking(bench)
        await bench.inserted(store, "a", lasts=1000)
        for round_ in range(3):
            rivals = [f"{round_} {rival}" for rival in range(RIVALS)]
            given = await store.at_once([store.ask(_lock(bench, "a", who)) for who in rivals])
            assert given.count(True) == 1
            bench.clock.advance(30)
