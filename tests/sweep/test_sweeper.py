"""When the sweeper runs, where, and that it keeps nothing alive."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import pytest
from sqlalchemy import func, select

from tests.fixtures.services import Services
from tests.sql.drivers import BY_ID, Face, Way, a_name, a_sid, dispose, ways
from tests.sql.processes import child
from websessions.memory import AsyncMemoryStore, MemoryStore
from websessions.store import Call, Sweep

KINDS = (BY_ID["sqlite"], BY_ID["sqlite-thread"], BY_ID["asyncpg"])
IN_LOOPS = tuple(BY_ID[id] for id in ("sqlite-thread", "asyncpg", "psycopg-async", "asyncmy"))

NAME = "websessions-sweeper"
OFTEN = 0.01
NEVER_IN_THIS_TEST = 3600
PATIENCE = 20

Sweeper: TypeAlias = "threading.Thread | asyncio.Task[Any]"


def sweepers() -> set[Sweeper]:
    """The threads of this process and the tasks of this event loop that sweep."""
    threads = {thread for thread in threading.enumerate() if thread.name == NAME}
    return threads | {task for task in asyncio.all_tasks() if task.get_name() == NAME}


async def ended(sweeper: Sweeper) -> bool:
    if isinstance(sweeper, threading.Thread):
        await asyncio.to_thread(sweeper.join, PATIENCE)
        return not sweeper.is_alive()
    await asyncio.wait([sweeper], timeout=PATIENCE)
    return sweeper.done()


def rounds(
    face: Face, monkeypatch: pytest.MonkeyPatch, *, failing: int = 0
) -> Callable[[], Awaitable[None]]:
    """Returns what awaits the beginning of the sweeper's next round; the first ones may fail."""
    begun = threading.Semaphore(0)
    failures = [ConnectionError("the database is away") for _ in range(failing)]
    perform = face.store.perform

    def watched(calls: Sequence[Call[Any]]) -> Any:
        if isinstance(calls[0], Sweep):
            begun.release()
            if failures:
                raise failures.pop()
        return perform(calls)

    async def next_round() -> None:
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE)

    monkeypatch.setattr(face.store, "perform", watched)
    return next_round


