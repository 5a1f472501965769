"""Tables that apps really have: defaults, numbers as keys, zones or none, decorated types."""

from __future__ import annotations

import itertools
import json
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    func,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import mysql

from tests.fixtures.clients import mysql as mysql_client
from tests.fixtures.services import Services
from tests.sql.drivers import ALL, ONE_A_DATABASE, Face, Way, a_name, a_sid, in_transaction, ways
from websessions.errors import CorruptRecord, SessionTooLarge
from websessions.sid import Sid
from websessions.store import Delete, Load, Record, Replace, Scan, Sweep, Touch

NOW = datetime(2030, 6, 1, 12, 0, 0, 123456, tzinfo=UTC)
DAY = timedelta(days=1)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def app_table(*columns: Column[Any], **changes: Column[Any]) -> Table:
    required: dict[str, Column[Any]] = {
        "sid": Column("sid", String(64), primary_key=True),
        "expires": Column("expires", DateTime(), nullable=False),
        "data": Column("data", Text(), nullable=False),
    }
    chosen = [*{**required, **changes}.values(), *columns]
    return Table(a_name(), MetaData(), *chosen, mysql_charset="utf8mb4")


async def the_whole_life(store: Face, clock: Clock) -> None:
    """Every call, with moments that would tell a zone or a precision that is lost."""
    sid = a_sid()
    key = Sid(sid).digest()
    await store.set(sid, {"n": 1})
    record = await store.ask(Load(key))
    assert isinstance(record, Record)
    precision = timedelta(seconds=1)
    assert abs(record.expires - (clock.now + DAY)) < precision
    assert record.expires.tzinfo is not None

    clock.now += timedelta(hours=1)
    assert await store.ask(Touch(key, clock.now + DAY)) is True
    touched = await store.ask(Load(key))
    assert abs(touched.expires - (clock.now + DAY)) < precision
    assert await store.ask(Touch(key, clock.now)) is False, "never shorter"

    replaced = await store.ask(Replace(touched, touched.data + b" ", clock.now + DAY, {"n": 1}))
    assert replaced is not None
    assert await store.ask(Replace(touched, b"{}", clock.now + DAY, {})) is None, "seen too early"
    assert await store.get(sid) == {"n": 1}

    clock.now += DAY - timedelta(seconds=2)
    assert await store.get(sid) == {"n": 1}
    assert (await store.ask(Sweep(10))).deleted == 0
    clock.now += timedelta(seconds=4)
    assert await store.get(sid) is None
    assert await store.length() == 0
    assert await store.ask(Touch(key, clock.now + DAY)) is False, "never revived"
    assert (await store.ask(Sweep(10))).deleted == 1
    assert await store.ask(Delete(key)) is False


@pytest.fixture
def clock() -> Clock:
    return Clock()


@ways(*ALL)
@pytest.mark.parametrize("zone", [False, True], ids=["naive", "aware"])
async def test_moments_with_a_zone_or_without(
    services: Services, way: Way, zone: bool, clock: Clock
) -> None:
    table = app_table(expires=Column("expires", DateTime(timezone=zone), nullable=False))
    async with way.open(way.url(services), table=table, clock=clock) as store:
        await the_whole_life(store, clock)


@ways(*(way for way in ALL if way.database == "postgresql"))
@pytest.mark.parametrize("zone", [False, True], ids=["naive", "aware"])
async def test_the_server_s_zone_does_not_matter(
    services: Services, way: Way, zone: bool, clock: Clock
) -> None:
    moment = DateTime(timezone=zone)
    table = app_table(
        Column("version", Integer, nullable=False),
        Column("sweep_after", moment, nullable=False),
        Column("created_at", moment, nullable=False),
        Column("updated_at", moment, nullable=False),
        expires=Column("expires", moment, nullable=False),
    )
    url = make_url(way.url(services, fresh=True))
    async with way.open(url, table=table, clock=clock) as store:
        await in_transaction(
            store.engine, text(f"ALTER DATABASE {url.database} SET timezone = 'Pacific/Auckland'")
        )
    async with way.open(url, table=table, clock=clock) as store:
        assert await store.rows(text("SHOW timezone")) == [("Pacific/Auckland",)]
        await the_whole_life(store, clock)


