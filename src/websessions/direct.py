"""Stores as people use them directly: `get`, `set`, `touch` and the rest, over the calls.

Each method is written once, as steps; `SessionStore` and `AsyncSessionStore` only run them. To
make a store of your own, subclass one of the two and write `perform` (see `store.py`).
"""

from __future__ import annotations

import asyncio
import inspect
import os
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Final, Self, TypedDict, Unpack

from .codec import Codec, JSONCodec, encode_within
from .errors import ConfigurationError, CorruptRecord
from .expiry import expires_at, touch_slack
from .run import run, run_async
from .session import COOKIE_KEY, Session, decode_document, is_unchanged
from .settings import Seconds, as_span
from .sid import HASHED, Key, KeyRule, Sid
from .store import (
    Call,
    Clear,
    Clock,
    Count,
    Delete,
    Load,
    Put,
    Record,
    Replace,
    Scan,
    Steps,
    Swept,
    Touch,
    ask,
    system_clock,
)
from .swap import swap_steps
from .sweeper import SweeperTask, SweeperThread, batch_steps

__all__ = ["AsyncSessionStore", "SessionStore", "StoreOptions"]

PAGE: Final = 1000
"""Records that `all()` reads at a time."""


_stores: weakref.WeakSet[_Store] = weakref.WeakSet()


def _before_fork() -> None:
    for store in list(_stores):
        store._before_fork()


def _after_fork() -> None:
    for store in list(_stores):
        store._after_fork()


# A server that loads the app before it forks its workers (gunicorn --preload) leaves them a store
# whose threads and connections belong to the parent.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork)


class StoreOptions(TypedDict, total=False):
    """The keyword arguments that every store takes.

    Attributes:
        codec: how a session becomes bytes; `JSONCodec()` by default.
        max_size: the largest encoded session, in bytes; 1 MiB by default.
        expiration: how long a session lives after its last use, where its cookie has no expiry of
            its own; a timedelta or seconds, 24 hours by default.
        touch_after: at most one touch of a session per this span, 1 minute by default; 0 touches
            at every request. A session may expire this much early.
        disable_touch: only writes push the expiry on.
        check_expiration_interval: how often to sweep, 15 minutes by default; 0 or None: never.
        clock: returns the present as an aware UTC datetime.
    """

    codec: Codec | None
    max_size: int
    expiration: timedelta | Seconds
    touch_after: timedelta | Seconds
    disable_touch: bool
    check_expiration_interval: timedelta | Seconds | None
    clock: Clock


