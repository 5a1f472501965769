"""When a session expires, and when that is pushed on: arithmetic, no I/O."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final, NamedTuple

__all__ = ["LONGEST_SPAN", "NO_LIFETIME", "Lifetime", "expires_at", "touch_is_due"]


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


def touch_is_due(current: datetime, wanted: datetime, touch_after: timedelta) -> bool:
    """Whether pushing the expiry on is worth a statement: at most one per `touch_after`.

    So a session may end up to `touch_after` sooner than its idle timeout says.
    """
    return wanted > current and wanted - current >= touch_after
