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
from tests.sql.processes import child
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


# Programs


THREAD_PROGRAM = """
from websessions.sql import SQLSessionStore
store = SQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=float(sys.argv[3]))
store.sync()
store.set("a-session-id-for-this-test", {"n": 1})
say()
"""

TASK_PROGRAM = """
import asyncio
from websessions.sql import AsyncSQLSessionStore
store = AsyncSQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=float(sys.argv[3]))
async def main():
    await store.sync()
    await store.set("a-session-id-for-this-test", {"n": 1})
    await asyncio.sleep(0.1)
    if sys.argv[4] == "close":
        await store.close()
asyncio.run(main())
say()
"""

OLD_LOOP_PROGRAM = """
import asyncio
from websessions.sql import AsyncSQLSessionStore
store = AsyncSQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=float(sys.argv[3]))
loop = asyncio.new_event_loop()
loop.run_until_complete(store.sync())
loop.run_until_complete(store.set("a-session-id-for-this-test", {"n": 1}))
loop.run_until_complete(asyncio.sleep(0.1))
loop.close()
say()
"""


def ends_at_once(program: str, *arguments: str, options: tuple[str, ...] = ()) -> str:
    """Run a program that never stops its sweeper; what it complained about."""
    with child(program, *arguments, options=options) as running:
        running.hear()
        began = time.monotonic()
        _, errors = running.finish()
        assert time.monotonic() - began < 5
        return errors


@ways(*SYNC)
@pytest.mark.parametrize("interval", ["0.01", "900"])
def test_a_program_that_never_stops_it_ends_at_once(
    services: Services, way: Way, interval: str
) -> None:
    assert ends_at_once(THREAD_PROGRAM, way.url(services), a_name(), interval) == ""


@ways(*ASYNC)
@pytest.mark.parametrize("interval", ["0.01", "900"])
def test_an_asyncio_program_ends_without_a_word(
    services: Services, way: Way, interval: str
) -> None:
    """In development mode, where asyncio and drivers complain of all that was left open."""
    arguments = (way.url(services), a_name(), interval)
    errors = ends_at_once(TASK_PROGRAM, *arguments, "close", options=("-X", "dev"))
    # A slow machine's slow callbacks are not what is asked about.
    complaints = [line for line in errors.splitlines() if "Executing <" not in line]
    assert complaints == []


@ways(*ASYNC)
@pytest.mark.parametrize("interval", ["0.01", "900"])
def test_an_asyncio_program_that_closes_nothing_ends_without_the_sweeper_s_complaint(
    services: Services, way: Way, interval: str
) -> None:
    arguments = (way.url(services), a_name(), interval)
    errors = ends_at_once(TASK_PROGRAM, *arguments, "leave", options=("-X", "dev"))
    assert "Task was destroyed" not in errors
    assert NAME not in errors


@ways(BY_ID["sqlite-thread"], BY_ID["asyncpg"])
def test_a_loop_that_is_closed_with_tasks_in_it_does_not_complain_of_the_sweeper(
    services: Services, way: Way
) -> None:
    """As programs do that manage their loop themselves: asyncio.run would have cancelled it."""
    errors = ends_at_once(
        OLD_LOOP_PROGRAM, way.url(services), a_name(), "900", options=("-X", "dev")
    )
    assert "Task was destroyed" not in errors
    assert NAME not in errors


FORK_PROGRAM = """
import os, time
from datetime import datetime, timedelta, timezone
from websessions.sid import Sid
from websessions.sql import SQLSessionStore
from websessions.store import Put

sid = "a-session-id-for-this-test"
past = datetime.now(timezone.utc) - timedelta(hours=1)

def expire():
    assert store.perform([Put(Sid.new().digest(), b"{}", past, {})])[0].data == b"{}"

def rows():
    with store._opened.engine.connect() as connection:
        return connection.exec_driver_sql(f"SELECT count(*) FROM {sys.argv[2]}").scalar()

def swept():
    give_up = time.monotonic() + 10
    while rows() > 1:
        assert time.monotonic() < give_up, "not swept"
        time.sleep(0.01)

store = SQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=0.05)
store.sync()
store.set(sid, {"n": 0})
expire()
swept()
if sys.argv[3] == "stopped":
    store.stop_expiring_sessions()
before = {id(c) for c in store._opened.engine.pool._pool.queue}
started = []
for number in range(4):
    if pid := os.fork():
        started.append(pid)
        continue
    status = 1
    try:
        assert store.get(sid) == {"n": 0}
        for n in range(20):
            store.set(f"a-session-id-of-child-{number}", {"n": n})
            assert store.get(f"a-session-id-of-child-{number}") == {"n": n}
        store.destroy(f"a-session-id-of-child-{number}")
        assert store._sweeper.running == (sys.argv[3] != "stopped")
        if number == 0 and sys.argv[3] != "stopped":
            expire()
            swept()
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(status)
for n in range(20):
    assert store.get(sid) == {"n": 0}
for pid in started:
    assert os.waitpid(pid, 0)[1] == 0
assert store.get(sid) == {"n": 0}
if sys.argv[3] != "stopped":
    expire()
    swept()
assert store.length() == 1
store.close()
say()
"""


