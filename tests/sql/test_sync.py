"""`sync()`: the table and its indexes are there afterwards, whoever else is at it."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    DateTime,
    Enum,
    Index,
    MetaData,
    String,
    Table,
    Text,
    event,
    inspect,
    text,
)
from sqlalchemy.schema import CreateTable
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.services import Services
from tests.sql.drivers import (
    ALL,
    ONE_A_DATABASE,
    Face,
    Way,
    a_name,
    a_sid,
    in_transaction,
    on_servers,
    ways,
)
from tests.sql.processes import child
from websessions.errors import StoreError, StoreUnavailable
from websessions.sid import Sid
from websessions.store import Lock

SYNC_AT_ONCE = """
import os, traceback
from websessions.sql import SQLSessionStore
gate, opened = os.pipe()
started = []
for number in range(10):
    if pid := os.fork():
        started.append(pid)
        continue
    try:
        os.close(opened)
        url, name = sys.argv[1:]
        store = SQLSessionStore(url, table_name=name, check_expiration_interval=None)
        os.read(gate, 1)
        for _ in range(3):
            store.sync()
        store.set(f"a-session-id-of-process-{number}", {"n": number})
        store.close()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
os.close(opened)
for pid in started:
    status = os.waitpid(pid, 0)[1]
    assert status == 0, status
"""


async def on(store: Face, function: Any) -> Any:
    return await greenlet_spawn(function) if store.engine.dialect.is_async else function()


async def indexes(store: Face) -> set[str | None]:
    name = store.store.table.name
    found: set[str | None] = await on(
        store, lambda: {i["name"] for i in inspect(store.engine).get_indexes(name)}
    )
    return found


INDEXED = ("sweep_after", "user_id", "previous_key")


@ways(*ALL)
async def test_it_may_be_called_again_and_again(services: Services, way: Way) -> None:
    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(sid, {"n": 1})
        await store.sync()
        await store.sync()
        assert await store.get(sid) == {"n": 1}


@ways(*ALL)
async def test_it_creates_the_indexes_that_are_missing(services: Services, way: Way) -> None:
    name = a_name()
    async with way.open(way.url(services), table_name=name) as store:
        assert await indexes(store) >= {f"ix_{name}_sweep_after", f"ix_{name}_user_id"}
        on_table = f" ON {name}" if way.database == "mysql" else ""
        await in_transaction(store.engine, text(f"DROP INDEX ix_{name}_sweep_after{on_table}"))
        assert f"ix_{name}_sweep_after" not in await indexes(store)
        await store.sync()
        assert f"ix_{name}_sweep_after" in await indexes(store)


@ways(*ALL)
async def test_it_creates_them_after_a_crash_between_the_table_and_its_indexes(
    services: Services, way: Way
) -> None:
    name = a_name()
    store = Face(way.store(way.url(services), table_name=name))
    await in_transaction(store.engine, CreateTable(store.store.table))
    assert await indexes(store) == set()
    await store.sync()
    assert await indexes(store) == {f"ix_{name}_{column}" for column in INDEXED}
    await store.close()


@ways(*ALL)
async def test_it_adds_the_columns_that_an_earlier_version_did_not_have(
    services: Services, way: Way
) -> None:
    """To a generated table with sessions in it, which go on."""
    name, sid = a_name(), a_sid()
    async with way.open(way.url(services), table_name=name) as store:
        await store.set(sid, {"n": 1})
        on_table = f" ON {name}" if way.database == "mysql" else ""
        await in_transaction(
            store.engine,
            text(f"DROP INDEX ix_{name}_previous_key{on_table}"),
            text(f"ALTER TABLE {name} DROP COLUMN previous_key"),
            text(f"ALTER TABLE {name} DROP COLUMN previous_until"),
        )
        await store.sync()
        assert await store.get(a_sid()) is None
        assert await store.get(sid) == {"n": 1}
        assert f"ix_{name}_previous_key" in await indexes(store)


@ways(*ALL)
async def test_it_adds_the_columns_of_the_lock(services: Services, way: Way) -> None:
    """Before that the sessions go on as they were, and who locks one is told what to do."""
    name, sid = a_name(), Sid(a_sid())
    async with way.open(way.url(services), table_name=name) as store:
        await store.set(sid.value, {"n": 1})
        await in_transaction(
            store.engine,
            text(f"ALTER TABLE {name} DROP COLUMN locked_by"),
            text(f"ALTER TABLE {name} DROP COLUMN locked_until"),
        )
        assert await store.get(sid.value) == {"n": 1}
        await store.set(sid.value, {"n": 2})
        lock = Lock(sid.digest(), "me", datetime.now(UTC) + timedelta(minutes=1))
        with pytest.raises(StoreError, match=r"lacks a column: call sync\(\)"):
            await store.ask(lock)
        await store.sync()
        assert await store.ask(lock) is True
        assert await store.get(sid.value) == {"n": 2}


@ways(*ONE_A_DATABASE)
def test_ten_processes_at_once(services: Services, way: Way) -> None:
    url, name = way.url(services), a_name()
    with child(SYNC_AT_ONCE, url, name) as processes:
        processes.finish()
    store: Any = way.store(url, table_name=name)
    assert store.length() == 10
    found = {index["name"] for index in inspect(store._opened.engine).get_indexes(name)}
    assert found == {f"ix_{name}_{column}" for column in INDEXED}
    store.close()


class Kind(enum.Enum):
    WEB = 1
    APP = 2


@ways(*ONE_A_DATABASE)
async def test_a_table_of_the_app_s_comes_with_its_types_and_its_events(
    services: Services, way: Way
) -> None:
    """PostgreSQL's enumerated types are created apart from the table that uses them."""
    name = a_name()
    table = Table(
        name,
        MetaData(),
        Column("sid", String(64), primary_key=True),
        Column("expires", DateTime, nullable=False),
        Column("data", Text, nullable=False),
        Column("kind", Enum(Kind, name=f"kind_{name}")),
        Index(f"ix_{name}_kind", "kind"),
    )
    heard: list[str] = []
    event.listen(table, "after_create", lambda table, *_, **__: heard.append(table.name))
    options: dict[str, Any] = {"mirror_fields": {"kind": lambda session: session.get("kind")}}
    sid = a_sid()
    async with way.open(way.url(services), table=table, **options) as store:
        await store.sync()
        assert heard == [name]
        assert await indexes(store) == {f"ix_{name}_kind"}
        await store.set(sid, {"a": 1})
        assert await store.rows(table.select().with_only_columns(table.c.kind)) == [(None,)]
    extended: dict[str, Any] = {
        "extend_default_fields": lambda defaults, session: {**defaults, "kind": Kind.APP}
    }
    async with way.open(way.url(services), table=table, **extended) as store:
        await store.set(a_sid(), {"a": 1})


