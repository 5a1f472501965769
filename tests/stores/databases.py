"""Stores on every database and driver, with engines and tables made by the store or by the app."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, TypeAlias

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Engine,
    LargeBinary,
    MetaData,
    StaticPool,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import MYSQL_DRIVERS, Services
from tests.sql.drivers import in_transaction
from websessions import JSONCodec
from websessions.sid import Key
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.testing import AnyStore, FakeClock

__all__ = [
    "ASYNC_DRIVERS",
    "IN_MEMORY",
    "SYNC_DRIVERS",
    "Maker",
    "Making",
    "TableKind",
    "async_makers",
    "corrupt",
    "corrupt_async",
    "prepare",
    "sync_makers",
]

SYNC_DRIVERS = ("sqlite", "sqlite memory", "psycopg", "pymysql")
ASYNC_DRIVERS = (
    *("sqlite", "sqlite memory", "aiosqlite", "aiosqlite memory"),
    *("psycopg", "asyncpg", "asyncmy", "pymysql"),
)
IN_MEMORY = ("sqlite memory", "aiosqlite memory")
BLOCKING = ("sqlite", "sqlite memory", "pymysql")
"""Drivers that an async store calls in worker threads."""

TableKind: TypeAlias = Literal["generated", "own", "binary"]
EngineKind: TypeAlias = Literal["url", "app"]


class PackedCodec:
    """A codec for binary columns, as an app may bring one."""

    is_text = False

    def __init__(self) -> None:
        self._json = JSONCodec()

    def encode(self, values: Mapping[str, object]) -> bytes:
        return b"\0" + zlib.compress(self._json.encode(values), 1)

    def decode(self, data: bytes) -> dict[str, Any]:
        try:
            return self._json.decode(zlib.decompress(data[1:]))
        except zlib.error as error:
            raise ValueError(str(error)) from error


def own_table() -> Table:
    """What an app may have: nothing but what is required, digests as text, times without a zone.

    MySQL's plain DATETIME ends at seconds, and its usual collations ignore case.
    """
    return Table(
        "own_sessions",
        MetaData(),
        Column("sid", String(64), primary_key=True),
        Column("data", Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb"), nullable=False),
        Column("expires", DateTime, nullable=False),
    )


def binary_table() -> Table:
    """For a codec that makes binary data; with a version, without anything for the sweeper."""
    moment = DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
    return Table(
        "binary_sessions",
        MetaData(),
        Column(
            "sid",
            LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb"),
            primary_key=True,
        ),
        Column(
            "data",
            LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb"),
            nullable=False,
        ),
        Column("expires", moment, nullable=False),
        Column("version", BigInteger, nullable=False),
    )


@dataclass(frozen=True)
class Maker:
    """One way to make a store.

    Attributes:
        driver: one of `SYNC_DRIVERS` or `ASYNC_DRIVERS`.
        engine: who makes the engine: the store, from a URL, or the app.
        table: who makes the table, and what it can hold.
        asynchronous: for asyncio.
    """

    driver: str
    engine: EngineKind
    table: TableKind
    asynchronous: bool

    def __str__(self) -> str:
        return "-".join((self.driver.replace(" ", "-"), self.engine, self.table))

    @property
    def is_mysql(self) -> bool:
        return self.driver in MYSQL_DRIVERS

    def options(self) -> dict[str, Any]:
        match self.table:
            case "own":
                return {"table": own_table()}
            case "binary":
                return {"table": binary_table(), "codec": PackedCodec()}
            case "generated":
                return {}

    def url(self, services: Services) -> str:
        name, _, memory = self.driver.partition(" ")
        if memory:
            return "sqlite://" if name == "sqlite" else f"sqlite+{name}://"
        return services.url(name)


def sync_makers(table: TableKind, engine: EngineKind, *leave_out: str) -> list[Maker]:
    """Every driver, with such a table on such an engine."""
    drivers = (driver for driver in SYNC_DRIVERS if driver not in leave_out)
    return [Maker(driver, engine, table, asynchronous=False) for driver in drivers]


def async_makers(table: TableKind, engine: EngineKind, *leave_out: str) -> list[Maker]:
    """The same for asyncio."""
    drivers = (driver for driver in ASYNC_DRIVERS if driver not in leave_out)
    return [Maker(driver, engine, table, asynchronous=True) for driver in drivers]


@cache
def _url(maker: Maker, services: Services) -> str:
    """The database of all stores that are made in this way: its table is created once."""
    return maker.url(services)


_ready: set[str] = set()


async def prepare(store: AnyStore) -> None:
    """Create the table at the first time only: to look for it takes longer than most tests do."""
    sql: Any = store.store
    url = sql._opened.engine.url
    place = f"{url.render_as_string(hide_password=False)} {sql.table.name}"
    if place not in _ready:
        await store.sync()
        if url.database not in (None, "", ":memory:"):
            _ready.add(place)
    await store.clear()
    if sql._layout.lease is not None:
        # A clock that begins anew finds the lease of a test whose clock was further on.
        await in_transaction(sql._opened.engine, delete(sql._layout.lease))


class Making:
    """Makes the stores of one test, and disposes the engines that it made in the app's place."""

    def __init__(self, maker: Maker, services: Services) -> None:
        self._maker = maker
        self._url = _url(maker, services)
        self._engines: list[Engine | AsyncEngine] = []

    def __call__(
        self, clock: FakeClock, /, **options: Any
    ) -> SQLSessionStore | AsyncSQLSessionStore:
        kind: Any = AsyncSQLSessionStore if self._maker.asynchronous else SQLSessionStore
        db = self._url if self._maker.engine == "url" else self._engine()
        store: SQLSessionStore | AsyncSQLSessionStore
        store = kind(db, clock=clock, **{**self._maker.options(), **options})
        return store

    def _engine(self) -> Engine | AsyncEngine:
        engine: Engine | AsyncEngine
        if self._maker.asynchronous and self._maker.driver not in BLOCKING:
            engine = create_async_engine(self._url)
        elif self._maker.driver == "sqlite memory":
            engine = create_engine(
                self._url, poolclass=StaticPool, connect_args={"check_same_thread": False}
            )
        else:
            engine = create_engine(self._url)
        if self._maker.driver == "sqlite":
            # These databases need not survive a power cut.
            event.listen(
                engine, "connect", lambda sqlite, _: sqlite.execute("PRAGMA synchronous = OFF")
            )
        self._engines.append(engine)
        return engine

    def close(self) -> None:
        for engine in self._engines:
            assert isinstance(engine, Engine)
            engine.dispose()

    async def aclose(self) -> None:
        for engine in self._engines:
            if isinstance(engine, AsyncEngine):
                await engine.dispose()
            else:
                engine.dispose()


def _break(store: SQLSessionStore | AsyncSQLSessionStore, key: Key) -> None:
    table = store.table
    text = isinstance(table.c.sid.type, String)
    broken: str | bytes = '{"cut' if store.codec.is_text else b'{"cut'
    with store._opened.engine.begin() as connection:
        done = connection.execute(
            update(table)
            .where(table.c.sid == (key.hex() if text else key))
            .values({table.c.data: broken})
        )
        assert done.rowcount == 1


def corrupt(store: SQLSessionStore, key: Key) -> None:
    _break(store, key)


async def corrupt_async(store: AsyncSQLSessionStore, key: Key) -> None:
    if store._opened.asynchronous:
        await greenlet_spawn(_break, store, key)
    else:
        _break(store, key)
