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
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from .errors import (
    ConfigurationError,
    Conflict,
    CorruptRecord,
    SessionError,
    SessionLocked,
    StoreError,
)
from .joined import after_transaction_steps
from .outcome import Intent
from .run import Pause
from .sid import Key
from .store import Clock, Load, Lock, Record, Steps, Unlock, ask
from .writing import resolved

if TYPE_CHECKING:
    from .lifecycle import RequestSession

__all__ = ["Held", "lock_steps", "releasing_steps", "unlock_steps"]

R = TypeVar("R")

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
    since: Record | None = field(init=False)
    document: bytes = field(init=False)
    emptied: bool = field(init=False)
    leaving: bool = False


def lock_steps(request: RequestSession[Any], timeout: timedelta, lease: timedelta) -> Steps[None]:
    """Take the session's lock, and show the session as it is then, with what this request has
    changed and not saved.

    A session that is not stored needs no lock: nobody else knows it. Nor does one that has
    ended: what is written to it is dropped, locked or not.
    """
    session, store = request.session, request._store
    if request._held is not None:
        raise SessionError(
            "this request is in a block of session.lock() already; the lock is the request's,"
            " so neither a block inside of it nor another task can have it as well"
        )
    # A store that is not made of ours may not know that stores can.
    if not getattr(store, "locks", False):
        raise ConfigurationError(
            f"{type(store).__name__} can not lock sessions: the table of a SQL store needs the"
            " nullable columns locked_by, a String(32), and locked_until, a DateTime; a store"
            " of your own has to answer Lock and Unlock, and say so by locks = True"
        )
    yield from after_transaction_steps(request, "lock()")
    held = request._held = Held()
    try:
        yield from request.load_steps()
        if request._record is not None and session._intent is not Intent.DESTROY:
            assert request._presented is not None
            at, key, holder = request._record.key, store.key(request._presented), _a_holder()
            theirs = yield from _take_steps(
                at, key, holder, store.clock, timeout=timeout, lease=lease
            )
            if theirs is None:
                request._has_ended()
            else:
                held.holder = holder
                _see(request, theirs)
        held.since, held.emptied = request._record, session._emptied
        held.document = request._encoded()
    except BaseException:
        if held.holder is not None:
            yield from _let_go_steps(request)
        request._held = None
        raise


def unlock_steps(request: RequestSession[Any], *, failed: bool) -> Steps[None]:
    """Save, and release the lock; after a failure release it, and take back what was not saved.

    Args:
        failed: the block that was under the lock raised.
    """
    held = request._held
    assert held is not None
    if request.joined is not None and request.joined.transaction.is_open:
        if failed:
            return  # the lock is released when the response begins
        raise SessionError(
            "a block of session.lock() ends inside of a transaction that the session was saved"
            " within, which keeps its row: the block belongs around the transaction"
        )
    try:
        if failed:
            _take_back(request, held)
            yield from _let_go_steps(request)
        else:
            yield from releasing_steps(request, request.settle_steps())
    finally:
        request._held = None


def releasing_steps(request: RequestSession[Any], steps: Steps[R]) -> Steps[R]:
    """These steps, and then the lock is released, whatever became of them."""
    assert request._held is not None
    request._held.leaving = True
    try:
        result = yield from steps
    except GeneratorExit:
        raise  # nobody performs anything any more
    except BaseException:
        yield from _let_go_steps(request)
        raise
    yield from _let_go_steps(request)
    return result


def _let_go_steps(request: RequestSession[Any]) -> Steps[None]:
    held, record = request._held, request._record
    assert held is not None
    holder, held.holder = held.holder, None
    if holder is not None and record is not None:
        assert request._presented is not None
        yield from _release_steps(record.key, request._store.key(request._presented), holder)


def _see(request: RequestSession[Any], theirs: Record) -> None:
    """Show what is stored, with what this request has changed and not saved."""
    session = request.session
    if session._intent is Intent.DESTROY:
        request._found(theirs)  # asked for while the lock was waited for
    elif request._has_changed(request._encoded() if request._may_have_changed() else None):
        try:
            resolved(request, theirs, emptied=session._emptied)
        except Conflict:
            request._outdated = True
            raise
    else:
        session._adopt(session._sid, request._decode(theirs))
        request._found(theirs)
    request._outdated = False


def _take_back(request: RequestSession[Any], held: Held) -> None:
    """What a block changed before it raised, back to where it began or last saved."""
    session = request.session
    if session._intent is Intent.DESTROY:
        session.destroy()
    elif request._record is held.since:
        session._take_back(request._store.codec.decode(held.document), emptied=held.emptied)
    elif request._record is not None:
        session._take_back(request._decode(request._record), emptied=False)


def _a_holder() -> str:
    """A name that nobody else holds a lock by."""
    return secrets.token_hex(16)


def _take_steps(
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


def _release_steps(at: Key, key: Key, holder: str) -> Steps[None]:
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
