"""`session.lock()`, step by step: what is asked of the store, and what a block leaves behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from tests.rules.test_joined import joined
from tests.rules.test_lifecycle import (
    DAY,
    KEY,
    NOW,
    SID,
    ByHand,
    Rules,
    codec,
    ended,
    inserted,
    loaded,
    middleware,
    play,
    record,
    replaced,
    request,
)
from websessions import (
    AsyncMemoryStore,
    ConfigurationError,
    Conflict,
    CorruptRecord,
    SessionError,
    SessionLocked,
    SessionTooLarge,
    StoreUnavailable,
    lock,
)
from websessions.exchange import AsyncExchange, SyncExchange
from websessions.lifecycle import Finished
from websessions.lock import lock_steps, unlock_steps
from websessions.run import Pause
from websessions.sid import Sid
from websessions.store import Call, Delete, Insert, Load, Lock, Record, Replace, Steps, Unlock

NOTHING = timedelta(0)
SOME = timedelta(seconds=5)
LEASE = timedelta(seconds=30)
OTHER = Sid("b" * 43)


def entered(
    exchange: ByHand,
    data: dict[str, Any],
    *,
    version: int = 2,
    timeout: timedelta = SOME,
) -> Lock:
    """The block is entered at once, and this is what is stored then; the call that locked."""
    [lock, load] = play(
        lock_steps(exchange, timeout, LEASE), (Lock, True), (Load, record(data, version))
    )[1]
    assert load == Load(KEY)
    assert isinstance(lock, Lock)
    return lock


def left(
    exchange: ByHand, *expected: tuple[type[Call[Any]], Any], failed: bool = False
) -> list[Any]:
    return play(unlock_steps(exchange, failed=failed), *expected)[1]


def raising(
    error: type[BaseException],
    steps: Steps[Any],
    *expected: tuple[type[Call[Any]], Any],
    match: str | None = None,
) -> None:
    """The steps make all of these calls, and then raise."""
    made: list[Call[Any]] = []

    def noted(answer: Any) -> Callable[[Call[Any]], Any]:
        def answered(call: Call[Any]) -> Any:
            made.append(call)
            return answer(call) if callable(answer) else answer

        return answered

    with pytest.raises(error, match=match):
        play(steps, *((kind, noted(answer)) for kind, answer in expected))
    assert [type(call) for call in made] == [kind for kind, _ in expected]


def moved(data: dict[str, Any], *, version: int = 2) -> Record:
    """What is found by the old key once another request has given the session a new id."""
    until = NOW + timedelta(seconds=5)
    return Record(OTHER.digest(), codec.encode(data), NOW + DAY, version, until)


class TestEntering:
    def test_the_block_sees_what_the_last_holder_wrote(self) -> None:
        exchange = loaded({"n": 1})
        lock = entered(exchange, {"n": 2})
        assert lock.key == KEY
        assert lock.until == NOW + LEASE
        assert len(lock.holder) == 32
        assert dict(exchange.session) == {"n": 2}

    def test_a_session_that_is_not_read_is_read_first(self) -> None:
        """So that one which is not there, or corrupt, is treated as ever."""
        exchange = request(SID)
        play(
            lock_steps(exchange, SOME, LEASE),
            (Load, record({"n": 1})),
            (Lock, True),
            (Load, record({"n": 2}, version=2)),
        )
        assert dict(exchange.session) == {"n": 2}

    def test_what_was_changed_before_is_kept(self) -> None:
        """Key by key, over what others wrote; and it is saved with the block."""
        exchange = loaded({"n": 1, "gone": 1})
        exchange.session["mine"] = True
        del exchange.session["gone"]
        entered(exchange, {"n": 2, "gone": 1, "theirs": True})
        assert dict(exchange.session) == {"n": 2, "mine": True, "theirs": True}
        exchange.session["n"] += 1
        replace, _ = left(exchange, (Replace, replaced), (Unlock, True))
        assert replace.seen.version == 2
        assert codec.decode(replace.data) == {"n": 3, "mine": True, "theirs": True}

    def test_every_block_is_another_holder(self) -> None:
        exchange = loaded({})
        holders = set()
        for _ in range(3):
            holders.add(entered(exchange, {}).holder)
            left(exchange, (Unlock, True))
        assert len(holders) == 3

    def test_it_waits_in_pauses_that_grow(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each is drawn from its longer half, so that those who wait come one by one."""
        drawn_from: list[tuple[float, float]] = []

        def longest(*ends: float) -> float:
            drawn_from.append((ends[0], ends[1]))
            return ends[1]

        monkeypatch.setattr(lock, "random", SimpleNamespace(uniform=longest))
        steps = lock_steps(loaded({}), timedelta(hours=1), LEASE)
        pauses: list[float] = []
        answer: Any = None
        while len(pauses) < 8:
            match steps.send(answer):
                case Lock():
                    answer = False
                case Load():
                    answer = record({})
                case Pause(seconds):
                    pauses.append(seconds)
                    answer = None
        assert pauses == [0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]
        assert drawn_from == [(pause / 2, pause) for pause in pauses]

    def test_it_takes_the_lock_when_it_is_free(self) -> None:
        exchange = loaded({"n": 1})
        held = (Lock, False), (Load, record({"n": 1}))
        play(
            lock_steps(exchange, SOME, LEASE),
            *held,
            *held,
            (Lock, True),
            (Load, record({"n": 2}, version=2)),
        )
        assert exchange.session["n"] == 2

    def test_it_gives_up_in_time(self) -> None:
        """And the request goes on as if it had not asked: what it had changed is saved."""
        exchange = loaded({"n": 1})
        exchange.session["mine"] = True
        raising(
            SessionLocked,
            lock_steps(exchange, NOTHING, LEASE),
            (Lock, False),
            (Load, record({"n": 2}, version=2)),
            match="within 0 s",
        )
        assert dict(exchange.session) == {"n": 1, "mine": True}
        _, [replace] = ended(exchange, (Replace, replaced))
        assert codec.decode(replace.data) == {"n": 1, "mine": True}

    def test_it_waits_to_the_end_of_that(self, monkeypatch: pytest.MonkeyPatch) -> None:
        now = 1000.0
        monkeypatch.setattr(lock, "time", SimpleNamespace(monotonic=lambda: now))
        steps = lock_steps(loaded({"n": 1}), SOME, LEASE)
        for now in (1000.0, 1004.999, 1005.0):
            assert isinstance(steps.send(None), Lock)
            assert isinstance(steps.send(False), Load)
            if now < 1005:
                assert isinstance(steps.send(record({"n": 1})), Pause)
        with pytest.raises(SessionLocked):
            steps.send(record({"n": 1}))

    def test_after_that_it_may_ask_again(self) -> None:
        exchange = loaded({"n": 1})
        raising(
            SessionLocked, lock_steps(exchange, NOTHING, LEASE), (Lock, False), (Load, record({}))
        )
        entered(exchange, {"n": 2})
        assert exchange.session["n"] == 2

    def test_a_session_that_moved_meanwhile_is_locked_where_it_is(self) -> None:
        exchange = loaded({"n": 1})
        _, calls = play(
            lock_steps(exchange, SOME, LEASE),
            (Lock, False),
            (Load, moved({"n": 2})),
            (Lock, True),
            (Load, moved({"n": 2})),
        )
        assert [call.key for call in calls] == [KEY, KEY, OTHER.digest(), KEY]
        [unlock] = left(exchange, (Unlock, True))
        assert unlock.key == OTHER.digest()

    @pytest.mark.parametrize("locked_first", [False, True])
    def test_in_a_session_that_ends_meanwhile_the_block_runs_and_nothing_is_saved(
        self, locked_first: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """As with any write: promise 3."""
        exchange = loaded({"n": 1})
        found = (Lock, True), (Load, None), (Unlock, False)
        lost = (Lock, False), (Load, None)
        with caplog.at_level(logging.INFO):
            _, [taken, _, *released] = play(
                lock_steps(exchange, SOME, LEASE), *(found if locked_first else lost)
            )
        assert released == ([Unlock(KEY, taken.holder)] if locked_first else [])
        assert "ended while a request was using it" in caplog.text
        exchange.session["n"] += 1
        left(exchange)
        finished, _ = ended(exchange)
        assert finished.cookie is None

    def test_a_new_session_needs_none(self) -> None:
        """Nobody else knows it. It is saved at the end of the block as any is."""
        exchange = request()
        play(lock_steps(exchange, SOME, LEASE))
        exchange.session["n"] = 1
        [insert] = left(exchange, (Insert, inserted))
        assert codec.decode(insert.data) == {"n": 1}
        finished, _ = ended(exchange)
        assert finished.cookie is not None

    def test_nor_does_one_that_this_request_has_destroyed(self) -> None:
        exchange = loaded({"n": 1})
        exchange.session.destroy()
        play(lock_steps(exchange, SOME, LEASE))
        assert dict(exchange.session) == {}
        left(exchange, (Delete, True))

    def test_a_logout_while_it_is_waited_for_is_carried_out_where_the_session_is(self) -> None:
        """By another task of the same request."""
        exchange = loaded({"n": 1})

        def log_out(_: Call[Any]) -> Record:
            exchange.session.destroy()
            return moved({"n": 1})

        play(
            lock_steps(exchange, SOME, LEASE),
            *((Lock, False), (Load, log_out), (Lock, True), (Load, moved({"n": 1}))),
        )
        assert exchange._record == moved({"n": 1})
        left(exchange, (Delete, True))
        ended(exchange)

    def test_what_can_not_be_merged_is_a_conflict_and_leaves_no_lock(self) -> None:
        exchange = loaded({"n": 1}, on_conflict="error")
        exchange.session["mine"] = True
        raising(
            Conflict,
            lock_steps(exchange, SOME, LEASE),
            (Lock, True),
            (Load, record({"n": 2}, version=2)),
            (Unlock, True),
        )
        ended(exchange)  # save() would have told the same: the rest of the request saves nothing

    def test_who_had_a_conflict_before_and_has_none_now_goes_on(self) -> None:
        """What others changed has been changed back."""
        exchange = loaded({"n": 1}, on_conflict="error")
        exchange.session["mine"] = True
        theirs = record({"n": 2}, version=2)
        raising(Conflict, exchange.settle_steps(), (Replace, None), (Load, theirs))
        entered(exchange, {"n": 1}, version=3)
        left(exchange, (Replace, replaced), (Unlock, True))
        exchange.session["late"] = True
        ended(exchange, (Replace, replaced))

    def test_to_read_anew_is_no_conflict(self) -> None:
        """With `on_conflict="error"`, what was read before the lock was only read."""
        exchange = loaded({"n": 1}, on_conflict="error")
        entered(exchange, {"n": 2})
        exchange.session["n"] += 1
        replace, _ = left(exchange, (Replace, replaced), (Unlock, True))
        assert codec.decode(replace.data) == {"n": 3}

    def test_nor_is_it_an_old_copy_that_overwrites(self) -> None:
        exchange = loaded({"n": 1}, on_conflict="overwrite")
        entered(exchange, {"n": 2, "theirs": 1})
        assert dict(exchange.session) == {"n": 2, "theirs": 1}

    def test_what_can_not_be_read_leaves_no_lock(self) -> None:
        exchange = loaded({"n": 1})
        raising(
            CorruptRecord,
            lock_steps(exchange, SOME, LEASE),
            (Lock, True),
            (Load, record(b"{", version=2)),
            (Unlock, True),
        )
        raising(
            CorruptRecord,
            lock_steps(exchange, SOME, LEASE),
            (Lock, True),
            (Load, CorruptRecord("00", "a column")),
            (Unlock, True),
        )

    def test_what_can_not_be_stored_leaves_no_lock(self) -> None:
        exchange = loaded({})
        exchange.session["much"] = "x" * 2000
        raising(
            SessionTooLarge,
            lock_steps(exchange, SOME, LEASE),
            (Lock, True),
            (Load, record({})),
            (Unlock, True),
        )

    @pytest.mark.parametrize("answer", [True, False, StoreUnavailable("down")])
    @pytest.mark.parametrize("when", ["asking", "waiting", "reading"])
    def test_who_is_cancelled_leaves_no_lock(self, when: str, answer: bool | Exception) -> None:
        """It may have been taken, and only the answer been lost."""
        steps = lock_steps(loaded({}), SOME, LEASE)
        taken = steps.send(None)
        assert isinstance(taken, Lock)
        if when == "reading":
            assert isinstance(steps.send(True), Load)
        elif when == "waiting":
            assert isinstance(steps.send(False), Load)
            assert isinstance(steps.send(record({})), Pause)
        assert steps.throw(asyncio.CancelledError()) == Unlock(KEY, taken.holder)
        with pytest.raises(asyncio.CancelledError):
            steps.throw(answer) if isinstance(answer, Exception) else steps.send(answer)

    def test_a_database_that_is_down_is_asked_once(self) -> None:
        """A lock that it may have given ends with its lease."""
        exchange = loaded({})
        raising(
            StoreUnavailable, lock_steps(exchange, SOME, LEASE), (Lock, StoreUnavailable("down"))
        )
        entered(exchange, {})

    def test_a_block_in_a_block_is_an_error(self) -> None:
        """So is one of another task: the lock is the request's."""
        for exchange in (loaded({}), request()):
            play_lock = lock_steps(exchange, SOME, LEASE)
            if exchange.session.is_new:
                play(play_lock)
            else:
                play(play_lock, (Lock, True), (Load, record({})))
            raising(SessionError, lock_steps(exchange, SOME, LEASE), match="already")

    def test_a_store_that_can_not_is_named(self) -> None:
        """Also one that was made before there were locks."""
        cannot, old = Rules(), Rules()
        cannot.locks = False
        del old.locks
        for rules in (cannot, old):
            exchange = request(SID, lifecycle=middleware(rules=rules))
            with pytest.raises(
                ConfigurationError, match=r"Rules can not lock.*locked_by.*locks = True"
            ):
                play(lock_steps(exchange, SOME, LEASE))


class TestLeaving:
    def test_the_session_is_saved_and_then_released(self) -> None:
        exchange = loaded({"n": 1})
        lock = entered(exchange, {"n": 2})
        exchange.session["n"] -= 1
        _, unlock = left(exchange, (Replace, replaced), (Unlock, True))
        assert unlock == Unlock(KEY, lock.holder)
        ended(exchange)

    def test_a_block_that_changed_nothing_only_releases(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        left(exchange, (Unlock, True))
        ended(exchange)

    def test_a_write_of_somebody_who_did_not_lock_is_merged(self) -> None:
        """The lock is advisory, and the guard of a write is not: nothing is lost."""
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        _, _, again, _ = left(
            exchange,
            (Replace, None),
            (Load, record({"n": 1, "theirs": 1}, version=3)),
            (Replace, replaced),
            (Unlock, True),
        )
        assert codec.decode(again.data) == {"n": 2, "theirs": 1}

    def test_a_save_that_fails_releases(self) -> None:
        exchange = loaded({"n": 1}, on_conflict="error")
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        raising(
            Conflict,
            unlock_steps(exchange, failed=False),
            (Replace, None),
            (Load, record({"n": 7}, version=3)),
            (Unlock, True),
        )
        ended(exchange)

    def test_a_new_id_keeps_the_lock(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session.regenerate()
        replace, unlock = left(exchange, (Replace, replaced), (Unlock, True))
        assert unlock.key == replace.new_key
        finished, _ = ended(exchange)
        assert finished.cookie is not None

    def test_a_new_id_that_another_request_gave_keeps_it_too(self) -> None:
        exchange = loaded({"n": 1})
        lock = entered(exchange, {"n": 1})
        _, load, last = left(exchange, (Unlock, False), (Load, moved({"n": 1})), (Unlock, True))
        assert load == Load(KEY)
        assert last == Unlock(OTHER.digest(), lock.holder)

    def test_a_session_that_the_block_ends_takes_its_lock_along(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session.destroy()
        left(exchange, (Delete, True))
        ended(exchange)

    def test_one_that_begins_in_its_place_is_not_locked(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session.destroy()
        exchange.session["bye"] = True
        left(exchange, (Delete, True), (Insert, inserted))
        ended(exchange)

    def test_a_session_that_another_request_ended_meanwhile_stays_ended(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        left(exchange, (Replace, None), (Load, None))
        ended(exchange)

    def test_a_session_that_another_request_ended_has_no_lock_left(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        left(exchange, (Unlock, False), (Load, None))
        assert not caplog.records

    def test_a_lock_that_can_not_be_released_is_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What the block wrote is saved; its lease ends the lock."""
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        left(exchange, (Replace, replaced), (Unlock, StoreUnavailable("down")))
        assert "could not be released" in caplog.text
        ended(exchange)

    def test_a_lease_that_was_too_short_is_a_warning(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        left(exchange, (Unlock, False), (Load, record({"n": 1}, version=2)))
        [entry] = caplog.records
        assert entry.name == "websessions"
        assert "took longer than `lease`" in entry.getMessage()


class TestRaising:
    def test_what_the_block_changed_is_taken_back(self) -> None:
        """It was computed from what only the lock kept as it was."""
        exchange = loaded({"n": 1})
        exchange.session["before"] = True
        entered(exchange, {"n": 2})
        exchange.session.update(n=3, inside=True)
        exchange.session.cookie.max_age = 60
        left(exchange, (Unlock, True), failed=True)
        assert dict(exchange.session) == {"n": 2, "before": True}
        assert exchange.session.cookie.max_age is None
        _, [replace] = ended(exchange, (Replace, replaced))
        assert codec.decode(replace.data) == {"n": 2, "before": True}

    def test_an_emptied_session_is_full_again(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 2})
        exchange.session.regenerate(keep_data=False)
        left(exchange, (Unlock, True), failed=True)
        assert dict(exchange.session) == {"n": 2}
        _, [_, _, again] = ended(
            exchange,
            (Replace, None),
            (Load, record({"n": 2, "theirs": 1}, version=3)),
            (Replace, replaced),
        )
        assert codec.decode(again.data) == {"n": 2, "theirs": 1}

    def test_one_that_was_emptied_before_stays_empty(self) -> None:
        exchange = loaded({"n": 1})
        exchange.session.regenerate(keep_data=False)
        exchange.session["mine"] = True
        entered(exchange, {"n": 2})
        exchange.session["inside"] = True
        left(exchange, (Unlock, True), failed=True)
        _, [_, _, again] = ended(
            exchange,
            (Replace, None),
            (Load, record({"n": 2, "theirs": 1}, version=3)),
            (Replace, replaced),
        )
        assert codec.decode(again.data) == {"mine": True}

    def test_what_it_saved_stays_saved(self) -> None:
        exchange = loaded({"n": 1})
        exchange.session["before"] = True
        entered(exchange, {"n": 2})
        exchange.session["n"] = 3
        play(exchange.settle_steps(), (Replace, replaced))
        exchange.session["n"] = 4
        left(exchange, (Unlock, True), failed=True)
        assert dict(exchange.session) == {"n": 3, "before": True}
        exchange.session["late"] = True
        theirs = record({"n": 3, "before": True, "theirs": True}, version=4)
        _, [_, _, again] = ended(exchange, (Replace, None), (Load, theirs), (Replace, replaced))
        assert codec.decode(again.data) == {"n": 3, "before": True, "theirs": True, "late": True}

    def test_a_new_session_is_as_empty_as_it_was(self) -> None:
        exchange = request()
        exchange.session["before"] = True
        play(lock_steps(exchange, SOME, LEASE))
        exchange.session["inside"] = True
        left(exchange, failed=True)
        assert dict(exchange.session) == {"before": True}
        assert exchange.session.is_new
        _, [insert] = ended(exchange, (Insert, inserted))
        assert codec.decode(insert.data) == {"before": True}

    def test_a_logout_stands(self) -> None:
        """Who has been told that they are logged out is."""
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session.destroy()
        exchange.session["message"] = "bye"
        left(exchange, (Unlock, True), failed=True)
        assert dict(exchange.session) == {}
        ended(exchange, (Delete, True))

    def test_a_logout_that_was_carried_out_brings_nothing_back(self) -> None:
        exchange = loaded({"secret": 1})
        entered(exchange, {"secret": 1})
        exchange.session.destroy()
        play(exchange.settle_steps(), (Delete, True))
        left(exchange, failed=True)
        assert dict(exchange.session) == {}
        ended(exchange)

    def test_a_new_id_stands(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session.regenerate(privilege=True)
        exchange.session["n"] = 2
        left(exchange, (Unlock, True), failed=True)
        finished, [replace] = ended(exchange, (Replace, replaced))
        assert replace.new_key is not None
        assert codec.decode(replace.data) == {"n": 1}
        assert finished.cookie is not None

    def test_a_handler_that_raises_saves_nothing(self) -> None:
        exchange = loaded({"n": 1})
        exchange.session["before"] = True
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        left(exchange, (Unlock, True), failed=True)
        exchange.abandon()
        ended(exchange)


class TestATransactionOfTheApps:
    """It keeps the session's row, so nobody could release the lock."""

    def entered(self) -> ByHand:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        return joined(exchange)

    def test_the_block_does_not_end_inside_of_it(self) -> None:
        raising(
            SessionError,
            unlock_steps(self.entered(), failed=False),
            match="belongs around the transaction",
        )

    def test_after_a_failure_the_lock_is_released_when_the_response_begins(self) -> None:
        exchange = self.entered()
        left(exchange, failed=True)
        exchange.joined = None
        ended(exchange, (Unlock, True))


class TestTheResponse:
    """No lock is held across a response."""

    def test_a_lock_that_nobody_left_is_released_when_it_begins(self) -> None:
        exchange = loaded({"n": 1})
        lock = entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        assert exchange.finish_now() is None
        _, [_, unlock] = ended(exchange, (Replace, replaced), (Unlock, True))
        assert unlock == Unlock(KEY, lock.holder)

    def test_also_where_nothing_was_changed(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        assert exchange.finish_now() is None
        finished, _ = ended(exchange, (Unlock, True))
        assert finished == Finished(None, vary=False)

    def test_also_where_the_app_takes_the_session_out_of_the_request(self) -> None:
        exchange = loaded({"n": 1}, unset="destroy")
        entered(exchange, {"n": 1})
        assert exchange.finish_now(unset=True) is None
        play(exchange.finish_steps(unset=True), (Delete, True))

    def test_also_where_saving_fails(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        raising(
            StoreUnavailable,
            exchange.finish_steps(),
            (Replace, StoreUnavailable("down")),
            (Unlock, True),
        )
        ended(exchange)

    def test_what_the_block_does_after_that_is_saved_without_it(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        ended(exchange, (Unlock, True))
        exchange.session["late"] = True
        left(exchange, (Replace, replaced))
        play(exchange.close_steps())

    def test_a_block_of_a_stream_that_nobody_left_is_released_at_its_end(self) -> None:
        exchange = loaded({"n": 1})
        ended(exchange)
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        assert exchange.may_be_unsettled
        play(exchange.close_steps(), (Replace, replaced), (Unlock, True))
        play(exchange.close_steps())

    def test_also_where_nothing_was_used(self) -> None:
        exchange = loaded({"n": 1})
        ended(exchange)
        entered(exchange, {"n": 1})
        exchange.session._used = False
        assert exchange.may_be_unsettled
        play(exchange.close_steps(), (Unlock, True))

    def test_a_coroutine_that_is_dropped_asks_for_nothing_more(self) -> None:
        exchange = loaded({"n": 1})
        entered(exchange, {"n": 1})
        exchange.session["n"] = 2
        steps = exchange.finish_steps()
        assert isinstance(steps.send(None), Replace)
        steps.close()


class TestTheContextManager:
    @contextmanager
    def calls(self, answers: list[Any]) -> Iterator[tuple[Any, list[Any]]]:
        """A store that has these answers, for a runner."""
        made: list[Any] = []

        class Store(Rules):
            def perform(self, calls: Any, /) -> list[Any]:
                made.extend(calls)
                return [answers.pop(0)]

        yield Store(), made
        assert not answers

    def exchange(self, kind: Any, store: Any) -> Any:
        rules = middleware(rules=store)
        set_cookie = rules.cookies.set(SID, now=NOW, expires=None, https=False)
        cookie = set_cookie.partition(";")[0]
        return kind(rules, cookie, https=False)

    def test_sync_code_enters_it_by_with(self) -> None:
        stored = record({"n": 1})
        with self.calls([stored, True, stored, stored, True]) as (store, made):
            exchange = self.exchange(SyncExchange, store)
            with exchange.session.lock(timeout=1, lease=timedelta(seconds=7)):
                exchange.session["n"] += 1
        assert [type(call) for call in made] == [Load, Lock, Load, Replace, Unlock]
        assert made[1].until == NOW + timedelta(seconds=7)

    def test_an_exception_goes_on(self) -> None:
        stored = record({"n": 1})
        with self.calls([stored, True, stored, True]) as (store, _):
            exchange = self.exchange(SyncExchange, store)
            with pytest.raises(KeyError), exchange.session.lock():
                del exchange.session["m"]

    def test_async_code_may_not_forget_to_await(self) -> None:
        with self.calls([]) as (store, _):
            exchange = self.exchange(AsyncExchange, store)
            with (
                pytest.raises(SessionError, match="async with"),
                exchange.session.lock(),
            ):
                pass

    async def test_who_is_cancelled_twice_releases_all_the_same(self) -> None:
        """As anyio does with whoever still waits for something in a cancelled scope."""
        inside, releasing, released = asyncio.Event(), asyncio.Event(), asyncio.Event()
        may_release = asyncio.Event()

        class Store(AsyncMemoryStore):
            async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
                if not isinstance(calls[0], Unlock):
                    return await super().perform(calls)
                releasing.set()
                await may_release.wait()
                answers = await super().perform(calls)
                released.set()
                return answers

        store = Store(check_expiration_interval=None)
        await store.set(SID, {"n": 1})
        exchange = self.exchange(AsyncExchange, store)

        async def handler() -> None:
            async with exchange.session.lock():
                inside.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(handler())
        for wait in (inside, releasing):
            await wait.wait()
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        may_release.set()
        await asyncio.wait_for(released.wait(), 10)
        until = store.clock() + LEASE
        assert await store.perform([Lock(KEY, "the next", until)]) == [True]

    async def test_two_tasks_of_one_request_can_not_both_have_it(self) -> None:
        store = AsyncMemoryStore(check_expiration_interval=None)
        await store.set(SID, {"n": 1})
        exchange = self.exchange(AsyncExchange, store)
        outcomes: list[str] = []

        async def count() -> None:
            try:
                async with exchange.session.lock():
                    exchange.session["n"] += 1
                    await asyncio.sleep(0)
            except SessionError:
                outcomes.append("refused")
            else:
                outcomes.append("counted")

        await asyncio.gather(count(), count())
        assert sorted(outcomes) == ["counted", "refused"]
        assert await store.get(SID) == {"n": 2}

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"timeout": -1}, "timeout can not be negative"),
            ({"timeout": "soon"}, "timeout has to be"),
            ({"timeout": None}, "timeout has to be"),
            ({"lease": 0}, "lease can not be 0"),
            ({"lease": -1}, "lease can not be negative"),
        ],
    )
    def test_spans_that_can_not_work_are_named(self, options: Any, said: str) -> None:
        exchange = loaded({})
        with pytest.raises(ConfigurationError, match=said):
            exchange.session.lock(**options)


def test_a_lock_is_released_if_the_session_can_not_be_read_after_it() -> None:
    exchange = loaded({"a": 1})
    raising(
        StoreUnavailable,
        lock_steps(exchange, SOME, LEASE),
        (Lock, True),
        (Load, StoreUnavailable("for a moment")),
        (Unlock, True),
    )


def test_a_lock_that_could_not_be_taken_is_not_released() -> None:
    """The database is down, and would be waited for twice."""
    exchange = loaded({"a": 1})
    raising(
        StoreUnavailable,
        lock_steps(exchange, SOME, LEASE),
        (Lock, StoreUnavailable("it is down")),
    )
