"""Stores that save as most session stores do: by an upsert of what the request has in its hands.

No part of the package. Histories made over them have to be found wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Call, Put, Record, Replace

__all__ = ["AsyncLastWriteWins", "LastWriteWins"]


def _unguarded(call: Call[Any]) -> Call[Any]:
    if isinstance(call, Replace) and call.new_key is None:
        return Put(call.seen.key, call.data, call.expires, call.values)
    return call


def _answer(call: Call[Any], answer: Any) -> Any:
    if isinstance(call, Replace) and call.new_key is None and answer is None:
        return Record(call.seen.key, call.data, call.expires, call.seen.version)
    return answer


class LastWriteWins(SQLSessionStore):
    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        answers = super().perform([_unguarded(call) for call in calls])
        return list(map(_answer, calls, answers))


class AsyncLastWriteWins(AsyncSQLSessionStore):
    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        answers = await super().perform([_unguarded(call) for call in calls])
        return list(map(_answer, calls, answers))