class _Store:
    """Options and steps: what both kinds of store share."""

    sweeps_in_turns: bool = False
    """Whether the store answers `Lease`, so that of many processes one sweeps."""

    locks: bool = False
    """Whether the store answers `Lock` and `Unlock`, so that `session.lock()` works."""
    longest_sid: int | None = None
    """How many characters of a session id fit the store; None: all that there can be."""

    _sweeper: SweeperThread | SweeperTask

    def __init__(
        self,
        *,
        codec: Codec | None = None,
        max_size: int = 1024 * 1024,
        expiration: timedelta | Seconds = timedelta(hours=24),
        touch_after: timedelta | Seconds = timedelta(minutes=1),
        disable_touch: bool = False,
        check_expiration_interval: timedelta | Seconds | None = timedelta(minutes=15),
        clock: Clock = system_clock,
    ) -> None:
        self._key_rule: KeyRule = HASHED
        self.codec: Codec = JSONCodec() if codec is None else codec
        if not callable(getattr(self.codec, "encode", None)) or not hasattr(self.codec, "is_text"):
            raise ConfigurationError(f"codec has to be a Codec, not {codec!r}")
        if not isinstance(max_size, int) or max_size <= 0:
            raise ConfigurationError(f"max_size is a number of bytes above 0, not {max_size!r}")
        self.max_size = max_size
        self.expiration = as_span(expiration, "expiration")
        if not self.expiration:
            raise ConfigurationError("expiration can not be 0: every session would be over at once")
        self.touch_after = as_span(touch_after, "touch_after")
        self.disable_touch = bool(disable_touch)
        self.check_expiration_interval = (
            as_span(check_expiration_interval, "check_expiration_interval")
            if check_expiration_interval is not None
            else timedelta(0)
        )
        if not callable(clock):
            raise ConfigurationError(f"clock is a function that returns the present, not {clock!r}")
        self.clock = clock
        _stores.add(self)

    @property
    def _rules(self) -> StoreOptions:
        """The options of a second store of the same sessions, which does not sweep."""
        return {
            "codec": self.codec,
            "max_size": self.max_size,
            "expiration": self.expiration,
            "touch_after": self.touch_after,
            "disable_touch": self.disable_touch,
            "check_expiration_interval": None,
            "clock": self.clock,
        }

    def _before_fork(self) -> None:
        """Let go of what two processes must not have open."""

    def _after_fork(self) -> None:
        self._sweeper.after_fork()

    def key(self, sid: Sid, /) -> Key:
        """Where the session with this id is stored: under its SHA-256, or as the table has it."""
        return self._key_rule(sid)

    def _key(self, sid: Sid | str) -> Key:
        if isinstance(sid, str):
            sid = Sid(sid)
        if not isinstance(sid, Sid):
            raise TypeError(f"a session id is a Sid or a str, not {type(sid).__name__}")
        return self.key(sid)

    def _values(self, record: Record) -> dict[str, Any]:
        values, _ = decode_document(self.codec, record)
        values.pop(COOKIE_KEY, None)
        return values

    def _get_steps(self, sid: Sid | str) -> Steps[dict[str, Any] | None]:
        record = yield from ask(Load(self._key(sid)))
        if record is None:
            return None
        return self._values(record)

    def _set_steps(
        self, sid: Sid | str, data: Mapping[str, Any], expires: datetime | None
    ) -> Steps[None]:
        key = self._key(sid)
        if not isinstance(data, Mapping):
            raise TypeError(f"session data is a mapping, not {type(data).__name__}")
        if expires is not None and (
            not isinstance(expires, datetime) or expires.utcoffset() is None
        ):
            raise ValueError(f"expires has to be an aware datetime, not {expires!r}")
        if isinstance(data, Session):
            document, values = data._document(), dict(data)
            expires = expires or self._lifetime(data.cookie.max_age, data.cookie.expires)
        else:
            document = values = dict(data)
        _check_keys(values)
        expires = (expires or self._lifetime(None, None)).astimezone(UTC)
        encoded = encode_within(self.codec, document, self.max_size)
        yield from ask(Put(key, encoded, expires, values))

    def _update_steps(
        self, sid: Sid | str, function: Callable[[dict[str, Any]], object]
    ) -> Steps[dict[str, Any] | None]:
        key = self._key(sid)
        if not callable(function) or inspect.iscoroutinefunction(function):
            raise TypeError(f"update takes a plain function of the session's dict, not {function}")
        values: dict[str, Any] = {}

        def updated(record: Record) -> Replace | None:
            nonlocal values
            values, lifetime = decode_document(self.codec, record)
            cookie = values.pop(COOKIE_KEY, None)
            if (returned := function(values)) is not None:
                raise TypeError(
                    "the function given to update changes the dict and returns None;"
                    f" it returned {type(returned).__name__}"
                )
            _check_keys(values)
            document = values if cookie is None else {**values, COOKIE_KEY: cookie}
            data = encode_within(self.codec, document, self.max_size)
            if is_unchanged(self.codec, data, record):
                return None
            # The middleware's cookie may last longer than this store knows: never shorten.
            expires = max(record.expires, self._lifetime(*lifetime))
            return Replace(record, data, expires, values)

        record = yield from ask(Load(key))
        if record is not None and (write := updated(record)) is not None:
            record = yield from swap_steps(key, write, updated)
        return None if record is None else values

    def _touch_steps(self, sid: Sid | str) -> Steps[None]:
        key = self._key(sid)
        if self.disable_touch:
            return
        record = yield from ask(Load(key))
        if record is None:
            return
        _, (max_age, fixed) = decode_document(self.codec, record)
        wanted = self._lifetime(max_age, fixed)
        slack = touch_slack(
            record.expires,
            wanted,
            self.touch_after,
            max_age=max_age,
            expiration=self.expiration,
        )
        if slack is not None:
            yield from ask(Touch(record.key, wanted, slack))

    def _lifetime(self, max_age: timedelta | None, fixed: datetime | None) -> datetime:
        return expires_at(self.clock(), max_age=max_age, fixed=fixed, expiration=self.expiration)

    def _destroy_steps(self, sid: Sid | str) -> Steps[None]:
        yield from ask(Delete(self._key(sid)))

    def _all_steps(self) -> Steps[list[dict[str, Any]]]:
        sessions: list[dict[str, Any]] = []
        after: Key | None = None
        while True:
            page = yield from ask(Scan(after, PAGE))
            for record in page:
                try:
                    sessions.append(self._values(record))
                except CorruptRecord:
                    continue
            if len(page) < PAGE:
                return sessions
            after = page[-1].key

    def _length_steps(self) -> Steps[int]:
        return (yield from ask(Count()))

    def _clear_steps(self) -> Steps[None]:
        yield from ask(Clear())

    def _sweep_steps(self) -> Steps[int]:
        deleted, swept = 0, Swept(0, True)
        while swept.more:
            swept = yield from batch_steps(swept.reached)
            deleted += swept.deleted
        return deleted


