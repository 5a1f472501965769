"""How the databases carry the statements out: by the lazy index, and as HOT updates."""

from __future__ import annotations

import itertools
import random
import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, create_engine, insert, text
from sqlalchemy.engine import Engine

from tests.fixtures.services import Services
from tests.sql.drivers import BY_ID, ONE_A_DATABASE, Way, a_name, ways
from websessions.sid import Sid
from websessions.sql import SQLSessionStore
from websessions.sql.statements import Statement
from websessions.store import Insert, Load, Record, Replace, Sweep, Touch

NOW = datetime(2030, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    now = NOW

    def __call__(self) -> datetime:
        return self.now


def filled(way: Way, url: str, rows: int, *, expired: int) -> SQLSessionStore:
    store = SQLSessionStore(
        url, table_name=a_name(), check_expiration_interval=None, clock=Clock(), touch_after=0
    )
    store.sync()
    fill(store, rows, NOW + DAY)
    fill(store, expired, NOW - DAY)
    analyze = {"sqlite": "ANALYZE", "postgresql": "ANALYZE {}", "mysql": "ANALYZE TABLE {}"}
    with store._opened.engine.connect() as connection:
        connection.execute(text(analyze[way.database].format(store.table.name)))
        connection.commit()
    return store


def fill(store: SQLSessionStore, count: int, expires: datetime) -> None:
    rows = [
        {
            "sid": Sid.new().digest(),
            "data": "{}",
            "expires": expires,
            "sweep_after": expires,
            "version": 1,
            "created_at": NOW - DAY,
            "updated_at": NOW - DAY,
        }
        for _ in range(count)
    ]
    with store._opened.engine.connect() as connection:
        for start in range(0, count, 5000):
            connection.execute(insert(store.table), rows[start : start + 5000])
        connection.commit()


def plan_of(store: SQLSessionStore, statement: Statement, values: dict[str, Any]) -> str:
    engine: Engine = store._opened.engine
    explain = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    raw = engine.raw_connection()
    cursor = raw.cursor()
    cursor.execute(explain + statement.text, statement.parameters(values))
    plan = "\n".join(" ".join(map(str, row)) for row in cursor.fetchall())
    cursor.close()
    raw.close()
    return plan


@ways(*ONE_A_DATABASE)
def test_the_sweeper_looks_through_the_lazy_index(services: Services, way: Way) -> None:
    """And deletes by primary key: neither statement reads the whole table."""
    store = filled(way, way.url(services), 5000, expired=50)
    statements = store._database._table.statements
    index = f"ix_{store.table.name}_sweep_after"
    now = statements.moment(NOW, store.table.c.sweep_after)
    due = plan_of(store, statements.due, {"p_now": now, "p_limit": 500})
    assert index in due, due
    assert not re.search(r"Seq Scan|\bSCAN s_\w+$|Sort", due), due
    store.close()


@ways(*ONE_A_DATABASE)
def test_a_read_a_touch_and_a_write_find_their_row_by_the_key(
    services: Services, way: Way
) -> None:
    store = filled(way, way.url(services), 5000, expired=50)
    statements = store._database._table.statements
    key, moment = Sid.new().digest(), statements.moment(NOW)
    store.perform([Insert(key, b"{}", NOW + DAY, {})])
    for statement, values in (
        (statements.load, {"p_key": key, "p_now": moment}),
        (
            statements.touch,
            {"p_key": key, "p_now": moment, "p_expires": moment, "p_ceiling": moment},
        ),
        (statements.delete, {"p_key": key}),
    ):
        plan = plan_of(store, statement, values)
        assert re.search(r"pkey|sqlite_autoindex|PRIMARY", plan), plan
    store.close()


def counted(engine: Engine, table: Table) -> tuple[int, int]:
    """Updates and HOT updates of a table, once the server has counted them all."""
    statement = text(
        "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = :name"
    )
    with engine.connect() as connection:
        found = connection.execute(statement, {"name": table.name}).one()
        return int(found[0]), int(found[1])


def wait_for_count(engine: Engine, table: Table, updates: int) -> tuple[int, int]:
    give_up = time.monotonic() + 10
    while (found := counted(engine, table))[0] < updates and time.monotonic() < give_up:
        time.sleep(0.05)
    return found


def test_touches_are_hot_updates_on_postgresql(services: Services) -> None:
    """No index is written, and the page's old versions are tidied up in passing, whether touches
    come one by one or many in a statement. With an index on `expires`, none would be HOT.
    """
    way, choose = BY_ID["psycopg"], random.Random(1)
    store = filled(way, way.url(services), 3000, expired=0)
    keys = [Sid.new().digest() for _ in range(1000)]
    records = store.perform([Insert(key, b'{"n": 1}', NOW + DAY, {}) for key in keys])
    assert all(isinstance(record, Record) for record in records)
    engine = create_engine(way.url(services))
    try:
        later = (NOW + DAY + timedelta(minutes=minute) for minute in itertools.count(1))
        for key in choose.choices(keys, k=500):
            assert store.perform([Touch(key, next(later))]) == [True]
        for _ in range(50):
            moment = next(later)
            touches = [Touch(key, moment) for key in choose.sample(keys, 10)]
            assert store.perform(touches) == [True] * 10
        # The server publishes a backend's counters when it has rested for a while, or is gone.
        store._opened.engine.dispose()
        updates, hot = wait_for_count(engine, store.table, 1000)
        assert updates == 1000
        assert hot >= 990, "all but those that came while something held old versions in place"

        for key in choose.choices(keys, k=500):
            [seen] = store.perform([Load(key)])
            [written] = store.perform([Replace(seen, b'{"n": 2}', seen.expires, {})])
            assert written is not None
        store._opened.engine.dispose()
        updates, hot = wait_for_count(engine, store.table, 1500)
        assert updates == 1500
        assert hot >= 1480, "a write that leaves sweep_after and the user alone is HOT, too"
        with engine.connect() as connection:
            reading = text("SELECT reloptions FROM pg_class WHERE relname = :name")
            options = connection.scalar(reading, {"name": store.table.name})
        assert options == ["fillfactor=80"], "room for the next versions"
    finally:
        engine.dispose()
        store.close()


def test_sweeping_rearms_what_was_touched_since(services: Services) -> None:
    """The index says that a row is due, its `expires` that it lives: it is looked at once more."""
    for way in ONE_A_DATABASE:
        clock = Clock()
        store: Any = way.store(
            way.url(services), table_name=a_name(), clock=clock, touch_after=0
        )
        store.sync()
        key = Sid.new().digest()
        store.perform([Insert(key, b"{}", NOW + DAY, {})])
        clock.now = NOW + DAY - timedelta(hours=1)
        assert store.perform([Touch(key, NOW + 2 * DAY)]) == [True]
        clock.now = NOW + DAY + timedelta(hours=1)
        assert store.perform([Sweep(10)])[0].deleted == 0
        with store._opened.engine.connect() as connection:
            [(again,)] = connection.execute(text(f"SELECT sweep_after FROM {store.table.name}"))
            connection.rollback()
        assert str(again).startswith(str((NOW + 2 * DAY).date()))
        clock.now = NOW + 2 * DAY + timedelta(hours=1)
        assert store.perform([Sweep(10)])[0].deleted == 1
        store.close()
