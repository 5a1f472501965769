"""The store alone, written by hand: two drivers' own pools, and SQLAlchemy Core.

Each loads a row and replaces it under the same guard as websessions': the version that was read,
and the expiry. The table has the columns for that and no others. `guarded=False` drops the guard:
the last write wins.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, Self

import asyncpg
from psycopg_pool import AsyncConnectionPool
from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    select,
    update,
)
from sqlalchemy.ext.asyncio import create_async_engine

from .services import with_driver

DAY = timedelta(hours=24)
POOL = 10
"""Connections of every hand-written pool: asyncpg's own default."""

CREATE = (
    "CREATE TABLE sessions (sid bytea PRIMARY KEY, data text NOT NULL,"
    " expires timestamptz NOT NULL, version bigint NOT NULL) WITH (fillfactor = 80)"
)
INSERT = "INSERT INTO sessions (sid, data, expires, version) VALUES ({}, {}, {}, 1)"
SELECT = "SELECT data, expires, version FROM sessions WHERE sid = {} AND expires > {}"
UPDATE = (
    "UPDATE sessions SET data = {}, expires = {}, version = version + 1"
    " WHERE sid = {} AND expires > {}"
)
GUARD, RETURNING = " AND version = {}", " RETURNING version"


class Store(Protocol):
    """A contestant: rows are `(data, expires, version)`, or its own kind of record."""

    async def open(self, url: str) -> Self: ...
    async def close(self) -> None: ...
    async def insert(self, key: bytes, data: str) -> None: ...
    async def load(self, key: bytes) -> Any: ...
    async def replace(self, key: bytes, seen: Any, data: str) -> Any:
        """What `load` would return now, or None if the guard refused."""
        ...

    def data(self, row: Any) -> str: ...


class ByHand:
    """What the three have in common."""

    def __init__(self, *, guarded: bool = True) -> None:
        self._guarded = guarded

    def data(self, row: Any) -> str:
        return str(row[0])


class AsyncpgByHand(ByHand):
    async def open(self, url: str) -> Self:
        self._pool = await asyncpg.create_pool(url, min_size=POOL, max_size=POOL)
        await self._pool.execute(CREATE)
        self._insert = INSERT.format("$1", "$2", "$3")
        self._select = SELECT.format("$1", "$2")
        update = UPDATE.format("$1", "$2", "$3", "$4")
        self._update = update + (GUARD.format("$5") if self._guarded else "") + RETURNING
        return self

    async def close(self) -> None:
        await self._pool.close()

    async def insert(self, key: bytes, data: str) -> None:
        await self._pool.execute(self._insert, key, data, datetime.now(UTC) + DAY)

    async def load(self, key: bytes) -> Any:
        async with self._pool.acquire() as connection:
            return await connection.fetchrow(self._select, key, datetime.now(UTC))

    async def replace(self, key: bytes, seen: Any, data: str) -> Any:
        now = datetime.now(UTC)
        later = now + DAY
        guard = (seen[2],) if self._guarded else ()
        async with self._pool.acquire() as connection:
            row = await connection.fetchrow(self._update, data, later, key, now, *guard)
        return None if row is None else (data, later, row[0])


class PsycopgByHand(ByHand):
    async def open(self, url: str) -> Self:
        self._pool = AsyncConnectionPool(
            url, min_size=POOL, max_size=POOL, kwargs={"autocommit": True}, open=False
        )
        await self._pool.open(wait=True)
        self._insert = INSERT.format("%s", "%s", "%s")
        self._select = SELECT.format("%s", "%s")
        update = UPDATE.format("%s", "%s", "%s", "%s")
        self._update = update + (GUARD.format("%s") if self._guarded else "") + RETURNING
        async with self._pool.connection() as connection:
            await connection.execute(CREATE)
        return self

    async def close(self) -> None:
        await self._pool.close()

    async def insert(self, key: bytes, data: str) -> None:
        async with self._pool.connection() as connection:
            await connection.execute(self._insert, (key, data, datetime.now(UTC) + DAY))

    async def load(self, key: bytes) -> Any:
        async with self._pool.connection() as connection:
            cursor = await connection.execute(self._select, (key, datetime.now(UTC)))
            return await cursor.fetchone()

    async def replace(self, key: bytes, seen: Any, data: str) -> Any:
        now = datetime.now(UTC)
        later = now + DAY
        guard = (seen[2],) if self._guarded else ()
        async with self._pool.connection() as connection:
            cursor = await connection.execute(self._update, (data, later, key, now, *guard))
            row = await cursor.fetchone()
        return None if row is None else (data, later, row[0])


TABLE = Table(
    "sessions",
    MetaData(),
    Column("sid", LargeBinary, primary_key=True),
    Column("data", Text, nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False),
    Column("version", BigInteger, nullable=False),
)


class CoreByHand(ByHand):
    """SQLAlchemy Core on asyncpg as a careful person would write it."""

    async def open(self, url: str) -> Self:
        columns = TABLE.c
        live = columns.sid == bindparam("key"), columns.expires > bindparam("now")
        guard = (columns.version == bindparam("seen"),) if self._guarded else ()
        self._insert = insert(TABLE)
        self._select = select(columns.data, columns.expires, columns.version).where(*live)
        self._update = (
            update(TABLE)
            .where(*live, *guard)
            .values(data=bindparam("text"), expires=bindparam("later"), version=columns.version + 1)
            .returning(columns.version)
        )
        self._engine = create_async_engine(
            with_driver(url, "asyncpg"),
            isolation_level="AUTOCOMMIT",
            pool_size=POOL,
            max_overflow=0,
            pool_reset_on_return=None,
        )
        async with self._engine.connect() as connection:
            await connection.exec_driver_sql(CREATE)
        return self

    async def close(self) -> None:
        await self._engine.dispose()

    async def insert(self, key: bytes, data: str) -> None:
        values = {"sid": key, "data": data, "expires": datetime.now(UTC) + DAY, "version": 1}
        async with self._engine.connect() as connection:
            await connection.execute(self._insert, values)

    async def load(self, key: bytes) -> Any:
        values = {"key": key, "now": datetime.now(UTC)}
        async with self._engine.connect() as connection:
            return (await connection.execute(self._select, values)).one_or_none()

    async def replace(self, key: bytes, seen: Any, data: str) -> Any:
        now = datetime.now(UTC)
        values = {"key": key, "now": now, "text": data, "later": now + DAY}
        if self._guarded:
            values["seen"] = seen[2]
        async with self._engine.connect() as connection:
            version = (await connection.execute(self._update, values)).scalar_one_or_none()
        return None if version is None else (data, values["later"], version)
