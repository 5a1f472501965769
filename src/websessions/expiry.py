"""When a session expires, and when that is pushed on: arithmetic, no I/O."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

__all__ = ["LONGEST_SPAN", "NO_LIFETIME", "Lifetime", "expires_at", "touch_slack"]


class Lifetime(NamedTuple):
    """How long a cookie lasts: one of the two, or neither, which is as long as the browser."""

    max_age: timedelta | None
    expires: datetime | None

    @property
    def is_persistent(self) -> bool:
        """Whether the cookie outlives the browser."""
        return self.max_age is not None or self.expires is not None


NO_LIFETIME: Final = Lifetime(None, None)
"""As long as the browser."""

LONGEST_SPAN: Final = timedelta(days=365_250)
"""1000 years: what is so far from now is still a datetime."""


def expires_at(
    now: datetime,
    *,
    max_age: timedelta | None,
    fixed: datetime | None,
    expiration: timedelta,
) -> datetime:
    """The moment a session that is used now expires.

    The cookie's own expiry counts where it has one: `fixed` stays put, `max_age` slides. A cookie
    that lasts as long as the browser has none, and the store's `expiration` counts.
    """
    if fixed is not None:
        return fixed
    return now + (expiration if max_age is None else max_age)


def touch_slack(
    current: datetime,
    wanted: datetime,
    touch_after: timedelta,
    *,
    max_age: timedelta | None,
    expiration: timedelta,
) -> timedelta | None:
    """How far an expiry has to have fallen behind for a statement to be worth it; None if it has
    not.

    That is `touch_after`, so a session may end that much sooner than its idle timeout says. But one
    that lasts hardly longer would end while its visitor is there: half its time at most.
    """
    slack = min(touch_after, (expiration if max_age is None else max_age) / 2)
    return slack if wanted > current and wanted - current >= slack else None
