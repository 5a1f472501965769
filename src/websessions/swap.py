"""Compare and swap: a write that loses to another one reads again and tries again.

Nobody holds a lock while a handler runs. A `Replace` is refused if someone wrote in between, and
this loop is the one place that says how long that is fought over.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from .errors import Conflict
from .run import Pause
from .sid import Key
from .store import Load, Record, Replace, Steps

__all__ = ["CONFLICT_DEADLINE", "swap_steps"]

CONFLICT_DEADLINE: Final = 5.0
"""Seconds for which a write that keeps losing to others is tried again."""

LONGEST_PAUSE: Final = 0.25
"""Seconds that are waited at most before another try; on average it is half of them."""


def swap_steps(
    key: Key, write: Replace, again: Callable[[Record], Replace | None]
) -> Steps[Record | None]:
    """Replace a record, however many others write it too.

    Args:
        key: where it is read again.
        write: the first try.
        again: makes the next try out of what someone else wrote; None if there is to be none.

    Returns:
        The record as it is now, or None if there is none any more.

    Raises:
        Conflict: it was lost to others until the deadline.
    """
    give_up = time.monotonic() + CONFLICT_DEADLINE
    wait = 0.0
    while True:
        written: Record | None = yield write
        if written is not None:
            return written
        if wait:
            # Before reading, not after: what was read is old soon on a busy session.
            yield Pause(random.uniform(0, wait))  # noqa: S311  jitter is no secret
        wait = min(2 * wait, LONGEST_PAUSE) or 0.001
        theirs: Record | None = yield Load(key)
        if theirs is None:
            return None
        if time.monotonic() > give_up:
            raise Conflict(
                f"others kept changing this session for {CONFLICT_DEADLINE:g} s;"
                " this change is not saved"
            )
        next_try = again(theirs)
        if next_try is None:
            return theirs
        write = next_try
