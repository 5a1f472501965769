"""Behind PgBouncer in transaction mode: many clients, few servers, and nobody notices the others.

What is promised of a store at all is promised here as well: the suites are those of tests/stores.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.clients import postgres
from tests.fixtures.private import PrivatePgBouncer
from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, BY_ID, Face, Way, a_name, a_sid, ways
from tests.stores.databases import corrupt, corrupt_async, prepare
from websessions.errors import ConfigurationError, StoreError, StoreTimeout, StoreUnavailable
from websessions.sid import Key, Sid
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Delete, Insert, Load, Replace, Touch
from websessions.testing import AnyStore, AsyncStoreSuite, FakeClock, StoreSuite

POSTGRES = tuple(way for way in ALL if way.database == "postgresql")

CLIENTS = 24


@pytest.fixture(scope="module")
def pgbouncer(services: Services) -> Iterator[PrivatePgBouncer]:
    """One for the tests that leave it running."""
    pooler = services.private_pgbouncer()
    yield pooler
    pooler.close()


@contextlib.asynccontextmanager
async def behind(pgbouncer: PrivatePgBouncer, way: Way, **options: Any) -> AsyncIterator[Face]:
    options = {"table_name": a_name(), "pgbouncer": True, **options}
    async with way.open(pgbouncer.url_for(way.driver), **options) as store:
        yield store


# The rules for every store


class TestPsycopg(StoreSuite):
    """`SQLSessionStore` keeps them."""

    @pytest.fixture
    def make_store(self, pgbouncer: PrivatePgBouncer) -> Callable[..., SQLSessionStore]:
        def make(clock: FakeClock, /, **options: Any) -> SQLSessionStore:
            url = pgbouncer.url_for("psycopg")
            return SQLSessionStore(url, clock=clock, pgbouncer=True, **options)

        return make

    async def prepare(self, store: AnyStore) -> None:
        await prepare(store)

    def corrupt(self, store: SQLSessionStore, key: Key) -> None:
        corrupt(store, key)


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
class TestAsync(AsyncStoreSuite):
    """`AsyncSQLSessionStore` keeps them."""

    @pytest.fixture
    def make_store(
        self, pgbouncer: PrivatePgBouncer, driver: str
    ) -> Callable[..., AsyncSQLSessionStore]:
        def make(clock: FakeClock, /, **options: Any) -> AsyncSQLSessionStore:
            url = pgbouncer.url_for(driver)
            return AsyncSQLSessionStore(url, clock=clock, pgbouncer=True, **options)

        return make

    async def prepare(self, store: AnyStore) -> None:
        await prepare(store)

    async def corrupt(self, store: AsyncSQLSessionStore, key: Key) -> None:
        await corrupt_async(store, key)


# Many clients on few servers


async def one_client(store: Face) -> None:
    """Each operation, alone and in batches."""
    now = store.store.clock()
    past, soon, later = (now.replace(year=year, microsecond=0) for year in (2000, 2100, 2101))
    keys = [Sid.new().digest() for _ in range(5)]
    slack = later - later
    born = await store.perform([Insert(key, b'{"n":0}', soon, {}) for key in keys])
    for _ in range(6):
        born = await store.perform([Replace(seen, b'{"n":1}', soon, {}) for seen in born])
        assert None not in born
        assert await store.perform([Load(key) for key in keys]) == born
    assert await store.perform([Touch(key, later, slack) for key in keys]) == [True] * 5
    assert await store.perform([Delete(key) for key in keys]) == [True] * 5
    sid = Sid.new()
    for n in range(6):
        await store.set(sid, {"n": n})
        assert await store.get(sid) == {"n": n}
    [seen] = await store.perform([Load(sid.digest())])
    assert (await store.ask(Replace(seen, seen.data, soon, {}, keys[0]))).key == keys[0]
    assert await store.ask(Touch(keys[0], later, slack))
    await store.set(sid, {}, expires=past)
    await store.clear_expired_sessions()
    assert await store.get(sid) is None
    assert await store.length() >= 1
    assert len(await store.all()) >= 1
    assert await store.ask(Delete(keys[0]))


async def many_clients(stores: list[Face]) -> None:
    if isinstance(stores[0].store, AsyncSQLSessionStore):
        await asyncio.gather(*(one_client(stores[n % len(stores)]) for n in range(CLIENTS)))
        return

    def in_a_thread(n: int) -> None:
        asyncio.run(one_client(stores[n % len(stores)]))

    def in_threads() -> None:
        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(in_a_thread, range(CLIENTS)))

    await asyncio.to_thread(in_threads)


def on_each_server(pgbouncer: PrivatePgBouncer, query: str) -> list[Any]:
    """The rows of a query on every connection that PgBouncer has to the server."""
    rows: list[Any] = []
    with contextlib.ExitStack() as stack:
        pids = set()
        for _ in range(pgbouncer.servers):
            # In transactions that go on, so that each gets a server of its own.
            connection = stack.enter_context(
                psycopg.connect(
                    pgbouncer.url.render_as_string(hide_password=False), prepare_threshold=None
                )
            )
            pids.add(connection.execute("SELECT pg_backend_pid()").fetchone())
            rows += connection.execute(query.encode()).fetchall()
            stack.callback(connection.rollback)
        assert len(pids) == pgbouncer.servers
    return rows


@ways(*POSTGRES)
async def test_many_clients_share_few_servers_and_leave_nothing_behind(
    pgbouncer: PrivatePgBouncer, way: Way
) -> None:
    """No prepared statement that is there or is not, and none for the next client to find."""
    table = a_name()
    async with contextlib.AsyncExitStack() as stack:
        stores = [
            await stack.enter_async_context(behind(pgbouncer, way, table_name=table))
            for _ in range(3)
        ]
        await many_clients(stores)
        assert await stores[0].length() == 0
    assert on_each_server(pgbouncer, "SELECT name, statement FROM pg_prepared_statements") == []
    # PgBouncer keeps these apart for its clients.
    changed = (
        "SELECT name, setting FROM pg_settings WHERE source = 'session' AND setting <> reset_val"
        " AND name NOT IN ('client_encoding', 'DateStyle', 'TimeZone', 'application_name',"
        " 'standard_conforming_strings')"
    )
    assert on_each_server(pgbouncer, changed) == []


@ways(*POSTGRES)
async def test_nothing_is_set_for_a_connection(pgbouncer: PrivatePgBouncer, way: Way) -> None:
    """Not even for a moment: the next client may come in between."""
    with WireTap.of(pgbouncer.url_for(way.driver)) as tap:
        url = tap.through(pgbouncer.url_for(way.driver))
        async with way.open(url, table_name=a_name(), pgbouncer=True) as store:
            await one_client(store)
            assert store.engine.pool.checkedin() == 1  # type: ignore[attr-defined]
        open_ended = 0
        in_transaction = False
        for statement in tap.statements:
            if statement.controls_transaction:
                in_transaction = statement.kind == "BEGIN"
            elif statement.kind in ("SET", "PREPARE", "LISTEN") or "set_config" in statement.text:
                open_ended += not in_transaction
        assert open_ended == 0


@ways(*POSTGRES)
async def test_a_warm_read_is_one_statement(pgbouncer: PrivatePgBouncer, way: Way) -> None:
    with WireTap.of(pgbouncer.url_for(way.driver)) as tap:
        url = tap.through(pgbouncer.url_for(way.driver))
        async with way.open(url, table_name=a_name(), pgbouncer=True) as store:
            sid = a_sid()
            await store.set(sid, {"n": 1})
            await store.get(sid)
            with tap.recording() as seen:
                assert await store.get(sid) == {"n": 1}
            assert [statement.kind for statement in seen.statements] == ["SELECT"]
            # asyncpg asks for the types of a statement that it does not know by name.
            assert seen.round_trips == (2 if way.driver == "asyncpg" else 1)


# Trouble


def needs_cancel(way: Way) -> None:
    if way == BY_ID["psycopg"] and not psycopg.capabilities.has_cancel_safe():
        pytest.skip("libpq before 17 can not cancel within a limit")


@ways(*POSTGRES)
async def test_a_statement_that_takes_too_long_ends_on_the_server_too(
    pgbouncer: PrivatePgBouncer, way: Way
) -> None:
    """It waits for a lock, and is not carried out when the lock is free."""
    needs_cancel(way)
    sid = a_sid()
    async with behind(pgbouncer, way, timeout=2) as store:
        await store.set(sid, {"n": 1})
        table = store.store.table.name
        with psycopg.connect(
            pgbouncer.target.set(drivername="postgresql").render_as_string(hide_password=False)
        ) as holder:
            holder.execute(f'UPDATE "{table}" SET version = version'.encode())
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                await asyncio.wait_for(aside(store.store.set, sid, {"n": 2}), 20)
            assert time.monotonic() - began < 5
            give_up = time.monotonic() + 10
            while waiting(holder, table):
                assert time.monotonic() < give_up, "the server goes on without its client"
                await asyncio.sleep(0.02)
            holder.rollback()
        assert await store.get(sid) == {"n": 1}
        await store.set(sid, {"n": 3})
        assert await store.get(sid) == {"n": 3}
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert pgbouncer.running


async def aside(method: Callable[..., Any], *args: Any) -> Any:
    if asyncio.iscoroutinefunction(method):
        return await method(*args)
    return await asyncio.to_thread(method, *args)


def waiting(connection: psycopg.Connection[Any], table: str) -> bool:
    found = connection.execute(
        "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE %s"
        " AND pid <> pg_backend_pid()",
        [f"%{table}%"],
    )
    return found.fetchone() is not None


async def test_a_blocked_thread_is_set_free_and_its_connection_is_kept(
    pgbouncer: PrivatePgBouncer,
) -> None:
    """The client asks for the end of its statement, since no statement_timeout does."""
    way = BY_ID["psycopg"]
    needs_cancel(way)
    async with behind(pgbouncer, way, timeout=0.5) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        pooled = in_pool(store)
        with psycopg.connect(
            pgbouncer.target.set(drivername="postgresql").render_as_string(hide_password=False)
        ) as holder:
            holder.execute(f'UPDATE "{store.store.table.name}" SET version = version'.encode())
            with pytest.raises(StoreTimeout) as raised:
                await asyncio.to_thread(store.store.set, sid, {"n": 2})
            assert isinstance(raised.value.__cause__, psycopg.errors.QueryCanceled)
            holder.rollback()
        assert await store.get(sid) == {"n": 1}
        assert in_pool(store) == pooled


def in_pool(store: Face) -> list[Any]:
    """The driver's connections that wait there."""
    engine = store.engine
    taken = [engine.raw_connection() for _ in range(engine.pool.checkedin())]  # type: ignore[attr-defined]
    found = [connection.driver_connection for connection in taken]
    for connection in taken:
        connection.close()
    return found


