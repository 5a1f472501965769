"""How the databases carry the statements out: by the key, and as HOT updates."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import create_engine, insert, text
from sqlalchemy.engine import Engine

from tests.fixtures.services import Services
from tests.sql.drivers import BY_ID, ONE_A_DATABASE, Way, a_name, ways
from websessions.sid import Sid
from websessions.sql import SQLSessionStore
from websessions.sql.statements import Statement
from websessions.store import Insert, Load, Lock, Replace, Unlock

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
def test_a_read_a_touch_a_lock_and_a_write_find_their_row_by_the_key(
    services: Services, way: Way
) -> None:
    store = filled(way, way.url(services), 5000, expired=50)
    statements = store._database._table.statements
    key, moment = Sid.new().digest(), statements.moment(NOW)
    store.perform([Insert(key, b"{}", NOW + DAY, {})])
    for statement, values in (
        (statements.load.one, {"p_key": key, "p_now": moment}),
        (
            statements.touch,
            {"p_key": key, "p_now": moment, "p_expires": moment, "p_ceiling": moment},
        ),
        (
            statements.lock,
            {"p_key": key, "p_now": moment, "p_over": moment, "p_until": moment, "p_holder": "me"},
        ),
        (statements.unlock, {"p_key": key, "p_holder": "me"}),
        (statements.delete, {"p_key": key}),
    ):
        plan = plan_of(store, statement, values)
        assert re.search(r"pkey|sqlite_autoindex|PRIMARY", plan), plan
    store.close()


@ways(*ONE_A_DATABASE)
def test_what_is_not_there_is_looked_for_by_its_previous_key_in_an_index(
    services: Services, way: Way
) -> None:
    """Alone and in a batch; a cookie of a dead session must not read the table."""
    store = filled(way, way.url(services), 5000, expired=0)
    statements = store._database._table.statements
    keys = [Sid.new().digest() for _ in range(4)]
    moments = {"p_now": statements.moment(NOW), "p_graced": statements.moment(NOW)}
    for asked in (keys[:1], keys):
        statement, parameters = statements.load_previous.many(asked)
        plan = plan_of(store, statement, {**parameters, **moments})
        assert "previous_key" in plan, plan
    plan = plan_of(store, statements.delete_previous, {"p_key": keys[0], **moments})
    assert "previous_key" in plan, plan
    assert not re.search(r"Seq Scan|SCAN", plan), plan
    store.close()


def test_writes_leave_the_indexes_alone_on_postgresql(services: Services) -> None:
    """A write that changes neither the user nor makes the session end sooner is a HOT update, and
    so is a lock, taken and released; pages have room for it. (tests/sweep says it of touches.)
    """
    way = BY_ID["psycopg"]
    store = filled(way, way.url(services, fresh=True), 3000, expired=0)
    keys = [Sid.new().digest() for _ in range(3000)]
    store.perform([Insert(key, b'{"n": 1}', NOW + DAY, {}) for key in keys])
    engine = create_engine(way.url(services))
    with store._opened.engine.connect() as connection:
        # What autovacuum looks at, a write can not reuse; on a busy machine it looks for long.
        connection.execute(text(f"ALTER TABLE {store.table.name} SET (autovacuum_enabled=off)"))
    try:
        # About one of each page: there is room for it, whoever still looks at what was there.
        chosen = keys[::25]
        for key in chosen:
            [seen] = store.perform([Load(key)])
            [written] = store.perform([Replace(seen, b'{"n": 2}', NOW + 2 * DAY, {})])
            assert written is not None
            assert store.perform([Lock(key, "me", NOW + DAY), Unlock(key, "me")]) == [True, True]
        with store._opened.engine.connect() as connection:
            connection.execute(text("SELECT pg_stat_force_next_flush()"))
            statement = text(
                "SELECT n_tup_upd, n_tup_hot_upd, reloptions FROM pg_stat_user_tables"
                " JOIN pg_class ON oid = relid WHERE pg_class.relname = :name"
            )
            updates, hot, options = connection.execute(statement, {"name": store.table.name}).one()
        assert updates == 3 * len(chosen)
        assert hot > 0.95 * updates, "all, but for those on a page that is full at the moment"
        assert "fillfactor=80" in options
    finally:
        engine.dispose()
        store.close()
