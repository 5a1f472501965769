"""A request whose session was saved within a transaction of the app's: before and after its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from tests.rules.test_lifecycle import (
    KEY,
    NOW,
    SID,
    ByHand,
    Rules,
    codec,
    ended,
    loaded,
    play,
    record,
    replaced,
    request,
)
from websessions import ConfigurationError, MemoryStore, SessionError, StoreUnavailable
from websessions.joined import Checkpoint, Joined, Transaction, end_steps, join_steps, joined_store
from websessions.lock import Held
from websessions.store import Call, Delete, Load, Replace, Touch


class OpenTransaction:
    """One of the app's that the session was saved within, and that goes on."""

    undone: Callable[[], None] | None = None
    connection = object()
    is_open = True


class Over(OpenTransaction):
    """One that has ended, be it by a commit or not."""

    is_open = False


def join(exchange: ByHand, transaction: Transaction, before: Checkpoint) -> Joined:
    exchange.joined = Joined(exchange, exchange.session, transaction, before, None)
    return exchange.joined


def joined(exchange: ByHand) -> ByHand:
    """A request that has saved what there was within a transaction that goes on."""
    join(exchange, OpenTransaction(), Checkpoint(exchange))
    return exchange


def test_it_is_looked_at_before_the_response_begins() -> None:
    """Even where nothing was changed since: that it was committed is not known yet."""
    assert joined(loaded({"n": 1})).finish_now() is None


def test_a_touch_waits_for_its_end() -> None:
    """It has the row."""
    rules = Rules(now=NOW + timedelta(seconds=1))
    exchange = joined(loaded({"n": 1}, rules=rules))
    exchange.session.touch()
    play(exchange.settle_steps())
    exchange.joined = None
    play(exchange.settle_steps(), (Touch, True))


def test_a_stream_can_not_end_the_session_before_that() -> None:
    exchange = loaded({"n": 1})
    ended(exchange)
    joined(exchange).session.destroy()
    with pytest.raises(SessionError, match="end the transaction first"):
        play(exchange.close_steps())


def test_a_handler_that_failed_asks_for_nothing_more() -> None:
    exchange = joined(loaded({"n": 1}))
    exchange.abandon()
    ended(exchange)


def saved_within(
    exchange: ByHand, transaction: Transaction, *calls: tuple[type[Call[Any]], Any]
) -> Joined:
    """What the handler did has been saved in the transaction, by default by one write."""
    before = Checkpoint(exchange)
    play(exchange.settle_steps(), *(calls or [(Replace, replaced)]))
    return join(exchange, transaction, before)


def test_what_was_not_committed_is_dropped_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    exchange = loaded({"n": 1})
    exchange.session["n"] = 2
    saved_within(exchange, Over())
    ended(exchange, (Load, record({"n": 1})))
    assert exchange.session["n"] == 1
    [entry] = caplog.records
    assert (entry.name, entry.levelno) == ("websessions", logging.WARNING)
    assert "was not committed" in entry.getMessage()


def test_a_login_that_was_rolled_back_is_none() -> None:
    """A new id that is given after it leaves the grace that every new id leaves."""
    exchange = loaded({"n": 1})
    exchange.session.user_id = 7
    exchange.session.regenerate(privilege=True)
    saved_within(exchange, OpenTransaction()).undo()
    exchange.session.regenerate()
    _, [move] = play(exchange.settle_steps(), (Replace, replaced))
    assert move.grace_until is not None


def test_a_new_id_that_was_rolled_back_is_none() -> None:
    """Who logs in after it without one keeps the id."""
    exchange = loaded({"n": 1})
    exchange.session.regenerate()
    saved_within(exchange, OpenTransaction()).undo()
    exchange.session.user_id = 7
    _, [write] = play(exchange.settle_steps(), (Replace, replaced))
    assert write.new_key is None


def test_a_save_that_was_rolled_back_takes_no_touchs_place() -> None:
    exchange = loaded({"n": 1}, rules=Rules(now=NOW + timedelta(hours=1)))
    exchange.session["n"] = 2
    saved_within(exchange, OpenTransaction()).undo()
    ended(exchange, (Touch, True))


def test_what_was_rolled_back_is_forgotten() -> None:
    """The session is the one that was stored, and what was asked for since is not done."""
    exchange = loaded({"n": 1})
    exchange.session["n"] = 2
    joined_save = saved_within(exchange, OpenTransaction())
    exchange.session.destroy()
    joined_save.undo()
    assert exchange.joined is None
    assert (exchange.session.id, dict(exchange.session)) == (SID, {"n": 1})
    ended(exchange)


def test_a_lock_that_was_taken_in_it_is_released_all_the_same() -> None:
    exchange = loaded({"n": 1})
    before = Checkpoint(exchange)
    exchange._held = Held("ann")
    before.restore(exchange, exchange.session)
    assert exchange._held.holder == "ann"


def test_a_lock_that_was_lost_in_it_is_held_again() -> None:
    """The session that it ended with is back."""
    exchange = loaded({"n": 1})
    held = exchange._held = Held("ann")
    before = Checkpoint(exchange)
    held.holder = None
    before.restore(exchange, exchange.session)
    assert held.holder == "ann"


