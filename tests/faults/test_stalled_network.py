"""A network that delivers nothing and says nothing: each call ends when its time is over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, ASYNC, BY_ID, Face, Way, a_name, a_sid, on_servers, ways
from websessions.errors import StoreTimeout

SERVERS = on_servers(ALL)
TIMEOUT = 1.0
SLACK = 3.0
"""What letting go of a dead connection may take on top: a driver's farewell has its own limits."""


@contextlib.asynccontextmanager
async def tapped(
    services: Services, way: Way, **options: Any
) -> AsyncIterator[tuple[Face, WireTap]]:
    with WireTap.of(way.url(services)) as tap:
        url = tap.through(way.url(services))
        options = {"timeout": TIMEOUT, "table_name": a_name(), **options}
        async with way.open(url, **options) as store:
            yield store, tap


async def apart(store: Face, function: Callable[..., Any], *args: Any) -> Any:
    """Call a method in a thread if it blocks, so that a test which waits can give up."""
    return await asyncio.wait_for(
        function(*args) if store.engine.dialect.is_async else asyncio.to_thread(function, *args),
        timeout=20,
    )


@ways(*SERVERS)
async def test_a_call_on_a_stalled_network_times_out(services: Services, way: Way) -> None:
    sid = a_sid()
    async with tapped(services, way) as (store, tap):
        await store.set(sid, {"n": 1})
        for call in (
            lambda: store.store.get(sid),
            lambda: store.store.set(sid, {"n": 2}),
            lambda: store.store.length(),
        ):
            tap.stall()
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                await apart(store, call)
            took = time.monotonic() - began
            assert TIMEOUT * 0.9 < took < TIMEOUT + SLACK
            tap.heal()
            assert (await apart(store, store.store.get, sid))["n"] in (1, 2)
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*SERVERS)
async def test_connecting_over_a_stalled_network_times_out(services: Services, way: Way) -> None:
    with WireTap.of(way.url(services)) as tap:
        # libpq's own limit can not be below 2 seconds.
        timeout = 2.0 if way.driver == "psycopg" else TIMEOUT
        options = {"table_name": a_name(), "timeout": timeout}
        store = Face(way.store(tap.through(way.url(services)), **options))
        tap.stall()
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await apart(store, store.store.get, a_sid())
        assert time.monotonic() - began < timeout + SLACK
        tap.heal()
        await store.sync()
        assert await store.length() == 0
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        await store.close()


@ways(*(way for way in SERVERS if way in ASYNC))
async def test_many_calls_on_a_stalled_network_time_out_together(
    services: Services, way: Way
) -> None:
    """And give their connections back: as many again succeed when it flows."""
    sids = [a_sid() for _ in range(30)]
    async with tapped(services, way) as (store, tap):
        for sid in sids:
            await store.set(sid, {"n": 1})
        tap.stall()
        began = time.monotonic()
        results = await asyncio.gather(*(store.get(sid) for sid in sids), return_exceptions=True)
        assert time.monotonic() - began < 2 * TIMEOUT + SLACK
        assert {type(result) for result in results} == {StoreTimeout}
        tap.heal()
        assert await asyncio.gather(*(store.get(sid) for sid in sids)) == [{"n": 1}] * 30
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*SERVERS)
async def test_closing_over_a_stalled_network_ends(services: Services, way: Way) -> None:
    async with tapped(services, way) as (store, tap):
        await store.set(a_sid(), {"n": 1})
        tap.stall()
        began = time.monotonic()
        with contextlib.suppress(StoreTimeout):
            await apart(store, store.store.close)
        assert time.monotonic() - began < TIMEOUT + SLACK
        tap.heal()


@ways(*SERVERS)
async def test_a_statement_that_waits_for_a_lock_times_out_and_is_not_carried_out_later(
    services: Services, way: Way
) -> None:
    """The network is well, the database is busy: the answer after the timeout is the truth."""
    from tests.faults.test_outage import lock_row

    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name(), timeout=TIMEOUT) as store:
        await store.set(sid, {"n": 1})
        engine, holder = lock_row(way.url(services), store.store.table.name)
        began = time.monotonic()
        with pytest.raises(StoreTimeout):
            await apart(store, store.store.set, sid, {"n": 2})
        assert time.monotonic() - began < TIMEOUT + SLACK
        if way.database == "mysql":
            # What a driver can not take back gives up by itself, soon after.
            in_use = text(
                "SELECT count(*) FROM information_schema.processlist WHERE command = 'Query'"
                f" AND info LIKE '%{store.store.table.name}%' AND id <> connection_id()"
            )
            give_up = time.monotonic() + 5
            with engine.connect() as looking:
                while looking.scalar(in_use) and time.monotonic() < give_up:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
                assert not looking.scalar(in_use), "it would be carried out when the lock is free"
        holder.rollback()
        assert await store.get(sid) == {"n": 1}
        await store.set(sid, {"n": 3})
        assert await store.get(sid) == {"n": 3}
        holder.close()
        engine.dispose()


@ways(BY_ID["psycopg"], BY_ID["pymysql"])
async def test_without_a_timeout_a_call_waits(services: Services, way: Way) -> None:
    sid = a_sid()
    async with tapped(services, way, timeout=None) as (store, tap):
        await store.set(sid, {"n": 1})
        tap.stall()
        waiting = asyncio.create_task(asyncio.to_thread(store.store.get, sid))
        done, _ = await asyncio.wait([waiting], timeout=0.5)
        assert not done
        tap.heal()
        assert await waiting == {"n": 1}


@pytest.mark.parametrize("span", [0.6, timedelta(milliseconds=600)])
async def test_a_timeout_may_be_short(services: Services, span: Any) -> None:
    """Below the second that some drivers and servers count in."""
    for way in (BY_ID["psycopg"], BY_ID["pymysql"], BY_ID["asyncpg"]):
        async with tapped(services, way, timeout=span) as (store, tap):
            sid = a_sid()
            await store.set(sid, {"n": 1})
            tap.stall()
            began = time.monotonic()
            with pytest.raises(StoreTimeout):
                await apart(store, store.store.get, sid)
            assert time.monotonic() - began < 0.6 + SLACK
            tap.heal()