async def test_a_silent_network_ends_a_blocked_thread_s_call_as_well(
    pgbouncer: PrivatePgBouncer,
) -> None:
    """Where not even the request to cancel is answered."""
    way = BY_ID["psycopg"]
    with WireTap.of(pgbouncer.url_for(way.driver)) as tap:
        url = tap.through(pgbouncer.url_for(way.driver))
        async with way.open(url, table_name=a_name(), pgbouncer=True, timeout=0.5) as store:
            sid = a_sid()
            await store.set(sid, {"n": 1})
            tap.stall()
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                await asyncio.wait_for(asyncio.to_thread(store.store.get, sid), 20)
            assert time.monotonic() - began < 4
            tap.heal()
            assert await store.get(sid) == {"n": 1}


async def test_a_pgbouncer_that_is_restarted_is_an_outage_like_any_other(
    private_pgbouncer: PrivatePgBouncer,
) -> None:
    """An error while it is down, never an empty session; afterwards all is as it was."""
    sid = a_sid()
    async with contextlib.AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(behind(private_pgbouncer, w)) for w in POSTGRES]
        for store in stores:
            await store.set(sid, {"n": 1})
        for end in (private_pgbouncer.kill, private_pgbouncer.stop):
            end()
            for store in stores:
                with pytest.raises(StoreUnavailable):
                    await store.get(sid)
                with pytest.raises(StoreUnavailable):
                    await store.set(sid, {"n": 2})
            private_pgbouncer.start()
            for store in stores:
                assert await store.get(sid) == {"n": 1}
            await asyncio.to_thread(private_pgbouncer.stop)
            private_pgbouncer.start()
            for store in stores:
                await store.set(sid, {"n": 1})
                assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*POSTGRES)
