"""Stores with one bug each, and the tests that have to find it: see `test_suite_bites.py`.

Not collected by itself: all but the first two classes fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import pytest

from websessions import AsyncMemoryStore, MemoryStore
from websessions.sid import Key
from websessions.store import (
    Call,
    Clear,
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
    Swept,
    Touch,
    Unlock,
)
from websessions.testing import AsyncStoreSuite, StoreSuite
from websessions.testing.bench import MakeStore


class _Planted(StoreSuite):
    """A memory store that answers some calls in a way of its own.

    Attributes:
        found_by: tests that have to fail, among others maybe.
    """

    found_by: ClassVar[tuple[str, ...]] = ()

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        """The wrong answer; NotImplemented for the right one."""
        return NotImplemented

    def right(self, call: Call[Any]) -> Any:
        """What a memory store answers."""
        [answer] = MemoryStore.perform(self.store, [call])
        return answer

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        answers = []
        for call in calls:
            answer = self.answer(call, self.store._records._records, self.store.clock())
            answers.append(self.right(call) if answer is NotImplemented else answer)
        return answers

    @pytest.fixture
    def make_store(self) -> MakeStore:
        suite = self

        class Store(MemoryStore):
            def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
                suite.store = self
                return suite.perform(calls)

        return lambda clock, **options: Store(clock=clock, **options)

    store: MemoryStore

    def corrupt(self, store: MemoryStore, key: Key) -> None:
        records = store._records._records
        records[key] = replace(records[key], data=b'{"cut')


class TestHealthy(_Planted):
    """No bug: nothing fails."""


class TestHealthyAsync(AsyncStoreSuite):
    """Nor here."""

    @pytest.fixture
    def make_store(self) -> MakeStore:
        return lambda clock, **options: AsyncMemoryStore(clock=clock, **options)


class TestServesExpired(_Planted):
    """A record is there until it is swept."""

    found_by = (
        "test_a_record_is_there_until_it_expires",
        "test_a_session_lasts_for_expiration",
        "test_touch_never_revives_a_session",
    )

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        return records.get(call.key) if isinstance(call, Load) else NotImplemented


class TestServesTheMomentOfExpiry(_Planted):
    """Off by one: at `expires` it is still there."""

    found_by = ("test_a_record_is_there_until_it_expires", "test_a_session_lasts_for_expiration")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        record = records.get(call.key) if isinstance(call, Load) else None
        return record if record is not None and record.expires == now else NotImplemented


class TestCountsExpired(_Planted):
    """`Count` and `Scan` look at everything."""

    found_by = ("test_a_count_is_of_live_records", "test_all_and_length_are_of_live_sessions")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        return len(records) if isinstance(call, Count) else NotImplemented


class TestTouchRevives(_Planted):
    """connect-session-sequelize's: `touch` updates whatever row there is."""

    found_by = ("test_a_touch_never_revives",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if not isinstance(call, Touch) or call.key not in records:
            return NotImplemented
        if records[call.key].expires > now:
            return NotImplemented
        records[call.key] = replace(records[call.key], expires=call.expires)
        return True


class TestTouchShortens(_Planted):
    """`touch` sets the expiry to what it is told."""

    found_by = ("test_a_touch_never_shortens",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if not isinstance(call, Touch) or call.key not in records:
            return NotImplemented
        if call.expires > records[call.key].expires:
            return NotImplemented
        records[call.key] = replace(records[call.key], expires=call.expires)
        return True


class TestTouchHasNoSlack(_Planted):
    """Every request is a write."""

    found_by = ("test_a_touch_has_to_move_by_its_slack", "test_one_of_many_touches_moves")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Touch) and call.slack:
            return self.right(replace(call, slack=timedelta(0))) or call.key in records
        return NotImplemented


class TestTouchCountsAsWrite(_Planted):
    """`touch` gives the record a new version, so that everybody else's write fails."""

    found_by = ("test_a_touch_is_no_change", "test_a_touch_pushes_the_expiry_on")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Touch) and self.right(call):
            record = records[call.key]
            records[call.key] = replace(record, version=(record.version or 0) + 1)
            return True
        return False if isinstance(call, Touch) else NotImplemented


