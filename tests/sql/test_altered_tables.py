"""A table that is altered while stores use it: what drivers prepared for it is prepared anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text, make_url
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.util import greenlet_spawn

from tests.fixtures.clients import postgres
from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, Face, Way, a_name, a_sid, ways
from websessions.sid import Sid
from websessions.store import Insert, Load, Record, Replace

POSTGRES = tuple(way for way in ALL if way.database == "postgresql")

OFTEN = 8
"""Uses after which each driver has prepared a statement: psycopg waits for five."""


def alter(services: Services, statement: str) -> None:
    """Execute from outside, as a migration would."""
    postgres(make_url(services.postgres_url()), statement)


async def every_connection(store: Face, count: int, use: Callable[[], Awaitable[Any]]) -> None:
    """Have each of so many connections prepare its statements, and leave them in the pool."""
    engine = store.engine

    def take() -> Any:
        return engine.raw_connection()

    async def aside(function: Callable[[], Any]) -> Any:
        if engine.dialect.is_async:
            return await greenlet_spawn(function)
        return await asyncio.to_thread(function)

    # The pool gives out its oldest connection: one after the other is used.
    held = [await aside(take) for _ in range(count)]
    for connection in held:
        await aside(connection.close)
    for _ in range(count * OFTEN):
        await use()


@ways(*POSTGRES)
@pytest.mark.parametrize(
    "change",
    [
        "ADD COLUMN note text",
        "ADD COLUMN note text NOT NULL DEFAULT ''",
        "ALTER COLUMN data TYPE varchar",
        "ALTER COLUMN version TYPE integer",
        "ALTER COLUMN expires TYPE timestamptz(3)",
        "DROP COLUMN user_id, ADD COLUMN user_id varchar(255)",
    ],
)
async def test_calls_succeed_on_a_table_that_was_altered(
    services: Services, way: Way, change: str
) -> None:
    """With "cached plan must not change result type" each idle connection would fail one."""
    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        name = store.store.table.name

        async def use() -> None:
            await store.set(sid, {"n": 1})
            assert await store.get(sid) == {"n": 1}
            await store.touch(sid)

        await every_connection(store, 3, use)
        alter(services, f'ALTER TABLE "{name}" {change}')
        for _ in range(6):
            await use()
        assert await store.all() == [{"n": 1}]
        assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


@ways(*POSTGRES)
async def test_batches_stay_batches(services: Services, way: Way) -> None:
    """A batch that fails is performed call by call: for good, if its connection were kept."""
    with WireTap.of(way.url(services)) as tap:
        async with way.open(tap.through(way.url(services)), table_name=a_name()) as store:
            name = store.store.table.name
            keys = [Sid.new().digest() for _ in range(4)]
            soon = store.store.clock().replace(year=2100, microsecond=0)
            records = await store.perform([Insert(key, b'{"n":0}', soon, {}) for key in keys])

            async def use() -> None:
                nonlocal records
                records = await store.perform(
                    [Replace(seen, b'{"n":1}', soon, {}) for seen in records]
                )
                assert await store.perform([Load(key) for key in keys]) == records
                assert all(isinstance(record, Record) for record in records), records

            for _ in range(OFTEN):
                await use()
            alter(
                services,
                f'ALTER TABLE "{name}" ALTER COLUMN version TYPE integer,'
                " ALTER COLUMN expires TYPE timestamptz(3), ALTER COLUMN data TYPE varchar",
            )
            await use()
            await use()  # a new connection prepares first, and asyncpg looks types up
            with tap.recording() as seen:
                await use()
            assert [statement.kind for statement in seen.statements] == ["UPDATE", "SELECT"]


@ways(*POSTGRES)
async def test_a_type_of_the_app_s_that_is_made_anew(services: Services, way: Way) -> None:
    """As migrations change enumerations: what was prepared names a type that is gone."""
    name, kind = a_name(), a_name("mood")
    alter(services, f"CREATE TYPE \"{kind}\" AS ENUM ('calm')")
    table = Table(
        name,
        MetaData(),
        Column("sid", LargeBinary(32), primary_key=True),
        Column("data", Text, nullable=False),
        Column("expires", DateTime(timezone=True), nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("mood", ENUM("calm", name=kind, create_type=False)),
    )
    async with way.open(way.url(services), table=table, mirror_fields={"mood": "mood"}) as store:
        sid = a_sid()

        async def use() -> None:
            await store.set(sid, {"mood": "calm"})
            assert await store.get(sid) == {"mood": "calm"}

        await every_connection(store, 2, use)
        for statement in (
            f'ALTER TYPE "{kind}" RENAME TO "{kind}_old"',
            f"CREATE TYPE \"{kind}\" AS ENUM ('calm', 'happy')",
            f'ALTER TABLE "{name}" ALTER COLUMN mood TYPE "{kind}" USING mood::text::"{kind}"',
            f'DROP TYPE "{kind}_old"',
        ):
            alter(services, statement)
        for _ in range(4):
            await use()