async def test_servers_that_pgbouncer_lost_are_replaced(
    pgbouncer: PrivatePgBouncer, way: Way
) -> None:
    """PostgreSQL ended its side, while PgBouncer keeps the clients."""
    sid = a_sid()
    async with behind(pgbouncer, way) as store:
        await store.set(sid, {"n": 1})
        pids = [pid for (pid,) in on_each_server(pgbouncer, "SELECT pg_backend_pid()")]
        postgres(pgbouncer.target, *(f"SELECT pg_terminate_backend({pid})" for pid in pids))
        assert await store.get(sid) == {"n": 1}
        await store.set(sid, {"n": 2})
        assert await store.get(sid) == {"n": 2}


@ways(BY_ID["psycopg-async"], BY_ID["asyncpg"])
async def test_without_the_option_the_error_says_what_to_do(services: Services, way: Way) -> None:
    """Where a server has not the statement that the driver prepared on another one."""
    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        for _ in range(8):  # psycopg prepares what was executed five times
            await store.get(sid)
        assert store.engine.pool.checkedin() == 1  # type: ignore[attr-defined]
        pooled: Any = await greenlet_spawn(store.engine.raw_connection)
        connection = pooled.driver_connection
        if way.driver == "psycopg":
            connection.pgconn.exec_(b"DEALLOCATE ALL")
        else:
            await connection.execute("DEALLOCATE ALL")
        pooled.close()
        with pytest.raises(StoreError, match="pass pgbouncer=True"):
            await store.get(sid)