def test_what_others_wrote_since_it_was_committed_is_merged_with() -> None:
    """Whatever number their version has: one that was rolled back may have had it, too."""
    exchange = loaded({"n": 1})
    exchange.session["n"] = 2
    saved_within(exchange, Over())
    exchange.session["late"] = True
    theirs = record({"n": 2, "theirs": True}, version=2)
    _, [_, refused, _, merged] = ended(
        exchange, (Load, theirs), (Replace, None), (Load, theirs), (Replace, replaced)
    )
    assert refused.seen.version < 1, "no record has it"
    assert codec.decode(merged.data) == {"n": 2, "theirs": True, "late": True}


def test_a_store_without_transactions_is_named() -> None:
    with pytest.raises(ConfigurationError, match="MemoryStore has no transactions"):
        joined_store(MemoryStore(), object())


def test_nothing_is_saved_within_another_one_after_one_that_was_not_committed() -> None:
    """The handler is told: what it goes on from is not stored."""
    exchange = loaded({"n": 1})
    exchange.session["n"] = 2
    saved_within(exchange, Over())
    exchange.session["more"] = True
    with pytest.raises(SessionError, match="before was not committed"):
        play(join_steps(exchange, OpenTransaction()), (Load, record({"n": 1})))
    assert dict(exchange.session) == {"n": 1}


def test_a_second_save_that_fails_leaves_the_first_where_it_was() -> None:
    transaction = OpenTransaction()
    exchange = loaded({"n": 1})
    exchange.session["n"] = 2
    first = saved_within(exchange, transaction)
    exchange.session["n"] = 3
    with pytest.raises(StoreUnavailable):
        play(join_steps(exchange, transaction), (Replace, StoreUnavailable("down")))
    assert exchange.joined is first
    assert exchange.session["n"] == 2


class TestWhetherItWasCommitted:
    """It is looked up once, when the request goes on."""

    @pytest.fixture
    def warnings(self, caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
        return lambda: "was not committed" in caplog.text

    @pytest.mark.parametrize("committed", [True, False])
    def test_a_logout(self, committed: bool, warnings: Callable[[], bool]) -> None:
        exchange = loaded({"n": 1})
        exchange.session.destroy()
        saved_within(exchange, Over(), (Delete, True))
        found = None if committed else record({"n": 1})
        _, [look] = play(end_steps(exchange), (Load, found))
        assert look == Load(KEY)
        assert warnings() is not committed
        assert dict(exchange.session) == ({} if committed else {"n": 1})

    @pytest.mark.parametrize("committed", [True, False])
    def test_a_new_id(self, committed: bool, warnings: Callable[[], bool]) -> None:
        exchange = loaded({"n": 1})
        exchange.session.regenerate()
        saved_within(exchange, Over())
        new = exchange.session.id
        found = record({"n": 1}, version=2, key=new.digest()) if committed else None
        _, [look] = play(end_steps(exchange), (Load, found))
        assert look == Load(new.digest())
        assert warnings() is not committed
        assert exchange.session.id == (new if committed else SID)

    def test_of_nothing_nothing_is_looked_up(self, warnings: Callable[[], bool]) -> None:
        exchange = request()
        join(exchange, Over(), Checkpoint(exchange))
        play(end_steps(exchange))
        assert not warnings()

    def test_a_touch_leaves_no_trace(self, warnings: Callable[[], bool]) -> None:
        exchange = loaded({"n": 1}, rules=Rules(now=NOW + timedelta(hours=1)))
        saved_within(exchange, Over(), (Touch, True))
        play(end_steps(exchange), (Load, record({"n": 1})))
        assert not warnings()

    def test_what_has_ended_since_was(self, warnings: Callable[[], bool]) -> None:
        exchange = loaded({"n": 1})
        exchange.session["n"] = 2
        saved_within(exchange, Over())
        play(end_steps(exchange), (Load, None))
        assert not warnings()

    def test_what_had_ended_before_may_be_anothers_now(self, warnings: Callable[[], bool]) -> None:
        exchange = loaded({"n": 1})
        exchange.session["n"] = 2
        saved_within(exchange, Over(), (Replace, None), (Load, None))
        play(end_steps(exchange), (Load, record({"n": 1})))
        assert not warnings()

    def test_what_was_read_within_it_has_nothing_to_go_back_to(
        self, warnings: Callable[[], bool]
    ) -> None:
        exchange = request(SID)
        before = Checkpoint(exchange)
        play(exchange.load_steps(), (Load, record({"n": 1})))
        join(exchange, Over(), before)
        play(end_steps(exchange), (Load, record({"n": 1})))
        assert not warnings()

    def test_nobody_has_written_since(self) -> None:
        exchange = loaded({"n": 1})
        exchange.session["n"] = 2
        saved_within(exchange, Over())
        stored = record({"n": 2}, version=2)
        play(end_steps(exchange), (Load, stored))
        exchange.session["n"] = 3
        _, [write] = play(exchange.settle_steps(), (Replace, replaced))
        assert write.seen == stored

    def test_a_table_without_versions_has_none_then_either(self) -> None:
        exchange = request(SID)
        unnumbered = replace(record({"n": 1}), version=None)
        play(exchange.load_steps(), (Load, unnumbered))
        exchange.session["n"] = 2
        saved_within(exchange, Over())
        play(end_steps(exchange), (Load, replace(unnumbered, data=b'{"n":3}')))
        exchange.session["n"] = 4
        _, [write] = play(exchange.settle_steps(), (Replace, replaced))
        assert write.seen.version is None
