"""The sweeper: by itself, in the background, in nobody's way, whatever happens to its process."""

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
from tests.sql.drivers import ALL, ASYNC, BY_ID, SYNC, Face, Way, a_name, a_sid, on_servers, ways
from websessions.errors import StoreUnavailable
from websessions.sid import Sid
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Put

SHORT = 0.02
NAME = "websessions-sweeper"


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for a condition; it is the condition that is awaited, the pause only lets others run."""
    give_up = time.monotonic() + 10
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


def sweepers() -> list[Any]:
    """The threads and tasks that sweep now."""
    threads = [thread for thread in threading.enumerate() if thread.name == NAME]
    tasks = [task for task in asyncio.all_tasks() if task.get_name() == NAME]
    return threads + tasks


@pytest.fixture(autouse=True)
async def none_before_and_none_after() -> Any:
    await until(lambda: not sweepers(), "the sweepers of another test have ended")
    yield
    await until(lambda: not sweepers(), "the sweepers of this test have ended")


@ways(*ALL)
async def test_it_starts_by_itself_at_the_first_use(services: Services, way: Way) -> None:
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        assert not sweepers(), "neither making a store nor its table is a use"
        await store.set(a_sid(), {"n": 1})
        assert len(sweepers()) == 1
        await store.clear()
        await expire_rows(store)
        await swept(store)
        await expire_rows(store)
        await swept(store)
        assert len(sweepers()) == 1


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"], BY_ID["asyncpg"])
@pytest.mark.parametrize("interval", [0, None, timedelta(0)])
async def test_an_interval_of_nothing_switches_it_off(
    services: Services, way: Way, interval: Any
) -> None:
    options = {"check_expiration_interval": interval}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        await store.get(a_sid())
        await store.start_expiring_sessions()
        assert not sweepers()
        await expire_rows(store)
        assert await store.clear_expired_sessions() == 3, "by hand it goes all the same"


@ways(*ALL)
async def test_starting_and_stopping_twice_is_the_same_as_once(
    services: Services, way: Way
) -> None:
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        await store.start_expiring_sessions()
        await store.start_expiring_sessions()
        assert len(sweepers()) == 1
        await expire_rows(store)
        await swept(store)
        await store.stop_expiring_sessions()
        await store.stop_expiring_sessions()
        await until(lambda: not sweepers(), "it stops")


@ways(*ALL)
async def test_once_stopped_only_start_starts_it_again(services: Services, way: Way) -> None:
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        await store.get(a_sid())
        await store.stop_expiring_sessions()
        await until(lambda: not sweepers(), "it stops")
        await expire_rows(store)
        assert await store.get(a_sid()) is None
        assert not sweepers()
        assert await rows(store) == 3
        await store.start_expiring_sessions()
        await swept(store)


@ways(*ALL)
async def test_stopped_before_its_first_use_it_does_not_start(
    services: Services, way: Way
) -> None:
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), table_name=a_name(), **options) as store:
        await store.stop_expiring_sessions()
        await store.get(a_sid())
        assert not sweepers()


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


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"])
async def test_any_error_is_survived(
    services: Services, way: Way, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug of a store's author is no reason to fill the disk, either."""
    options = {"check_expiration_interval": SHORT}
    async with way.open(way.url(services), **options) as store:
        failures = iter([StoreUnavailable("down"), KeyError("a bug"), ZeroDivisionError()])
        perform = store.store._database.perform

        def failing(calls: Any) -> Any:
            for failure in failures:
                raise failure
            return perform(calls)

        with caplog.at_level(logging.ERROR, "websessions"), monkeypatch.context() as patch:
            patch.setattr(store.store._database, "perform", failing)
            await store.start_expiring_sessions()
            await until(lambda: len(caplog.records) == 3, "each is logged")
        await expire_rows(store)
        await swept(store)


@ways(*SYNC)
async def test_the_thread_does_not_keep_a_store_alive(services: Services, way: Way) -> None:
    store: Any = way.store(
        way.url(services), table_name=a_name(), check_expiration_interval=SHORT
    )
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
    store: Any = way.store(
        way.url(services), table_name=a_name(), check_expiration_interval=SHORT
    )
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


async def test_it_is_a_daemon_thread(services: Services) -> None:
    with SQLSessionStore(services.sqlite_url(), check_expiration_interval=SHORT) as store:
        store.sync()
        store.get(a_sid())
        [thread] = sweepers()
        assert thread.daemon


async def test_a_sweep_deletes_in_bounded_batches(services: Services) -> None:
    """So that no lock is held for long and no replica falls behind."""
    from websessions.direct import SWEEP_BATCH

    async with AsyncSQLSessionStore(
        services.url("asyncpg"), table_name=a_name(), check_expiration_interval=None
    ) as store:
        await store.sync()
        past = datetime.now(UTC) - timedelta(hours=1)
        puts = [Put(Sid.new().digest(), b"{}", past, {}) for _ in range(SWEEP_BATCH + 10)]
        await store.perform(puts)
        assert await store.clear_expired_sessions() == SWEEP_BATCH + 10
        assert await store.clear_expired_sessions() == 0