# Where it makes no sense


@pytest.mark.parametrize("store", [SQLSessionStore, AsyncSQLSessionStore])
@pytest.mark.parametrize(
    "url",
    ["sqlite://", "mysql+pymysql://me@localhost/x", "postgresql+psycopg2://me@localhost/x"],
)
def test_another_database_or_driver_is_refused(store: Any, url: str) -> None:
    with pytest.raises(ConfigurationError, match="PostgreSQL with psycopg or asyncpg, not for"):
        store(url, pgbouncer=True)


def test_an_engine_of_the_app_s_is_refused_with_what_to_set_on_it() -> None:
    url = make_url("postgresql+psycopg://me:secret@localhost/x")
    with pytest.raises(ConfigurationError, match="'prepare_threshold': None") as raised:
        SQLSessionStore(create_engine(url), pgbouncer=True)
    assert "secret" not in str(raised.value)
    engine = create_async_engine(url.set(drivername="postgresql+asyncpg"))
    with pytest.raises(ConfigurationError, match="'statement_cache_size': 0"):
        AsyncSQLSessionStore(engine, pgbouncer=True)


def test_it_is_on_or_off() -> None:
    bad: Any = "yes"
    with pytest.raises(ConfigurationError, match="True or False, not 'yes'"):
        SQLSessionStore("postgresql+psycopg://me@localhost/x", pgbouncer=bad)