@ways(*(way for way in ALL if way.database == "mysql"))
async def test_the_server_s_zone_does_not_matter_to_mysql(
    services: Services, way: Way, clock: Clock
) -> None:
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as store:
        from sqlalchemy import event

        @event.listens_for(store.engine, "connect")
        def far_away(connection: Any, _: object) -> None:
            cursor = connection.cursor()
            cursor.execute("SET time_zone = '+12:00'")
            cursor.close()

        await store.close()
        await the_whole_life(store, clock)


class UTCDateTime(TypeDecorator[datetime]):
    """SQLAlchemy's own recipe: aware in Python, naive UTC in the database."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("tzinfo is required")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.replace(tzinfo=UTC)


class Compressed(TypeDecorator[str]):
    """Text that is bytes in the database."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else zlib.compress(bytes(value))

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else zlib.decompress(bytes(value))


class Prefixed(TypeDecorator[str]):
    """As connect-session-sequelize's tables are shared with other programs."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else f"s:{value}"

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else value.removeprefix("s:")


@ways(*ALL)
async def test_decorated_types(services: Services, way: Way, clock: Clock) -> None:
    moment = UTCDateTime()
    table = app_table(
        Column("version", Integer, nullable=False),
        Column("sweep_after", moment, nullable=False),
        sid=Column("sid", Prefixed(70), primary_key=True),
        expires=Column("expires", moment, nullable=False),
        data=Column("data", Compressed(), nullable=False),
    )
    async with way.open(way.url(services), table=table, clock=clock) as store:
        await the_whole_life(store, clock)
        sid = a_sid()
        await store.set(sid, {"n": 1})
        assert await store.all() == [{"n": 1}]
        [(raw,)] = await store.rows(text(f"SELECT sid FROM {table.name}"))
        assert raw == f"s:{Sid(sid).digest().hex()}"


@ways(*ALL)
async def test_a_number_as_the_key_beside_a_unique_sid(
    services: Services, way: Way, clock: Clock
) -> None:
    """As ORMs number every table."""
    kind = BigInteger().with_variant(Integer, "sqlite")
    table = app_table(
        Column("id", kind, primary_key=True, autoincrement=True),
        sid=Column("sid", String(64), nullable=False, unique=True),
    )
    async with way.open(way.url(services), table=table, clock=clock) as store:
        await the_whole_life(store, clock)
        for n in (1, 2):
            await store.set(a_sid(), {"n": n})
        ids = [number for (number,) in await store.rows(select(table.c.id))]
        assert len(set(ids)) == 2


@ways(*ALL)
async def test_defaults_of_python_and_of_the_server(services: Services, way: Way) -> None:
    numbers = itertools.count(1)
    table = app_table(
        Column("serial", Integer, default=lambda: next(numbers), nullable=False),
        Column("active", Boolean, default=True, nullable=False),
        Column("writes", Integer, default=0, onupdate=lambda: next(numbers)),
        Column("changed", DateTime, server_default=func.now(), onupdate=func.now()),
        Column("region", String(20), server_default="eu", nullable=False),
        Column("facts", JSON, default=dict),
    )
    sid = a_sid()
    columns = [table.c[name] for name in ("serial", "active", "writes", "region", "facts")]
    async with way.open(way.url(services), table=table) as store:
        await store.set(sid, {"n": 1})
        [row] = await store.rows(select(*columns))
        assert tuple(row) == (1, True, 0, "eu", {})
        [(changed,)] = await store.rows(select(table.c.changed))
        assert changed is not None

        seen = await store.ask(Load(Sid(sid).digest()))
        assert await store.ask(Replace(seen, b"{}", datetime.now(UTC) + DAY, {}))
        [row] = await store.rows(select(*columns))
        assert tuple(row) == (1, True, 2, "eu", {}), "the app's onupdate is honoured"


@ways(*ALL)
async def test_columns_of_many_types_can_be_filled(services: Services, way: Way) -> None:
    table = app_table(
        Column("facts", JSON),
        Column("moment", DateTime(timezone=True)),
        Column("raw", LargeBinary),
        Column("yes", Boolean),
    )
    moment = datetime(2030, 1, 1, tzinfo=UTC)
    values: dict[str, Any] = {
        "facts": {"a": [1, "é"]},
        "moment": moment,
        "raw": b"\0\xff",
        "yes": True,
    }
    options: dict[str, Any] = {"extend_default_fields": lambda defaults, _: {**defaults, **values}}
    async with way.open(way.url(services), table=table, **options) as store:
        await store.set(a_sid(), {})
        [row] = await store.rows(select(*(table.c[name] for name in values)))
        facts, stored, raw, yes = row
        assert (facts, bytes(raw), yes) == ({"a": [1, "é"]}, b"\0\xff", True)
        assert stored.replace(tzinfo=UTC) == moment.replace(tzinfo=stored.tzinfo or UTC)


class BinaryJSON:
    """A codec of bytes that are no text."""

    is_text = False

    def encode(self, document: Mapping[str, Any], /) -> bytes:
        return b"\xff\x00" + zlib.compress(json.dumps(document).encode())

    def decode(self, data: bytes, /) -> dict[str, Any]:
        if data[:2] != b"\xff\x00":
            raise ValueError("not ours")
        return dict(json.loads(zlib.decompress(data[2:])))


@ways(*ALL)
async def test_a_codec_may_be_binary(services: Services, way: Way, clock: Clock) -> None:
    async with way.open(
        way.url(services), table_name=a_name(), codec=BinaryJSON(), clock=clock
    ) as store:
        assert not isinstance(store.store.table.c.data.type, Text)
        sid = a_sid()
        await store.set(sid, {"text": "🛒" * 50_000})
        assert await store.get(sid) == {"text": "🛒" * 50_000}
        seen = await store.ask(Load(Sid(sid).digest()))
        replaced = await store.ask(Replace(seen, BinaryJSON().encode({"n": 2}), NOW + DAY, {}))
        assert replaced.version == 2
        assert await store.get(sid) == {"n": 2}


@ways(*ALL)
async def test_a_binary_column_takes_a_text_codec(services: Services, way: Way) -> None:
    table = app_table(data=Column("data", LargeBinary, nullable=False))
    async with way.open(way.url(services), table=table) as store:
        sid = a_sid()
        await store.set(sid, {"text": "é🛒"})
        assert await store.get(sid) == {"text": "é🛒"}
        seen = await store.ask(Load(Sid(sid).digest()))
        assert await store.ask(Replace(seen, b"{}", datetime.now(UTC) + DAY, {}))


@ways(*ALL)
async def test_a_megabyte_of_any_characters(services: Services, way: Way) -> None:
    """MySQL's TEXT ends at 64 KiB, its utf8 before the emoji, and a script may hold any sign."""
    sid = a_sid()
    words = "🛒\\'\"%(x)s :p ?é\u2028\x7f" * 12_000
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(sid, {"words": words})
        assert await store.get(sid) == {"words": words}
        with pytest.raises(SessionTooLarge, match="words"):
            await store.set(sid, {"words": words * 10})
        assert await store.get(sid) == {"words": words}


