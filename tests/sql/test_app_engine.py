"""An engine that the app made stays the app's: its settings, its transactions, its disposal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, Table, create_engine, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import StaticPool
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import (
    ALL,
    BY_ID,
    Face,
    Way,
    a_name,
    a_sid,
    dispose,
    in_transaction,
    on_servers,
    ways,
)
from websessions.sid import Sid
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Insert, Sweep


def sync_side(engine: Engine | AsyncEngine) -> Engine:
    return engine.sync_engine if isinstance(engine, AsyncEngine) else engine


async def on(engine: Engine | AsyncEngine, function: Any) -> Any:
    """Call a function that uses the engine's sync side."""
    if isinstance(engine, AsyncEngine):
        return await greenlet_spawn(function)
    return function()


@asynccontextmanager
async def app_and_store(
    services: Services, way: Way, **options: Any
) -> AsyncIterator[tuple[Engine | AsyncEngine, Face, str]]:
    """An app's engine with one connection, a store on it, and a table of the app's own."""
    engine = way.engine(way.url(services), pool_size=1, max_overflow=0, **options)
    own = a_name("app")
    engine_type = " ENGINE=InnoDB" if way.database == "mysql" else ""
    await in_transaction(engine, text(f"CREATE TABLE {own} (x integer){engine_type}"))
    async with way.open(engine, table_name=a_name()) as store:
        yield engine, store, own
    await dispose(engine)


def settings_of(engine: Engine) -> dict[str, Any]:
    """What a connection of the pool is set to now."""
    with engine.connect() as connection:
        raw: Any = connection.connection.dbapi_connection
        found: dict[str, Any] = {"isolation": connection.get_isolation_level()}
        for name in ("autocommit", "isolation_level", "_isolation_setting"):
            if hasattr(raw, name) and not callable(getattr(raw, name)):
                found[name] = str(getattr(raw, name))
        if hasattr(raw, "get_autocommit"):
            found["get_autocommit"] = raw.get_autocommit()
        if engine.dialect.name == "sqlite":
            for pragma in ("journal_mode", "synchronous", "busy_timeout"):
                found[pragma] = connection.exec_driver_sql(f"PRAGMA {pragma}").scalar()
        return found


async def use(store: Face) -> None:
    """Every kind of statement, errors included."""
    sid = a_sid()
    await store.set(sid, {"n": 1})
    await store.set(sid, {"n": 2})
    assert await store.get(sid) == {"n": 2}
    later = datetime.now(UTC) + timedelta(days=1)
    taken = Insert(Sid(sid).digest(), b"{}", later, {})
    assert await store.ask(taken) is None
    await store.touch(sid)
    assert await store.length() == 1
    assert await store.ask(Sweep(10)) is not None
    await store.destroy(sid)
    assert await store.all() == []


@ways(*ALL)
@pytest.mark.parametrize("level", [None, "SERIALIZABLE", "AUTOCOMMIT"])
async def test_connections_are_given_back_as_they_were(
    services: Services, way: Way, level: str | None
) -> None:
    """The store works in autocommit mode; the app's next check-out does not notice."""
    options = {} if level is None else {"isolation_level": level}
    async with app_and_store(services, way, **options) as (engine, store, _):
        before = await on(engine, lambda: settings_of(sync_side(engine)))
        await use(store)
        assert await on(engine, lambda: settings_of(sync_side(engine))) == before


@ways(*ALL)
async def test_the_app_s_transactions_go_on_working(services: Services, way: Way) -> None:
    """What the app rolls back is not there, what it commits is, on connections the store used."""
    async with app_and_store(services, way) as (engine, store, own):
        await use(store)

        def transactions() -> Any:
            with sync_side(engine).connect() as connection:
                connection.execute(text(f"INSERT INTO {own} VALUES (1)"))
                connection.rollback()
            with sync_side(engine).begin() as connection:
                connection.execute(text(f"INSERT INTO {own} VALUES (2)"))

        await on(engine, transactions)
        await use(store)
        assert await in_transaction(engine, text(f"SELECT x FROM {own}")) == [(2,)]


@ways(*ALL)
async def test_what_the_store_writes_is_committed_at_once(services: Services, way: Way) -> None:
    """Also on an engine whose connections are not in autocommit mode: another one sees it."""
    engine = way.engine(way.url(services))
    sid = a_sid()
    async with way.open(engine, table_name=a_name()) as store:
        await store.set(sid, {"n": 1})
        table: Table = store.store.table
        with_both = sync_side(engine)

        def count() -> Any:
            with with_both.connect(), with_both.connect() as connection:
                return connection.execute(select(table.c.sid)).fetchall()

        assert len(await on(engine, count)) == 1
    await dispose(engine)


