"""The pool of connections: what happens when it is empty, and that nothing leaks out of it."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import Services
from tests.sql.drivers import (
    ALL,
    ASYNC,
    BY_ID,
    SYNC,
    Face,
    Way,
    a_name,
    a_sid,
    dispose,
    in_transaction,
    on_servers,
    ways,
)
from websessions.errors import StoreTimeout
from websessions.store import Record

POOLED = tuple(way for way in ALL if way.id != "aiosqlite")


def pool_of(store: Face) -> Any:
    return store.engine.pool


async def hold_all(store: Face, count: int) -> list[Any]:
    """Take so many connections and keep them."""

    def take() -> list[Any]:
        return [store.engine.raw_connection() for _ in range(count)]

    return await (
        greenlet_spawn(take) if store.engine.dialect.is_async else asyncio.to_thread(take)
    )


async def give_back(store: Face, held: list[Any]) -> None:
    def give() -> None:
        for connection in held:
            connection.close()

    await (greenlet_spawn(give) if store.engine.dialect.is_async else asyncio.to_thread(give))


@ways(*POOLED)
async def test_no_free_connection_of_the_app_s_pool_is_a_timeout(
    services: Services, way: Way
) -> None:
    engine = way.engine(way.url(services), pool_size=1, max_overflow=0, pool_timeout=0.3)
    async with way.open(engine, table_name=a_name()) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        held = await hold_all(store, 1)
        with pytest.raises(StoreTimeout, match="no connection of the pool became free"):
            await store.get(sid)
        await give_back(store, held)
        assert await store.get(sid) == {"n": 1}
    await dispose(engine)


@ways(*POOLED)
async def test_no_free_connection_of_the_store_s_own_pool_is_a_timeout(
    services: Services, way: Way
) -> None:
    async with way.open(way.url(services), table_name=a_name(), timeout=1) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        pool = pool_of(store)
        held = await hold_all(store, pool.size() + pool._max_overflow)
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await store.get(sid)
        assert time.monotonic() - began < 3
        await give_back(store, held)
        assert await store.get(sid) == {"n": 1}
        assert pool.checkedout() == 0


@ways(*POOLED)
async def test_a_connection_is_opened_once_and_kept(services: Services, way: Way) -> None:
    """The most that the pool gives out stay open, instead of being opened again under load."""
    async with way.open(way.url(services), table_name=a_name()) as store:
        pool = pool_of(store)
        assert pool._max_overflow == 0
        opened = 0

        @event.listens_for(store.engine, "connect")
        def count(*_: object) -> None:
            nonlocal opened
            opened += 1

        already = pool.checkedin()
        for _ in range(2):
            await give_back(store, await hold_all(store, pool.size()))
            assert opened + already == pool.size() == pool.checkedin() == 15


@ways(*SYNC)
def test_more_threads_than_connections_take_turns(services: Services, way: Way) -> None:
    store: Any = way.store(way.url(services), table_name=a_name())
    store.sync()
    sids = [a_sid() for _ in range(40)]
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(lambda sid: store.set(sid, {"n": 1}), sids))
        assert list(threads.map(store.get, sids)) == [{"n": 1}] * 40
    assert store._opened.engine.pool.checkedout() == 0
    store.close()


@ways(*ASYNC)
async def test_more_tasks_than_connections_take_turns(services: Services, way: Way) -> None:
    sids = [a_sid() for _ in range(200)]
    async with way.open(way.url(services), table_name=a_name()) as store:
        await asyncio.gather(*(store.set(sid, {"n": 1}) for sid in sids))
        found = await asyncio.gather(*(store.get(sid) for sid in sids))
        assert found == [{"n": 1}] * len(sids)
        assert pool_of(store).checkedout() == 0


@ways(*ASYNC)
@pytest.mark.parametrize("owner", ["store", "app"])
async def test_cancelled_calls_leave_the_pool_as_it_was(
    services: Services, way: Way, owner: str
) -> None:
    """A client that leaves cancels its request, at any point: nobody else pays for it.

    Neither a connection is lost, nor does the next one get an answer that was somebody else's.
    """
    choose = random.Random(way.id)
    options = {} if way.id == "aiosqlite" else {"pool_size": 3, "max_overflow": 1}
    url = way.url(services)
    if way.driver == "asyncpg":
        # Cancelled in the middle of asking for TLS, it leaves a future that nobody looks at.
        url += "?ssl=disable"
    engine: Any = way.engine(url, **options) if owner == "app" else None
    if way.id == "aiosqlite" and owner == "app":
        # A cancelled task keeps its driver's cursor, and so the lock of its read, until it is
        # garbage; outside WAL the others could not write until then.
        await in_transaction(engine, text("PRAGMA journal_mode = WAL"))
    async with way.open(engine or url, table_name=a_name()) as store:
        sids = [a_sid() for _ in range(20)]
        for n, sid in enumerate(sids):
            await store.set(sid, {"n": n})
        pool = pool_of(store)

        async def visit(n: int) -> None:
            record = await store.ask(_load(sids[n]))
            assert isinstance(record, Record)
            assert record.data.replace(b" ", b"") == b'{"n":%d}' % n, "the answer of another call"
            await store.set(sids[n], {"n": n})
            await store.touch(sids[n])

        for _ in range(40):
            tasks = [asyncio.create_task(visit(choose.randrange(20))) for _ in range(8)]
            for _ in range(choose.randrange(12)):
                await asyncio.sleep(0)
            await asyncio.sleep(choose.choice([0, 0.001, 0.002, 0.004]))
            for task in tasks:
                if choose.random() < 0.7:
                    task.cancel()
            done, hanging = await asyncio.wait(tasks, timeout=20)
            assert not hanging
            for result in await asyncio.gather(*done, return_exceptions=True):
                assert result is None or isinstance(result, asyncio.CancelledError), repr(result)
        await _settled(pool)
        assert pool.checkedout() == 0
        assert await asyncio.gather(*(store.get(sid) for sid in sids)) == [
            {"n": n} for n in range(20)
        ]
    if engine is not None:
        await dispose(engine)


def _load(sid: str) -> Any:
    from websessions.sid import Sid
    from websessions.store import Load

    return Load(Sid(sid).digest())


async def _settled(pool: Any) -> None:
    """Calls that were cancelled in a thread or in a batch of many go on to their end."""
    give_up = time.monotonic() + 5
    while pool.checkedout() and time.monotonic() < give_up:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


@ways(*on_servers(ASYNC))
async def test_cancelled_while_it_connects(services: Services, way: Way) -> None:
    choose = random.Random(way.id)
    url = way.url(services) + ("?ssl=disable" if way.driver == "asyncpg" else "")
    engine: Any = way.engine(url, pool_size=4, max_overflow=0)
    async with way.open(engine, table_name=a_name()) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        for _ in range(25):
            await dispose(engine)
            tasks: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(call)
                for call in (store.length(), store.all(), store.get(sid), store.length())
            ]
            await asyncio.sleep(choose.uniform(0, 0.006))
            for task in tasks[:3]:
                task.cancel()
            done, hanging = await asyncio.wait(tasks, timeout=20)
            assert not hanging
            assert tasks[3].result() == 1
            await asyncio.gather(*done, return_exceptions=True)
        pool = pool_of(store)
        await _settled(pool)
        assert pool.checkedout() == 0
        assert await asyncio.gather(*(store.length() for _ in range(8))) == [1] * 8
    await dispose(engine)


@ways(*on_servers(ASYNC))
async def test_cancelled_while_it_waits_for_a_connection(services: Services, way: Way) -> None:
    engine: Any = way.engine(way.url(services), pool_size=1, max_overflow=0)
    async with way.open(engine, table_name=a_name()) as store:
        held = await hold_all(store, 1)
        tasks = [asyncio.ensure_future(store.length()) for _ in range(6)]
        await asyncio.sleep(0.02)
        for task in tasks[::2]:
            task.cancel()
        await give_back(store, held)
        done, hanging = await asyncio.wait(tasks, timeout=5)
        assert not hanging
        assert [task.result() for task in tasks[1::2]] == [0, 0, 0]
        await asyncio.gather(*done, return_exceptions=True)
        assert pool_of(store).checkedout() == 0
        assert await store.length() == 0
    await dispose(engine)


@ways(BY_ID["psycopg"], BY_ID["pymysql"], BY_ID["sqlite"])
def test_an_interrupt_in_the_middle_of_a_call_loses_no_connection(
    services: Services, way: Way
) -> None:
    """Control-C, or a server's own worker timeout (gunicorn raises SystemExit in a handler)."""
    store: Any = way.store(way.url(services), table_name=a_name())
    store.sync()
    sid = a_sid()
    store.set(sid, {"n": 1})

    class Interrupt(BaseException):
        pass

    def interrupted(values: Any) -> Any:
        raise Interrupt

    options: Any = {"mirror_fields": {"user_id": interrupted}, "table": store.table}
    other: Any = way.store(store._opened.engine, **options)
    with pytest.raises(Interrupt):
        other.set(sid, {"n": 2})
    assert store._opened.engine.pool.checkedout() == 0
    assert store.get(sid) == {"n": 1}
    store.close()


def test_threads_are_not_left_behind(services: Services) -> None:
    """An async store's worker threads end with it."""

    async def use() -> None:
        store: Any = BY_ID["sqlite-thread"].store(services.url("sqlite"))
        await store.sync()
        await asyncio.gather(*(store.length() for _ in range(8)))
        assert any(name.startswith("websessions") for name in names())
        await store.close()

    before = set(threading.enumerate())

    def names() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread not in before]

    asyncio.run(use())
    give_up = time.monotonic() + 5
    while any(name.startswith("websessions") for name in names()) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not any(name.startswith("websessions") for name in names())
