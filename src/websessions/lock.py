"""A session's lock, for the rare handler that needs one: a lease beside the stored session.

It is taken by one guarded write and released by another, so nothing is held between them: no
transaction, no connection, no lock of the database's. Who dies is replaced when the lease ends.
"""

from __future__ import annotations

import logging
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from .errors import CorruptRecord, SessionLocked, StoreError
from .run import Pause
from .sid import Key
from .store import Clock, Load, Lock, Record, Steps, Unlock, ask

__all__ = ["Held", "a_holder", "release_steps", "take_steps"]

log = logging.getLogger("websessions")

FIRST_PAUSE: Final = 0.005
"""Seconds that are waited at most before the second try; it is twice as many before the next."""

LONGEST_PAUSE: Final = 0.25
"""And this many at most before any."""


@dataclass(slots=True)
class Held:
    """A block of a request's that is under its session's lock.

    Attributes:
        holder: by whose name the lock is held; None where there is none, or none any more.
        since: what was stored when the block began.
        document: the session as it was then, encoded.
        emptied: whether the request had emptied it before.
        leaving: the lock is about to be released.
    """

    holder: str | None = None
    since: Record | None = None
    document: bytes = b""
    emptied: bool = False
    leaving: bool = False


def a_holder() -> str:
    """A name that nobody else holds a lock by."""
    return secrets.token_hex(16)


def take_steps(
    at: Key, key: Key, holder: str, clock: Clock, *, timeout: timedelta, lease: timedelta
) -> Steps[Record | None]:
    """Take a session's lock, once whoever has it is done.

    Args:
        at: where the session was when it was read.
        key: what finds it, wherever it has moved since.
        holder: by whose name it is held.
        clock: the store's.
        timeout: how long to wait for it.
        lease: after that others may take it.

    Returns:
        The record as it is now that it is locked, or None if there is none any more.

    Raises:
        SessionLocked: somebody else has it for longer.
    """
    give_up = time.monotonic() + timeout.total_seconds()
    wait = 0.0
    is_taken = False
    try:
        while not (yield from ask(Lock(at, holder, clock() + lease))):
            there = yield from ask(Load(key))
            if there is None:
                return None
            if there.key == at:
                left = give_up - time.monotonic()
                if left <= 0:
                    raise SessionLocked(
                        "another request holds this session's lock, and did not release it within"
                        f" {timeout.total_seconds():g} s; nothing has happened to the session"
                    )
                wait = min(2 * wait, LONGEST_PAUSE) or FIRST_PAUSE
                jittered = random.uniform(wait / 2, wait)  # noqa: S311  jitter is no secret
                yield from ask(Pause(min(left, jittered)))
            at = there.key
        is_taken = True
        record = yield from ask(Load(key))
        if record is None:
            # Ended; or it is only out of reach, by an id whose grace is over.
            yield from ask(Unlock(at, holder))
        return record
    except (SessionLocked, GeneratorExit):
        raise
    except BaseException as error:
        # Cancelled, maybe after it was taken; or what is stored can not be read.
        if is_taken or not isinstance(error, StoreError):
            with suppress(StoreError):
                yield from ask(Unlock(at, holder))
        raise


def release_steps(at: Key, key: Key, holder: str) -> Steps[None]:
    """Release a session's lock, wherever it has moved. If that fails, the lease ends it."""
    try:
        if (yield from ask(Unlock(at, holder))):
            return
        there = yield from ask(Load(key))
        if there is None or (there.key != at and (yield from ask(Unlock(there.key, holder)))):
            return
        log.warning(
            "the lease of a session's lock had ended before it was released: what the lock was for"
            " took longer than `lease`"
        )
    except (StoreError, CorruptRecord) as error:
        log.warning(
            "a session's lock could not be released, and is held until its lease ends: %s", error
        )
