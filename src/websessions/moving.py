"""Moving sessions to another store while requests come: each with its visitor, or all of them.

The table of an Express app has the session ids, one of this package's own has their digests. So a
session is filed there under the digest of the id that its visitor has, and is found by it; the
middleware gives it a new id and a new cookie then (`SessionSettings.former`).

A session is moved in four steps: its mover inserts a promise in the target, an empty session under
an id of its own; writes that id as a mark into the session in the source; keeps the promise, by a
write that gives it the data and the key; and deletes what is left in the source. The two writes are
guarded, and whoever finds a mark goes on from there. So it does not matter who dies or is late, or
how many move a session at once. The mark decides: what has ended before it does not come back. A
mark without its promise says that the session was moved; it may have ended since.

That holds while nobody else writes the source. A request of Express that has read a session before
it was marked, and saves it after that, takes the mark away or puts the row back: the session may be
moved twice then, and be there after its end. So Express is stopped first.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from .codec import Codec, encode_within
from .cookie_form import form_of
from .direct import AsyncSessionStore, SessionStore
from .errors import (
    ConfigurationError,
    CorruptRecord,
    SessionEncodingError,
    SessionTooLarge,
    StoreError,
    StoreUnavailable,
    ValueRefused,
)
from .expiry import NO_LIFETIME, Lifetime
from .run import run, run_async
from .session import decode_document
from .settings import COOKIE_KEY
from .sid import Key, Sid
from .store import (
    Call,
    Clock,
    Delete,
    End,
    Fetch,
    Insert,
    Load,
    Record,
    Replace,
    Scan,
    Steps,
    StoreRules,
    Sweep,
    ask,
    value,
)

__all__ = ["AsyncMovingStore", "Moved", "MovingStore", "move_all"]

S = TypeVar("S", bound="SessionStore | AsyncSessionStore")

PAGE = 500
"""Sessions that are read at a time."""

MARK: Final = "$websessions"
"""The key by which a session in the source says for which promise it was given away."""

_TRIES: Final = 100


@value
class AtSource(Call[Any]):
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

    def _steps_of(self, calls: Sequence[Call[Any]]) -> Steps[Any] | None:
        """What a call takes that is about both stores; None for any other."""
        match calls:
            case [Fetch(sid)]:
                return move_steps(self, sid)
            case [End(sid)]:
                return _end_steps(self, sid)
        return None


class MovingStore(_Moving[SessionStore]):
    """Two sync stores, of which one is to replace the other."""

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if (steps := self._steps_of(calls)) is not None:
            return [run(steps, self)]
        match calls:
            case [AtSource(call)]:
                return self.source.perform((call,))
        return self.target.perform(calls)


class AsyncMovingStore(_Moving[AsyncSessionStore]):
    """Two async stores, of which one is to replace the other."""

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        if (steps := self._steps_of(calls)) is not None:
            return [await run_async(steps, self)]
        match calls:
            case [AtSource(call)]:
                return await self.source.perform((call,))
        return await self.target.perform(calls)


def move_steps(stores: _Moving[Any], sid: Sid) -> Steps[Record | None]:
    """The session with this id, in the target; moved there, if it is still in the source.

    Raises:
        CorruptRecord, SessionEncodingError, SessionTooLarge: it can not be read, or not be kept.
    """
    target, source = stores.target, stores.source
    key, former = target.key(sid), source.key(sid)
    own = Sid(secrets.token_urlsafe(16))  # short, since the column may be full
    given = promised = moved = None
    for _ in range(_TRIES):
        found: Record | None = yield from ask(AtSource(Load(former)))
        if found is None:
            break
        values, lifetime, given = _read(source, found)
        data = _data(target, values, lifetime)
        if given is None:
            if (yield from ask(Load(key))) is not None:
                break  # Express wrote it back, without having looked
            # Without what else is kept of the cookie: the mark needs room.
            marked = {**_document(source, values, lifetime), MARK: own.value}
            mark = source.codec.encode(marked)
            if promised is None:
                promised = target.key(own)
                yield from _promise_steps(target, promised, found, values)
            if (yield from ask(AtSource(Replace(found, mark, found.expires, values)))) is None:
                continue
            given = own
        place: Record | None = yield from ask(Load(target.key(given)))
        if place is None:
            break  # it has been kept, and what was moved may be over since then
        moved = yield from ask(Replace(place, data, found.expires, values, key))
        if moved is not None:
            break
        if (yield from ask(Load(key))) is None:
            yield from ask(Sweep(PAGE))  # there may be a session that is over
    else:
        raise StoreError("a session could not be moved: others kept changing it")
    if found is not None:
        yield from ask(AtSource(Delete(former)))
    if promised is not None and (moved is None or given != own):
        yield from ask(Delete(promised))  # nobody can keep it any more
    return moved or (yield from ask(Load(key)))


def _end_steps(stores: _Moving[Any], sid: Sid) -> Steps[None]:
    """End a session, wherever it is."""
    try:
        yield from move_steps(stores, sid)
    except (CorruptRecord, SessionEncodingError, SessionTooLarge):
        # It stays to be looked at, but not for a visitor who is logged out.
        yield from ask(AtSource(Delete(stores.source.key(sid))))
    yield from ask(Delete(stores.target.key(sid)))


def _promise_steps(
    target: StoreRules, key: Key, found: Record, values: dict[str, Any]
) -> Steps[None]:
    """An empty session, but with the values that columns get: what they refuse they refuse here."""
    try:
        yield from ask(Insert(key, target.codec.encode({}), found.expires, values))
    except ValueRefused as error:
        reason = f"the table that it is to be moved to refuses it; {error}"
        raise SessionEncodingError("", reason) from error


def _read(source: StoreRules, record: Record) -> tuple[dict[str, Any], Lifetime, Sid | None]:
    """A record of the source: the session's dict, its lifetime, and the promise that it was given
    away for, or None.
    """
    values, lifetime = decode_document(source.codec, record)
    given = values.pop(MARK, None)
    values.pop(COOKIE_KEY, None)
    return values, lifetime, None if given is None else Sid(str(given))


def _data(target: StoreRules, values: dict[str, Any], lifetime: Lifetime) -> bytes:
    """The session as the target has it."""
    return encode_within(target.codec, _document(target, values, lifetime), target.max_size)


def _document(store: StoreRules, values: dict[str, Any], lifetime: Lifetime) -> dict[str, Any]:
    """These values with this lifetime, where it is not the settings' own."""
    kept = form_of(store.codec).changed(None, lifetime, is_default=lifetime == NO_LIFETIME)
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
        values, lifetime, _ = _read(stores.source, record)
        _data(stores.target, values, lifetime)
        return True
    return run(move_steps(stores, sid), stores) is not None
