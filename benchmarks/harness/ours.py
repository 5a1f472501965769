"""The store of websessions as the store benchmarks see it: the calls that the lifecycle makes."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Self

from sqlalchemy import true

from websessions.sql import AsyncSQLSessionStore
from websessions.sql.statements import Statements
from websessions.store import Insert, Load, Record, Replace

from .by_hand import DAY
from .services import with_driver


class WebSessions:
    """`AsyncSQLSessionStore` with its generated table."""

    def __init__(self, driver: str) -> None:
        self._driver = driver

    async def open(self, url: str) -> Self:
        self.store = AsyncSQLSessionStore(
            with_driver(url, self._driver), check_expiration_interval=None
        )
        await self.store.sync()
        return self

    async def close(self) -> None:
        await self.store.close()

    async def insert(self, key: bytes, data: str) -> None:
        values = self.store.codec.decode(data.encode())
        call = Insert(key, data.encode(), datetime.now(UTC) + DAY, values)  # type: ignore[arg-type]
        await self._ask(call)

    async def load(self, key: bytes) -> Any:
        return await self._ask(Load(key))  # type: ignore[arg-type]

    async def replace(self, key: bytes, seen: Record, data: str) -> Any:
        later = datetime.now(UTC) + DAY
        return await self._ask(Replace(seen, data.encode(), later, {"user_id": "4711"}))

    def data(self, row: Record) -> str:
        return row.data.decode()

    async def _ask(self, call: Any) -> Any:
        [answer] = await self.store.perform((call,))
        if isinstance(answer, BaseException):
            raise answer
        return answer


class Unguarded(WebSessions):
    """The same path without the guard: the last write wins. Not an option of the package."""

    async def open(self, url: str) -> Self:
        guard = Statements._is_unchanged
        Statements._is_unchanged = lambda *_: true()  # type: ignore[assignment, method-assign]
        try:
            await super().open(url)
            # Statements are compiled at their first use, so use them all while there is no guard:
            # one call alone, and many at once, which may share a statement.
            keys = [bytes([number]) * 32 for number in range(8)]
            await asyncio.gather(*(self.insert(key, "{}") for key in keys))
            seen = [await self.load(key) for key in keys]
            for n, used in ((1, 1), (2, 1), (3, 8), (4, 8)):
                written = await asyncio.gather(
                    *(self.replace(keys[i], seen[i], f'{{"n":{n}}}') for i in range(used))
                )
                if None in written:
                    raise RuntimeError("the guard is still there")
        finally:
            Statements._is_unchanged = guard  # type: ignore[method-assign]
        return self