@ways(*(way for way in ALL if way.database == "mysql"))
async def test_a_database_of_latin1_holds_everything(services: Services, way: Way) -> None:
    """Neither the database's character set nor a URL that names none counts."""
    url = make_url(way.url(services, fresh=True)).set(query={})
    server = url.set(drivername="mysql", database=None)
    mysql_client(server, f"ALTER DATABASE `{url.database}` CHARACTER SET latin1")
    sid = a_sid()
    session = {"words": "🛒é" * 40_000, "user_id": "ann 🛒"}
    async with way.open(url) as store:
        await store.set(sid, session)
        assert await store.get(sid) == session
        seen = await store.ask(Load(Sid(sid).digest()))
        assert await store.ask(Replace(seen, '{"a":"🛒"}'.encode(), seen.expires, {}))
        assert await store.get(sid) == {"a": "🛒"}


@ways(*(way for way in ALL if way.database == "mysql"))
async def test_a_column_whose_collation_ignores_case_guards_a_write_all_the_same(
    services: Services, way: Way
) -> None:
    """Without a version the data is the guard, and `{"a":"x"}` is not `{"A":"X"}`."""
    kind = mysql.LONGTEXT(charset="utf8mb4", collation="utf8mb4_general_ci")
    table = app_table(data=Column("data", kind, nullable=False))
    soon = datetime.now(UTC) + DAY
    async with way.open(way.url(services), table=table) as store:
        sid = a_sid()
        await store.set(sid, {"a": "é"})
        seen = await store.ask(Load(Sid(sid).digest()))
        assert await store.ask(Replace(seen, b'{"A": "X"}', soon, {}))
        assert await store.ask(Replace(seen, b'{"a": "x"}', soon, {})) is None
        wrong = Record(seen.key, b'{"a": "x"}', soon)
        assert await store.ask(Replace(wrong, b"{}", soon, {})) is None
        right = Record(seen.key, b'{"A": "X"}', soon)
        assert await store.ask(Replace(right, b"{}", soon, {})) is not None


