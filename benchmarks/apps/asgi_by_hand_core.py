"""Written by hand on SQLAlchemy Core as a careful person would: autocommitted, built once."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Column, DateTime, MetaData, Table, Text, bindparam, insert, select, update
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.harness.services import with_driver

from .by_hand import ByHand
from .handler import DATABASE_URL, Started, handler

sessions = Table(
    "sessions",
    MetaData(),
    Column("sid", Text, primary_key=True),
    Column("data", Text, nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False),
)
_SELECT = select(sessions.c.data).where(
    sessions.c.sid == bindparam("key"), sessions.c.expires > bindparam("now")
)
_UPDATE = (
    update(sessions)
    .where(sessions.c.sid == bindparam("key"))
    .values(data=bindparam("text"), expires=bindparam("later"))
)
_INSERT = insert(sessions)
_DAY = timedelta(days=1)


class Core:
    def __init__(self) -> None:
        self.engine = create_async_engine(
            with_driver(DATABASE_URL, "asyncpg"),
            isolation_level="AUTOCOMMIT",
            pool_size=10,
            max_overflow=0,
            pool_reset_on_return=None,
        )

    async def open(self) -> None:
        async with self.engine.connect() as connection:
            await connection.run_sync(sessions.metadata.create_all)

    async def close(self) -> None:
        await self.engine.dispose()

    async def select(self, sid: str) -> str | None:
        async with self.engine.connect() as connection:
            return await connection.scalar(_SELECT, {"key": sid, "now": datetime.now(UTC)})

    async def update(self, sid: str, data: str) -> None:
        async with self.engine.connect() as connection:
            later = datetime.now(UTC) + _DAY
            await connection.execute(_UPDATE, {"key": sid, "text": data, "later": later})

    async def insert(self, sid: str, data: str) -> None:
        async with self.engine.connect() as connection:
            later = datetime.now(UTC) + _DAY
            await connection.execute(_INSERT, {"sid": sid, "data": data, "expires": later})


storage = Core()
app = Started(ByHand(handler, storage), storage.open, storage.close)
