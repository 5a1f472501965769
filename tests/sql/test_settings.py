"""How connections are set up: those of an engine that the store made from a URL."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.fixtures.services import Services
from tests.fixtures.wire import SQLiteTap, WireTap
from tests.sql.drivers import ALL, Face, Way, a_name, a_sid, on_servers, ways
from websessions.sql import SQLSessionStore

SQLITE = tuple(way for way in ALL if way.database == "sqlite")
POSTGRES = tuple(way for way in ALL if way.database == "postgresql")
MYSQL = tuple(way for way in ALL if way.database == "mysql")


async def scalar(store: Face, statement: str) -> Any:
    [(value,)] = await store.rows(text(statement))
    return value


@ways(*SQLITE)
async def test_sqlite_is_set_up_for_many_processes(services: Services, way: Way) -> None:
    async with way.open(way.url(services), timeout=3) as store:
        assert await scalar(store, "PRAGMA journal_mode") == "wal"
        assert await scalar(store, "PRAGMA synchronous") == 1, "NORMAL"
        assert await scalar(store, "PRAGMA busy_timeout") == 3000


def test_a_memory_database_needs_no_journal() -> None:
    with SQLSessionStore("sqlite://") as store, store._opened.engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "memory"


def test_without_a_timeout_sqlite_waits_all_the_same(services: Services) -> None:
    """Nothing else would tell two writers to take turns."""
    with (
        SQLSessionStore(services.sqlite_url(), timeout=None) as store,
        store._opened.engine.connect() as connection,
    ):
        assert connection.scalar(text("PRAGMA busy_timeout")) == 10_000


@ways(*MYSQL)
async def test_mysql_reads_what_is_committed_and_does_not_wait_for_ever(
    services: Services, way: Way
) -> None:
    async with way.open(way.url(services), table_name=a_name(), timeout=2.5) as store:
        level = "SELECT @@session.tx_isolation"
        assert await scalar(store, level) == "READ-COMMITTED"
        assert await scalar(store, "SELECT @@session.innodb_lock_wait_timeout") == 3
        assert await scalar(store, "SELECT @@session.lock_wait_timeout") == 3
        assert await scalar(store, "SELECT @@session.autocommit") == 1


@ways(*MYSQL)
async def test_rowcounts_are_of_rows_that_match(services: Services, way: Way) -> None:
    """An update that changes nothing is no conflict."""
    from datetime import UTC, datetime

    from sqlalchemy import MetaData

    from tests.sql.test_table_option import node_table
    from websessions.sid import Sid
    from websessions.store import Load, Put, Replace

    soon = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    async with way.open(way.url(services), table=node_table(MetaData(), a_name())) as store:
        key = Sid.new().digest()
        await store.ask(Put(key, b"{}", soon, {}))
        seen = await store.ask(Load(key))
        assert await store.ask(Replace(seen, b"{}", seen.expires, {})) is not None


@ways(*POSTGRES)
async def test_a_blocked_thread_has_its_limit_in_the_database(services: Services, way: Way) -> None:
    """An async call has its own in the event loop."""
    async with way.open(way.url(services), table_name=a_name(), timeout=2.5) as store:
        expected = "0" if way.asynchronous else "2500ms"
        assert await scalar(store, "SHOW statement_timeout") == expected


@ways(*on_servers(ALL))
async def test_a_warm_read_is_one_round_trip_and_no_transaction(
    services: Services, way: Way
) -> None:
    with WireTap.of(way.url(services)) as tap:
        url = tap.through(way.url(services))
        async with way.open(url, table_name=a_name()) as store:
            sid = a_sid()
            await store.set(sid, {"n": 1})
            for _ in range(10):  # drivers prepare a statement once it proves itself
                await store.get(sid)
            with tap.recording() as seen:
                assert await store.get(sid) == {"n": 1}
            assert [statement.kind for statement in seen.statements] == ["SELECT"]
            assert seen.round_trips == 1


@ways(*SQLITE)
async def test_the_same_on_sqlite(services: Services, way: Way) -> None:
    async with way.open(way.url(services)) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        with SQLiteTap(store.engine) as tap:
            assert await store.get(sid) == {"n": 1}
            assert [statement.kind for statement in tap.statements] == ["SELECT"]


@pytest.mark.parametrize("span", [None, 2.5, 5, timedelta(seconds=5)])
@ways(*ALL)
async def test_a_timeout_may_be_seconds_a_span_or_none(
    services: Services, way: Way, span: Any
) -> None:
    async with way.open(way.url(services), table_name=a_name(), timeout=span) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        assert await store.get(sid) == {"n": 1}
