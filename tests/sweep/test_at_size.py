"""Sweeping a large table: nothing that lives is deleted, nobody waits, and no row is looked for."""

from __future__ import annotations

import asyncio
import inspect
import random
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, select, text

from tests.fixtures.private import PrivatePostgres
from tests.fixtures.services import Services
from tests.sql.drivers import BY_ID, ONE_A_DATABASE, Face, Way, a_name, ways
from websessions.sid import Key
from websessions.store import Load, Record, Touch

EXPIRED = 200_000
LIVE = 20_000
RE_ARMED = 1_000

RANDOM_KEY = {
    "sqlite": "randomblob(32)",
    "postgresql": "sha256(n::text::bytea)",
    "mysql": "UNHEX(SHA2(n, 256))",
}
KNOWN_KEY = {
    "sqlite": "CAST(printf('%032d', n) AS BLOB)",
    "postgresql": "lpad(n::text, 32, '0')::bytea",
    "mysql": "LPAD(n, 32, '0')",
}


def live_key(number: int) -> Key:
    return Key(b"%032d" % number)


async def fill(face: Face, way: Way, *, expired: int, live: int, touched: int) -> None:
    """Some of the live rows were touched: their expiry is later than `sweep_after` still says."""
    now = datetime.now(UTC)
    over, later = now - timedelta(hours=1), now + timedelta(days=1)
    name, known = face.store.table.name, KNOWN_KEY[way.database]
    for statement in (
        rows(name, known, range(touched), later, over),
        rows(name, known, range(touched, live), later, later),
        rows(name, RANDOM_KEY[way.database], range(expired), over, over),
    ):
        await face.rows(text(statement))


def rows(table: str, key: str, numbers: range, expires: datetime, sweep_after: datetime) -> str:
    """SQL that inserts a row for each number."""
    digits = " UNION ALL ".join(f"SELECT {digit} AS d" for digit in range(10))
    places = [f"({digits}) AS p{place}" for place in range(len(str(numbers.stop)))]
    value = " + ".join(f"p{place}.d * {10**place}" for place in range(len(places)))
    moments = [f"'{moment:%Y-%m-%d %H:%M:%S.%f}'" for moment in (expires, sweep_after)]
    if "::" in key:
        moments = [f"{moment}::timestamp AT TIME ZONE 'UTC'" for moment in moments]
    begun = moments[1]
    return f"""
        INSERT INTO {table} (sid, data, version, expires, sweep_after, created_at, updated_at)
        SELECT {key}, '{{"cart"\\:[1,2,3]}}', 1, {", ".join(moments)}, {begun}, {begun}
        FROM (SELECT {value} AS n FROM {" CROSS JOIN ".join(places)}) AS numbers
        WHERE n >= {numbers.start} AND n < {numbers.stop}
    """.replace("::", "\\:\\:")


async def in_thread_or_loop(method: Any, *args: Any) -> Any:
    """A sync store's method beside the event loop, an async one's in it."""
    if inspect.iscoroutinefunction(method):
        return await method(*args)
    return await asyncio.to_thread(method, *args)


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"], BY_ID["psycopg"], BY_ID["asyncmy"])
async def test_what_has_expired_goes_while_the_rest_is_read(services: Services, way: Way) -> None:
    """Rows that were touched since they were due are re-armed, and all that lives survives."""
    async with way.open(way.url(services), table_name=a_name()) as face:
        await fill(face, way, expired=EXPIRED, live=LIVE, touched=RE_ARMED)
        table = face.store.table
        count = select(func.count()).select_from(table)
        assert await face.rows(count) == [(EXPIRED + LIVE,)]

        sweep = face.store.clear_expired_sessions
        sweeping = asyncio.create_task(in_thread_or_loop(sweep))
        reads = 0
        while not sweeping.done():
            load = [Load(live_key(random.randrange(LIVE)))]
            [record] = await in_thread_or_loop(face.store.perform, load)
            assert isinstance(record, Record)
            reads += 1
            await asyncio.sleep(0.01)  # the sweep shall get on, too
        assert await sweeping == EXPIRED
        assert reads > 20

        assert await face.rows(count) == [(LIVE,)]
        assert await face.length() == LIVE
        assert await face.rows(count.where(table.c.sweep_after == table.c.expires)) == [(LIVE,)]
        assert await face.clear_expired_sessions() == 0


@ways(*ONE_A_DATABASE)
async def test_what_is_due_is_found_by_the_index(services: Services, way: Way) -> None:
    """The sweeper never looks through the whole table."""
    name = a_name()
    async with way.open(way.url(services), table_name=name) as face:
        await fill(face, way, expired=500, live=LIVE, touched=0)
        analyze = "ANALYZE TABLE" if way.database == "mysql" else "ANALYZE"
        await face.rows(text(f"{analyze} {name}"))
        due = face.store._database._table.statements.due
        explain = "EXPLAIN QUERY PLAN" if way.database == "sqlite" else "EXPLAIN"
        connection: Any = face.engine.raw_connection()
        cursor = connection.cursor()
        parameters = {"p_now": datetime.now(UTC), "p_limit": 500}
        cursor.execute(f"{explain} {due.text}", due.parameters(parameters))
        plan = cursor.fetchall()
        if way.database == "mysql":
            names = [column[0] for column in cursor.description]
            plan = [dict(zip(names, line, strict=True))["key"] for line in plan]
        cursor.close()
        connection.close()
        assert f"ix_{name}_sweep_after" in str(plan)


@ways(BY_ID["psycopg"], BY_ID["asyncpg"])
async def test_touches_write_no_index_on_postgresql(
    private_postgres: PrivatePostgres, way: Way
) -> None:
    """Every one is a heap-only update: it changes no indexed column, and pages have room.

    On a server of its own: a long transaction anywhere else would keep pages from being pruned.
    """
    url = private_postgres.url.set(drivername=f"postgresql+{way.driver}")
    name, number, turns = a_name(), 1_000, 3
    async with way.open(url, table_name=name) as face:
        await fill(face, way, expired=0, live=number, touched=0)
        now = datetime.now(UTC)
        for turn in range(turns):
            for n in range(number):
                expires = now + timedelta(days=2 + turn)
                assert await face.ask(Touch(live_key(n), expires))
        await face.rows(text("SELECT pg_stat_force_next_flush()"))
        counted = text(
            f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{name}'"
        )
        assert await face.rows(counted) == [(turns * number, turns * number)]