@ways(*ONE_A_DATABASE)
async def test_a_row_that_somebody_else_spoiled_is_corrupt_and_heals(
    services: Services, way: Way
) -> None:
    sid, other = a_sid(), a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(sid, {"n": 1})
        await store.set(other, {"n": 2})
        table = store.store.table
        spoil = table.update().where(table.c.sid == Sid(sid).digest()).values(data="{not json")
        await store.rows(spoil)
        with pytest.raises(CorruptRecord) as caught:
            await store.get(sid)
        assert caught.value.key == Sid(sid).digest().hex()
        assert await store.all() == [{"n": 2}]
        await store.set(sid, {"n": 3})
        assert await store.get(sid) == {"n": 3}


@ways(*ONE_A_DATABASE)
async def test_a_key_that_is_none_of_ours_is_corrupt_and_not_in_the_way(
    services: Services, way: Way
) -> None:
    """A table that another program writes to as well."""
    table = app_table()
    foreign = ["!", "!!", "+", "zz", "zzz"]
    async with way.open(way.url(services), table=table) as store:
        sids = [a_sid() for _ in range(3)]
        for sid in sids:
            await store.set(sid, {"n": 1})
        await store.rows(
            table.insert().values(
                [{"sid": sid, "expires": NOW.replace(tzinfo=None), "data": "{}"} for sid in foreign]
            )
        )
        assert await store.get(sids[0]) == {"n": 1}
        assert await store.all() == [{"n": 1}] * 3
        assert await store.length() == 8
        page = await store.ask(Scan(None, 2))
        assert len(page) == 2, "a page is full while there is more"
        assert len(await store.ask(Scan(page[-1].key, 2))) == 1


@ways(*ALL)
async def test_expires_may_be_of_any_zone(services: Services, way: Way, clock: Clock) -> None:
    zone = timezone(timedelta(hours=-9))
    async with way.open(way.url(services), table_name=a_name(), clock=clock) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1}, expires=(NOW + timedelta(hours=1)).astimezone(zone))
        record = await store.ask(Load(Sid(sid).digest()))
        assert record.expires == NOW + timedelta(hours=1)
        clock.now += timedelta(minutes=59)
        assert await store.get(sid) == {"n": 1}
        clock.now += timedelta(minutes=1)
        assert await store.get(sid) is None
