"""When a session expires and when a touch is due: arithmetic."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websessions.expiry import NO_LIFETIME, Lifetime, expires_at, touch_is_due

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
    assert touch_is_due(NOW, NOW + moved, touch_after) is due


@given(current=moments, wanted=moments, touch_after=spans)
def test_a_due_touch_never_shortens(
    current: datetime, wanted: datetime, touch_after: timedelta
) -> None:
    if touch_is_due(current, wanted, touch_after):
        assert wanted > current
