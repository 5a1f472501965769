"""Several threads, or tasks, at one store at once. One call decides, and nothing is lost."""

from __future__ import annotations

from datetime import timedelta

from ...store import Count, Delete, Load, Put, Record, Replace, Sweep, Touch
from ..any_store import AnyStore
from ..bench import Bench, Capabilities

__all__ = ["RaceRules"]

RIVALS = 8


async def _sweep_all(store: AnyStore) -> int:
    deleted = 0
    while True:
        swept = await store.ask(Sweep(5))
        deleted += swept.deleted
        if not swept.more:
            return deleted


class RaceRules(Capabilities):
    async def test_one_of_many_inserts_wins(self, bench: Bench) -> None:
        """Of inserts of one key one succeeds, and its data is what is there."""
        self.need("concurrent")
        store = await bench.store()
        for round_ in range(5):
            name = f"round {round_}"
            answers = await store.at_once(
                [store.ask(bench.insert(store, name, rival)) for rival in range(RIVALS)]
            )
            [winner] = [record for record in answers if record is not None]
            assert await bench.loaded(store, name) == winner

    async def test_one_of_many_replaces_wins(self, bench: Bench) -> None:
        """Of writes over one version one succeeds; the others learn that they did not."""
        self.need("concurrent")
        store = await bench.store()
        seen = await bench.inserted(store, "a", "start")
        for round_ in range(5):
            calls = [
                Replace(seen, bench.data(store.store.codec, [round_, rival]), seen.expires, {})
                for rival in range(RIVALS)
            ]
            answers = await store.at_once([store.ask(call) for call in calls])
            [seen] = [record for record in answers if record is not None]
            assert await bench.loaded(store, "a") == seen

    async def test_one_of_many_moves_wins(self, bench: Bench) -> None:
        """A record that several want to move, each elsewhere, is in one place afterwards."""
        self.need("concurrent")
        store = await bench.store()
        seen = await bench.inserted(store, "a")
        answers = await store.at_once(
            [
                store.ask(Replace(seen, seen.data, seen.expires, {}, bench.key(f"to {rival}")))
                for rival in range(RIVALS)
            ]
        )
        [moved] = [record for record in answers if record is not None]
        assert await store.ask(Load(moved.key)) == moved
        assert await store.ask(Count()) == 1

    async def test_no_update_is_lost(self, bench: Bench) -> None:
        """Who loses reads again and writes again; in the end everybody's change is there."""
        self.need("concurrent")
        store = await bench.store()
        await bench.inserted(store, "a", [])

        async def add(rival: int) -> None:
            for step in range(3):
                written: Record | None = None
                while written is None:
                    seen = await bench.loaded(store, "a")
                    value = bench.value(store, seen)
                    assert isinstance(value, list)
                    data = bench.data(store.store.codec, [*value, [rival, step]])
                    written = await store.ask(Replace(seen, data, seen.expires, {}))

        await store.at_once([add(rival) for rival in range(4)])
        value = bench.value(store, await bench.loaded(store, "a"))
        assert isinstance(value, list)
        assert sorted(value) == [[rival, step] for rival in range(4) for step in range(3)]

    async def test_no_direct_update_is_lost(self, bench: Bench) -> None:
        """Many that count in one session count right, whoever is faster."""
        self.need("concurrent")
        store = await bench.store()
        sid = "sid-for-the-races-of-the-suite-0"
        await store.set(sid, {"n": 0})

        async def count(rival: int) -> None:
            for _ in range(3):
                await store.update(sid, lambda session: session.update(n=session["n"] + 1))

        await store.at_once([count(rival) for rival in range(RIVALS)])
        assert await store.get(sid) == {"n": 3 * RIVALS}

    async def test_nothing_survives_a_delete(self, bench: Bench) -> None:
        """Writes and touches that run beside a logout end with the session gone."""
        self.need("concurrent")
        store = await bench.store()
        for round_ in range(5):
            seen = await bench.inserted(store, f"round {round_}")
            data = bench.data(store.store.codec, "new")
            deleted, *_ = await store.at_once(
                [
                    store.perform(Delete(seen.key)),
                    store.perform(Replace(seen, data, bench.after(100), {})),
                    store.perform(Touch(seen.key, bench.after(200))),
                    store.perform(Touch(seen.key, bench.after(300))),
                ]
            )
            assert deleted == [True]
            assert not await bench.is_there(store, f"round {round_}")

    async def test_one_of_many_touches_moves(self, bench: Bench) -> None:
        """A thousand requests at once are one write; the later expiry stays."""
        self.need("concurrent")
        store = await bench.store()
        record = await bench.inserted(store, "a", lasts=100)
        moves = await store.at_once(
            [
                store.ask(Touch(record.key, bench.after(200), timedelta(minutes=1)))
                for _ in range(RIVALS)
            ]
        )
        assert moves.count(True) == 1
        assert (await bench.loaded(store, "a")).expires == bench.after(200)

    async def test_many_puts_leave_one_of_them(self, bench: Bench) -> None:
        """None fails, and the record is one of those that were put, whole."""
        self.need("concurrent")
        store = await bench.store()
        for round_ in range(3):
            key = bench.key(f"round {round_}")
            calls = [
                Put(key, bench.data(store.store.codec, rival), bench.after(100 + rival), {})
                for rival in range(RIVALS)
            ]
            await store.at_once([store.ask(call) for call in calls])
            record = await bench.loaded(store, f"round {round_}")
            assert (record.data, record.expires) in [(call.data, call.expires) for call in calls]

    async def test_many_sweepers_delete_each_record_once(self, bench: Bench) -> None:
        """Several processes sweep one table: what each says it deleted adds up."""
        self.need("concurrent", "keeps_expired")
        store = await bench.store()
        await store.perform(*[bench.insert(store, f"{n}", lasts=10) for n in range(40)])
        await bench.inserted(store, "live", lasts=100)
        bench.clock.advance(10)
        deleted = await store.at_once([_sweep_all(store) for _ in range(4)])
        assert sum(deleted) == 40
        assert await store.ask(Count()) == 1

    async def test_different_sessions_do_not_meet(self, bench: Bench) -> None:
        """Work on different records, at once and in lists, all succeeds."""
        self.need("concurrent")
        store = await bench.store()

        async def work(rival: int) -> None:
            calls = [bench.insert(store, f"{rival} {n}", [rival, n]) for n in range(10)]
            records = await store.perform(*calls)
            assert all(isinstance(record, Record) for record in records)
            replaced = await store.perform(
                *[Replace(record, record.data, bench.after(200), {}) for record in records]
            )
            assert [record.key for record in replaced] == [call.key for call in calls]
            deleted = await store.perform(*[Delete(call.key) for call in calls[::2]])
            assert deleted == [True] * 5

        await store.at_once([work(rival) for rival in range(RIVALS)])
        assert await store.ask(Count()) == RIVALS * 5

    async def test_a_list_and_its_reverse(self, bench: Bench) -> None:
        """Lists that write the same records in opposite order do not end in a deadlock."""
        self.need("concurrent")
        store = await bench.store()
        records = await store.perform(*[bench.insert(store, f"{n}") for n in range(10)])
        keys = [record.key for record in records]
        answers = await store.at_once(
            [
                store.perform(
                    *[
                        Touch(key, bench.after(200 + rival))
                        for key in (keys if rival % 2 else keys[::-1])
                    ]
                )
                for rival in range(RIVALS)
            ]
        )
        assert not [answer for list_ in answers for answer in list_ if answer not in (True, False)]
        loads = await store.perform(*[Load(key) for key in keys])
        assert {record.expires for record in loads} == {bench.after(200 + RIVALS - 1)}

    async def test_readers_see_whole_records(self, bench: Bench) -> None:
        """Who reads while others write sees data and version that belong together."""
        self.need("concurrent")
        store = await bench.store()
        first = await bench.inserted(store, "a", 0)
        written = {(first.version, first.data)}
        read: set[tuple[int | None, bytes]] = set()

        async def write() -> None:
            seen = first
            for value in range(1, 20):
                data = bench.data(store.store.codec, value)
                answer = await store.ask(Replace(seen, data, seen.expires, {}))
                assert answer is not None
                seen = answer
                written.add((seen.version, seen.data))

        async def watch() -> None:
            for _ in range(20):
                record = await bench.loaded(store, "a")
                read.add((record.version, record.data))

        await store.at_once([write(), watch(), watch(), watch()])
        assert read <= written

    async def test_who_loses_an_insert_reads_the_winner(self, bench: Bench) -> None:
        """All that opened a session under one key then see the same one."""
        self.need("concurrent")
        store = await bench.store()

        async def open_session(rival: int) -> object:
            call = bench.insert(store, "a", rival)
            record = await store.ask(call) or await store.ask(Load(call.key))
            assert record is not None
            return bench.value(store, record)

        assert len(set(await store.at_once([open_session(rival) for rival in range(RIVALS)]))) == 1