@ways(*on_servers(ALL))
async def test_a_database_that_can_not_be_reached_is_unavailable(
    services: Services, way: Way
) -> None:
    from sqlalchemy import make_url

    store = Face(way.store(make_url(way.url(services)).set(port=1)))
    with pytest.raises(StoreUnavailable, match="can not be reached") as caught:
        await store.sync()
    assert caught.value.__cause__ is not None
    await store.close()


@ways(*(way for way in ALL if way.database == "postgresql"))
async def test_a_schema_that_is_not_there_is_an_error_and_not_for_ever(
    services: Services, way: Way
) -> None:
    store = Face(way.store(way.url(services), schema="no_such_schema", table_name=a_name()))
    with pytest.raises(StoreError, match="refused"):
        await store.sync()
    await store.close()


@ways(*ALL)
async def test_without_it_the_error_says_to_call_it(services: Services, way: Way) -> None:
    store = Face(way.store(way.url(services), table_name=a_name()))
    for use in (
        store.get(a_sid()),
        store.set(a_sid(), {"n": 1}),
        store.length(),
        store.destroy(a_sid()),
        store.clear_expired_sessions(),
    ):
        with pytest.raises(StoreError, match=r"call sync\(\)") as caught:
            await use
        assert not isinstance(caught.value, StoreUnavailable)
    await store.sync()
    assert await store.length() == 0
    await store.close()
