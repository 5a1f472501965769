"""The calls of `store.py`, one by one and in lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest

from ...store import (
    Call,
    Clear,
    Count,
    Delete,
    Insert,
    Load,
    Put,
    Record,
    Replace,
    Scan,
    Touch,
)
from ..any_store import AnyStore
from ..bench import Bench, Capabilities

__all__ = ["CallRules"]


@dataclass(frozen=True, slots=True)
class _Unheard(Call[None]):
    """A call that no store knows."""


def _rewrite(
    bench: Bench, store: AnyStore, seen: Record, value: object, *, to: str | None = None
) -> Replace:
    """The call that writes another value over what was seen, for another 100 seconds."""
    data = bench.data(store.store.codec, value)
    new_key = None if to is None else bench.key(to)
    return Replace(seen, data, bench.after(100), {"value": value}, new_key)


def _move(
    bench: Bench, store: AnyStore, seen: Record, to: str, *, grace: timedelta | float | None = 5
) -> Replace:
    """The call that gives a record a new key, and the old one a grace of so many seconds."""
    until = None if grace is None else bench.after(grace)
    return Replace(seen, seen.data, bench.after(100), {}, bench.key(to), until)


def _put(
    bench: Bench, store: AnyStore, name: str, value: object, *, lasts: timedelta | float = 100
) -> Put:
    data = bench.data(store.store.codec, value)
    return Put(bench.key(name), data, bench.after(lasts), {"value": value})


async def _names(bench: Bench, store: AnyStore, limit: int) -> list[str]:
    """The one-letter names of all records, as pages of `limit` show them."""
    names = {bench.key(name): name for name in "abcdefgh"}
    found: list[str] = []
    after = None
    for _ in range(len(names) + 1):
        page = await store.ask(Scan(after, limit))
        assert len(page) <= limit
        if not page:
            return found
        found += [names[record.key] for record in page]
        after = page[-1].key
    raise AssertionError("Scan does not come to an end")


class CallRules(Capabilities):
    # Lists of calls

    async def test_an_empty_list_has_no_answers(self, bench: Bench) -> None:
        """No calls, no answers, no error."""
        store = await bench.store()
        assert list(await store.perform()) == []

    async def test_each_call_has_one_answer_in_order(self, bench: Bench) -> None:
        """Answers come in the order of the calls, whatever order the store works in."""
        store = await bench.store()
        inserts = [bench.insert(store, name, name) for name in "cab"]
        assert [record.key for record in await store.perform(*inserts)] == [
            bench.key(name) for name in "cab"
        ]
        loads = [Load(bench.key(name)) for name in "bxacb"]
        answers = await store.perform(*loads)
        assert [None if answer is None else bench.value(store, answer) for answer in answers] == [
            "b",
            None,
            "a",
            "c",
            "b",
        ]

    async def test_one_list_mixes_all_kinds(self, bench: Bench) -> None:
        """Calls of different kinds share a list; each does its own work and has its own answer."""
        store = await bench.store()
        a = await bench.inserted(store, "a", "old")
        for name in "bc":
            await bench.inserted(store, name, name)
        replaced, touched, deleted, inserted, taken, nothing, put = await store.perform(
            _rewrite(bench, store, a, "new"),
            Touch(bench.key("b"), bench.after(200)),
            Delete(bench.key("c")),
            bench.insert(store, "d", "d"),
            bench.insert(store, "b", "not b"),
            Load(bench.key("x")),
            _put(bench, store, "e", "e"),
        )
        assert bench.value(store, replaced) == "new"
        assert touched is True
        assert deleted is True
        assert bench.value(store, inserted) == "d"
        assert taken is None
        assert nothing is None
        assert put is None
        loads = await store.perform(*[Load(bench.key(name)) for name in "abcde"])
        assert [r and bench.value(store, r) for r in loads] == ["new", "b", None, "d", "e"]
        assert loads[1].expires == bench.after(200)

    async def test_a_call_that_fails_harms_no_neighbour(self, bench: Bench) -> None:
        """A failed call is answered with its exception; those before and behind it are done."""
        store = await bench.store()
        await bench.inserted(store, "a", "a")
        answers = await store.perform(
            bench.insert(store, "b", "b"),
            _Unheard(),
            Load(bench.key("a")),
            bench.insert(store, "a", "taken"),
            _Unheard(),
            bench.insert(store, "c", "c"),
        )
        assert [isinstance(answer, Exception) for answer in answers] == [
            False,
            True,
            False,
            False,
            True,
            False,
        ]
        assert bench.value(store, answers[2]) == "a"
        assert answers[3] is None
        assert set(await _names(bench, store, 10)) == {"a", "b", "c"}

    async def test_a_long_list(self, bench: Bench) -> None:
        """As many calls as a busy server may collect."""
        store = await bench.store()
        names = [f"long-{n}" for n in range(150)]
        inserted = await store.perform(*[bench.insert(store, name, name) for name in names])
        loaded = await store.perform(*[Load(bench.key(name)) for name in names])
        assert loaded == inserted
        assert [bench.value(store, record) for record in loaded] == names
        deleted = await store.perform(*[Delete(bench.key(name)) for name in names])
        assert deleted == [True] * 150
        assert await store.ask(Count()) == 0

    async def test_lists_of_one_kind(self, bench: Bench) -> None:
        """Calls of one kind, which a store may perform in one go, have their own answers."""
        store = await bench.store()
        fresh, changed, ended, moved = [
            await bench.inserted(store, name, name) for name in ("fresh", "changed", "ended", "m")
        ]
        expired = await bench.inserted(store, "expired", "expired", lasts=10)
        bench.clock.advance(10)
        await store.ask(_rewrite(bench, store, changed, "theirs"))
        assert await store.perform(Delete(ended.key), Delete(bench.key("x"))) == [True, False]
        inserts = await store.perform(
            *[bench.insert(store, name, name) for name in ("fresh", "new", "ended", "changed")]
        )
        assert [record is None for record in inserts] == [True, False, False, True]
        assert await store.perform(Delete(ended.key), Delete(bench.key("new"))) == [True, True]
        replaces = await store.perform(
            *[
                _rewrite(bench, store, seen, f"mine {n}")
                for n, seen in enumerate([changed, fresh, ended, expired])
            ]
        )
        assert [record is None for record in replaces] == [True, False, True, True]
        moves = await store.perform(
            _rewrite(bench, store, moved, "moved", to="to"),
            _rewrite(bench, store, changed, "not moved", to="nowhere"),
        )
        assert [record is None for record in moves] == [False, True]
        touches = await store.perform(
            Touch(expired.key, bench.after(500)),
            Touch(fresh.key, bench.after(500)),
            Touch(ended.key, bench.after(500)),
            Touch(changed.key, bench.after(150), timedelta(seconds=60)),
            Touch(bench.key("to"), bench.after(150), timedelta(seconds=50)),
        )
        assert touches == [False, True, False, False, True]
        loads = await store.perform(
            *[Load(r.key) for r in (expired, fresh, ended, changed, moved, fresh)],
            Load(bench.key("to")),
        )
        assert [r and bench.value(store, r) for r in loads] == [
            *(None, "mine 1", None, "theirs", None, "mine 1"),
            "moved",
        ]
        assert [r and r.expires for r in loads] == [
            *(None, bench.after(500), None, bench.after(100), None, bench.after(500)),
            bench.after(150),
        ]

    async def test_one_record_twice_in_a_list(self, bench: Bench) -> None:
        """Calls about one record do not fool each other: what was answered is what happened."""
        store = await bench.store()
        inserts = await store.perform(*[bench.insert(store, "a", n) for n in range(3)])
        [seen] = [record for record in inserts if record is not None]
        assert await bench.loaded(store, "a") == seen
        replaces = await store.perform(*[_rewrite(bench, store, seen, f"{n}") for n in range(3)])
        [written] = [record for record in replaces if record is not None]
        assert await bench.loaded(store, "a") == written
        minute = timedelta(minutes=1)
        touches = await store.perform(
            *[Touch(bench.key("a"), bench.after(200), minute) for _ in range(3)]
        )
        assert sorted(touches) == [False, False, True]
        assert await store.perform(*[Touch(bench.key("a"), bench.after(n)) for n in (300, 400)])
        assert (await bench.loaded(store, "a")).expires == bench.after(400)
        deletes = await store.perform(*[Delete(bench.key("a")) for _ in range(3)])
        assert sorted(deletes) == [False, False, True]

    # Insert and Load

    async def test_an_insert_is_read_back(self, bench: Bench) -> None:
        """`Insert` answers the record that `Load` then finds, its data unchanged to the byte."""
        store = await bench.store()
        call = bench.insert(store, "a", "Ünïcödé 🛒")
        record = await store.ask(call)
        assert record is not None
        assert (record.key, record.data, record.expires) == (call.key, call.data, call.expires)
        assert await store.ask(Load(call.key)) == record

    async def test_a_record_has_a_version_or_has_none(self, bench: Bench) -> None:
        """A store with versions gives each record one; another says None, always."""
        store = await bench.store()
        record = await bench.inserted(store, "a")
        assert isinstance(record.version, int) is self.versions
        assert (record.version is None) is not self.versions

    async def test_moments_are_aware_and_utc(self, bench: Bench) -> None:
        """`expires` comes back as the aware UTC moment that it was."""
        store = await bench.store()
        await bench.inserted(store, "a", lasts=100)
        expires = (await bench.loaded(store, "a")).expires
        assert expires == bench.after(100)
        assert expires.utcoffset() == timedelta(0)

    async def test_a_moment_is_kept_to_the_tick(self, bench: Bench) -> None:
        """The smallest difference that `resolution` promises is kept."""
        store = await bench.store()
        await bench.inserted(store, "a", lasts=timedelta(seconds=100) + self.resolution)
        assert (await bench.loaded(store, "a")).expires == bench.after(100) + self.resolution

    async def test_a_session_may_last_for_ever(self, bench: Bench) -> None:
        """The last second of the year 9999 is an expiry like any other."""
        store = await bench.store()
        end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        await store.ask(replace(bench.insert(store, "a"), expires=end))
        assert (await bench.loaded(store, "a")).expires == end
        assert await store.ask(Touch(bench.key("a"), end, timedelta(minutes=1))) is False

    async def test_nothing_is_found_where_nothing_is(self, bench: Bench) -> None:
        """`Load` answers None for a key that was never there."""
        store = await bench.store()
        await bench.inserted(store, "a")
        assert await store.ask(Load(bench.key("b"))) is None

    async def test_an_insert_on_a_taken_key_writes_nothing(self, bench: Bench) -> None:
        """`Insert` answers None if the key is taken, and leaves the record as it is."""
        store = await bench.store()
        record = await bench.inserted(store, "a", "first")
        assert await store.ask(bench.insert(store, "a", "second", lasts=200)) is None
        assert await bench.loaded(store, "a") == record

    async def test_an_expired_record_is_no_room_for_an_insert(self, bench: Bench) -> None:
        """A key is taken until its record is swept; only `Put` writes over an expired one."""
        self.need("keeps_expired")
        store = await bench.store()
        await bench.inserted(store, "a", "first", lasts=10)
        bench.clock.advance(10)
        assert await store.ask(bench.insert(store, "a", "second")) is None
        assert not await bench.is_there(store, "a")

    # Replace

    async def test_a_replace_writes_data_and_expiry(self, bench: Bench) -> None:
        """`Replace` answers the record that `Load` then finds."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old", lasts=50)
        written = await store.ask(_rewrite(bench, store, seen, "new"))
        assert written is not None
        assert bench.value(store, written) == "new"
        assert written.expires == bench.after(100)
        assert await bench.loaded(store, "a") == written
        if self.versions:
            assert seen.version is not None
            assert written.version is not None
            assert written.version > seen.version

    async def test_a_replace_may_shorten(self, bench: Bench) -> None:
        """Unlike a touch, a write sets the expiry to what it says."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", lasts=1000)
        written = await store.ask(_rewrite(bench, store, seen, "new"))
        assert written is not None
        assert (await bench.loaded(store, "a")).expires == bench.after(100)

    async def test_replaces_follow_one_another(self, bench: Bench) -> None:
        """What a `Replace` answers is what the next one has seen."""
        store = await bench.store()
        seen: Record | None = await bench.inserted(store, "a", 0)
        for value in range(1, 5):
            assert seen is not None
            seen = await store.ask(_rewrite(bench, store, seen, value))
        assert await bench.loaded(store, "a") == seen

    async def test_what_was_loaded_can_be_replaced(self, bench: Bench) -> None:
        """Likewise what a `Load` or a `Scan` answered."""
        store = await bench.store()
        await bench.inserted(store, "a", 0)
        seen = await bench.loaded(store, "a")
        assert await store.ask(_rewrite(bench, store, seen, 1)) is not None
        [seen] = await store.ask(Scan(None, 10))
        assert await store.ask(_rewrite(bench, store, seen, 2)) is not None

    async def test_a_replace_of_what_has_changed_writes_nothing(self, bench: Bench) -> None:
        """Someone else wrote since: None, and theirs stays. No change is too small to count."""
        store = await bench.store()
        changes = [("old", "new"), ("cart", "CART"), ("resume", "résumé"), ("a", "a "), (0, 1)]
        for n, (old, new) in enumerate(changes):
            name = f"change {n}"
            seen = await bench.inserted(store, name, old)
            theirs = await store.ask(_rewrite(bench, store, seen, new))
            assert theirs is not None
            assert await store.ask(_rewrite(bench, store, seen, "mine")) is None
            assert await bench.loaded(store, name) == theirs

    async def test_a_change_that_was_undone_is_a_change(self, bench: Bench) -> None:
        """With versions, data that is as it was seen, but has been written since, is guarded."""
        self.need("versions")
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        between = await store.ask(_rewrite(bench, store, seen, "new"))
        assert between is not None
        theirs = await store.ask(_rewrite(bench, store, between, "old"))
        assert await store.ask(_rewrite(bench, store, seen, "mine")) is None
        assert await bench.loaded(store, "a") == theirs

    async def test_a_put_is_a_change(self, bench: Bench) -> None:
        """A `Replace` of what was seen before a `Put` writes nothing."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        await store.ask(_put(bench, store, "a", "put"))
        assert await store.ask(_rewrite(bench, store, seen, "mine")) is None
        after = await bench.loaded(store, "a")
        assert bench.value(store, after) == "put"
        assert await store.ask(_rewrite(bench, store, after, "mine")) is not None

    async def test_a_touch_is_no_change(self, bench: Bench) -> None:
        """A `Touch` since the record was seen does not stand in the way of a `Replace`."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        assert await store.ask(Touch(bench.key("a"), bench.after(150)))
        assert await store.ask(_rewrite(bench, store, seen, "new")) is not None
        assert bench.value(store, await bench.loaded(store, "a")) == "new"

    async def test_a_replace_does_not_revive_what_was_deleted(self, bench: Bench) -> None:
        """A slow request that ends after the logout writes nothing."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        await store.ask(Delete(bench.key("a")))
        assert await store.ask(_rewrite(bench, store, seen, "new")) is None
        assert not await bench.is_there(store, "a")
        assert await store.ask(Count()) == 0

    async def test_a_replace_does_not_revive_what_has_expired(self, bench: Bench) -> None:
        """From the very moment of expiry a `Replace` finds nothing, swept or not."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old", lasts=10)
        bench.clock.advance(10)
        assert await store.ask(_rewrite(bench, store, seen, "new")) is None
        assert not await bench.is_there(store, "a")

    async def test_a_replace_comes_in_time_to_the_last(self, bench: Bench) -> None:
        """One tick before the expiry the record can still be written."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old", lasts=10)
        bench.clock.advance(timedelta(seconds=10) - self.resolution)
        assert await store.ask(_rewrite(bench, store, seen, "new")) is not None

    # Replace with a new key

    async def test_a_replace_can_move_a_record(self, bench: Bench) -> None:
        """With `new_key` the record is there afterwards, and nothing is under the old key."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        moved = await store.ask(_rewrite(bench, store, seen, "new", to="b"))
        assert moved is not None
        assert moved.key == bench.key("b")
        assert bench.value(store, moved) == "new"
        assert await bench.loaded(store, "b") == moved
        assert not await bench.is_there(store, "a")
        assert await store.ask(Count()) == 1
        assert await store.ask(_rewrite(bench, store, moved, "newer")) is not None

    async def test_a_moved_record_can_not_be_written_under_its_old_key(self, bench: Bench) -> None:
        """Who has seen it under the old key is too late: the old sid has no authority left."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        await store.ask(_rewrite(bench, store, seen, "new", to="b"))
        assert await store.ask(_rewrite(bench, store, seen, "mine")) is None
        assert await store.ask(Touch(bench.key("a"), bench.after(500))) is False
        assert await store.ask(Delete(bench.key("a"))) is False
        assert bench.value(store, await bench.loaded(store, "b")) == "new"

    async def test_in_its_grace_a_previous_key_finds_the_record(self, bench: Bench) -> None:
        """As it is now, under its new key, whatever has been written to it since."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        moved = await store.ask(_move(bench, store, seen, "b"))
        assert moved is not None
        assert moved.grace_until is None
        assert await bench.loaded(store, "a") == replace(moved, grace_until=bench.after(5))
        written = await store.ask(_rewrite(bench, store, moved, "new"))
        assert written is not None
        assert await bench.loaded(store, "a") == replace(written, grace_until=bench.after(5))
        assert await bench.loaded(store, "b") == written
        both = await store.perform(*[Load(bench.key(name)) for name in "abxa"])
        assert [record and record.grace_until for record in both] == [
            *(bench.after(5), None),
            *(None, bench.after(5)),
        ]
        assert await store.ask(Count()) == 1

    async def test_what_it_found_can_be_written_and_touched(self, bench: Bench) -> None:
        """Under the new key; the answer is what is left of the grace."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        await store.ask(_move(bench, store, seen, "b"))
        written = await store.ask(_rewrite(bench, store, await bench.loaded(store, "a"), "mine"))
        assert written is not None
        assert (written.key, written.grace_until) == (bench.key("b"), bench.after(5))
        assert written == await bench.loaded(store, "a")
        assert (await bench.loaded(store, "b")).grace_until is None
        assert await store.ask(Touch(written.key, bench.after(500), timedelta(0), written)) is True
        assert (await bench.loaded(store, "b")).expires == bench.after(500)

    async def test_a_grace_ends(self, bench: Bench) -> None:
        """To the moment; the record goes on under its new key."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a")
        await store.ask(_move(bench, store, seen, "b", grace=10))
        bench.clock.advance(timedelta(seconds=10) - self.resolution)
        assert await bench.is_there(store, "a")
        bench.clock.advance(self.resolution)
        assert not await bench.is_there(store, "a")
        assert await store.ask(Delete(bench.key("a"))) is False
        assert await bench.is_there(store, "b")

    async def test_a_grace_ends_with_the_record(self, bench: Bench) -> None:
        """Expired or deleted is so by either key."""
        self.need("graces")
        store = await bench.store()
        for name, end in (("expired", None), ("deleted", Delete(bench.key("deleted to")))):
            seen = await bench.inserted(store, name)
            moved = await store.ask(_move(bench, store, seen, f"{name} to", grace=200))
            assert moved is not None
            if end is not None:
                await store.ask(end)
            else:
                bench.clock.advance(100)
            assert not await bench.is_there(store, name)

    async def test_a_previous_key_deletes_the_record(self, bench: Bench) -> None:
        """A logout by the old id is one, alone and in a list."""
        self.need("graces")
        store = await bench.store()
        for name in "ab":
            seen = await bench.inserted(store, name)
            await store.ask(_move(bench, store, seen, f"{name} to"))
        assert await store.ask(Delete(bench.key("a"))) is True
        assert await store.ask(Delete(bench.key("a"))) is False
        assert await store.perform(Delete(bench.key("b")), Delete(bench.key("x"))) == [True, False]
        assert await store.ask(Count()) == 0

    async def test_a_record_has_one_previous_key(self, bench: Bench) -> None:
        """The next move ends the grace of the key before, and one without a grace leaves none."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a")
        for to, grace, alive in (("b", 5, "ab"), ("c", 5, "bc"), ("d", None, "d")):
            moved = await store.ask(_move(bench, store, seen, to, grace=grace))
            assert moved is not None
            assert [name for name in "abcd" if await bench.is_there(store, name)] == [*alive]
            seen = moved

    async def test_a_previous_key_writes_nothing(self, bench: Bench) -> None:
        """Who has read the record before it was moved has to read it again."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a", "old")
        await store.ask(_move(bench, store, seen, "b"))
        assert await store.ask(_rewrite(bench, store, seen, "mine")) is None
        assert await store.ask(_move(bench, store, seen, "c")) is None
        assert await store.ask(Touch(bench.key("a"), bench.after(500))) is False
        assert bench.value(store, await bench.loaded(store, "b")) == "old"

    async def test_a_put_ends_the_grace(self, bench: Bench) -> None:
        """What is there from then on may be somebody else's."""
        self.need("graces")
        store = await bench.store()
        seen = await bench.inserted(store, "a")
        await store.ask(_move(bench, store, seen, "b"))
        await store.ask(Put(bench.key("b"), seen.data, seen.expires, {}))
        assert await bench.is_there(store, "b")
        assert not await bench.is_there(store, "a")

    async def test_without_graces_an_old_key_is_dead_at_once(self, bench: Bench) -> None:
        """A store that can not do it says so by doing nothing of it."""
        if self.graces:
            pytest.skip("graces is True")
        store = await bench.store()
        seen = await bench.inserted(store, "a")
        moved = await store.ask(_move(bench, store, seen, "b"))
        assert moved is not None
        assert await bench.loaded(store, "b") == moved
        assert not await bench.is_there(store, "a")
        assert await store.ask(Delete(bench.key("a"))) is False

    async def test_a_move_is_guarded_like_any_write(self, bench: Bench) -> None:
        """A move of what has changed, ended or expired does nothing at either key."""
        store = await bench.store()
        changed = await bench.inserted(store, "a", "old")
        theirs = await store.ask(_rewrite(bench, store, changed, "theirs"))
        ended = await bench.inserted(store, "b")
        await store.ask(Delete(ended.key))
        expired = await bench.inserted(store, "c", lasts=10)
        bench.clock.advance(10)
        for seen in (changed, ended, expired):
            assert await store.ask(_rewrite(bench, store, seen, "mine", to="d")) is None
        assert not await bench.is_there(store, "d")
        assert await bench.loaded(store, "a") == theirs

    async def test_a_move_to_a_taken_key_writes_nothing(self, bench: Bench) -> None:
        """None, and both records are as they were."""
        store = await bench.store()
        a = await bench.inserted(store, "a", "a")
        b = await bench.inserted(store, "b", "b")
        assert await store.ask(_rewrite(bench, store, a, "mine", to="b")) is None
        assert await bench.loaded(store, "a") == a
        assert await bench.loaded(store, "b") == b

    # Put

    async def test_a_touch_of_what_was_seen_leaves_alone_what_was_written_since(
        self, bench: Bench
    ) -> None:
        """Who wrote has set the expiry, too: a slow reader must not push it on after them."""
        store = await bench.store()
        seen = await bench.inserted(store, "a", "first")
        later = seen.expires + timedelta(hours=1)
        written = await store.ask(_rewrite(bench, store, seen, "other"))
        assert written is not None
        assert await store.ask(Touch(seen.key, later, timedelta(0), seen)) is False
        assert await store.ask(Touch(seen.key, later, timedelta(0), written)) is True

    async def test_a_put_inserts_or_overwrites(self, bench: Bench) -> None:
        """`Put` writes data and expiry, whatever is there or is not."""
        store = await bench.store()
        for value, lasts in (("first", 100), ("longer", 200), ("shorter", 50)):
            assert await store.perform(_put(bench, store, "a", value, lasts=lasts)) == [None]
            record = await bench.loaded(store, "a")
            assert bench.value(store, record) == value
            assert record.expires == bench.after(lasts)
        assert await store.ask(Count()) == 1

    async def test_a_put_overwrites_what_has_expired(self, bench: Bench) -> None:
        """`Put` is the one call that makes an expired key live again."""
        store = await bench.store()
        await bench.inserted(store, "a", "old", lasts=10)
        bench.clock.advance(20)
        await store.ask(_put(bench, store, "a", "new"))
        assert bench.value(store, await bench.loaded(store, "a")) == "new"

    async def test_what_was_put_can_be_replaced(self, bench: Bench) -> None:
        """A record that came by `Put` is one like any other."""
        store = await bench.store()
        await store.ask(_put(bench, store, "a", "put"))
        seen = await bench.loaded(store, "a")
        assert isinstance(seen.version, int) is self.versions
        assert await store.ask(_rewrite(bench, store, seen, "new")) is not None

    # Touch

    async def test_a_touch_pushes_the_expiry_on(self, bench: Bench) -> None:
        """`Touch` answers True, moves `expires` and leaves everything else as it is."""
        store = await bench.store()
        record = await bench.inserted(store, "a", "a", lasts=100)
        await bench.inserted(store, "b", lasts=100)
        assert await store.ask(Touch(record.key, bench.after(200))) is True
        assert await bench.loaded(store, "a") == replace(record, expires=bench.after(200))
        assert (await bench.loaded(store, "b")).expires == bench.after(100)
        bench.clock.advance(150)
        assert await bench.is_there(store, "a")
        assert not await bench.is_there(store, "b")

    async def test_a_touch_never_shortens(self, bench: Bench) -> None:
        """An earlier expiry, or the same, moves nothing: False."""
        store = await bench.store()
        record = await bench.inserted(store, "a", lasts=100)
        for moment in (bench.after(50), bench.after(100) - self.resolution, bench.after(100)):
            assert await store.ask(Touch(record.key, moment)) is False
        assert await bench.loaded(store, "a") == record

    async def test_a_touch_may_be_as_small_as_can_be(self, bench: Bench) -> None:
        """Without slack a single tick is worth moving by."""
        store = await bench.store()
        record = await bench.inserted(store, "a", lasts=100)
        assert await store.ask(Touch(record.key, record.expires + self.resolution)) is True
        assert (await bench.loaded(store, "a")).expires == record.expires + self.resolution

    async def test_a_touch_never_revives(self, bench: Bench) -> None:
        """From the moment of expiry a `Touch` finds nothing: False, and it stays gone."""
        store = await bench.store()
        await bench.inserted(store, "a", lasts=10)
        await bench.inserted(store, "b", lasts=10 - self.resolution.total_seconds())
        bench.clock.advance(10)
        for name in "abx":
            assert await store.ask(Touch(bench.key(name), bench.after(100))) is False
            assert not await bench.is_there(store, name)
        assert await store.ask(Count()) == 0

    async def test_a_touch_comes_in_time_to_the_last(self, bench: Bench) -> None:
        """One tick before its expiry a record can still be touched."""
        store = await bench.store()
        await bench.inserted(store, "a", lasts=10)
        bench.clock.advance(timedelta(seconds=10) - self.resolution)
        assert await store.ask(Touch(bench.key("a"), bench.after(100))) is True

    async def test_a_touch_has_to_move_by_its_slack(self, bench: Bench) -> None:
        """Less than `slack` is not worth a write, exactly `slack` is."""
        store = await bench.store()
        record = await bench.inserted(store, "a", lasts=100)
        minute = timedelta(minutes=1)
        almost = record.expires + minute - self.resolution
        assert await store.ask(Touch(record.key, almost, minute)) is False
        assert (await bench.loaded(store, "a")).expires == record.expires
        assert await store.ask(Touch(record.key, record.expires + minute, minute)) is True
        assert (await bench.loaded(store, "a")).expires == record.expires + minute

    # Delete

    async def test_a_delete_ends_one_session(self, bench: Bench) -> None:
        """`Delete` answers whether there was something; the others stay."""
        store = await bench.store()
        await bench.inserted(store, "a")
        await bench.inserted(store, "b")
        assert await store.ask(Delete(bench.key("a"))) is True
        assert not await bench.is_there(store, "a")
        assert await bench.is_there(store, "b")
        assert await store.ask(Delete(bench.key("a"))) is False

    async def test_a_deleted_key_is_free(self, bench: Bench) -> None:
        """After a `Delete`, of a live record or an expired one, the key can be inserted again."""
        store = await bench.store()
        await bench.inserted(store, "a", "live")
        await bench.inserted(store, "b", "expired", lasts=10)
        bench.clock.advance(10)
        for name in "ab":
            await store.ask(Delete(bench.key(name)))
            assert await store.ask(bench.insert(store, name, "again")) is not None
            assert bench.value(store, await bench.loaded(store, name)) == "again"

    # Expiry

    async def test_a_record_is_there_until_it_expires(self, bench: Bench) -> None:
        """One tick before `expires` it is there; at `expires` it is not, swept or not."""
        store = await bench.store()
        await bench.inserted(store, "a", lasts=10)
        bench.clock.advance(timedelta(seconds=10) - self.resolution)
        assert await bench.is_there(store, "a")
        assert len(await store.ask(Scan(None, 10))) == await store.ask(Count()) == 1
        bench.clock.advance(self.resolution)
        assert not await bench.is_there(store, "a")
        assert len(await store.ask(Scan(None, 10))) == await store.ask(Count()) == 0

    # Scan, Count and Clear

    async def test_a_scan_is_in_order_of_key(self, bench: Bench) -> None:
        """Page by page, each record once, in the order of its key; then an empty page."""
        store = await bench.store()
        await store.perform(*[bench.insert(store, name, name) for name in "hfdbaceg"])
        expected = sorted("abcdefgh", key=bench.key)
        for limit in (1, 3, 8, 100):
            assert await _names(bench, store, limit) == expected

    async def test_a_scan_goes_on_behind_a_key_that_is_gone(self, bench: Bench) -> None:
        """`after` need not be there any more: it was deleted between two pages."""
        store = await bench.store()
        await store.perform(*[bench.insert(store, name) for name in "abcd"])
        keys = sorted(bench.key(name) for name in "abcd")
        await store.ask(Delete(keys[1]))
        assert [record.key for record in await store.ask(Scan(keys[1], 10))] == keys[2:]
        assert await store.ask(Scan(keys[3], 10)) == []

    async def test_a_scan_fills_its_pages(self, bench: Bench) -> None:
        """Expired records are not among the `limit`: a short page is the last one."""
        store = await bench.store()
        names = sorted("abcdefgh", key=bench.key)
        for index, name in enumerate(names):
            await bench.inserted(store, name, lasts=10 if index % 2 else 100)
        bench.clock.advance(10)
        page = await store.ask(Scan(None, 3))
        assert [record.key for record in page] == [bench.key(name) for name in names[0:6:2]]
        assert await _names(bench, store, 3) == names[::2]

    async def test_a_scan_answers_whole_records(self, bench: Bench) -> None:
        """What `Scan` answers is what `Load` does."""
        store = await bench.store()
        for name in "ab":
            await bench.inserted(store, name, name)
        page = await store.ask(Scan(None, 10))
        assert page == [await store.ask(Load(record.key)) for record in page]
        assert {record.key for record in page} == {bench.key("a"), bench.key("b")}

    async def test_a_count_is_of_live_records(self, bench: Bench) -> None:
        """What expires is not counted, nor what was deleted."""
        store = await bench.store()
        assert await store.ask(Count()) == 0
        for name, lasts in (("a", 10), ("b", 20), ("c", 30)):
            await bench.inserted(store, name, lasts=lasts)
        assert await store.ask(Count()) == 3
        await store.ask(Delete(bench.key("c")))
        assert await store.ask(Count()) == 2
        bench.clock.advance(10)
        assert await store.ask(Count()) == 1

    async def test_a_clear_deletes_everything(self, bench: Bench) -> None:
        """Live or not; it answers how many records that were."""
        store = await bench.store()
        for name, lasts in (("a", 10), ("b", 100), ("c", 100)):
            await bench.inserted(store, name, lasts=lasts)
        bench.clock.advance(10)
        assert await store.ask(Clear()) == (3 if self.keeps_expired else 2)
        assert await store.ask(Count()) == 0
        assert await store.ask(Clear()) == 0
        for name in "abc":
            assert isinstance(await store.ask(bench.insert(store, name)), Record)

    async def test_an_insert_is_the_only_birth(self, bench: Bench) -> None:
        """No call but `Insert` and `Put` brings a record into being."""
        store = await bench.store()
        call = bench.insert(store, "a")
        assert isinstance(call, Insert)
        ghost = Record(call.key, call.data, call.expires, 1 if self.versions else None)
        await store.perform(
            Load(ghost.key),
            _rewrite(bench, store, ghost, "new"),
            Touch(ghost.key, bench.after(100)),
        )
        assert await store.ask(_rewrite(bench, store, ghost, "new", to="b")) is None
        assert await store.ask(Count()) == 0
        assert await store.ask(Delete(ghost.key)) is False