@ways(*KINDS)
async def test_the_first_use_starts_it(
    services: Services, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it deletes what has expired, again and again, until the store is closed."""
    before = sweepers()
    async with way.open(
        way.url(services), table_name=a_name(), check_expiration_interval=OFTEN
    ) as face:
        next_round = rounds(face, monkeypatch)
        assert sweepers() == before
        await face.set(a_sid(), {})
        [sweeper] = sweepers() - before
        for _ in range(2):
            await face.set(a_sid(), {}, expires=datetime.now(UTC) - timedelta(days=1))
            for _ in range(3):  # the one that is under way, a whole one, and the next
                await next_round()
            assert await face.rows(select(func.count()).select_from(face.store.table)) == [(1,)]
        assert sweepers() - before == {sweeper}
    assert await ended(sweeper)


@ways(*KINDS)
@pytest.mark.parametrize("interval", [0, None, timedelta(0)])
async def test_no_interval_means_no_sweeper(
    services: Services, way: Way, interval: timedelta | float | None
) -> None:
    """`start_expiring_sessions` has nothing to start then; sweeping by hand works."""
    before = sweepers()
    async with way.open(
        way.url(services), table_name=a_name(), check_expiration_interval=interval
    ) as face:
        await face.set(a_sid(), {}, expires=datetime.now(UTC) - timedelta(days=1))
        await face.start_expiring_sessions()
        assert sweepers() == before
        assert await face.clear_expired_sessions() == 1


@ways(*KINDS)
async def test_started_and_stopped_twice_is_the_same_as_once(services: Services, way: Way) -> None:
    """Once it was stopped, no use starts it, only `start_expiring_sessions`."""
    before = sweepers()
    async with way.open(
        way.url(services), table_name=a_name(), check_expiration_interval=NEVER_IN_THIS_TEST
    ) as face:
        for _ in range(2):
            await face.start_expiring_sessions()
            await face.start_expiring_sessions()
            await face.get(a_sid())
            [sweeper] = sweepers() - before
            await face.stop_expiring_sessions()
            await face.stop_expiring_sessions()
            assert await ended(sweeper)
            await face.set(a_sid(), {})
            assert sweepers() == before


@ways(*KINDS)
async def test_stopped_before_the_first_use_it_stays_stopped(services: Services, way: Way) -> None:
    before = sweepers()
    async with way.open(
        way.url(services), table_name=a_name(), check_expiration_interval=OFTEN
    ) as face:
        await face.stop_expiring_sessions()
        await face.set(a_sid(), {})
        assert sweepers() == before


@ways(*KINDS)
async def test_a_round_that_fails_is_logged_and_the_next_one_happens(
    services: Services,
    way: Way,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with way.open(
        way.url(services), table_name=a_name(), check_expiration_interval=OFTEN
    ) as face:
        next_round = rounds(face, monkeypatch, failing=1)
        await face.set(a_sid(), {}, expires=datetime.now(UTC) - timedelta(days=1))
        for _ in range(3):
            await next_round()
        assert await face.rows(select(func.count()).select_from(face.store.table)) == [(0,)]
    [record] = [record for record in caplog.records if record.name == "websessions"]
    assert record.levelno == logging.ERROR
    assert "the database is away" in record.getMessage()


@pytest.mark.parametrize("kind", [MemoryStore, AsyncMemoryStore])
async def test_a_store_that_is_dropped_takes_its_sweeper_with_it(
    kind: type[MemoryStore | AsyncMemoryStore],
) -> None:
    before = sweepers()
    store = kind(check_expiration_interval=OFTEN)
    answer: Any = store.get(a_sid())
    if asyncio.iscoroutine(answer):
        await answer
    [sweeper] = sweepers() - before
    dropped = weakref.ref(store)
    del store, answer
    await collected(dropped)
    assert await ended(sweeper)


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"])
async def test_so_does_a_store_with_connections(services: Services, way: Way) -> None:
    """Its worker threads end, too. The engine is the app's, which disposes it."""
    before, threads = sweepers(), set(threading.enumerate())
    engine = way.engine(way.url(services))
    face = Face(way.store(engine, check_expiration_interval=OFTEN))
    await face.sync()
    await face.set(a_sid(), {})
    [sweeper] = sweepers() - before
    mine = [thread for thread in threading.enumerate() if thread not in threads]
    dropped = weakref.ref(face.store)
    del face
    await collected(dropped)
    assert await ended(sweeper)
    for thread in mine:
        assert await ended(thread)
    await dispose(engine)


async def collected(dropped: weakref.ref[Any]) -> None:
    """A round that is under way still holds the store."""
    async with asyncio.timeout(PATIENCE):
        while dropped() is not None:
            gc.collect()
            await asyncio.sleep(0)


THREAD = """
import threading
from websessions.sql import SQLSessionStore
store = SQLSessionStore(sys.argv[1], check_expiration_interval=float(sys.argv[2]))
store.sync()
store.set("a-session-of-this-process", {})
[thread] = [thread for thread in threading.enumerate() if thread.name == "websessions-sweeper"]
assert thread.daemon
say()
"""


@pytest.mark.parametrize("interval", [OFTEN, NEVER_IN_THIS_TEST])
def test_a_process_that_never_closes_its_store_ends_at_once(
    services: Services, interval: float
) -> None:
    with child(THREAD, services.url("sqlite"), str(interval)) as process:
        process.hear()
        began = time.monotonic()
        assert process.finish() == ("", "")
        assert time.monotonic() - began < 5


SQL_IN_ASYNCIO = """
import asyncio
from websessions.sql import AsyncSQLSessionStore
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # not what we are here for
    url, name, interval = sys.argv[1:]
    async with AsyncSQLSessionStore(
        url, table_name=name, check_expiration_interval=float(interval)
    ) as store:
        await store.sync()
        await asyncio.gather(*(store.set(f"a-session-of-this-process-{n}", {}) for n in range(9)))
        await store.clear_expired_sessions()
asyncio.run(main())
"""

MEMORY_IN_ASYNCIO = """
import asyncio
from websessions.memory import AsyncMemoryStore
store = AsyncMemoryStore(check_expiration_interval=float(sys.argv[1]))
asyncio.run(store.set("a-session-of-this-process", {}))
"""

STRICT = ("-X", "dev", "-W", "error")


@ways(*IN_LOOPS, BY_ID["aiosqlite"])
@pytest.mark.parametrize("interval", [OFTEN, NEVER_IN_THIS_TEST])
def test_an_asyncio_program_ends_without_a_word(
    services: Services, way: Way, interval: float
) -> None:
    """No task is destroyed while it is pending, nothing is left open."""
    arguments = (way.url(services), a_name(), str(interval))
    with child(SQL_IN_ASYNCIO, *arguments, options=STRICT) as process:
        assert process.finish() == ("", "")


@pytest.mark.parametrize("interval", [OFTEN, NEVER_IN_THIS_TEST])
def test_so_does_one_that_never_closes_its_store(interval: float) -> None:
    with child(MEMORY_IN_ASYNCIO, str(interval), options=STRICT) as process:
        assert process.finish() == ("", "")


FORK = """
import os, threading
from sqlalchemy import event
from websessions.sql import SQLSessionStore
from websessions.store import Sweep
url, name, often = sys.argv[1:]
store = SQLSessionStore(url, table_name=name, check_expiration_interval=float(often))
store.sync()
swept = threading.Event()

def use(who):
    store.set(f"the-session-of-the-{who}", {"who": who})
    assert store.get(f"the-session-of-the-{who}") == {"who": who}

perform = store.perform
def watched(calls):
    answers = perform(calls)
    if isinstance(calls[0], Sweep):
        swept.set()
    return answers

def await_sweep():
    global swept
    swept = threading.Event()
    assert swept.wait(20)

opened_by = []
event.listen(store._opened.engine, "connect", lambda *_: opened_by.append(os.getpid()))
store.perform = watched
use("parent")
await_sweep()
child = os.fork()
use("child" if child == 0 else "parent")
if child == 0:
    assert os.getpid() in opened_by
await_sweep()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert {each["who"] for each in store.all()} == {"parent", "child"}
store.close()
"""


@ways(BY_ID["sqlite"], BY_ID["psycopg"])
def test_a_forked_child_has_connections_and_a_sweeper_of_its_own(
    services: Services, way: Way
) -> None:
    """What the parent opened stays the parent's, which goes on with it after the child's end."""
    with child(FORK, way.url(services), a_name(), str(OFTEN)) as process:
        assert process.finish() == ("", "")


LOOPS = """
import asyncio
from datetime import UTC, datetime, timedelta
from websessions.sql import AsyncSQLSessionStore
from websessions.store import Sweep
url, name, often = sys.argv[1:]
store = AsyncSQLSessionStore(url, table_name=name, check_expiration_interval=float(often))

async def main(number):
    swept = asyncio.Event()
    async def watched(calls):
        answers = await AsyncSQLSessionStore.perform(store, calls)
        if isinstance(calls[0], Sweep) and answers[0].deleted:
            swept.set()
        return answers
    store.perform = watched
    if number == 0:
        await store.sync()
    sids = [f"a-session-of-loop-{number}-{n}" for n in range(9)]
    await asyncio.gather(*(store.set(sid, {"n": number}) for sid in sids))
    assert await asyncio.gather(*map(store.get, sids)) == [{"n": number}] * 9
    await store.set("a-session-that-is-over", {}, expires=datetime.now(UTC) - timedelta(days=1))
    await asyncio.wait_for(swept.wait(), 20)
    names = [task.get_name() for task in asyncio.all_tasks()]
    assert names.count("websessions-sweeper") == 1
    if number == 1:
        assert await store.length() == 18
        await store.close()

for number in range(2):
    asyncio.run(main(number))
"""


@ways(*IN_LOOPS)
def test_a_store_moves_to_another_event_loop(services: Services, way: Way) -> None:
    """It works there as in the first, and sweeps there."""
    with child(LOOPS, way.url(services), a_name(), str(OFTEN)) as process:
        assert process.finish()[0] == ""