def _check_keys(names: Iterable[object]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"session keys are strings, not {type(name).__name__}")
        if name == COOKIE_KEY:
            raise ValueError(f"the session key {COOKIE_KEY!r} is reserved")


class SessionStore(_Store, ABC):
    """A store for synchronous code: threads, WSGI, scripts."""

    _sweeper: SweeperThread

    def __init__(self, **options: Unpack[StoreOptions]) -> None:
        super().__init__(**options)
        self._sweeper = SweeperThread(self, self.check_expiration_interval)

    def in_use(self) -> None:
        """To be called first thing in `perform`: the first use starts the sweeper."""
        if self._sweeper.wanted:
            self._sweeper.start()

    @abstractmethod
    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        """Perform the calls and answer each one, in order, with its result or its exception."""

    def get(self, sid: Sid | str) -> dict[str, Any] | None:
        """The session's dict, or None if there is none or it has expired.

        Raises:
            CorruptRecord: the stored data can not be decoded. `set()` heals it.
            StoreUnavailable: the database can not be reached.
        """
        return run(self._get_steps(sid), self)

    def set(
        self,
        sid: Sid | str,
        data: Mapping[str, Any],
        *,
        expires: datetime | None = None,
    ) -> None:
        """Store a session, whatever was there before: last write wins.

        Within requests the middleware saves; this is for direct use, such as tests and scripts.

        Args:
            sid: the session id.
            data: the session's dict, or a `Session`.
            expires: an aware datetime; by default the cookie's expiry where `data` is a `Session`
                that has one, else `expiration` from now.

        Raises:
            SessionEncodingError: a value can not be stored; the message has its path.
            SessionTooLarge: the session is over `max_size`.
        """
        run(self._set_steps(sid, data, expires), self)

    def update(
        self, sid: Sid | str, function: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any] | None:
        """Change a session whatever else changes it: read, change and write as one step.

        For what is not a request of the session's own visitor: a job, a webhook, an admin. It
        counts as a use of the session, so it pushes the expiry on, and never shortens it. A
        session that has ended stays ended.

        Args:
            sid: the session id.
            function: changes the dict that it is given, and returns None. If someone else wrote
                meanwhile it is called again, with what they wrote, so it should do nothing else.

        Returns:
            The dict as it is stored now, or None if there is no session; then the function may
            not have been called at all.

        Raises:
            Conflict: others kept changing the session for 5 seconds; nothing is changed.
            CorruptRecord: the stored data can not be decoded.
            SessionEncodingError: a value can not be stored; the message has its path.
            SessionTooLarge: the session is over `max_size`.
            TypeError: the function returned something, or is async.

        >>> def notify(session: dict[str, Any]) -> None:                   # doctest: +SKIP
        ...     session.setdefault("messages", []).append("Your order is on its way")
        >>> store.update(sid, notify)                                      # doctest: +SKIP
        """
        return run(self._update_steps(sid, function), self)

    def touch(self, sid: Sid | str) -> None:
        """Push the session's expiry on, as its use would; at most once per `touch_after`.

        Never shortens it, never revives a session that has expired; nothing with `disable_touch`.
        """
        run(self._touch_steps(sid), self)

    def destroy(self, sid: Sid | str) -> None:
        """End a session. No error if there is none."""
        run(self._destroy_steps(sid), self)

    def all(self) -> list[dict[str, Any]]:
        """The dicts of all live sessions; corrupt ones are skipped."""
        return run(self._all_steps(), self)

    def length(self) -> int:
        """How many sessions are live."""
        return run(self._length_steps(), self)

    def clear(self) -> None:
        """Delete all sessions: everybody is logged out."""
        run(self._clear_steps(), self)

    def clear_expired_sessions(self) -> int:
        """Delete what has expired, in bounded batches with pauses; how many rows that were.

        Whoever else sweeps: it asks for no lease.
        """
        return run(self._sweep_steps(), self)

    def start_expiring_sessions(self) -> None:
        """Sweep every `check_expiration_interval` from now on, in a thread of its own.

        Where the store has a lease, processes take turns: one of them sweeps for all.
        Happens by itself at the first use. Calling it twice is the same as once.
        """
        self._sweeper.start()

    def stop_expiring_sessions(self) -> None:
        """Stop sweeping until `start_expiring_sessions()`. Calling it twice is fine."""
        self._sweeper.stop()

    def sync(self) -> None:
        """Create what the store needs, if it is missing."""

    def close(self) -> None:
        """Stop sweeping and let go of what the store opened itself. May be called twice."""
        self._sweeper.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class AsyncSessionStore(_Store, ABC):
    """A store for asyncio. The same methods as `SessionStore`, awaited."""

    _sweeper: SweeperTask

    def __init__(self, **options: Unpack[StoreOptions]) -> None:
        super().__init__(**options)
        self._sweeper = SweeperTask(self, self.check_expiration_interval)

    def in_use(self) -> None:
        """To be called first thing in `perform`: the first use in an event loop starts the sweeper
        there.
        """
        self._sweeper.use(asyncio.get_running_loop())

    @abstractmethod
    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        """Perform the calls and answer each one, in order, with its result or its exception."""

    async def get(self, sid: Sid | str) -> dict[str, Any] | None:
        """The session's dict, or None if there is none or it has expired.

        Raises:
            CorruptRecord: the stored data can not be decoded. `set()` heals it.
            StoreUnavailable: the database can not be reached.
        """
        return await run_async(self._get_steps(sid), self)

    async def set(
        self,
        sid: Sid | str,
        data: Mapping[str, Any],
        *,
        expires: datetime | None = None,
    ) -> None:
        """Store a session, whatever was there before; see `SessionStore.set`."""
        await run_async(self._set_steps(sid, data, expires), self)

    async def update(
        self, sid: Sid | str, function: Callable[[dict[str, Any]], None]
    ) -> dict[str, Any] | None:
        """Read, change and write a session as one step; see `SessionStore.update`.

        The function is a plain one here, too: it is called between two store calls, more than
        once if need be, and does no I/O.
        """
        return await run_async(self._update_steps(sid, function), self)

    async def touch(self, sid: Sid | str) -> None:
        """Push the session's expiry on, as its use would; see `SessionStore.touch`."""
        await run_async(self._touch_steps(sid), self)

    async def destroy(self, sid: Sid | str) -> None:
        """End a session. No error if there is none."""
        await run_async(self._destroy_steps(sid), self)

    async def all(self) -> list[dict[str, Any]]:
        """The dicts of all live sessions; corrupt ones are skipped."""
        return await run_async(self._all_steps(), self)

    async def length(self) -> int:
        """How many sessions are live."""
        return await run_async(self._length_steps(), self)

    async def clear(self) -> None:
        """Delete all sessions: everybody is logged out."""
        await run_async(self._clear_steps(), self)

    async def clear_expired_sessions(self) -> int:
        """Delete what has expired; see `SessionStore.clear_expired_sessions`."""
        return await run_async(self._sweep_steps(), self)

    async def start_expiring_sessions(self) -> None:
        """Sweep every `check_expiration_interval` from now on, in a task of this event loop; see
        `SessionStore.start_expiring_sessions`.
        """
        self._sweeper.start()

    async def stop_expiring_sessions(self) -> None:
        """Stop sweeping until `start_expiring_sessions()`. Calling it twice is fine."""
        self._sweeper.stop()

    async def sync(self) -> None:
        """Create what the store needs, if it is missing."""

    async def close(self) -> None:
        """Stop sweeping and let go of what the store opened itself. May be called twice."""
        await self._sweeper.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()
