"""Moving sessions to another store while requests come: each with its visitor, or all of them.

The table of an Express app has the session ids, one of this package's own has their digests. So a
session is filed there under the digest of the id that its visitor has, and is found by it; the
middleware gives it a new id and a new cookie then (`SessionSettings.former`).

One of those who want to move a session marks it first, by a guarded write, then inserts it, then
deletes it. The others wait for that one, and take over if it does not come back. So a session is
never in neither store, and one that has ended meanwhile, or was moved, is not inserted again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from .codec import Codec, encode_within
from .cookie_form import form_of
from .direct import AsyncSessionStore, SessionStore
from .errors import ConfigurationError, StoreError, StoreUnavailable
from .expiry import NO_LIFETIME, Lifetime
from .run import Pause, run, run_async
from .session import decode_document
from .settings import COOKIE_KEY
from .sid import Key, Sid
from .store import (
    Call,
    Clock,
    Delete,
    Fetch,
    Insert,
    Load,
    Record,
    Replace,
    Scan,
    Steps,
    StoreRules,
    ask,
    value,
)

__all__ = ["AsyncMovingStore", "Moved", "MovingStore", "move_all"]

S = TypeVar("S", bound="SessionStore | AsyncSessionStore")

PAGE = 500
"""Sessions that are read at a time."""

_MOVING: Final = "$moving"
"""The key that marks a session that is being moved."""

_WAIT: Final = 0.02
_PATIENCE: Final = 2.0
"""Seconds between two looks at a session that somebody else is moving, and for how long."""


@value
class _AtSource(Call[Any]):
    """A call for the store that the sessions come from."""

    call: Call[Any]


class _Moving(Generic[S]):
    """Two stores as one that a middleware takes: all is done in `target`, and what is still in
    `source` is moved there when its visitor comes. Whoever made the two closes them.

    Args:
        target: the store of the future. Its table has to be there: call its `sync()` at start.
        source: the one that the sessions come from, such as
            `SQLSessionStore.connect_session_sequelize(...)`.

    Raises:
        ConfigurationError: the two are of different kinds, or the same.
    """

    fetches = True
    """Whether it answers `Fetch`."""

    def __init__(self, target: S, source: S) -> None:
        kind = SessionStore if isinstance(target, SessionStore) else AsyncSessionStore
        if not isinstance(source, kind) or not isinstance(target, kind):
            raise ConfigurationError(
                "sessions are moved between two sync or two async stores, not from a"
                f" {type(source).__name__} to a {type(target).__name__}"
            )
        if source is target:
            raise ConfigurationError("sessions can not be moved from a store to itself")
        places = [getattr(store, "place", None) for store in (target, source)]
        if places[0] is not None and places[0] == places[1]:
            raise ConfigurationError(
                f"both stores have the table {places[0][-1]!r} (databases may not tell capital"
                " letters from small ones): give the new one another name with table_name=..."
            )
        self.target = target
        self.source = source
        # What `StoreRules` asks for.
        self.codec: Codec = target.codec
        self.max_size = target.max_size
        self.expiration = target.expiration
        self.touch_after = target.touch_after
        self.disable_touch = target.disable_touch
        self.clock: Clock = target.clock
        self.longest_sid = target.longest_sid
        self.locks = target.locks
        self.within: Any = getattr(target, "within", None)

    def key(self, sid: Sid, /) -> Key:
        """Where the session with this id is stored, or will be."""
        return self.target.key(sid)


class MovingStore(_Moving[SessionStore]):
    """Two sync stores, of which one is to replace the other."""

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if len(calls) == 1:
            call = calls[0]
            if isinstance(call, Fetch):
                return [run(_move_steps(self, call.sid), self)]
            if isinstance(call, _AtSource):
                return self.source.perform((call.call,))
        return self.target.perform(calls)


class AsyncMovingStore(_Moving[AsyncSessionStore]):
    """Two async stores, of which one is to replace the other."""

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if len(calls) == 1:
            call = calls[0]
            if isinstance(call, Fetch):
                return [await run_async(_move_steps(self, call.sid), self)]
            if isinstance(call, _AtSource):
                return await self.source.perform((call.call,))
        return await self.target.perform(calls)


def _move_steps(stores: _Moving[Any], sid: Sid) -> Steps[Record | None]:
    """The session with this id, in the target; moved there, if it is still in the source."""
    key, former = stores.target.key(sid), stores.source.key(sid)
    patience = _PATIENCE
    while True:
        record = yield from ask(Load(key))
        found = yield from ask(_AtSource(Load(former)))
        if found is None:
            # Another request may have moved it since the first look.
            return record or (yield from ask(Load(key)))
        values, data, marked = _converted(stores, found)
        if marked is None and patience > 0:
            patience -= _WAIT
            yield from ask(Pause(_WAIT))
            continue
        if record is not None:
            # Whoever moved it died before it was deleted there, where the old cookie would find
            # it again when its visitor has logged out.
            yield from ask(_AtSource(Delete(former)))
            return record
        claimed = None
        if marked is not None:
            claim = Replace(found, marked, found.expires, values)
            claimed = yield from ask(_AtSource(claim))
            if claimed is None:
                continue
        try:
            record = yield from ask(Insert(key, data, found.expires, values))
        except StoreError:
            if claimed is not None:
                # Nobody moves it now, so nobody needs to wait.
                with suppress(StoreError):
                    restored = Replace(claimed, found.data, found.expires, values)
                    yield from ask(_AtSource(restored))
            raise
        there: bool = yield from ask(_AtSource(Delete(former)))
        if record is not None and there:
            return record
        if record is not None:
            # It took so long that another one has taken over: this one is nobody's.
            yield from ask(Replace(record, data, stores.clock(), values))


def _converted(stores: _Moving[Any], record: Record) -> tuple[dict[str, Any], bytes, bytes | None]:
    """A record of the source: the session's dict; the bytes as the target has them; and as the
    source has them while the session moves, or None if it moves already.

    Raises:
        CorruptRecord, SessionEncodingError, SessionTooLarge: it can not be read, or not be kept.
    """
    target: StoreRules = stores.target
    values, lifetime = decode_document(stores.source.codec, record)
    moves = bool(values.pop(_MOVING, False))
    values.pop(COOKIE_KEY, None)
    marked = None
    if not moves:
        # Without what else is kept of the cookie, to make room: the column may be full.
        document = _with_lifetime(stores.source.codec, values, lifetime)
        marked = stores.source.codec.encode({**document, _MOVING: True})
    document = _with_lifetime(target.codec, values, lifetime)
    return values, encode_within(target.codec, document, target.max_size), marked


def _with_lifetime(codec: Codec, values: dict[str, Any], lifetime: Lifetime) -> dict[str, Any]:
    """A document of these values, with this lifetime where it is not the settings' own."""
    kept = form_of(codec).changed(None, lifetime, is_default=lifetime == NO_LIFETIME)
    return values if kept is None else {**values, COOKIE_KEY: kept}


