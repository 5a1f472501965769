"""An async store that moves: to another event loop, into a forked child, out of a closed loop."""

from __future__ import annotations

from tests.fixtures.services import Services
from tests.sql.drivers import ASYNC, BY_ID, Way, a_name, on_servers, ways
from tests.sql.processes import child

STORE = """
import asyncio, gc, os, traceback, weakref
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
url, name = sys.argv[1:]
sid = "a-session-id-for-this-test"
"""

LOOPS = (
    STORE
    + """
async def use(store):
    await asyncio.gather(*(store.set(f"{sid}-{n}", {"n": n}) for n in range(6)))
    found = await asyncio.gather(*(store.get(f"{sid}-{n}") for n in range(6)))
    assert found == [{"n": n} for n in range(6)]

# What a deployment does: the table in a loop of its own, then the server in another.
store = AsyncSQLSessionStore(url, table_name=name)
asyncio.run(store.sync())
asyncio.run(use(store))
# What a script does: each call in a loop of its own, and the farewell, too.
for n in range(3):
    asyncio.run(store.get(sid))
asyncio.run(store.close())
asyncio.run(use(store))
asyncio.run(store.close())
"""
)


@ways(*on_servers(ASYNC))
def test_the_table_is_made_in_one_event_loop_and_used_in_another(
    services: Services, way: Way
) -> None:
    """Connections belong to the loop that opened them; `sync` and `close` open and close some."""
    with child(LOOPS, way.url(services), a_name()) as running:
        _, errors = running.finish()
    assert "Traceback" not in errors, errors


CLOSED_LOOP = (
    STORE
    + """
store = AsyncSQLSessionStore(url, table_name=name)
loop = asyncio.new_event_loop()
loop.run_until_complete(store.sync())
loop.run_until_complete(store.set(sid, {"n": 1}))
loop.close()
"""
)


@ways(BY_ID["sqlite-thread"], BY_ID["asyncpg"])
def test_a_loop_that_is_closed_with_the_sweeper_in_it_has_nothing_to_say(
    services: Services, way: Way
) -> None:
    """As in programs that manage their loop themselves: asyncio.run would have cancelled it."""
    with child(CLOSED_LOOP, way.url(services), a_name(), options=("-X", "dev")) as running:
        _, errors = running.finish()
    assert "Task was destroyed" not in errors
    assert "websessions-sweeper" not in errors


FORK = (
    STORE
    + """
async def prepare():
    await store.sync()
    await store.set(sid, {"n": 0})
    await asyncio.gather(*(store.length() for _ in range(8)))

async def serve(number):
    assert await store.get(sid) == {"n": 0}
    assert store._sweeper.running
    for n in range(10):
        await store.set(f"{sid}-{number}", {"n": n})
        assert await store.get(f"{sid}-{number}") == {"n": n}
    await store.close()

store = AsyncSQLSessionStore(url, table_name=name)
asyncio.run(prepare())
started = []
for number in range(3):
    if pid := os.fork():
        started.append(pid)
        continue
    try:
        asyncio.run(serve(number))
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
for pid in started:
    assert os.waitpid(pid, 0)[1] == 0
asyncio.run(serve(9))
"""
)


@ways(*ASYNC)
def test_an_app_may_prepare_its_store_and_then_fork(services: Services, way: Way) -> None:
    """A loop in each child, on connections of its own, and the parent goes on."""
    with child(FORK, way.url(services), a_name()) as running:
        running.finish()


INHERITED = (
    STORE
    + """
store = SQLSessionStore(url, table_name=name)
store.sync()
store.set(sid, {"n": 0})
store.stop_expiring_sessions()
parents_pool = weakref.ref(store._opened.engine.pool)
parents = parents_pool().checkedin()
if pid := os.fork():
    assert os.waitpid(pid, 0)[1] == 0
    for _ in range(parents):
        assert store.get(sid) == {"n": 0}
    store.close()
else:
    try:
        assert store._opened.engine.pool is not parents_pool()
        gc.collect()
        assert parents_pool() is not None
        assert store.get(sid) == {"n": 0}
        assert not store._sweeper.running, "what was stopped in the parent is stopped in the child"
        store.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
"""
)


@ways(BY_ID["psycopg"], BY_ID["pymysql"])
def test_a_child_never_closes_what_its_parent_opened(services: Services, way: Way) -> None:
    """Not as garbage, either: a driver's farewell would end the parent's talk with the server."""
    with child(INHERITED, way.url(services), a_name()) as running:
        running.finish()