@ways(*ALL)
async def test_closing_the_store_leaves_the_engine_alone(services: Services, way: Way) -> None:
    engine = way.engine(way.url(services))
    pool = sync_side(engine).pool
    async with way.open(engine, table_name=a_name()) as store:
        await use(store)
        await store.close()
        await store.close()
        assert sync_side(engine).pool is pool, "a disposed engine has another pool"
        assert pool.checkedin() > 0  # type: ignore[attr-defined]
        await use(store)
    await dispose(engine)


@ways(*ALL)
async def test_closing_the_store_disposes_an_engine_it_made(services: Services, way: Way) -> None:
    async with way.open(way.url(services), table_name=a_name()) as store:
        await use(store)
        pool = store.engine.pool
        await store.close()
        assert store.engine.pool is not pool
        assert pool.checkedin() == 0  # type: ignore[attr-defined]
        await store.close()
        await use(store)  # and a closed store that is used again opens new connections


@ways(*(way for way in ALL if way.database == "sqlite"))
async def test_an_app_s_sqlite_engine_gets_no_pragmas(services: Services, way: Way) -> None:
    engine = way.engine(way.url(services))
    async with way.open(engine, table_name=a_name()) as store:
        await use(store)
        found = await on(engine, lambda: settings_of(sync_side(engine)))
        assert (found["journal_mode"], found["synchronous"]) == ("delete", 2)
    await dispose(engine)


@ways(*on_servers(ALL))
async def test_an_app_s_engine_costs_no_transaction_where_the_driver_can_do_without(
    services: Services, way: Way
) -> None:
    """PostgreSQL's drivers switch autocommit on their side; MySQL's need one COMMIT."""
    with WireTap.of(way.url(services)) as tap:
        engine = way.engine(tap.through(way.url(services)), pool_reset_on_return=None)
        sid = a_sid()
        async with way.open(engine, table_name=a_name()) as store:
            await store.set(sid, {"n": 1})
            await store.get(sid)
            with tap.recording() as seen:
                await store.get(sid)
            kinds = [statement.kind for statement in seen.statements]
            assert kinds == ["SELECT"] if way.database == "postgresql" else ["SELECT", "COMMIT"]
        await dispose(engine)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_threads_that_share_one_memory_connection_lose_nothing(asynchronous: bool) -> None:
    """The usual engine of a test suite: one connection, used by several threads at once."""
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    sids = [a_sid() for _ in range(300)]
    if asynchronous:
        async with AsyncSQLSessionStore(engine) as store:
            await store.sync()
            await asyncio.gather(*(store.set(sid, {"n": 1}) for sid in sids))
            assert [await store.get(sid) for sid in sids] == [{"n": 1}] * len(sids)
    else:
        with SQLSessionStore(engine) as shared, ThreadPoolExecutor(8) as threads:
            shared.sync()
            list(threads.map(lambda sid: shared.set(sid, {"n": 1}), sids))
            assert [shared.get(sid) for sid in sids] == [{"n": 1}] * len(sids)
    with engine.connect() as connection:
        connection.rollback()
        assert connection.connection.dbapi_connection.isolation_level == ""  # type: ignore[union-attr]
    engine.dispose()


async def test_tasks_that_share_one_memory_connection_lose_nothing() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    sids = [a_sid() for _ in range(100)]
    async with AsyncSQLSessionStore(engine) as store:
        await store.sync()
        await asyncio.gather(*(store.set(sid, {"n": 1}) for sid in sids))
        assert [await store.get(sid) for sid in sids] == [{"n": 1}] * len(sids)
    async with engine.connect() as connection:
        raw: Any = (await connection.get_raw_connection()).dbapi_connection
        assert raw.isolation_level == ""
        await connection.rollback()
        count = await connection.scalar(text("SELECT count(*) FROM sessions"))
        assert count == len(sids), "written, but not committed"
    await engine.dispose()


@ways(BY_ID["psycopg"], BY_ID["psycopg-async"])
async def test_a_connection_that_the_app_left_in_a_transaction_is_replaced(
    services: Services, way: Way
) -> None:
    """With pool_reset_on_return=None a check-in does not roll back, and the mode can not change."""
    async with app_and_store(services, way, pool_reset_on_return=None) as (engine, store, own):

        def leave_open() -> None:
            raw = sync_side(engine).raw_connection()
            cursor = raw.cursor()
            cursor.execute(f"INSERT INTO {own} VALUES (1)")
            cursor.close()
            raw.close()

        await on(engine, leave_open)
        await use(store)
        assert await in_transaction(engine, text(f"SELECT x FROM {own}")) == []


def test_an_option_engine_is_an_engine(services: Services) -> None:
    made = create_engine(services.url("psycopg"))
    engine = made.execution_options(isolation_level="AUTOCOMMIT")
    with SQLSessionStore(engine, table_name=a_name()) as store:
        store.sync()
        sid = a_sid()
        store.set(sid, {"n": 1})
        assert store.get(sid) == {"n": 1}
    made.dispose()
