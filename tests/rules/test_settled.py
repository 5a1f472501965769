"""The short way to the end of a request says what the steps say.

`RequestSession.finish_now` answers without steps where there is nothing to do. Here every request
that a row, an intent, what its handler did and the options can make is ended twice, once each way,
and has to come to the same answer and be left in the same state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any, Final

import pytest

from tests.rules.test_lifecycle import (
    DAY,
    NOW,
    SID,
    ByHand,
    Rules,
    inserted,
    play,
    record,
    replaced,
    request,
)
from websessions.lifecycle import Finished
from websessions.outcome import OUTCOMES, CookieAction, Intent, Row, StoreAction
from websessions.store import Delete, Insert, Load, Replace, Steps, Touch

OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "by default": {},
    "resave": {"resave": True},
    "save_uninitialized": {"save_uninitialized": True},
    "rolling": {"rolling": True},
    "unset=destroy": {"unset": "destroy"},
    "a max_age": {"cookie": {"max_age": 3600}},
    "secure": {"cookie": {"secure": True}},
}

DEEDS: Final[dict[str, Callable[[ByHand], object]]] = {
    "nothing": lambda exchange: None,
    "reads": lambda exchange: exchange.session.get("a"),
    "takes a list out": lambda exchange: exchange.session.get("list"),
    "changes a list": lambda exchange: exchange.session.setdefault("list", []).append(2),
    "writes what was there": lambda exchange: exchange.session.update(a=1),
    "writes": lambda exchange: exchange.session.update(a=2),
    "writes and takes it back": lambda exchange: (
        exchange.session.update(b=1),
        exchange.session.pop("b"),
    ),
    "touches": lambda exchange: exchange.session.touch(),
    "sets a lifetime": lambda exchange: setattr(exchange.session.cookie, "max_age", 60),
}

INTENTS: Final[dict[Intent, Callable[[ByHand], object]]] = {
    Intent.KEEP: lambda exchange: None,
    Intent.REGENERATE: lambda exchange: exchange.session.regenerate(),
    Intent.PRIVILEGE: lambda exchange: exchange.session.regenerate(privilege=True),
    Intent.DESTROY: lambda exchange: exchange.session.destroy(),
    Intent.ABANDON: lambda exchange: exchange.abandon(),
}


NEW_ID: Final = (Intent.REGENERATE, Intent.PRIVILEGE)


@dataclass(frozen=True)
class Case:
    row: Row
    intent: Intent
    deed: str
    options: str
    touch: str
    opted_out: bool = False
    unset: bool = False
    intent_first: bool = False
    saved_before: bool = False

    def made(self) -> ByHand:
        """The request at its end."""
        now = NOW + (timedelta(hours=1) if self.touch == "due" else timedelta(seconds=1))
        exchange = request(
            None if self.row is Row.UNBORN else SID,
            opted_out=self.opted_out,
            rules=Rules(now, disable_touch=self.touch == "disabled"),
            genid=lambda: "n" * 43,
            **OPTIONS[self.options],
        )
        if self.row in (Row.LIVE, Row.GRACED, Row.ENDED):
            # As old as the settings' own lifetime makes it, so that it is the clock that decides.
            lives = timedelta(hours=1) if self.options == "a max_age" else DAY
            seen = record({"a": 1, "list": [1]}, expires=NOW + lives)
            if self.row is Row.GRACED:
                seen = replace(seen, grace_until=NOW + timedelta(hours=2))
            play(exchange.load_steps(), (Load, seen))
        if self.row is Row.ENDED:
            exchange.session["gone"] = 1
            play(exchange.settle_steps(), (Replace, None), (Load, None))
        intend, do = INTENTS[self.intent], DEEDS[self.deed]
        for act in (intend, do) if self.intent_first else (do, intend):
            act(exchange)
        if self.saved_before:
            drive(exchange.settle_steps())
        return exchange


ANSWERS: Final[dict[type, Callable[[Any], Any]]] = {
    Load: lambda call: record({"a": 1, "list": [1]}),
    Insert: inserted,
    Replace: replaced,
    Touch: lambda call: True,
    Delete: lambda call: True,
}


def drive(steps: Steps[Any]) -> tuple[Any, list[Any]]:
    """Whatever is asked, it works."""
    made: list[Any] = []
    answer: Any = None
    try:
        while True:
            call = steps.send(answer)
            made.append(call)
            answer = ANSWERS[type(call)](call)
    except StopIteration as stop:
        return stop.value, made


def state(exchange: ByHand) -> dict[str, Any]:
    """All that a later step could look at."""
    session = exchange.session
    of_session = {
        name: getattr(session, name)
        for kind in type(session).__mro__
        for name in getattr(kind, "__slots__", ())
        if name not in ("_exchange", "__weakref__")
    }
    of_exchange = {
        name: getattr(exchange, name)
        for name in (
            *("_row", "_record", "_presented", "_cookie", "_saved", "_failed", "_outdated"),
            *("_left_a_grace", "responding"),
        )
    }
    return {**of_session, **of_exchange}


def cases() -> Iterator[Case]:
    facts = product(Row, Intent, DEEDS, OPTIONS, ("not due", "due", "disabled"))
    for row, intent, deed, options, touch in facts:
        if row is Row.UNREAD and (deed != "nothing" or intent in NEW_ID):
            continue  # it has to be read first
        if row is not Row.LIVE and touch != "not due":
            continue  # there is nothing to touch
        for opted_out, unset, first, saved in product((False, True), repeat=4):
            if first and (deed == "nothing" or intent is Intent.KEEP):
                continue
            yield Case(row, intent, deed, options, touch, opted_out, unset, first, saved)


def test_the_short_way_and_the_steps_agree() -> None:
    """Where the short way answers at all, the steps make no call and answer the same."""
    short: set[tuple[Row, Intent, str]] = set()
    for case in cases():
        one, other = case.made(), case.made()
        finished = one.finish_now(unset=case.unset)
        if finished is None:
            untouched = state(other)
            assert state(one) == untouched, case
            continue
        short.add((case.row, case.intent, case.deed))
        assert drive(other.finish_steps(unset=case.unset)) == (finished, []), case
        assert state(one) == state(other), case
    assert (Row.LIVE, Intent.KEEP, "reads") in short
    assert (Row.UNREAD, Intent.KEEP, "nothing") in short
    assert (Row.UNBORN, Intent.KEEP, "reads") in short


def test_what_the_table_has_nothing_to_do_for_is_short() -> None:
    """So that the short way is taken by as many as can: all who changed nothing, with no option."""
    for row, intent in product(Row, Intent):
        if row is Row.UNREAD and intent in NEW_ID:
            continue
        store, cookie = OUTCOMES[row, intent, False]
        settled = store in (StoreAction.NOTHING, StoreAction.TOUCH) and row is not Row.GRACED
        exchange = Case(row, intent, "nothing", "by default", "not due").made()
        assert (exchange.finish_now() is not None) is settled, (row, intent)
        assert not settled or cookie in (CookieAction.NONE, CookieAction.REFRESH)


def test_options_do_not_lengthen_the_way_of_an_excluded_path() -> None:
    for options in OPTIONS:
        exchange = Case(Row.UNREAD, Intent.KEEP, "nothing", options, "not due", True).made()
        assert exchange.finish_now() == Finished(None, vary=False)


def test_a_request_that_failed_goes_the_long_way() -> None:
    """Even where nothing is left to be done, for its handler read the session again."""
    exchange = Case(Row.LIVE, Intent.KEEP, "writes", "by default", "not due").made()
    with pytest.raises(OSError, match="no"):
        play(exchange.finish_steps(), (Replace, OSError("no")))
    drive(exchange.reload_steps())
    exchange.session._written = exchange.session._lent = False
    assert exchange.finish_now() is None
    assert drive(exchange.finish_steps()) == (Finished(None, vary=True), [])
