"""The sweeper of a SQL store, beyond what tests/sweep says of every one: outages, connections."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import func, select

from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, ASYNC, SYNC, Face, Way, a_name, a_sid, on_servers, ways
from websessions.sid import Sid
from websessions.sql import AsyncSQLSessionStore
from websessions.store import Put, Sweep, Swept

SHORT = 0.02
NAME = "websessions-sweeper"


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; it is the condition that is awaited, the pause only lets others run."""
    give_up = time.monotonic() + 30
    while True:
        result = condition()
        if asyncio.iscoroutine(result):
            result = await result
        if result:
            return
        assert time.monotonic() < give_up, f"never: {what}"
        await asyncio.sleep(0.005)


async def expire_rows(store: Face, count: int = 3) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    for _ in range(count):
        await store.ask(Put(Sid.new().digest(), b"{}", past, {}))


async def rows(store: Face) -> int:
    table = store.store.table
    [(number,)] = await store.rows(select(func.count()).select_from(table))
    return int(number)


async def swept(store: Face) -> None:
    async def none_left() -> bool:
        return await rows(store) == 0

    await until(none_left, "the expired rows are gone")


others: set[Any] = set()
"""Sweepers of stores that other tests left open, such as the documentation's."""


def sweepers() -> list[Any]:
    """The threads and tasks that sweep for the stores of this test."""
    threads = [thread for thread in threading.enumerate() if thread.name == NAME]
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == NAME]
    return [sweeper for sweeper in [*threads, *tasks] if sweeper not in others]


@pytest.fixture(autouse=True)
async def none_after() -> Any:
    others.update(sweepers())
    yield
    await until(lambda: not sweepers(), "the sweepers of this test have ended")


@ways(*ALL)
async def test_a_closed_store_does_not_sweep(services: Services, way: Way) -> None:
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        await store.get(a_sid())
        await store.close()
        await until(lambda: not sweepers(), "it stops")
        await store.get(a_sid())
        assert not sweepers()


@ways(*on_servers(ALL))
async def test_an_outage_is_logged_and_survived(
    services: Services, way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    with WireTap.of(way.url(services)) as tap:
        url = tap.through(way.url(services))
        options = {"check_expiration_interval": SHORT, "timeout": 2}
        async with way.open(url, table_name=a_name(), **options) as store:
            await store.get(a_sid())
            await expire_rows(store)
            await swept(store)
            with caplog.at_level(logging.ERROR, "websessions"):
                tap.cut()
                await until(lambda: len(caplog.records) >= 2, "it is logged, and tried again")
            [record, *_] = caplog.records
            assert record.name == "websessions"
            assert "sweeping expired sessions failed" in record.getMessage()
            assert "StoreUnavailable" in record.getMessage() or "can not be reached" in (
                record.getMessage()
            )
            tap.heal()
            await expire_rows(store)
            await swept(store)
            assert len(sweepers()) == 1


@ways(*SYNC)
async def test_the_thread_does_not_keep_a_store_alive(services: Services, way: Way) -> None:
    store: Any = way.store(way.url(services), table_name=a_name(), check_expiration_interval=SHORT)
    store.sync()
    store.get(a_sid())
    engine, gone = store._opened.engine, weakref.ref(store)
    assert len(sweepers()) == 1
    del store

    def collected() -> bool:
        gc.collect()
        return gone() is None

    await until(collected, "the store is garbage")
    await until(lambda: not sweepers(), "its thread ends by itself")
    engine.dispose()


@ways(*ASYNC)
async def test_the_task_does_not_keep_a_store_alive(services: Services, way: Way) -> None:
    store: Any = way.store(way.url(services), table_name=a_name(), check_expiration_interval=SHORT)
    await store.sync()
    await store.get(a_sid())
    engine, gone = store._opened.engine, weakref.ref(store)
    assert len(sweepers()) == 1
    del store

    async def collected() -> bool:
        gc.collect()
        return gone() is None

    await until(collected, "the store is garbage")
    await until(lambda: not sweepers(), "its task ends by itself")
    if engine.dialect.is_async:
        from sqlalchemy.util import greenlet_spawn

        await greenlet_spawn(engine.dispose)
    else:
        engine.dispose()


async def test_a_sweep_deletes_in_bounded_batches(services: Services) -> None:
    """So that no lock is held for long and no replica falls behind."""
    from websessions.store import SWEEP_BATCH

    async with AsyncSQLSessionStore(
        services.url("asyncpg"), table_name=a_name(), check_expiration_interval=None
    ) as store:
        await store.sync()
        past = datetime.now(UTC) - timedelta(hours=1)
        puts = [Put(Sid.new().digest(), b"{}", past, {}) for _ in range(SWEEP_BATCH + 10)]
        await store.perform(puts)
        first, second = await store.perform([Sweep(SWEEP_BATCH), Sweep(SWEEP_BATCH)])
        assert (first, second) == (Swept(SWEEP_BATCH, more=True), Swept(10, more=False))
        await store.perform(puts)
        assert await store.clear_expired_sessions() == SWEEP_BATCH + 10
