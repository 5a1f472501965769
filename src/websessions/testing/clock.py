"""A clock that stands still until a test moves it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["FakeClock"]


class FakeClock:
    """Pass it as a store's `clock`, and no test has to wait.

    It starts at a whole second far from the present, so that whoever reads the machine's own
    clock instead is found out.

    >>> clock = FakeClock()
    >>> clock.advance(timedelta(hours=1))
    datetime.datetime(2037, 1, 1, 1, 0, tzinfo=datetime.timezone.utc)
    >>> clock() == clock()
    True
    """

    def __init__(self, start: datetime = datetime(2037, 1, 1, tzinfo=UTC)) -> None:
        if start.utcoffset() is None:
            raise ValueError(f"a clock's start has to be an aware datetime, not {start!r}")
        self._now = start.astimezone(UTC)

    def __call__(self) -> datetime:
        """The present moment, aware, in UTC."""
        return self._now

    def advance(self, span: timedelta | float) -> datetime:
        """Let a timedelta, or seconds, pass; the new present."""
        span = span if isinstance(span, timedelta) else timedelta(seconds=span)
        if span < timedelta(0):
            raise ValueError(f"time does not go back, and so not by {span}")
        self._now += span
        return self._now

    def __repr__(self) -> str:
        return f"FakeClock({self._now.isoformat()})"
