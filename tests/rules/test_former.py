"""Who comes with the cookie of an earlier day, step by step: it counts once, and is no obstacle."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.rules.test_lifecycle import (
    DAY,
    KEY,
    NOW,
    SECRET,
    SID,
    ByHand,
    Rules,
    codec,
    cookie_sid,
    ended,
    inserted,
    play,
    record,
    replaced,
)
from websessions import CorruptRecord, FormerCookie, SessionSettings
from websessions.lifecycle import Finished, Lifecycle
from websessions.sid import Sid
from websessions.signing import ExpressValue
from websessions.store import Delete, End, Fetch, Insert, Load, Record, Replace

OTHER = Sid("b" * 43)
FORMER = "keyboard cat"


class RulesOfTwo(Rules):
    """Those of a store that moves sessions out of another one."""

    fetches = True


def middleware(rules: Rules) -> Lifecycle[Rules]:
    return Lifecycle(rules, SessionSettings(secret=SECRET, former=FormerCookie(secret=FORMER)))


def visit(sid: Sid = SID, *, lifecycle: Lifecycle[Rules] | None = None) -> ByHand:
    cookie = ExpressValue("connect.sid", [FORMER.encode()]).sign(sid)
    lifecycle = lifecycle or middleware(Rules())
    return ByHand(lifecycle, f"connect.sid={cookie}", https=False)


def found(data: dict[str, Any]) -> ByHand:
    exchange = visit()
    play(exchange.load_steps(), (Load, record(data)))
    return exchange


class TestANewId:
    def test_it_comes_with_a_cookie_of_the_new_kind(self) -> None:
        exchange = found({"n": 1})
        finished, _ = ended(exchange, (Replace, replaced))
        assert Sid(cookie_sid(finished)) == exchange.session.id != SID

    def test_it_is_given_once(self) -> None:
        exchange = found({"n": 1})
        _, [moved] = play(exchange.settle_steps(), (Replace, replaced))
        given = exchange.session.id
        play(exchange.reload_steps(), (Load, moved.written()))
        assert exchange.session.id == given
        assert Sid(cookie_sid(ended(exchange)[0])) == given

    def test_who_was_given_it_in_another_request_keeps_what_is_left_of_the_grace(self) -> None:
        exchange = visit()
        there = Record(OTHER.digest(), codec.encode({"n": 1}), NOW + DAY, 2, NOW + DAY / 2)
        play(exchange.load_steps(), (Load, there))
        assert exchange.session.id == SID
        assert ended(exchange)[0].cookie is None

    def test_nobody_is_given_one_after_the_response_has_begun(self) -> None:
        """Its cookie could not be set; the session can be read."""
        exchange = visit()
        assert exchange.finish_now() == Finished(None, vary=False)
        play(exchange.load_steps(), (Load, record({"n": 1})))
        assert exchange.session["n"] == 1
        assert exchange.session.id == SID


class TestAStoreOfTwo:
    """What may be in the other one is asked for in another way, once."""

    @pytest.fixture
    def lifecycle(self) -> Lifecycle[Rules]:
        return middleware(RulesOfTwo())

    def test_what_can_not_be_moved_is_not_looked_for_again(
        self, lifecycle: Lifecycle[Rules]
    ) -> None:
        exchange = visit(lifecycle=lifecycle)
        play(exchange.load_steps(), (Fetch, CorruptRecord("", "refused")))
        self.begins_and_ends(exchange)

    def test_nor_is_what_has_ended(self, lifecycle: Lifecycle[Rules]) -> None:
        exchange = visit(lifecycle=lifecycle)
        exchange.session.destroy()
        _, [end] = play(exchange.settle_steps(), (End, None))
        assert end == End(SID)
        self.begins_and_ends(exchange)

    def begins_and_ends(self, exchange: ByHand) -> None:
        """A new session, which is like any other."""
        exchange.session["n"] = 1
        _, [insert] = play(exchange.settle_steps(), (Insert, inserted))
        assert insert.key != KEY
        exchange.session.destroy()
        _, [delete] = ended(exchange, (Delete, True))
        assert delete == Delete(insert.key)

    def test_each_that_can_not_be_moved_is_logged_once(
        self, lifecycle: Lifecycle[Rules], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Before a save within a transaction, too."""
        for sid in (SID, OTHER, SID):
            refused = CorruptRecord("", f"refused: {sid == SID}")
            play(visit(sid, lifecycle=lifecycle).move_steps(), (Fetch, refused))
        logged = [entry.getMessage() for entry in caplog.records if entry.levelno == logging.ERROR]
        assert ["refused: True" in line for line in logged] == [True, False]
