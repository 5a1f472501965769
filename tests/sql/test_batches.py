"""What may go into one statement for many sessions, and how it is written."""

from __future__ import annotations

import asyncio
import inspect
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import Enum as PythonEnum
from typing import Any

import pytest
from sqlalchemy import Column, DateTime, Enum, LargeBinary, MetaData, String, Table, Text, event
from sqlalchemy.dialects import mysql, postgresql

from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, ASYNC, SQLStore, Way, dispose, on_servers, ways
from websessions.sid import Key
from websessions.sql.statements import Statements, _array_literal
from websessions.sql.table import layout_of
from websessions.store import Call, Delete, Insert, Load, Record, Replace, Touch

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)


class Colour(PythonEnum):
    RED = 1


def statements(*columns: Column[Any]) -> Statements:
    table = Table(
        "logins",
        MetaData(),
        Column("sid", LargeBinary(32), primary_key=True),
        Column("data", Text, nullable=False),
        Column("expires", DateTime(timezone=True), nullable=False),
        *columns,
    )
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return Statements(layout_of(table, None, text=True), dialect)


@pytest.mark.parametrize(
    ("column", "taken"),
    [
        (Column("name", String(20)), True),
        (Column("name", String(20), default="fixed"), True),
        (Column("token", String(20), default=lambda: secrets.token_hex(8)), False),
        (Column("token", String(20), onupdate=lambda: secrets.token_hex(8)), False),
        (Column("colour", Enum(Colour)), False),
        (Column("names", postgresql.ARRAY(String)), False),
    ],
)
def test_rows_that_differ_in_more_than_what_is_sent_are_written_alone(
    column: Column[Any], taken: bool
) -> None:
    """A default that is a function is called once a statement, and each row wants its own."""
    assert statements(column).takes_arrays is taken


class Hostile:
    def __str__(self) -> str:
        return 'x","admin'


@pytest.mark.parametrize(
    ("value", "item"),
    [
        ("plain", '"plain"'),
        ('a"b\\c,{}', '"a\\"b\\\\c,{}"'),
        ("NULL", '"NULL"'),
        (None, "NULL"),
        (b"\x00\xff", '"\\\\x00ff"'),
        (memoryview(b"ab"), '"\\\\x6162"'),
        (7, '"7"'),
        (Hostile(), '"x\\",\\"admin"'),
    ],
)
def test_an_item_of_an_array_is_quoted_whatever_it_is(value: object, item: str) -> None:
    assert _array_literal([value]) == "{" + item + "}"


def moment_type() -> Any:
    return DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def without_versions() -> Table:
    """The three columns that every table has; writes are guarded by the data that was read."""
    return Table(
        f"few_columns_{secrets.token_hex(4)}",
        MetaData(),
        Column("sid", LargeBinary(32).with_variant(mysql.VARBINARY(32), "mysql"), primary_key=True),
        Column("data", Text, nullable=False),
        Column("expires", moment_type(), nullable=False),
    )


async def perform(store: SQLStore, calls: Sequence[Call[Any]]) -> list[Any]:
    answers = store.perform(calls)
    return await answers if inspect.isawaitable(answers) else answers


def new_keys(number: int) -> list[Key]:
    return [Key(secrets.token_bytes(32)) for _ in range(number)]


async def born(store: SQLStore, keys: Sequence[Key]) -> list[Record]:
    answers = await perform(store, [Insert(key, b'{"n":1}', NOW + DAY, {}) for key in keys])
    assert all(isinstance(answer, Record) for answer in answers)
    return answers


