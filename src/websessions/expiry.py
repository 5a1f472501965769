"""When a session expires, and when that is pushed on: arithmetic, no I/O."""

from __future__ import annotations

from datetime import datetime, timedelta

__all__ = ["expires_at", "touch_is_due"]


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
