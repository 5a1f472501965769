"""Deleting what has expired: the call, the method and the sweeper in the background."""

from __future__ import annotations

from datetime import timedelta

import pytest

from ...store import Count, Load, Put, Replace, Scan, Sweep, Swept, Touch
from ..any_store import AnyStore
from ..bench import Bench, Capabilities

__all__ = ["SweepRules"]


async def _swept(store: AnyStore, limit: int = 500) -> int:
    """Sweep until there is no more; how many that were."""
    deleted = 0
    for _ in range(100):
        swept = await store.ask(Sweep(limit))
        assert swept.deleted <= limit
        deleted += swept.deleted
        if not swept.more:
            return deleted
    raise AssertionError("Sweep says for ever that there is more")


class SweepRules(Capabilities):
    async def test_a_sweep_deletes_what_has_expired(self, bench: Bench) -> None:
        """Exactly that: a record that expires now goes, one that expires in a tick stays."""
        self.need("keeps_expired")
        store = await bench.store()
        await bench.inserted(store, "before", lasts=5)
        await bench.inserted(store, "now", lasts=10)
        await bench.inserted(store, "in a tick", lasts=timedelta(seconds=10) + self.resolution)
        await bench.inserted(store, "later", lasts=100)
        bench.clock.advance(10)
        assert await _swept(store) == 2
        assert await bench.is_there(store, "in a tick")
        assert await bench.is_there(store, "later")
        assert await store.ask(bench.insert(store, "now")) is not None

    async def test_a_sweep_of_nothing(self, bench: Bench) -> None:
        """No record, or none that has expired: nothing is deleted, and there is no more."""
        store = await bench.store()
        assert await store.ask(Sweep(10)) == Swept(0, False)
        await bench.inserted(store, "a")
        assert await store.ask(Sweep(10)) == Swept(0, False)
        assert await bench.is_there(store, "a")

    async def test_a_sweep_is_bounded(self, bench: Bench) -> None:
        """At most `limit` records at a time; `more` says that another sweep is needed."""
        self.need("keeps_expired")
        store = await bench.store()
        await store.perform(*[bench.insert(store, f"{n}", lasts=10) for n in range(7)])
        await bench.inserted(store, "live", lasts=100)
        bench.clock.advance(10)
        assert await store.ask(Sweep(3)) == Swept(3, True)
        assert await store.ask(Sweep(3)) == Swept(3, True)
        assert (await store.ask(Sweep(3))).deleted == 1
        assert await store.ask(Sweep(3)) == Swept(0, False)
        assert await bench.is_there(store, "live")

    async def test_a_sweep_goes_on_where_the_last_one_ended(self, bench: Bench) -> None:
        """Told how far that one looked, each deletes the next records: all are gone at the end."""
        self.need("keeps_expired")
        store = await bench.store()
        names = [f"{n}" for n in range(7)]
        await store.perform(
            *[bench.insert(store, name, lasts=10 + n // 3) for n, name in enumerate(names)]
        )
        await bench.inserted(store, "live", lasts=100)
        bench.clock.advance(20)
        first = await store.ask(Sweep(3))
        second = await store.ask(Sweep(3, first.reached))
        third = await store.ask(Sweep(3, second.reached))
        assert [first.deleted, second.deleted, third.deleted] == [3, 3, 1]
        assert await store.ask(Sweep(3)) == Swept(0, False)
        assert await bench.is_there(store, "live")

    async def test_a_sweep_may_be_large(self, bench: Bench) -> None:
        """A thousand expired records among live ones: all of them go, and only they."""
        self.need("keeps_expired")
        store = await bench.store()
        for n in range(0, 600, 200):
            names = [f"{m}" for m in range(n, n + 200)]
            await store.perform(
                *[bench.insert(store, name, lasts=10 if int(name) % 6 else 100) for name in names]
            )
        bench.clock.advance(10)
        assert await _swept(store, 10_000) == 500
        assert await store.ask(Count()) == 100

    async def test_a_touched_record_is_not_swept(self, bench: Bench) -> None:
        """A sweep at the old expiry leaves it; one at the new expiry deletes it."""
        self.need("keeps_expired")
        store = await bench.store()
        await bench.inserted(store, "touched", lasts=10)
        await bench.inserted(store, "not", lasts=10)
        bench.clock.advance(9)
        assert await store.ask(Touch(bench.key("touched"), bench.after(10)))
        bench.clock.advance(1)
        assert await _swept(store) == 1
        assert await bench.is_there(store, "touched")
        bench.clock.advance(timedelta(seconds=9) - self.resolution)
        assert await _swept(store) == 0
        assert await bench.is_there(store, "touched")
        bench.clock.advance(self.resolution)
        assert await _swept(store) == 1

    async def test_a_record_that_is_touched_again_and_again(self, bench: Bench) -> None:
        """Sweeps between touches never delete it; when the touches end, a sweep does."""
        self.need("keeps_expired")
        store = await bench.store()
        await bench.inserted(store, "a", lasts=10)
        for _ in range(5):
            bench.clock.advance(8)
            assert await store.ask(Touch(bench.key("a"), bench.after(10)))
            assert await _swept(store) == 0
        bench.clock.advance(10)
        assert await _swept(store) == 1

    async def test_touched_records_do_not_hide_expired_ones(self, bench: Bench) -> None:
        """However many have been touched since, small sweeps reach those behind them."""
        self.need("keeps_expired")
        store = await bench.store()
        touched = [f"touched {n}" for n in range(6)]
        await store.perform(*[bench.insert(store, name, lasts=10) for name in touched])
        await bench.inserted(store, "expired", lasts=11)
        await store.perform(*[Touch(bench.key(name), bench.after(100)) for name in touched])
        bench.clock.advance(11)
        assert await _swept(store, 2) == 1
        assert await store.ask(Count()) == 6

    async def test_a_replaced_record_is_swept_when_it_expires(self, bench: Bench) -> None:
        """A write moves the expiry either way, and the sweep follows, for a longer life..."""
        self.need("keeps_expired")
        store = await bench.store()
        seen = await bench.inserted(store, "a", lasts=10)
        bench.clock.advance(5)
        await store.ask(Replace(seen, seen.data, bench.after(10), {}))
        bench.clock.advance(5)
        assert await _swept(store) == 0
        assert await bench.is_there(store, "a")
        bench.clock.advance(5)
        assert await _swept(store) == 1

    async def test_a_shortened_record_is_swept_in_time(self, bench: Bench) -> None:
        """... and for a shorter one, whoever shortened it: `Replace`, a move, or `Put`."""
        self.need("keeps_expired")
        store = await bench.store()
        replaced, moved, put = [
            await bench.inserted(store, name, lasts=1000) for name in ("replaced", "moved", "put")
        ]
        await store.perform(
            Replace(replaced, replaced.data, bench.after(10), {}),
            Replace(moved, moved.data, bench.after(10), {}, bench.key("moved on")),
            Put(put.key, put.data, bench.after(10), {}),
        )
        bench.clock.advance(10)
        assert await _swept(store) == 3

    async def test_a_revived_key_is_not_swept(self, bench: Bench) -> None:
        """What `Put` wrote over an expired record lives, whatever was due there."""
        self.need("keeps_expired")
        store = await bench.store()
        record = await bench.inserted(store, "a", lasts=10)
        bench.clock.advance(20)
        await store.ask(Put(record.key, record.data, bench.after(10), {}))
        assert await _swept(store) == 0
        assert await bench.is_there(store, "a")
        bench.clock.advance(10)
        assert await _swept(store) == 1

    async def test_a_sweep_changes_no_live_record(self, bench: Bench) -> None:
        """Neither its data nor its version nor its expiry: a `Replace` then goes through."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", lasts=10)
        await bench.inserted(store, "b", lasts=10)
        await store.ask(Touch(seen.key, bench.after(100)))
        before = await bench.loaded(store, "a")
        bench.clock.advance(10)
        await _swept(store)
        assert await store.ask(Scan(None, 10)) == [before]
        assert await store.ask(Replace(seen, seen.data, bench.after(100), {})) is not None

    async def test_clear_expired_sessions_deletes_them_all(
        self, bench: Bench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Batch after batch, until there is no more; it says how many rows that were."""
        self.need("keeps_expired")
        monkeypatch.setattr("websessions.sweeper.SWEEP_BATCH", 3)
        store = await bench.store()
        await store.perform(*[bench.insert(store, f"{n}", lasts=10) for n in range(7)])
        await bench.inserted(store, "live")
        assert await store.clear_expired_sessions() == 0
        bench.clock.advance(10)
        assert await store.length() == 1
        assert await store.clear_expired_sessions() == 7
        assert await store.clear_expired_sessions() == 0
        assert await store.length() == 1

    async def test_the_sweeper_starts_at_the_first_use(self, bench: Bench) -> None:
        """Nobody has to start it: it sweeps every `check_expiration_interval`."""
        store = await bench.store(check_expiration_interval=0.01)
        sweeps = store.watch(Sweep)
        await store.ask(Load(bench.key("a")))
        await sweeps.wait()
        await sweeps.wait()

    async def test_the_sweeper_can_be_stopped_and_started(self, bench: Bench) -> None:
        """Both may be called twice. Once stopped, using the store does not start it."""
        store = await bench.store(check_expiration_interval=0.01)
        await store.start_expiring_sessions()
        await store.start_expiring_sessions()
        await store.stop_expiring_sessions()
        await store.stop_expiring_sessions()
        await store.ask(Load(bench.key("a")))
        assert not store.store._sweeper.running
        sweeps = store.watch(Sweep)
        await store.start_expiring_sessions()
        await sweeps.wait()
        await store.stop_expiring_sessions()
        assert not store.store._sweeper.running

    async def test_the_sweeper_can_be_switched_off(self, bench: Bench) -> None:
        """With an interval of 0 or None there is none, not even if it is started."""
        nevers: list[timedelta | int | None] = [None, 0, timedelta(0)]
        for never in nevers:
            store = await bench.store(check_expiration_interval=never)
            await store.start_expiring_sessions()
            await store.ask(Load(bench.key("a")))
            assert not store.store._sweeper.running
            await store.stop_expiring_sessions()

    async def test_closing_stops_the_sweeper(self, bench: Bench) -> None:
        """A closed store has nothing running in the background; it may be closed again."""
        store = await bench.store(check_expiration_interval=0.01)
        await store.start_expiring_sessions()
        await store.close()
        assert not store.store._sweeper.running
        await store.close()
