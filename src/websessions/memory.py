"""Sessions in this process's memory: for tests, demos and single-process apps.

They are gone when the process ends, and no other process sees them.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Unpack

from .direct import AsyncSessionStore, SessionStore, StoreOptions
from .sid import Key
from .store import (
    Call,
    Clear,
    Count,
    Delete,
    Insert,
    Load,
    Lock,
    Put,
    Record,
    Replace,
    Scan,
    Sweep,
    Swept,
    Touch,
    Unlock,
)

__all__ = ["AsyncMemoryStore", "MemoryStore"]


@dataclass(frozen=True, slots=True)
class _Grace:
    """Where the record of a previous key is, and until when that key finds it."""

    key: Key
    until: datetime


@dataclass(frozen=True, slots=True)
class _Lease:
    """Who holds the lock of a record, and until when."""

    holder: str
    until: datetime


class _Records:
    """The rules of `store.py` over a dict."""

    def __init__(self) -> None:
        self._records: dict[Key, Record] = {}
        self._graces: dict[Key, _Grace] = {}
        self._locks: dict[Key, _Lease] = {}
        self._lock = threading.Lock()

    def perform(self, calls: Sequence[Call[Any]], now: datetime) -> list[Any]:
        with self._lock:
            return [self._answer(call, now) for call in calls]

    def _live(self, key: Key, now: datetime) -> Record | None:
        record = self._records.get(key)
        return record if record is not None and record.expires > now else None

    def _found(self, key: Key, now: datetime) -> Record | None:
        """The live record of a key, or of what was its key until not long ago."""
        live = self._live(key, now)
        if live is not None or (grace := self._grace(key, now)) is None:
            return live
        live = self._live(grace.key, now)
        return None if live is None else replace(live, grace_until=grace.until)

    def _grace(self, key: Key, now: datetime) -> _Grace | None:
        grace = self._graces.get(key)
        return grace if grace is not None and grace.until > now else None

    def _drop(self, key: Key, now: datetime, *, heir: Key | None = None) -> bool:
        """Take a record out, and with it what led to it; whether it was there. Its lock goes to the
        record that is `heir`, and ends without one.
        """
        held = self._locks.pop(key, None)
        if held is not None and heir is not None:
            self._locks[heir] = held
        self._graces = {
            old: grace
            for old, grace in self._graces.items()
            if grace.key != key and grace.until > now
        }
        return self._records.pop(key, None) is not None

    def _answer(self, call: Call[Any], now: datetime) -> Any:
        records = self._records
        match call:
            case Load(key):
                return self._found(key, now)
            case Insert(key, data, expires):
                if key in records:
                    return None
                records[key] = Record(key, data, expires, 1)
                return records[key]
            case Replace(seen, _, _, _, new_key, grace_until):
                live = self._live(seen.key, now)
                if live is None or live.version != seen.version:
                    return None
                if new_key is not None and new_key in records:
                    return None
                written = call.written()
                if new_key is not None:
                    self._drop(seen.key, now, heir=new_key)
                    if grace_until is not None:
                        self._graces[seen.key] = _Grace(new_key, grace_until)
                records[written.key] = replace(written, grace_until=None)
                return written
            case Put(key, data, expires):
                there = records.get(key)
                version = 1 if there is None else (there.version or 0) + 1
                self._drop(key, now, heir=key)  # no previous key finds what is there now
                records[key] = Record(key, data, expires, version)
                return None
            case Touch(key, expires, slack, seen):
                live = self._live(key, now)
                if live is not None and seen is not None and live.version != seen.version:
                    return False
                if live is None or live.expires >= expires or expires - live.expires < slack:
                    return False
                records[key] = replace(live, expires=expires)
                return True
            case Delete(key):
                if key not in records and (grace := self._grace(key, now)):
                    key = grace.key
                return self._drop(key, now)
            case Lock(key, holder, until):
                held = self._locks.get(key)
                if held is not None and held.until > now and held.holder != holder:
                    return False
                if self._live(key, now) is None:
                    return False
                self._locks[key] = _Lease(holder, until)
                return True
            case Unlock(key, holder):
                held = self._locks.get(key)
                if held is None or held.holder != holder:
                    return False
                del self._locks[key]
                return True
            case Scan(after, limit):
                keys = sorted(key for key in records if after is None or key > after)
                live_ones = (self._live(key, now) for key in keys)
                return [record for record in live_ones if record is not None][:limit]
            case Count():
                return sum(record.expires > now for record in records.values())
            case Clear():
                count = len(records)
                records.clear()
                self._graces.clear()
                self._locks.clear()
                return count
            case Sweep(limit):
                over = [key for key, record in records.items() if record.expires <= now]
                for key in over[:limit]:
                    self._drop(key, now)
                return Swept(min(len(over), limit), len(over) > limit)
            case _:
                return TypeError(f"a store can not perform {type(call).__name__}")


class MemoryStore(SessionStore):
    """A sync store in memory. Takes the options that every store has; see `SQLSessionStore`."""

    locks = True

    def __init__(self, **options: Unpack[StoreOptions]) -> None:
        super().__init__(**options)
        self._records = _Records()

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        self.in_use()
        return self._records.perform(calls, self.clock())


class AsyncMemoryStore(AsyncSessionStore):
    """An async store in memory. Takes the options that every store has."""

    locks = True

    def __init__(self, **options: Unpack[StoreOptions]) -> None:
        super().__init__(**options)
        self._records = _Records()

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        self.in_use()
        return self._records.perform(calls, self.clock())