class TestReplaceIgnoresTheVersion(_Planted):
    """The last write wins."""

    found_by = (
        "test_a_replace_of_what_has_changed_writes_nothing",
        "test_one_of_many_replaces_wins",
    )

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        there = records.get(call.seen.key) if isinstance(call, Replace) else None
        if isinstance(call, Replace) and there is not None:
            return self.right(replace(call, seen=there))
        return NotImplemented


class TestReplaceIsAnUpsert(_Planted):
    """Save brings a logged-out session back, as in express-session's stores."""

    found_by = (
        "test_a_replace_does_not_revive_what_was_deleted",
        "test_an_insert_is_the_only_birth",
        "test_nothing_survives_a_delete",
    )

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Replace) and call.seen.key not in records and call.new_key is None:
            return self.right(Insert(call.seen.key, call.data, call.expires, call.values))
        return NotImplemented


class TestReplaceRevives(_Planted):
    """A write finds what has expired."""

    found_by = ("test_a_replace_does_not_revive_what_has_expired",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        there = records.get(call.seen.key) if isinstance(call, Replace) else None
        if not isinstance(call, Replace) or there is None or there.expires > now:
            return NotImplemented
        records[there.key] = replace(there, data=call.data, expires=call.expires)
        return records[there.key]


class TestMoveLeavesACopy(_Planted):
    """After the login the session id from before it still works."""

    found_by = (
        "test_a_replace_can_move_a_record",
        "test_a_moved_record_can_not_be_written_under_its_old_key",
    )

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Replace) and call.new_key is not None:
            old = records.get(call.seen.key)
            moved = self.right(call)
            if moved is not None and old is not None:
                records[old.key] = old
            return moved
        return NotImplemented


class TestMoveOverwrites(_Planted):
    """A move lands on somebody else's session."""

    found_by = ("test_a_move_to_a_taken_key_writes_nothing",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Replace) and call.new_key in records and call.seen.key in records:
            del records[call.new_key]
            return self.right(call)
        return NotImplemented


class TestInsertOverwrites(_Planted):
    """Two sessions become one."""

    found_by = ("test_an_insert_on_a_taken_key_writes_nothing", "test_one_of_many_inserts_wins")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Insert):
            records.pop(call.key, None)
        return NotImplemented


class TestPutKeepsTheVersion(_Planted):
    """Who has read before does not notice that it was overwritten."""

    found_by = ("test_a_put_is_a_change",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Put) and call.key in records:
            records[call.key] = replace(records[call.key], data=call.data, expires=call.expires)
            return None
        return NotImplemented


class TestSweepTakesTheLiving(_Planted):
    """A sweep by the expiry at birth: touches are not seen."""

    found_by = ("test_a_touched_record_is_not_swept", "test_a_sweep_deletes_what_has_expired")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Sweep):
            over = [key for key, r in records.items() if r.expires <= now + timedelta(seconds=20)]
            for key in over[: call.limit]:
                del records[key]
            return Swept(min(len(over), call.limit), len(over) > call.limit)
        return NotImplemented


class TestSweepHasNoBounds(_Planted):
    """One statement deletes a million rows."""

    found_by = ("test_a_sweep_is_bounded",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        return self.right(Sweep(10_000)) if isinstance(call, Sweep) else NotImplemented


class TestSweepStopsEarly(_Planted):
    """It never says that there is more."""

    found_by = ("test_a_sweep_is_bounded", "test_clear_expired_sessions_deletes_them_all")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Sweep):
            return Swept(self.right(call).deleted, False)
        return NotImplemented


