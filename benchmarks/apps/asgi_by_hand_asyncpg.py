"""Written by hand on asyncpg's own pool, which prepares the statements."""

import asyncpg

from .by_hand import INSERT, SELECT, UPDATE, ByHand
from .handler import DATABASE_URL, Started, handler

_WORDS = {"now": "now()", "later": "now() + interval '24 hours'"}
_SELECT = SELECT.format("$1", **_WORDS)
_UPDATE = UPDATE.format("$1", "$2", **_WORDS)
_INSERT = INSERT.format("$1", "$2", **_WORDS)


class Asyncpg:
    pool: asyncpg.Pool

    async def open(self) -> None:
        self.pool = await asyncpg.create_pool(DATABASE_URL)
        await self.pool.execute(
            "CREATE TABLE sessions (sid text PRIMARY KEY, data text NOT NULL,"
            " expires timestamptz NOT NULL)"
        )

    async def close(self) -> None:
        await self.pool.close()

    async def select(self, sid: str) -> str | None:
        row = await self.pool.fetchrow(_SELECT, sid)
        return None if row is None else row[0]

    async def update(self, sid: str, data: str) -> None:
        await self.pool.execute(_UPDATE, sid, data)

    async def insert(self, sid: str, data: str) -> None:
        await self.pool.execute(_INSERT, sid, data)


storage = Asyncpg()
app = Started(ByHand(handler, storage), storage.open, storage.close)
