"""A database that is down, dies in the middle, or comes back: an error, for just so long."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.util import greenlet_spawn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.fixtures.private import PrivateMariaDB, PrivatePostgres
from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, BY_ID, Face, Way, a_name, a_sid, on_servers, ways
from websessions.asgi import SessionMiddleware
from websessions.errors import StoreError, StoreTimeout, StoreUnavailable

SERVERS = on_servers(ALL)
IDLE = 5


@contextlib.asynccontextmanager
async def tapped(
    services: Services, way: Way, **options: Any
) -> AsyncIterator[tuple[Face, WireTap]]:
    """A store whose wire can fail. Its engine is the store's own unless the app's is asked for."""
    with WireTap.of(way.url(services)) as tap:
        url = tap.through(way.url(services))
        async with way.open(url, table_name=a_name(), **options) as store:
            yield store, tap


async def fill_pool(store: Face, count: int = IDLE) -> None:
    """Leave so many open connections idle in the pool."""
    engine = store.engine

    def fill() -> None:
        for connection in [engine.raw_connection() for _ in range(count)]:
            connection.close()

    await (greenlet_spawn(fill) if engine.dialect.is_async else asyncio.to_thread(fill))
    assert engine.pool.checkedin() >= count  # type: ignore[attr-defined]


async def every_use(store: Face) -> list[BaseException | None]:
    """What each method says, in one error or None."""
    said: list[BaseException | None] = []
    for use in (
        store.get(a_sid()),
        store.set(a_sid(), {"n": 1}),
        store.touch(a_sid()),
        store.destroy(a_sid()),
        store.all(),
        store.length(),
        store.clear(),
        store.clear_expired_sessions(),
        store.sync(),
    ):
        try:
            await use
            said.append(None)
        except Exception as error:
            said.append(error)
    return said


@ways(*SERVERS)
async def test_a_database_that_is_down_at_first_use_is_unavailable(
    services: Services, way: Way
) -> None:
    """Never None, never an empty session; and the store works when the database is there."""
    with WireTap.of(way.url(services)) as tap:
        tap.cut()
        store = Face(way.store(tap.through(way.url(services)), table_name=a_name()))
        for error in await every_use(store):
            assert isinstance(error, StoreUnavailable), error
            assert error.__cause__ is not None
        tap.heal()
        await store.sync()
        sid = a_sid()
        await store.set(sid, {"n": 1})
        assert await store.get(sid) == {"n": 1}
        await store.close()


@ways(*SERVERS)
async def test_idle_connections_that_died_are_replaced_at_once(
    services: Services, way: Way
) -> None:
    """All of them may be as dead as the first: no call fails for each one in the pool."""
    sid = a_sid()
    async with tapped(services, way) as (store, tap):
        await store.set(sid, {"n": 1})
        await fill_pool(store)
        tap.cut()
        tap.heal()
        assert await store.get(sid) == {"n": 1}
        await fill_pool(store)
        tap.cut()
        tap.heal()
        await store.set(sid, {"n": 2})
        assert await store.get(sid) == {"n": 2}
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*SERVERS)
async def test_many_calls_at_once_on_dead_connections_all_succeed(
    services: Services, way: Way
) -> None:
    sids = [a_sid() for _ in range(20)]
    async with tapped(services, way) as (store, tap):
        for n, sid in enumerate(sids):
            await store.set(sid, {"n": n})
        await fill_pool(store)
        tap.cut()
        tap.heal()
        if way.asynchronous:
            found = await asyncio.gather(*(store.get(sid) for sid in sids))
        else:
            sync: Any = store.store
            with ThreadPoolExecutor(8) as threads:
                found = list(threads.map(sync.get, sids))
        assert found == [{"n": n} for n in range(20)]
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*SERVERS)
async def test_the_same_on_an_engine_of_the_app_s(services: Services, way: Way) -> None:
    """Whose connections have to be given back as they were, the dead ones as well."""
    sid = a_sid()
    with WireTap.of(way.url(services)) as tap:
        engine = way.engine(tap.through(way.url(services)))
        async with way.open(engine, table_name=a_name()) as store:
            await store.set(sid, {"n": 1})
            await fill_pool(store)
            tap.cut()
            for error in await every_use(store):
                assert isinstance(error, StoreUnavailable), repr(error)
            tap.heal()
            assert await store.get(sid) == {"n": 1}
            await fill_pool(store)
            tap.cut()
            tap.heal()
            await store.set(sid, {"n": 2})
            assert await store.get(sid) == {"n": 2}
            assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        disposing: Any = engine.dispose()
        if disposing is not None:
            await disposing


def lock_row(url: str, table: str) -> tuple[Engine, Any]:
    """Another connection that holds the locks of a table's rows."""
    from sqlalchemy import create_engine

    parsed = make_url(url)
    driver = "psycopg" if parsed.get_backend_name() == "postgresql" else "pymysql"
    engine = create_engine(parsed.set(drivername=f"{parsed.get_backend_name()}+{driver}"))
    connection = engine.connect()
    connection.execute(text(f"UPDATE {table} SET version = version"))
    return engine, connection


