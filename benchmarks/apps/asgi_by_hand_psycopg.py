"""Written by hand on psycopg's own pool, autocommitted; psycopg prepares what it sees often."""

from psycopg_pool import AsyncConnectionPool

from .by_hand import INSERT, SELECT, UPDATE, ByHand
from .handler import DATABASE_URL, Started, handler

_WORDS = {"now": "now()", "later": "now() + interval '24 hours'"}
_SELECT = SELECT.format("%s", **_WORDS)
_UPDATE = UPDATE.format("%(sid)s", "%(data)s", **_WORDS)
_INSERT = INSERT.format("%(sid)s", "%(data)s", **_WORDS)


class Psycopg:
    pool: AsyncConnectionPool

    async def open(self) -> None:
        self.pool = AsyncConnectionPool(
            DATABASE_URL, min_size=10, max_size=10, kwargs={"autocommit": True}, open=False
        )
        await self.pool.open(wait=True)
        async with self.pool.connection() as connection:
            await connection.execute(
                "CREATE TABLE sessions (sid text PRIMARY KEY, data text NOT NULL,"
                " expires timestamptz NOT NULL)"
            )

    async def close(self) -> None:
        await self.pool.close()

    async def select(self, sid: str) -> str | None:
        async with self.pool.connection() as connection:
            cursor = await connection.execute(_SELECT, (sid,))
            row = await cursor.fetchone()
        return None if row is None else row[0]

    async def update(self, sid: str, data: str) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(_UPDATE, {"sid": sid, "data": data})

    async def insert(self, sid: str, data: str) -> None:
        async with self.pool.connection() as connection:
            await connection.execute(_INSERT, {"sid": sid, "data": data})


storage = Psycopg()
app = Started(ByHand(handler, storage), storage.open, storage.close)
