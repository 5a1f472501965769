"""Every way to a SQL store: the sync one and the async one, on each driver, behind one face."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import pytest
from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import Services
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Call

SQLStore: TypeAlias = SQLSessionStore | AsyncSQLSessionStore


@dataclass(frozen=True)
class Way:
    """A store class on a driver.

    Attributes:
        id: what the tests' names say.
        driver: what `Services.url` takes.
        asynchronous: whether the store is the async one.
        async_driver: whether the driver is; an async store calls any other in a thread.
    """

    id: str
    driver: str
    asynchronous: bool
    async_driver: bool

    @property
    def database(self) -> str:
        return {
            "psycopg": "postgresql",
            "asyncpg": "postgresql",
            "pymysql": "mysql",
            "asyncmy": "mysql",
        }.get(self.driver, "sqlite")

    def url(self, services: Services, *, fresh: bool = False) -> str:
        return services.url(self.driver, fresh=fresh)

    def store(self, db: Any, **options: Any) -> SQLStore:
        kind = AsyncSQLSessionStore if self.asynchronous else SQLSessionStore
        return kind(db, **{"check_expiration_interval": None, **options})

    def engine(self, url: str, **options: Any) -> Engine | AsyncEngine:
        """An engine as an app makes one."""
        make = create_async_engine if self.async_driver else create_engine
        return make(url, **options)

    @asynccontextmanager
    async def open(self, db: Any, **options: Any) -> AsyncIterator[Face]:
        """A store with its table, for as long as the block lasts."""
        face = Face(self.store(db, **options))
        try:
            await face.sync()
            yield face
        finally:
            await face.close()


SYNC = (
    Way("sqlite", "sqlite", False, False),
    Way("psycopg", "psycopg", False, False),
    Way("pymysql", "pymysql", False, False),
)
ASYNC = (
    Way("sqlite-thread", "sqlite", True, False),
    Way("aiosqlite", "aiosqlite", True, True),
    Way("psycopg-async", "psycopg", True, True),
    Way("asyncpg", "asyncpg", True, True),
    Way("asyncmy", "asyncmy", True, True),
)
ALL = (*SYNC, *ASYNC)
BY_ID = {way.id: way for way in ALL}

ONE_A_DATABASE = (BY_ID["sqlite"], BY_ID["psycopg"], BY_ID["pymysql"])


def ways(*chosen: Way) -> pytest.MarkDecorator:
    """Run a test once for each: `@ways(*ALL)`."""
    return pytest.mark.parametrize("way", chosen, ids=[way.id for way in chosen])


def on_servers(chosen: Sequence[Way]) -> tuple[Way, ...]:
    """Those whose database is reached by a network."""
    return tuple(way for way in chosen if way.database != "sqlite")


class Face:
    """Either kind of store; its methods are awaited."""

    def __init__(self, store: SQLStore) -> None:
        self.store = store

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self.store, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call

    async def ask(self, call: Call[Any]) -> Any:
        """Perform one call; its error is raised."""
        result = self.store.perform([call])
        [answer] = await result if inspect.isawaitable(result) else result
        if isinstance(answer, BaseException):
            raise answer
        return answer

    @property
    def engine(self) -> Engine:
        return self.store._opened.engine

    async def rows(self, statement: Any) -> list[Any]:
        """The rows of a statement, or none, through a transaction of the store's own engine."""
        return await in_transaction(self.engine, statement)


async def in_transaction(engine: Engine | AsyncEngine, *statements: Any) -> list[Any]:
    """Execute statements in one committed transaction, as an app would; the last one's rows."""
    sync_engine = engine.sync_engine if isinstance(engine, AsyncEngine) else engine

    def work() -> list[Any]:
        rows: list[Any] = []
        with sync_engine.connect() as connection:
            for statement in statements:
                result = connection.execute(statement)
                rows = list(result) if result.returns_rows else []
            connection.commit()
        return rows

    if sync_engine.dialect.is_async:
        return await greenlet_spawn(work)
    return work()


async def dispose(engine: Engine | AsyncEngine) -> None:
    if isinstance(engine, AsyncEngine):
        await engine.dispose()
    else:
        engine.dispose()


def a_name(start: str = "s") -> str:
    """A name for a table that no other test uses."""
    return f"{start}_{secrets.token_hex(5)}"


def a_sid() -> str:
    return secrets.token_urlsafe(32)