@ways(*SYNC)
@pytest.mark.parametrize("sweeping", ["sweeping", "stopped"])
def test_it_survives_a_fork(services: Services, way: Way, sweeping: str) -> None:
    """gunicorn --preload: each child has a sweeper and connections of its own, as has the parent."""
    with child(FORK_PROGRAM, way.url(services, fresh=True), a_name(), sweeping) as running:
        running.hear()
        running.finish()


ASYNC_FORK_PROGRAM = """
import asyncio, os
from websessions.sql import AsyncSQLSessionStore
store = AsyncSQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=0.05)
sid = "a-session-id-for-this-test"

async def prepare():
    await store.sync()
    await store.set(sid, {"n": 0})
    await asyncio.gather(*(store.get(sid) for _ in range(8)))

async def serve(number):
    assert await store.get(sid) == {"n": 0}
    assert store._sweeper.running
    for n in range(10):
        await store.set(f"a-session-id-of-child-{number}", {"n": n})
        assert await store.get(f"a-session-id-of-child-{number}") == {"n": n}
    await store.close()

asyncio.run(prepare())
started = []
for number in range(3):
    if pid := os.fork():
        started.append(pid)
        continue
    status = 1
    try:
        asyncio.run(serve(number))
        status = 0
    except BaseException:
        import traceback
        traceback.print_exc()
    os._exit(status)
for pid in started:
    assert os.waitpid(pid, 0)[1] == 0
asyncio.run(serve(9))
say()
"""


@ways(*ASYNC)
def test_an_async_store_survives_a_fork(services: Services, way: Way) -> None:
    """An app that prepares its store, then forks, and runs a loop in each child."""
    with child(ASYNC_FORK_PROGRAM, way.url(services, fresh=True), a_name()) as running:
        running.hear()
        running.finish()


TWO_LOOPS_PROGRAM = """
import asyncio
from websessions.sql import AsyncSQLSessionStore
store = AsyncSQLSessionStore(sys.argv[1], table_name=sys.argv[2], check_expiration_interval=0.05)
sid = "a-session-id-for-this-test"
first = sys.argv[3]

async def one():
    await store.sync()
    if first == "sync":
        return
    await asyncio.gather(*(store.set(sid + str(n), {"n": n}) for n in range(6)))
    assert store._sweeper.running

async def two():
    assert await store.get(sid) is None
    await asyncio.gather(*(store.set(sid + str(n), {"n": n}) for n in range(6)))
    found = await asyncio.gather(*(store.get(sid + str(n)) for n in range(6)))
    assert found == [{"n": n} for n in range(6)]
    assert store._sweeper.running
    assert sum(task.get_name() == "websessions-sweeper" for task in asyncio.all_tasks()) == 1

async def three():
    await store.close()

for step in (one, two, two, three, two, three):
    if step is two and first == "closed":
        asyncio.run(three())
        break
    asyncio.run(step())
    if step is three:
        break
say()
"""


@ways(*ASYNC)
@pytest.mark.parametrize("first", ["sync", "use", "closed"])
def test_a_store_may_move_from_one_event_loop_to_another(
    services: Services, way: Way, first: str
) -> None:
    """`asyncio.run(store.sync())` and then a server: connections belong to the loop of their day."""
    with child(TWO_LOOPS_PROGRAM, way.url(services), a_name(), first) as running:
        running.hear()
        _, errors = running.finish()
    assert "Traceback" not in errors, errors
    assert "Task was destroyed" not in errors


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