class TestSweepLosesItsPlace(_Planted):
    """Told where the last one ended, it finds nothing there."""

    found_by = ("test_a_sweep_goes_on_where_the_last_one_ended",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Sweep):
            return Swept(0, False) if call.after else replace(self.right(call), reached="here")
        return NotImplemented


class TestScanHasNoOrder(_Planted):
    """Pages overlap, or leave something out."""

    found_by = ("test_a_scan_is_in_order_of_key", "test_all_reads_page_by_page")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Scan):
            found = [r for r in records.values() if r.expires > now]
            return [r for r in found if call.after is None or r.key > call.after][: call.limit]
        return NotImplemented


class TestScanHasShortPages(_Planted):
    """The limit counts what has expired, too: `all` ends at the first short page."""

    found_by = ("test_a_scan_fills_its_pages",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Scan):
            keys = sorted(key for key in records if call.after is None or key > call.after)
            return [records[k] for k in keys[: call.limit] if records[k].expires > now]
        return NotImplemented


class TestAListFailsAsOne(_Planted):
    """One wrong call, and nobody gets an answer."""

    found_by = ("test_a_call_that_fails_harms_no_neighbour",)

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        answers = super().perform(calls)
        failed = [answer for answer in answers if isinstance(answer, Exception)]
        return [failed[0]] * len(calls) if failed else answers


class TestAListIsReordered(_Planted):
    """Answers come in the order in which the calls were performed, by key."""

    found_by = ("test_each_call_has_one_answer_in_order", "test_a_long_list")

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        return super().perform(sorted(calls, key=lambda call: getattr(call, "key", b"")))


class TestDeleteFindsNothingWrong(_Planted):
    """It does nothing, and says so to nobody."""

    found_by = ("test_a_delete_ends_one_session", "test_destroy_ends_a_session")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        return True if isinstance(call, Delete) else NotImplemented


class TestClearSparesTheExpired(_Planted):
    """It counts what is live."""

    found_by = ("test_a_clear_deletes_everything",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Clear):
            live = [key for key, record in records.items() if record.expires > now]
            for key in live:
                del records[key]
            return len(live)
        return NotImplemented


class TestForgetsTheZone(_Planted):
    """Times come back naive."""

    found_by = ("test_moments_are_aware_and_utc", "test_an_insert_is_read_back")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        record = self.right(call) if isinstance(call, Load) else None
        if record is None:
            return NotImplemented
        return replace(record, expires=record.expires.replace(tzinfo=None))


class TestIgnoresTheClock(_Planted):
    """It has one of its own: the machine's."""

    found_by = ("test_a_record_is_there_until_it_expires", "test_a_sweep_deletes_what_has_expired")

    def right(self, call: Call[Any]) -> Any:
        [answer] = self.store._records.perform([call], datetime.now(UTC))
        return answer


class TestGuardsByLowerCase(_Planted):
    """MySQL's usual collation: writes are guarded by data that is compared without case."""

    versions = False
    found_by = ("test_a_replace_of_what_has_changed_writes_nothing",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        there = records.get(call.seen.key) if isinstance(call, Replace) else None
        if isinstance(call, Replace) and there is not None:
            same = there.data.lower() == call.seen.data.lower()
            seen = replace(there, version=there.version if same else -1)
            call = replace(call, seen=seen)
        return _unversioned(self.right(call))


def _unversioned(answer: Any) -> Any:
    if isinstance(answer, list):
        return [_unversioned(record) for record in answer]
    return replace(answer, version=None) if isinstance(answer, Record) else answer


class TestWritesInTwoSteps(AsyncStoreSuite):
    """It looks whether the version is right, and then writes: in between, somebody else does."""

    found_by: ClassVar = ("test_one_of_many_replaces_wins", "test_no_update_is_lost")

    @pytest.fixture
    def make_store(self) -> MakeStore:
        import asyncio

        class Store(AsyncMemoryStore):
            async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
                answers: list[Any] = []
                for call in calls:
                    if isinstance(call, Replace) and call.new_key is None:
                        [there] = await super().perform([Load(call.seen.key)])
                        await asyncio.sleep(0)
                        if there is None or there.version != call.seen.version:
                            answers.append(None)
                            continue
                        there = self._records._records.get(call.seen.key)
                        call = replace(call, seen=there or call.seen)
                    answers += await super().perform([call])
                return answers

        return lambda clock, **options: Store(clock=clock, **options)


class TestSweeperCanNotBeStopped(_Planted):
    """Using the store starts it again."""

    found_by = ("test_the_sweeper_can_be_stopped_and_started",)

    def perform(self, calls: Sequence[Call[Any]]) -> list[Any]:
        self.store._sweeper.start()
        return super().perform(calls)


class TestLocksForEverybody(_Planted):
    """A lock that is held is given to whoever asks."""

    found_by = ("test_a_lock_has_one_holder", "test_one_of_many_locks_is_given")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Lock):
            self.store._records._locks.clear()
        return NotImplemented


