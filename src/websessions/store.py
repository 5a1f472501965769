"""What a store is: it performs calls, many at a time, and answers each one on its own.

The lifecycle never talks to a database. It yields the calls below; a runner (`run.py`) hands them
to a store's `perform` and sends the answers back. To keep sessions in a new place, write one
`perform`, subclass `websessions.SessionStore` or `AsyncSessionStore` (which add `get`, `set` and
the rest on top of it) and run the suite in `websessions.testing` over it.

The rules a store has to keep, whatever it is made of:

- `perform` returns one answer per call, in order. A call that failed is answered with its
  exception and does not disturb its neighbours; only when nothing could be performed at all may
  `perform` raise.
- A record whose `expires` has come is not there: `Load`, `Replace`, `Touch`, `Scan` and `Count`
  do not see it, even before it is swept. Only `Insert` and `Put` bring a record into being.
- Each call is atomic. What one call wrote, the next `Load` sees.
- A record that was moved with a grace is found by its previous key, too, for that long: `Load`
  answers it as it is now, under its new key, and `Delete` deletes it. Nothing else knows previous
  keys. A store that can not do this gives no grace: the old key is dead at once.
- A lock is two facts beside a record: who holds it, and until when. It changes neither data nor
  version nor expiry, refuses no other call, moves with the record and ends with it. A store that
  has no place for it says so, by `locks`, and is not asked.
- Times are aware UTC moments, measured by the store's one `clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, Protocol, TypeAlias, TypeVar, dataclass_transform

from .codec import Codec
from .sid import Key, Sid

__all__ = [
    "SWEEP_BATCH",
    "AsyncPerforms",
    "Call",
    "Clear",
    "Clock",
    "Count",
    "Delete",
    "End",
    "Fetch",
    "Insert",
    "Lease",
    "Load",
    "Lock",
    "Performs",
    "Put",
    "Record",
    "Replace",
    "Scan",
    "Steps",
    "StoreRules",
    "Sweep",
    "Swept",
    "Touch",
    "Unlock",
    "ask",
    "system_clock",
    "value",
]

SWEEP_BATCH: Final = 100
"""Records that are swept at a time: few enough that nobody waits long for them."""

T = TypeVar("T")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Makes a dataclass with slots that compares and hashes by its fields, and never changes.

    Type checkers hold everybody to that. Python could too, but sets each field of a frozen
    dataclass by a call, and a request makes several of these.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


Clock: TypeAlias = Callable[[], datetime]
"""Returns the present moment, aware, in UTC."""


def system_clock() -> datetime:
    """The clock of this machine."""
    return datetime.now(UTC)


@value
class Record:
    """One stored session, as it was read or has just been written.

    Attributes:
        key: where it is stored.
        data: the encoded session; the codec's business, opaque to a store.
        expires: when it stops being there.
        version: grows with each write of data; None where the table has no such column, and
            then `Replace` is guarded by `data` itself.
        grace_until: None, or if it was found by its previous key: until when it is.
    """

    key: Key
    data: bytes = field(repr=False)
    expires: datetime
    version: int | None = None
    grace_until: datetime | None = None


class Call(Generic[R_co]):
    """Something a store is asked to do; `R_co` is the type of the answer."""

    __slots__ = ()


@value
class Load(Call["Record | None"]):
    """Read one record; None if there is none or it has expired."""

    key: Key


@value
class Fetch(Call["Record | None"]):
    """Read the record of a session that may still be in another store, under another key.

    Only a store of two whose `fetches` is true is asked, such as `websessions.moving.MovingStore`.
    """

    sid: Sid


@value
class End(Call[None]):
    """End a session that may still be in another store. Who answers `Fetch` answers this."""

    sid: Sid


@value
class Insert(Call["Record | None"]):
    """Bring a record into being; None, and nothing written, if the key is taken.

    `values` is the session's own mapping, for columns that are filled from it.
    """

    key: Key
    data: bytes = field(repr=False)
    expires: datetime
    values: Mapping[str, Any] = field(repr=False)


@value
class Replace(Call["Record | None"]):
    """Write new data, if the record is still just as it was `seen`; else None, nothing written.

    With `new_key` the record moves there in the same step. The old key finds it until
    `grace_until`, if that is given; an older one is dead in either case. A record that was found
    by its previous key is answered with what is left of its grace.
    """

    seen: Record
    data: bytes = field(repr=False)
    expires: datetime
    values: Mapping[str, Any] = field(repr=False)
    new_key: Key | None = None
    grace_until: datetime | None = None

    def written(self) -> Record:
        """The record as it is if this was done."""
        seen, new_key = self.seen, self.new_key
        version = None if seen.version is None else seen.version + 1
        key, grace_until = (seen.key, seen.grace_until) if new_key is None else (new_key, None)
        return Record(key, self.data, self.expires, version, grace_until)


@value
class Put(Call[None]):
    """Insert, or overwrite whatever is there, expired or corrupt: `set()` for direct use."""

    key: Key
    data: bytes = field(repr=False)
    expires: datetime
    values: Mapping[str, Any] = field(repr=False)


@value
class Touch(Call[bool]):
    """Push the expiry on to `expires`, if that moves it by `slack` or more.

    Never shortens, never revives, writes no data. True if it moved. With `seen`, only if the
    record's data is still as it was read then: who wrote since has set the expiry, too.
    """

    key: Key
    expires: datetime
    slack: timedelta = timedelta(0)
    seen: Record | None = None


@value
class Delete(Call[bool]):
    """End a session; True if it was there."""

    key: Key


@value
class Lock(Call[bool]):
    """Take a record's lock until `until`, or go on with it. False, and nothing written, if somebody
    else holds it until later than now, or if there is no record.

    Only a store whose `locks` is true is asked. `holder` is at most 32 ASCII characters.
    """

    key: Key
    holder: str
    until: datetime


@value
class Unlock(Call[bool]):
    """Release a record's lock; False, and nothing written, if `holder` does not hold it."""

    key: Key
    holder: str


