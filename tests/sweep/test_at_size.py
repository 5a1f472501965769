"""Sweeping a large table: nothing that lives is deleted, nobody waits, and no row is looked for."""

from __future__ import annotations

import asyncio
import inspect
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import func, select, text

from tests.fixtures.clients import postgres
from tests.fixtures.private import PrivatePostgres
from tests.fixtures.services import Services
from tests.sql.drivers import BY_ID, ONE_A_DATABASE, Face, Way, a_name, ways
from websessions.sid import Key
from websessions.sql.statements import Statement
from websessions.store import SWEEP_BATCH, Load, Record, Sweep, Swept, Touch

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
async def test_what_is_due_is_found_by_the_index_and_deleted_by_the_key(
    services: Services, way: Way
) -> None:
    """The sweeper never looks through the whole table."""
    name = a_name()
    async with way.open(way.url(services), table_name=name) as face:
        await fill(face, way, expired=500, live=LIVE, touched=0)
        analyze = "ANALYZE TABLE" if way.database == "mysql" else "ANALYZE"
        await face.rows(text(f"{analyze} {name}"))
        statements = face.store._database._table.statements
        now = statements.moment(datetime.now(UTC))
        look = {"p_now": now, "p_limit": 500, "p_after": now - timedelta(days=1)}
        # Of a table as small as this one, PostgreSQL would rather read all for 500 keys.
        keys = statements.swept([live_key(number) for number in range(20)]) | {"p_now": now}
        for statement in (statements.due, statements.due_after):
            assert f"ix_{name}_sweep_after" in explained(face, way, statement, look)
        assert statements.rearm is not None
        for statement in (statements.sweep, statements.rearm):
            plan = explained(face, way, statement, keys)
            assert re.search(r"pkey|sqlite_autoindex|PRIMARY", plan), plan[:200]
            assert not re.search(r"Seq Scan|SCAN|\bALL\b", plan), plan[:200]


def explained(
    face: Face, way: Way, statement: Statement, values: dict[str, Any], how: str = ""
) -> str:
    explain = "EXPLAIN QUERY PLAN" if way.database == "sqlite" else f"EXPLAIN {how}"
    connection: Any = face.engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute(f"{explain} {statement.text}", statement.parameters(values))
    plan = "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())
    cursor.close()
    connection.close()
    return plan


async def test_a_batch_does_not_look_again_at_what_earlier_ones_deleted(
    private_postgres: PrivatePostgres,
) -> None:
    """PostgreSQL's index still has what was deleted, until it is vacuumed; here even the rows are
    kept, since an older transaction may look at them.
    """
    way, name, expired = BY_ID["psycopg"], a_name(), 20_000
    url = private_postgres.url.set(drivername="postgresql+psycopg")
    async with way.open(url, table_name=name) as face:
        await face.rows(text(f"ALTER TABLE {name} SET (autovacuum_enabled = off)"))
        await fill(face, way, expired=0, live=1_000, touched=0)
        now = datetime.now(UTC)
        for hour in range(20):
            past = now - timedelta(hours=30 - hour)
            inserted = rows(
                name, RANDOM_KEY["postgresql"], range(hour * 1000, hour * 1000 + 1000), past, past
            )
            await face.rows(text(inserted))
        await face.rows(text(f"ANALYZE {name}"))
        with psycopg.connect(private_postgres.url.render_as_string()) as old:
            old.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            old.execute("SELECT 1")
            swept = Swept(0, True)
            for _ in range(expired // SWEEP_BATCH - 1):
                swept = await face.ask(Sweep(SWEEP_BATCH, swept.reached))
                assert swept.deleted == SWEEP_BATCH
            statements = face.store._database._table.statements
            look = {"p_now": now, "p_limit": SWEEP_BATCH, "p_after": swept.reached}

            def pages(statement: Statement) -> int:
                plan = explained(face, way, statement, look, "(ANALYZE, BUFFERS)")
                found = re.search(r"shared hit=(\d+)(?: read=(\d+))?", plan)
                assert found, plan
                return int(found[1]) + int(found[2] or 0)

            assert 10 * pages(statements.due_after) < pages(statements.due)
            swept = await face.ask(Sweep(SWEEP_BATCH, swept.reached))
            assert swept.deleted == SWEEP_BATCH
            assert await face.clear_expired_sessions() == 0


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
        counted = text(
            f"SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = '{name}'"
        )
        await face.rows(text("SELECT pg_stat_force_next_flush()"))
        assert await face.rows(counted) == [(turns * number, turns * number)]


@ways(BY_ID["psycopg"], BY_ID["asyncpg"])
@pytest.mark.parametrize("together", [1, 64])
async def test_a_touch_is_330_bytes_of_wal_at_most(
    private_postgres: PrivatePostgres, way: Way, together: int
) -> None:
    """With the commit; once a page's first change since the checkpoint, which writes all of it
    whoever makes it, is past. On a server of its own, whose vacuums would be counted, too.
    """
    url = private_postgres.url.set(drivername=f"postgresql+{way.driver}")
    name, number = a_name(), 1_024
    async with way.open(url, table_name=name) as face:
        await face.rows(text(f"ALTER TABLE {name} SET (autovacuum_enabled = off)"))
        await fill(face, way, expired=0, live=number, touched=0)
        postgres(private_postgres.url, "CHECKPOINT")
        now = datetime.now(UTC)
        order = random.Random(1).sample(range(number), number)
        written = 0
        for turn in range(2):
            began = await wal_position(face)
            for start in range(0, number, together):
                expires = now + timedelta(days=2 + turn)
                calls = [Touch(live_key(n), expires) for n in order[start : start + together]]
                assert await in_thread_or_loop(face.store.perform, calls) == [True] * together
            written = await wal_position(face) - began
        assert written / number <= 330


async def wal_position(face: Face) -> int:
    [(position,)] = await face.rows(text("SELECT pg_current_wal_insert_lsn() - '0/0'"))
    return int(position)