class TestLocksForEver(_Planted):
    """No lease ends: a holder that died is never replaced."""

    found_by = ("test_a_lock_ends_with_its_lease", "test_one_of_many_locks_is_given")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if not isinstance(call, Lock) or call.key not in self.store._records._locks:
            return NotImplemented
        return self.store._records._locks[call.key].holder == call.holder


class TestLeasesEndEarly(_Planted):
    """Off by one: a tick before its end a lock is anybody's."""

    found_by = ("test_a_lock_ends_with_its_lease",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Lock):
            call = replace(call, until=call.until - self.resolution)
            return self.right(call)
        return NotImplemented


class TestLocksItsHolderOut(_Planted):
    """Who has the lock can not go on with it."""

    found_by = ("test_a_holder_goes_on_with_its_lock",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        held = self.store._records._locks.get(call.key) if isinstance(call, Lock) else None
        return NotImplemented if held is None or held.until <= now else False


class TestUnlocksForEverybody(_Planted):
    """Whoever asks releases a lock."""

    found_by = ("test_a_lock_is_released_by_its_holder", "test_a_lock_ends_with_its_lease")

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Unlock):
            return self.store._records._locks.pop(call.key, None) is not None
        return NotImplemented


class TestLocksWhatHasExpired(_Planted):
    """A lock looks at no expiry."""

    found_by = ("test_what_is_not_there_is_not_locked",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        return call.key in records or NotImplemented if isinstance(call, Lock) else NotImplemented


class TestLockCountsAsWrite(_Planted):
    """A lock gives the record a new version, so that its holder's own write fails."""

    found_by = ("test_a_lock_is_no_change_and_refuses_none",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if not isinstance(call, Lock | Unlock) or not self.right(call):
            return False if isinstance(call, Lock | Unlock) else NotImplemented
        record = records[call.key]
        records[call.key] = replace(record, version=(record.version or 0) + 1)
        return True


class TestLockStaysBehind(_Planted):
    """A record that gets a new key is free there."""

    found_by = ("test_a_lock_moves_with_its_record",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Replace) and call.new_key is not None:
            held = self.store._records._locks.pop(call.seen.key, None)
            moved = self.right(call)
            if held is not None:
                self.store._records._locks[call.seen.key] = held
            return moved
        return NotImplemented


class TestLockOutlivesItsRecord(_Planted):
    """What gets a key that was given back is locked by somebody who is gone."""

    found_by = ("test_a_lock_ends_with_its_record",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        locks = self.store._records._locks
        before = dict(locks)
        answer = self.right(call)
        if isinstance(call, Delete | Sweep | Clear):
            locks.update(before)
        return answer


class TestPutFreesALock(_Planted):
    """`set()` takes the lock from who holds it."""

    found_by = ("test_a_put_leaves_a_lock_alone",)

    def answer(self, call: Call[Any], records: dict[Key, Record], now: datetime) -> Any:
        if isinstance(call, Put):
            self.store._records._locks.pop(call.key, None)
        return NotImplemented
