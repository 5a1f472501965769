"""When a session expires and when a touch is due: arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websessions import CookieSettings, MemoryStore, SessionSettings
from websessions.exchange import SyncExchange
from websessions.expiry import NO_LIFETIME, Lifetime, expires_at, touch_slack
from websessions.lifecycle import Lifecycle
from websessions.store import Performs
from websessions.testing import FakeClock

NOW = datetime(2037, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)

moments = st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
spans = st.timedeltas(timedelta(0), timedelta(days=365))


def test_a_browser_session_lives_as_long_as_the_store_says() -> None:
    assert expires_at(NOW, max_age=None, fixed=None, expiration=DAY) == NOW + DAY


def test_the_cookies_max_age_counts_where_it_has_one() -> None:
    assert expires_at(NOW, max_age=timedelta(hours=1), fixed=None, expiration=DAY) == NOW + DAY / 24
    assert expires_at(NOW, max_age=30 * DAY, fixed=None, expiration=DAY) == NOW + 30 * DAY


def test_a_max_age_of_zero_is_one() -> None:
    """0 is not None: the session is over at once."""
    assert expires_at(NOW, max_age=timedelta(0), fixed=None, expiration=DAY) == NOW


def test_a_cookie_with_either_end_outlives_the_browser() -> None:
    assert not NO_LIFETIME.is_persistent
    assert Lifetime(DAY, None).is_persistent
    assert Lifetime(None, NOW).is_persistent


def test_a_fixed_end_stays_where_it_is() -> None:
    for now in (NOW - DAY, NOW, NOW + DAY):
        assert expires_at(now, max_age=None, fixed=NOW, expiration=DAY) == NOW


@given(now=moments, later=spans, max_age=st.none() | spans, expiration=spans)
def test_use_never_brings_the_end_nearer(
    now: datetime, later: timedelta, max_age: timedelta | None, expiration: timedelta
) -> None:
    first = expires_at(now, max_age=max_age, fixed=None, expiration=expiration)
    second = expires_at(now + later, max_age=max_age, fixed=None, expiration=expiration)
    assert second - first == later


@pytest.mark.parametrize(
    ("moved", "touch_after", "due"),
    [
        (timedelta(seconds=59), timedelta(minutes=1), False),
        (timedelta(seconds=60), timedelta(minutes=1), True),
        (timedelta(seconds=61), timedelta(minutes=1), True),
        (timedelta(microseconds=1), timedelta(0), True),
        (timedelta(0), timedelta(0), False),
        (-DAY, timedelta(0), False),
        (-DAY, timedelta(minutes=1), False),
    ],
)
def test_a_touch_is_due_once_per_span_and_never_backwards(
    moved: timedelta, touch_after: timedelta, due: bool
) -> None:
    slack = touch_slack(NOW, NOW + moved, touch_after, max_age=None, expiration=DAY)
    assert slack == (touch_after if due else None)


@given(current=moments, wanted=moments, touch_after=spans)
def test_a_due_touch_never_shortens(
    current: datetime, wanted: datetime, touch_after: timedelta
) -> None:
    slack = touch_slack(current, wanted, touch_after, max_age=None, expiration=DAY)
    if slack is not None:
        assert wanted > current


@pytest.mark.parametrize(
    ("max_age", "expiration", "slack"),
    [
        (None, DAY, 60),
        (None, timedelta(seconds=60), 30),
        (timedelta(seconds=10), DAY, 5),
        (DAY, timedelta(seconds=10), 60),
    ],
)
def test_a_touch_waits_no_longer_than_half_of_what_a_session_lasts(
    max_age: timedelta | None, expiration: timedelta, slack: int
) -> None:
    minute, second = timedelta(minutes=1), timedelta(seconds=1)
    spans: Any = {"max_age": max_age, "expiration": expiration}
    assert touch_slack(NOW, NOW + slack * second, minute, **spans) == slack * second
    assert touch_slack(NOW, NOW + (slack - 1) * second, minute, **spans) is None


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("by", ["max_age", "expiration", "its own"])
def test_a_short_session_does_not_end_while_it_is_used(by: str, direct: bool) -> None:
    """However long `touch_after` is."""
    clock = FakeClock()
    minute = timedelta(minutes=1)
    spans = {"max_age": None, "expiration": DAY, by: minute}
    store = MemoryStore(
        clock=clock,
        expiration=spans["expiration"] or DAY,
        touch_after=DAY,
        check_expiration_interval=0,
    )
    cookie = CookieSettings(max_age=spans["max_age"])
    rules: Lifecycle[Performs] = Lifecycle(
        store, SessionSettings(secret="a long and random secret", cookie=cookie)
    )
    exchange = SyncExchange(rules, "", https=False)
    exchange.session["user"] = "ann"
    if by == "its own":
        exchange.session.cookie.max_age = minute
    cookies = str(exchange.finish().cookie).partition(";")[0]
    sid = exchange.session.id
    for _ in range(20):
        clock.advance(20)
        if direct:
            assert store.get(sid) is not None
            store.touch(sid)
        else:
            exchange = SyncExchange(rules, cookies, https=False)
            assert exchange.session["user"] == "ann"
            exchange.finish()