@dataclass(frozen=True)
class Moved:
    """How far `move_all` is.

    Attributes:
        looked_at: sessions that were read so far.
        moved: of those, how many are in the target now; with `dry_run`, how many would be.
        failed: how many can not be moved. They are left where they are.
        reasons: how often each kind of error was the reason.
    """

    looked_at: int
    moved: int
    failed: int
    reasons: dict[str, int]


def move_all(stores: MovingStore, *, dry_run: bool = False) -> Iterator[Moved]:
    """Move every live session, and say after each page how far that is.

    It may run beside requests, and again after it was interrupted. What goes wrong with one session
    is counted, and the others are moved.

    Args:
        stores: from where to where. The source's keys are the session ids.
        dry_run: only read, and try whether each can be kept.

    Raises:
        ConfigurationError: the source's keys are something else.
        StoreUnavailable: a database can not be reached. How far it was has been said before.
        StoreError: a table is not there, or can not be read.

    >>> for progress in move_all(MovingStore(store, express)):    # doctest: +SKIP
    ...     print(progress.moved)
    """
    looked_at = moved = failed = 0
    reasons: dict[str, int] = {}
    after: Key | None = None
    _check_holds_ids(stores.source)
    if not dry_run:
        run(ask(Scan(None, 1)), stores.target)  # what fails here would fail for each
    while True:
        page = run(ask(Scan(after, PAGE)), stores.source)
        for record in page:
            looked_at += 1
            try:
                moved += _move(stores, record, dry_run=dry_run)
            except StoreUnavailable:
                yield Moved(looked_at - 1, moved, failed, dict(reasons))
                raise
            except Exception as error:
                # Whatever it is: what drivers and codecs make of one row is no matter of others.
                failed += 1
                reasons[type(error).__name__] = reasons.get(type(error).__name__, 0) + 1
        yield Moved(looked_at, moved, failed, dict(reasons))
        if len(page) < PAGE:
            return
        after = page[-1].key


def _check_holds_ids(source: SessionStore) -> None:
    sid = Sid.new()
    if source.key(sid) != sid.plain():
        raise ConfigurationError(
            "the table to move from does not hold session ids but their digests, and no"
            " digest leads to its id; a MovingStore moves each session with its visitor"
        )


def _move(stores: MovingStore, record: Record, *, dry_run: bool) -> bool:
    """Whether it was moved, or would be; not, if its visitor has logged out meanwhile, or it has
    expired.
    """
    sid = Sid(record.key.decode("utf-8", "surrogatepass"))
    if dry_run:
        _converted(stores, record)
        return True
    return run(_move_steps(stores, sid), stores) is not None