def kill_waiting_backend(engine: Engine, table: str) -> None:
    """Once a statement on the table waits for a lock, end its connection from the server's side."""
    give_up = time.monotonic() + 10
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while time.monotonic() < give_up:
            if engine.dialect.name == "postgresql":
                find = (
                    "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
                    f" AND query LIKE '%{table}%' AND pid <> pg_backend_pid()"
                )
                kill = "SELECT pg_terminate_backend({})"
            else:
                find = (
                    "SELECT id FROM information_schema.processlist WHERE command = 'Query'"
                    f" AND info LIKE '%{table}%' AND id <> connection_id()"
                )
                kill = "KILL CONNECTION {}"
            if (pid := connection.scalar(text(find))) is not None:
                connection.execute(text(kill.format(pid)))
                return
            time.sleep(0.01)
    raise AssertionError("no statement waits for a lock")


@ways(*SERVERS)
async def test_a_connection_that_is_killed_in_the_middle_of_a_statement(
    services: Services, way: Way
) -> None:
    """By an administrator, or by a server that shuts down in good order: the call is repeated."""
    sid = a_sid()
    url = way.url(services)
    async with way.open(url, table_name=a_name()) as store:
        await store.set(sid, {"n": 1})
        name = store.store.table.name
        engine, holder = lock_row(url, name)

        def kill_then_unlock() -> None:
            try:
                kill_waiting_backend(engine, name)
            finally:
                holder.rollback()

        killer = threading.Thread(target=kill_then_unlock)
        killer.start()
        if way.asynchronous:
            await store.set(sid, {"n": 2})
        else:
            sync: Any = store.store
            await asyncio.to_thread(sync.set, sid, {"n": 2})
        killer.join()
        assert await store.get(sid) == {"n": 2}
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        holder.close()
        engine.dispose()


@contextlib.asynccontextmanager
async def stores_on(server: Any, chosen: list[Way]) -> AsyncIterator[list[Face]]:
    """A store for each way, all on one private server."""
    async with contextlib.AsyncExitStack() as stack:
        stores = []
        for way in chosen:
            url = make_url(server.url_for(way.driver))
            if way.database == "mysql":
                url = url.set(database="web")
            stores.append(await stack.enter_async_context(way.open(url, table_name=a_name())))
        yield stores


async def killed_and_started_again(server: Any, chosen: list[Way]) -> None:
    sid = a_sid()
    async with stores_on(server, chosen) as stores:
        for store in stores:
            await store.set(sid, {"n": 1})
            await fill_pool(store)
        server.kill()
        for store in stores:
            for error in await every_use(store):
                assert isinstance(error, StoreUnavailable), repr(error)
        server.start()
        for store in stores:
            assert await store.get(sid) == {"n": 1}
            await store.set(sid, {"n": 2})
            await fill_pool(store)
        server.stop()
        server.start()
        for store in stores:
            await store.set(sid, {"n": 3})
            assert await store.get(sid) == {"n": 3}
            assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


async def test_a_postgresql_that_dies_and_comes_back(private_postgres: PrivatePostgres) -> None:
    chosen = [way for way in SERVERS if way.database == "postgresql"]
    await killed_and_started_again(private_postgres, chosen)


async def test_a_mariadb_that_dies_and_comes_back(private_mariadb: PrivateMariaDB) -> None:
    from tests.fixtures.clients import mysql

    mysql(private_mariadb.url, "CREATE DATABASE web")
    chosen = [way for way in SERVERS if way.database == "mysql"]
    await killed_and_started_again(private_mariadb, chosen)


async def test_a_postgresql_that_is_still_starting_is_unavailable(services: Services) -> None:
    """It accepts connections and refuses them with 57P03 (cannot_connect_now)."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        message = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        writer.write(b"E" + (len(message) + 4).to_bytes(4, "big") + message)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for way in (BY_ID["psycopg-async"], BY_ID["asyncpg"]):
        query = {"asyncpg": "?ssl=disable"}.get(way.driver, "?sslmode=disable")
        url = f"postgresql+{way.driver}://me:secret@127.0.0.1:{port}/x{query}"
        store = Face(way.store(url))
        with pytest.raises(StoreUnavailable):
            await store.get(a_sid())
        await store.close()
    server.close()
    await server.wait_closed()


@ways(BY_ID["asyncpg"], BY_ID["asyncmy"])
async def test_a_request_during_an_outage_fails_and_nobody_is_logged_out(
    services: Services, way: Way
) -> None:
    """No new session, no cookie that replaces the old one, no handler that sees an empty dict."""
    seen: list[dict[str, Any]] = []

    async def visit(request: Request) -> PlainTextResponse:
        seen.append(dict(request.session))
        request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse(str(request.session["n"]))

    app = Starlette(routes=[Route("/", visit)])
    async with tapped(services, way) as (store, tap):
        wrapped = SessionMiddleware(app, store=store.store, secret="a long and random secret")  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/")).text == "1"
            cookie = client.cookies["sid"]
            tap.cut()
            for _ in range(3):
                with pytest.raises(StoreError):
                    await client.get("/")
            tap.heal()
            assert (await client.get("/")).text == "2"
            assert client.cookies["sid"] == cookie
    assert seen == [{}, {"n": 1}]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    give_up = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < give_up:
        time.sleep(0.01)


def test_the_tree_lets_an_app_answer_503_to_all_of_it() -> None:
    assert issubclass(StoreTimeout, StoreUnavailable)
    assert issubclass(StoreUnavailable, StoreError)