@value
class Scan(Call["list[Record]"]):
    """The next `limit` live records in order of key, behind `after`."""

    after: Key | None
    limit: int


@value
class Count(Call[int]):
    """How many records are live."""


@value
class Clear(Call[int]):
    """Delete every record, live or not; how many there were."""


@value
class Swept:
    """What one `Sweep` did: rows deleted, and whether there may be more, for another `Sweep`.

    `reached` is for that one's `after`: how far the store looked. What it is, is the store's own
    business; None, if it always begins at the beginning.
    """

    deleted: int
    more: bool
    reached: object = field(default=None, compare=False)


@value
class Sweep(Call[Swept]):
    """Delete at most `limit` expired records; with `after`, go on where an earlier `Sweep` ended.

    `after` only spares a store from looking again at what has been deleted: what expired before
    may be left to a `Sweep` without it.
    """

    limit: int
    after: object = None


@value
class Lease(Call["datetime | None"]):
    """Take the sweeper's lease until `expires`, or go on with it: None if `holder` has it now,
    else the moment at which another one's ends.

    Only a store whose `sweeps_in_turns` is true is asked. A lease that ends after `latest` counts
    as ended: a clock that was wrong must not end all sweeping.
    """

    holder: str
    expires: datetime
    latest: datetime


Steps: TypeAlias = Generator[Call[Any], Any, R]
"""Work that yields calls, is sent their answers or thrown their errors, and returns R."""


def ask(call: Call[R]) -> Steps[R]:
    """One call as a step: `record = yield from ask(Load(key))`."""
    answer: R = yield call
    return answer


class StoreRules(Protocol):
    """The part of a store that decides nothing about I/O: its options.

    Attributes:
        codec: dict to bytes and back.
        max_size: the largest encoded session, in bytes.
        expiration: idle timeout of a session whose cookie has no `max_age`.
        touch_after: the shortest time between two touches of one session.
        disable_touch: never touch.
        clock: the present moment.
        locks: whether the store answers `Lock` and `Unlock`.
    """

    codec: Codec
    max_size: int
    expiration: timedelta
    touch_after: timedelta
    disable_touch: bool
    clock: Clock
    locks: bool

    def key(self, sid: Sid, /) -> Key:
        """Where the session with this id is stored."""
        ...


class Performs(StoreRules, Protocol):
    """A store for synchronous code."""

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        """Perform the calls and answer each one, in order, with its result or its exception."""
        ...


class AsyncPerforms(StoreRules, Protocol):
    """A store for asyncio."""

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        """Perform the calls and answer each one, in order, with its result or its exception."""
        ...
