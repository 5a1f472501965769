"""A statement that the database took back in favour of another one: tried again, a few times."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from tests.fixtures.services import Services
from tests.sql.drivers import (
    ALL,
    Face,
    Way,
    a_name,
    a_sid,
    dispose,
    in_transaction,
    on_servers,
    ways,
)
from websessions.errors import StoreError, StoreUnavailable
from websessions.sid import Sid
from websessions.sql.database import LOCK_TRIES
from websessions.store import Delete, Insert, Put, Record

SERVERS = on_servers(ALL)
LATER = datetime.now(UTC) + timedelta(days=1)


async def fail_writes(store: Face, times: int, *, code: str) -> None:
    """A trigger that refuses so many writes as the database itself would, and lets the rest pass.

    Sequences count on when a statement is rolled back.
    """
    name = store.store.table.name
    if store.engine.dialect.name == "postgresql":
        statements = [
            f"CREATE SEQUENCE {name}_n",
            f"""CREATE FUNCTION {name}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                IF nextval('{name}_n') <= {times} THEN
                RAISE EXCEPTION 'no' USING ERRCODE = '{code}';
                END IF; RETURN NEW; END $$""",
            f"""CREATE TRIGGER {name}_t BEFORE INSERT OR UPDATE ON {name}
                FOR EACH ROW EXECUTE FUNCTION {name}_f()""",
        ]
    else:
        statements = [f"CREATE SEQUENCE {name}_n"]
        statements += [
            f"""CREATE TRIGGER {name}_{event} BEFORE {event} ON {name} FOR EACH ROW BEGIN
                IF nextval({name}_n) <= {times} THEN
                SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'no';
                END IF; END"""
            for event in ("INSERT", "UPDATE")
        ]
    await in_transaction(store.engine, *(text(statement) for statement in statements))


CASES = [
    pytest.param(way, code, id=f"{way.id}-{code}")
    for way in SERVERS
    for code in (("40001", "40P01") if way.database == "postgresql" else ("1213",))
]


@pytest.mark.parametrize(("way", "code"), CASES)
async def test_a_deadlock_or_a_serialization_failure_is_tried_again(
    services: Services, way: Way, code: str
) -> None:
    async with way.open(way.url(services), table_name=a_name()) as store:
        await fail_writes(store, LOCK_TRIES - 1, code=code)
        sid = a_sid()
        assert isinstance(
            await store.ask(Insert(Sid(sid).digest(), b'{"n": 1}', LATER, {})), Record
        )
        assert await store.get(sid) == {"n": 1}


@pytest.mark.parametrize(("way", "code"), CASES)
async def test_the_same_on_an_engine_of_the_app_s(services: Services, way: Way, code: str) -> None:
    """Where MySQL's error also ended a transaction that the app's settings began."""
    engine = way.engine(way.url(services), isolation_level="SERIALIZABLE")
    async with way.open(engine, table_name=a_name()) as store:
        await fail_writes(store, 2, code=code)
        sid = a_sid()
        await store.set(sid, {"n": 1})
        assert await store.get(sid) == {"n": 1}
        assert await store.length() == 1
    await dispose(engine)


@pytest.mark.parametrize(("way", "code"), CASES)
async def test_what_never_succeeds_ends_in_an_error(
    services: Services, way: Way, code: str
) -> None:
    async with way.open(way.url(services), table_name=a_name()) as store:
        await fail_writes(store, 1_000_000, code=code)
        with pytest.raises(StoreError, match="refused") as caught:
            await store.set(a_sid(), {"password": "hunter2"})
        assert not isinstance(caught.value, StoreUnavailable)
        assert "hunter2" not in str(caught.value)
        assert await store.length() == 0


@pytest.mark.parametrize(
    ("way", "code"),
    [pytest.param(way, "23514", id=way.id) for way in SERVERS if way.database == "postgresql"],
)
async def test_another_error_is_not_tried_again(services: Services, way: Way, code: str) -> None:
    async with way.open(way.url(services), table_name=a_name()) as store:
        await fail_writes(store, 1, code=code)
        with pytest.raises(StoreError):
            await store.set(a_sid(), {"n": 1})
        await store.set(a_sid(), {"n": 1})


@ways(*SERVERS)
async def test_many_writers_in_opposite_orders_all_end_well(services: Services, way: Way) -> None:
    """Lists of calls, the one forwards and the other backwards: what deadlocks are made of."""
    keys = [Sid.new().digest() for _ in range(20)]

    def calls(number: int) -> list[Any]:
        ordered = keys if number % 2 else keys[::-1]
        if number % 5 == 4:
            return [Delete(key) for key in ordered]
        return [Put(key, b'{"n": %d}' % number, LATER, {}) for key in ordered]

    async with way.open(way.url(services), table_name=a_name()) as store:
        if way.asynchronous:
            perform: Any = store.store.perform
            answers = await asyncio.gather(*(perform(calls(number)) for number in range(40)))
        else:
            sync: Any = store.store.perform
            with ThreadPoolExecutor(8) as threads:
                answers = list(threads.map(lambda number: sync(calls(number)), range(40)))
        wrong = [answer for each in answers for answer in each if isinstance(answer, BaseException)]
        assert wrong == []
        assert await store.length() in range(21)