@pytest.mark.parametrize("versions", [True, False], ids=["versions", "no versions"])
@ways(*ALL)
async def test_each_write_of_a_batch_has_an_outcome_of_its_own(
    way: Way, versions: bool, services: Services
) -> None:
    """Whatever becomes of its neighbours, it says what is in the database."""
    table = None if versions else without_versions()
    async with way.open(way.url(services), table=table) as face:
        store = face.store
        records = await born(store, new_keys(7))
        fine, stale, gone = records[:4], records[4:6], records[6:]
        theirs = [Replace(record, b'{"n":2}', NOW + DAY, {}) for record in stale]
        ends = [Delete(record.key) for record in gone]
        assert all(await perform(store, [*theirs, *ends]))

        mine = [Replace(record, b'{"n":3}', NOW + 2 * DAY, {}) for record in records]
        answers = await perform(store, mine)
        there = await perform(store, [Load(record.key) for record in records])

        assert [answer is not None for answer in answers] == [True] * 4 + [False] * 3
        assert there[:4] == answers[:4]
        assert [record.data for record in there[:4]] == [b'{"n":3}'] * len(fine)
        assert [record.data for record in there[4:6]] == [b'{"n":2}'] * len(stale)
        assert there[6] is None


@ways(*ALL)
async def test_each_touch_of_a_batch_has_an_outcome_of_its_own(
    way: Way, services: Services
) -> None:
    async with way.open(way.url(services)) as face:
        keys = new_keys(5)
        records = await born(face.store, keys[:4])
        later, sooner = NOW + 2 * DAY, NOW + DAY / 2
        moments = [later, later + timedelta(microseconds=1), sooner, later, later]

        touches = [Touch(key, moment) for key, moment in zip(keys, moments, strict=True)]
        assert await perform(face.store, touches) == [True, True, False, True, False]

        there = await perform(face.store, [Load(key) for key in keys])
        kept = [record and record.expires for record in there]
        assert kept == [moments[0], moments[1], records[2].expires, moments[3], None]


@pytest.mark.parametrize("calls", ["replace", "touch"])
@ways(*on_servers(ALL))
async def test_a_batch_is_one_statement_whatever_its_size(
    way: Way, calls: str, services: Services
) -> None:
    """PostgreSQL says whose write it was. MySQL and MariaDB count, so that a transaction has to
    undo what does not add up."""
    url = way.url(services)
    expected = ["UPDATE"] if way.database == "postgresql" else ["BEGIN", "UPDATE", "COMMIT"]
    with WireTap.of(url) as wire:
        async with way.open(wire.through(url)) as face:
            for size in (5, 16, 5):
                records = await born(face.store, new_keys(size))
                batch: list[Call[Any]] = [
                    Replace(record, b'{"n":2}', NOW + DAY, {})
                    if calls == "replace"
                    else Touch(record.key, NOW + 2 * DAY)
                    for record in records
                ]
                wire.clear()
                assert all(await perform(face.store, batch))
            # The last time, nothing is left to be prepared.
            assert [statement.kind for statement in wire.statements] == expected
            assert wire.round_trips == len(expected)


@ways(*ASYNC)
async def test_sixteen_calls_at_once_cost_one_check_out_or_two(
    way: Way, services: Services
) -> None:
    """A read that finds nobody under way goes at once; what comes with it goes together."""
    engine = way.engine(way.url(services))
    async with way.open(engine) as face:
        store = face.store
        records = await born(store, new_keys(16))
        pool = getattr(engine, "sync_engine", engine)
        check_outs: list[object] = []
        event.listen(pool, "checkout", lambda *of: check_outs.append(of))

        async def at_once(calls: Sequence[Call[Any]]) -> int:
            check_outs.clear()
            answers = await asyncio.gather(*[perform(store, [call]) for call in calls])
            assert all(answer for [answer] in answers)
            return len(check_outs)

        assert await at_once([Load(record.key) for record in records]) == 2
        assert await at_once([Touch(record.key, NOW + 3 * DAY) for record in records]) == 1
        assert await at_once([Replace(r, b'{"n":2}', NOW + 3 * DAY, {}) for r in records]) == 1
        assert await at_once([Delete(record.key) for record in records]) == 1
    await dispose(engine)
