"""The stores over the tables of Express's packages keep the rules."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from itertools import product
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Integer,
    LargeBinary,
    MetaData,
    String,
    create_engine,
    event,
    inspect,
    text,
    update,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.asyncio import create_async_engine

from tests.fixtures.services import Services
from tests.sql.drivers import in_transaction
from websessions import (
    ConfigurationError,
    CorruptRecord,
    JSONCodec,
    SessionSettings,
    SessionTooLarge,
    Sid,
    StoreError,
)
from websessions.lifecycle import Lifecycle
from websessions.sid import HASHED, Key, plain_key
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore, operations
from websessions.sql.formats import CONNECT_SESSION_SEQUELIZE, FormatColumn
from websessions.store import SWEEP_BATCH, Call, Delete, Insert, Load, Put, Replace, Touch
from websessions.testing import AnyStore, FakeClock
from websessions.testing.bench import Bench, Capabilities, MakeStore
from websessions.testing.store_rules import CallRules, RaceRules, SweepRules

SID = "tXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ"
PARIS = "Europe/Paris"


@dataclass(frozen=True)
class Maker:
    """A way to make a store over the table of a package."""

    package: str
    driver: str
    asynchronous: bool = False

    def __str__(self) -> str:
        return f"{self.package}-{self.driver}{'-async' if self.asynchronous else ''}"

    @property
    def in_mysql(self) -> bool:
        return self.driver in ("pymysql", "asyncmy")

    def __call__(self, services: Services, **options: Any) -> Any:
        kind: Any = AsyncSQLSessionStore if self.asynchronous else SQLSessionStore
        return getattr(kind, self.package)(_url(self.driver, services), **options)


@cache
def _url(driver: str, services: Services) -> str:
    """One database a driver, which nobody else has: its tables are made once, and their names are
    the packages' own.
    """
    return services.url(driver, fresh=True)


SEQUELIZE, SIMPLE, EMS = "connect_session_sequelize", "connect_pg_simple", "express_mysql_session"

SYNC = [
    *(Maker(SEQUELIZE, driver) for driver in ("sqlite", "psycopg", "pymysql")),
    Maker(SIMPLE, "psycopg"),
    Maker(EMS, "pymysql"),
]
MAKERS = [
    *SYNC,
    *(Maker(SEQUELIZE, driver, True) for driver in ("sqlite", "asyncpg", "asyncmy")),
    *(Maker(SIMPLE, driver, True) for driver in ("psycopg", "asyncpg")),
    Maker(EMS, "asyncmy", True),
]


_ready: set[str] = set()


class _PlainBench(Bench):
    """With keys that are ids of Express."""

    @staticmethod
    def key(name: str) -> Key:
        return plain_key(f"{name:_<32}")


class _Rules(CallRules, SweepRules, RaceRules, Capabilities):
    """What stores have to do with records; what the codec does is in `tests/rules/test_express.py`.

    The async runner performs a sync store's calls, too: they are done when they return.
    """

    pytestmark = pytest.mark.anyio
    versions = False
    graces = False

    @pytest.fixture
    def make_store(self, maker: Maker, services: Services) -> MakeStore:
        def make(clock: FakeClock, /, **options: Any) -> Any:
            return maker(services, clock=clock, **options)

        return make

    @pytest.fixture
    async def bench(self, make_store: MakeStore) -> AsyncIterator[Bench]:
        bench = _PlainBench(make_store, self)
        yield bench
        await bench.close()

    async def prepare(self, store: AnyStore) -> None:
        made: Any = store.store
        place = f"{made._opened.engine.url.render_as_string(hide_password=False)} {made.table.name}"
        if place not in _ready:
            await store.sync()
            _ready.add(place)
        await store.clear()

    async def corrupt(self, store: Any, key: Key) -> None:
        layout = store._layout
        broken = '"cut"' if layout.data.name == "sess" else '{"cut'
        statement = (
            update(store.table)
            .where(layout.sid == key.decode())
            .values({layout.data: text(f"'{broken}'")})
        )
        await in_transaction(store._opened.engine, statement)


@pytest.mark.parametrize("maker", [maker for maker in MAKERS if not maker.in_mysql], ids=str)
class TestTables(_Rules):
    """Sequelize keeps milliseconds on SQLite."""

    resolution = timedelta(milliseconds=1)


IN_MYSQL = [maker for maker in MAKERS if maker.in_mysql]


@pytest.mark.parametrize("maker", [maker for maker in IN_MYSQL if maker.package != EMS], ids=str)
class TestTablesInMySQL(_Rules):
    """Whole seconds."""

    resolution = timedelta(seconds=1)


@pytest.mark.parametrize("maker", [maker for maker in IN_MYSQL if maker.package == EMS], ids=str)
class TestSecondsInAnInteger(_Rules):
    """Whole seconds, until 2106."""

    resolution = timedelta(seconds=1)

    async def test_a_session_may_have_been_over_before_1970(self, bench: Bench) -> None:
        """Which the column can not say."""
        store = await bench.store()
        began = datetime(1960, 1, 1, tzinfo=UTC)
        await store.ask(replace(bench.insert(store, "a"), expires=began))
        assert not await bench.is_there(store, "a")

    async def test_a_session_may_last_for_ever(self, bench: Bench) -> None:
        """For ever is as long as the column can say."""
        store = await bench.store()
        end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
        await store.ask(replace(bench.insert(store, "a"), expires=end))
        last = datetime(2106, 2, 7, 6, 28, 15, tzinfo=UTC)
        assert (await bench.loaded(store, "a")).expires == last


@pytest.fixture(params=SYNC, ids=str)
def maker(request: pytest.FixtureRequest) -> Maker:
    made: Maker = request.param
    return made


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(maker: Maker, services: Services, clock: FakeClock) -> Iterator[SQLSessionStore]:
    with maker(services, clock=clock, check_expiration_interval=0) as store:
        store.sync()
        store.clear()
        yield store


def rows(store: SQLSessionStore) -> list[dict[str, Any]]:
    """As the driver reads them."""
    name = store._opened.engine.dialect.identifier_preparer.format_table(store.table)
    with store._opened.engine.connect() as connection:
        return [dict(row._mapping) for row in connection.execute(text(f"SELECT * FROM {name}"))]


def test_the_table_has_the_packages_columns(store: SQLSessionStore, maker: Maker) -> None:
    columns = [
        column["name"] for column in inspect(store._opened.engine).get_columns(store.table.name)
    ]
    assert (store.table.name, sorted(columns)) == {
        SEQUELIZE: ("Sessions", ["createdAt", "data", "expires", "sid", "updatedAt"]),
        SIMPLE: ("session", ["expire", "sess", "sid"]),
        EMS: ("sessions", ["data", "expires", "session_id"]),
    }[maker.package]


def test_the_row_is_what_the_package_writes(
    store: SQLSessionStore, maker: Maker, clock: FakeClock
) -> None:
    clock.advance(0.3089)
    store.set(SID, {"user": "ann"}, expires=clock() + timedelta(hours=1))
    (row,) = rows(store)
    data = row.pop("sess", None) or row.pop("data")
    assert (json.loads(data) if isinstance(data, str) else data) == {
        "cookie": {"originalMaxAge": None, "expires": None, "httpOnly": True, "path": "/"},
        "user": "ann",
    }
    now, then = clock(), clock() + timedelta(hours=1)
    whole, later = (moment.replace(microsecond=0, tzinfo=None) for moment in (now, then))
    expected: dict[str, Any] = {"sid": SID}
    match maker.package, maker.driver:
        case ("connect_session_sequelize", "sqlite"):
            expected |= {"expires": f"{later} ".strip() + ".308 +00:00"}
            expected |= dict.fromkeys(("createdAt", "updatedAt"), f"{whole}.308 +00:00")
        case ("connect_session_sequelize", "psycopg"):
            expected |= {"expires": then, "createdAt": now, "updatedAt": now}
        case ("connect_session_sequelize", _):
            expected |= {"expires": later, "createdAt": whole, "updatedAt": whole}
        case ("connect_pg_simple", _):
            row["expire"] = row["expire"].replace(tzinfo=UTC)  # this server's zone
            expected |= {"expire": then}
        case _:
            expected = {"session_id": SID, "expires": int(then.timestamp())}
    assert row == expected


def test_a_touch_writes_two_columns(store: SQLSessionStore, maker: Maker, clock: FakeClock) -> None:
    store.set(SID, {"user": "ann"})
    (before,) = rows(store)
    clock.advance(3600)
    store.touch(SID)
    (after,) = rows(store)
    changed = {name for name in after if after[name] != before[name]}
    assert (
        changed
        == {
            SEQUELIZE: {"expires", "updatedAt"},
            SIMPLE: {"expire"},
            EMS: {"expires"},
        }[maker.package]
    )


def test_a_write_leaves_columns_of_the_apps_own(maker: Maker, services: Services) -> None:
    """It need not even know them."""
    with maker(services, table_name="with_more", check_expiration_interval=0) as store:
        store.table.drop(store._opened.engine, checkfirst=True)
        store.sync()
        with store._opened.engine.begin() as connection:
            connection.execute(text("ALTER TABLE with_more ADD COLUMN note VARCHAR(20)"))
        store.set(SID, {"user": "ann"})
        with store._opened.engine.begin() as connection:
            connection.execute(text("UPDATE with_more SET note = 'kept'"))
        store.update(SID, lambda session: session.update(user="bob"))
        store.set(SID, {"user": "eve"})
        store.touch(SID)
        assert [row["note"] for row in rows(store)] == ["kept"]
        store.table.drop(store._opened.engine)


def test_columns_of_the_apps_own_can_follow_the_session(maker: Maker, services: Services) -> None:
    """What extendDefaultFields does there."""
    columns = [Column("userId", String(20)), Column("visits", Integer)]
    with maker(
        services,
        table_name="following",
        columns=columns,
        mirror_fields={"userId": "user"},
        extend_default_fields=lambda defaults, session: {**defaults, "visits": 7},
        check_expiration_interval=0,
    ) as store:
        store.table.drop(store._opened.engine, checkfirst=True)
        store.sync()
        store.set(SID, {"user": "ann"})
        assert [(row["userId"], row["visits"]) for row in rows(store)] == [("ann", 7)]
        store.update(SID, lambda session: session.clear())
        assert [(row["userId"], row["visits"]) for row in rows(store)] == [(None, 7)]
        store.table.drop(store._opened.engine)


def test_a_corrupt_row_does_not_show_its_id(store: SQLSessionStore, maker: Maker) -> None:
    """The id is the key; the message has its digest, so that the row can be found."""
    store.set(SID, {})
    with store._opened.engine.begin() as connection:
        connection.execute(update(store.table).values({store._layout.data: text("""'"cut"'""")}))
    with pytest.raises(CorruptRecord) as caught:
        store.get(SID)
    assert SID not in str(caught.value)
    assert SID.encode().hex() not in str(caught.value)
    assert caught.value.key == Sid(SID).digest().hex()
    assert SID not in repr(store.perform([Load(store.key(Sid(SID)))]))


def test_ids_differ_by_case_and_spaces(maker: Maker, services: Services) -> None:
    """Also in a table that Sequelize made in MySQL, whose collation says they do not."""
    with maker(services, table_name="by_case", check_expiration_interval=0) as store:
        store.table.drop(store._opened.engine, checkfirst=True)
        if maker.in_mysql:
            store.table.dialect_options["mysql"]["collate"] = "utf8mb4_general_ci"
            store.table.dialect_options["mariadb"]["collate"] = "utf8mb4_general_ci"
        store.sync()
        store.set(SID, {"user": "ann"})
        (before,) = rows(store)
        (mine,) = store.perform([Load(store.key(Sid(SID)))])
        later = mine.expires + timedelta(hours=1)
        for other in (SID.lower(), SID.upper(), f"{SID} "):
            key = store.key(Sid(other))
            calls: list[Call[Any]] = [
                Touch(key, later, timedelta(0)),
                Touch(key, later, timedelta(0), mine),
                Replace(replace(mine, key=key), b"{}", later, {}),
                Delete(key),
            ]
            assert store.get(other) is None
            assert store.perform(calls) == [False, False, None, False]
            assert rows(store) == [before]
        store.set("b" * 32, {"user": "bob"})
        (bobs,) = store.perform([Load(store.key(Sid("b" * 32)))])
        anothers, data = store.key(Sid(SID.lower())), b'{"user":"eve"}'
        for batch in (
            [Touch(key, later, timedelta(0)) for key in (anothers, bobs.key)],
            [Replace(replace(bobs, key=key), data, later, {}) for key in (anothers, bobs.key)],
        ):
            refused, written = store.perform(batch)
            assert (bool(refused), bool(written)) == (False, True)
        assert before in rows(store)
        assert store.get(SID) == {"user": "ann"}
        store.table.drop(store._opened.engine)


@pytest.mark.parametrize("charset", ["latin1", "utf16", "utf8mb3"])
def test_a_table_in_mysql_may_have_another_character_set(charset: str, services: Services) -> None:
    """Such as latin1, which was MariaDB's default for long. Bytes are compared as UTF-8."""
    with SQLSessionStore.connect_session_sequelize(
        _url("pymysql", services), table_name="by_charset", check_expiration_interval=0
    ) as store:
        store.table.drop(store._opened.engine, checkfirst=True)
        for dialect in ("mysql", "mariadb"):
            store.table.dialect_options[dialect]["charset"] = charset
            store.table.dialect_options[dialect]["collate"] = f"{charset}_general_ci"
        store.sync()
        for sid in (SID, "é" * 32):
            store.set(sid, {"user": "rené"})
            store.set(sid, {"user": "zoé"})
            assert store.update(sid, lambda session: session.update(n=1)) == {"user": "zoé", "n": 1}
            assert store.get(sid) == {"user": "zoé", "n": 1}
            (record,) = store.perform([Load(store.key(Sid(sid)))])
            moment = record.expires + timedelta(hours=1)
            touch = Touch(record.key, moment, timedelta(0), record)
            assert store.perform([touch]) == [True]
            store.destroy(sid)
            assert store.get(sid) is None
        store.table.drop(store._opened.engine)


@pytest.mark.parametrize("package", [SEQUELIZE, EMS])
def test_a_set_overwrites_no_other_id(package: str, services: Services) -> None:
    """A table that ignores case has no room for both: the second one is an error."""
    with getattr(SQLSessionStore, package)(
        _url("pymysql", services), table_name="one_case", check_expiration_interval=0
    ) as store:
        store.table.drop(store._opened.engine, checkfirst=True)
        store.table.dialect_options["mysql"]["collate"] = "utf8mb4_general_ci"
        store.table.dialect_options["mariadb"]["collate"] = "utf8mb4_general_ci"
        store.sync()
        store.set(SID, {"user": "ann"})
        with pytest.raises(StoreError, match="refused"):
            store.set(SID.lower(), {"user": "mallory"})
        assert store.get(SID) == {"user": "ann"}
        store.set(SID, {"user": "bob"})
        assert store.get(SID) == {"user": "bob"}
        (taken,) = store.perform([Insert(store.key(Sid(SID.lower())), b"{}", later(store), {})])
        assert taken is None  # so a new session gets another id
        store.table.drop(store._opened.engine)


def later(store: SQLSessionStore) -> datetime:
    return store.clock() + timedelta(hours=1)


def test_a_set_that_another_one_overtakes(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In MySQL one is two statements."""
    stores = [
        SQLSessionStore.connect_session_sequelize(
            _url("pymysql", services), check_expiration_interval=0
        )
        for _ in range(2)
    ]
    first, second = stores
    first.sync()
    first.clear()
    execute = operations._execute
    overtaken: list[bool] = []

    def overtake(cursor: Any, statement: Any, values: Any) -> None:
        execute(cursor, statement, values)
        if statement is first._database._table.statements.overwrite and not overtaken:
            overtaken.append(True)
            second.set(SID, {"user": "ann"})

    monkeypatch.setattr(operations, "_execute", overtake)
    first.set(SID, {"user": "bob"})
    assert overtaken
    assert [store.get(SID) for store in stores] == [{"user": "bob"}] * 2
    for store in stores:
        store.close()


@pytest.mark.parametrize("package", [SEQUELIZE, EMS])
def test_an_id_that_mysql_would_cut_is_refused(package: str, services: Services) -> None:
    """Outside of strict mode it would be written under another id: its beginning."""
    engine = create_engine(_url("pymysql", services))
    event.listen(engine, "connect", lambda made, _: made.query("SET SESSION sql_mode = ''"))
    with getattr(SQLSessionStore, package)(engine, check_expiration_interval=0) as store:
        store.sync()
        store.clear()
        longest = "a" * store.longest_sid
        store.set(longest, {"user": "ann"})
        too_long = store.key(Sid(f"{longest}b"))
        (mine,) = store.perform([Load(store.key(Sid(longest)))])
        for wrong in (
            Put(too_long, b"{}", later(store), {}),
            Insert(too_long, b"{}", later(store), {}),
            Replace(mine, b"{}", later(store), {}, too_long),
        ):
            for error in store.perform([wrong, wrong]):
                assert isinstance(error, ConfigurationError)
                assert "does not fit" in str(error)
                assert longest not in str(error)
        assert store.get(f"{longest}b") is None
        store.destroy(f"{longest}b")
        assert store.get(longest) == {"user": "ann"}
        store.clear()
    engine.dispose()


def test_an_expiry_without_a_zone_is_in_the_connections(services: Services) -> None:
    """As connect-pg-simple has it: `to_timestamp()` into a column that has no zone."""
    engine = create_engine(
        _url("psycopg", services), connect_args={"options": f"-c TimeZone={PARIS}"}
    )
    with SQLSessionStore.connect_pg_simple(engine, check_expiration_interval=0) as store:
        store.sync()
        store.clear()
        moment = datetime(2037, 7, 1, 12, tzinfo=UTC)
        store.set(SID, {"user": "ann"}, expires=moment)
        (row,) = rows(store)
        assert row["expire"] == datetime(2037, 7, 1, 14)  # noqa: DTZ001  summer in Paris
        (record,) = store.perform([Load(store.key(Sid(SID)))])
        assert record.expires == moment
        store.clear()
    engine.dispose()


async def test_a_column_that_was_made_jsonb_works(services: Services) -> None:
    """PostgreSQL then writes the text its own way; what was read is what a write is guarded by."""
    for driver in ("psycopg", "asyncpg"):
        async with AsyncSQLSessionStore.connect_pg_simple(
            services.url(driver), table_name="binary_json", check_expiration_interval=0
        ) as store:
            await store.sync()
            await in_transaction(
                store._opened.engine,
                text("ALTER TABLE binary_json ALTER COLUMN sess TYPE jsonb USING sess::jsonb"),
            )
            await store.set(SID, {"user": "ann", "a": [1, 2.5]})
            sids = [SID, *(f"{n:032}" for n in range(5))]
            await asyncio.gather(*(store.set(sid, {"n": 1}) for sid in sids[1:]))
            change = partial(dict.update, n=2)
            assert await asyncio.gather(*(store.update(sid, change) for sid in sids)) == [
                {"a": [1, 2.5], "user": "ann", "n": 2},
                *[{"n": 2}] * 5,
            ]
            assert (await store.get(SID) or {})["user"] == "ann"
            await in_transaction(store._opened.engine, text("DROP TABLE binary_json"))


@pytest.mark.parametrize(
    ("stored", "moment"),
    [
        ("2037-01-01 00:00:00.308 +00:00", datetime(2037, 1, 1, microsecond=308_000, tzinfo=UTC)),
        ("2037-01-01 02:00:00.308 +02:00", datetime(2037, 1, 1, microsecond=308_000, tzinfo=UTC)),
        ("2037-01-01 00:00:00.308123", datetime(2037, 1, 1, microsecond=308_123, tzinfo=UTC)),
        ("2037-01-01T00:00:00", datetime(2037, 1, 1, tzinfo=UTC)),
        ("2037-01-01T00:00:00Z", datetime(2037, 1, 1, tzinfo=UTC)),
    ],
)
def test_what_sequelize_reads_is_read(services: Services, stored: str, moment: datetime) -> None:
    """Other programs may have written it in SQLite."""
    with SQLSessionStore.connect_session_sequelize(
        _url("sqlite", services), check_expiration_interval=0
    ) as store:
        store.sync()
        store.set(SID, {})
        with store._opened.engine.begin() as connection:
            connection.execute(text("UPDATE Sessions SET expires = :stored"), {"stored": stored})
        (record,) = store.perform([Load(store.key(Sid(SID)))])
        assert record.expires == moment


@pytest.mark.parametrize(
    "moment", ["12020-04-06", "infinity", "-infinity", "0044-03-15 BC", "10000-01-01", "0001-01-01"]
)
async def test_a_moment_that_python_does_not_have(services: Services, moment: str) -> None:
    """connect-pg-simple writes the first with a `maxAge` of 10,000 years. In any zone, for both
    drivers: it is read, listed and swept, and hinders no other session.
    """
    live = "BC" not in moment and not moment.startswith(("-", "0"))
    for driver, make, zone in product(
        ("psycopg", "asyncpg"),
        (
            AsyncSQLSessionStore.connect_pg_simple,
            AsyncSQLSessionStore.connect_session_sequelize,
        ),
        ("Pacific/Kiritimati", "Pacific/Niue"),
    ):
        arguments: dict[str, Any] = {"server_settings": {"TimeZone": zone}}
        if driver == "psycopg":
            arguments = {"options": f"-c TimeZone={zone}"}
        engine = create_async_engine(_url(driver, services), connect_args=arguments)
        async with make(engine, table_name="far", check_expiration_interval=0) as store:
            await store.sync()
            expires = store._layout.expires
            await store.set(SID, {"user": "ann"})
            await store.set("b" * 32, {"user": "bob"})
            odd = update(store.table).where(store._layout.sid == SID)
            odd = odd.values({expires: text(f"'{moment}'")})
            await in_transaction(store._opened.engine, odd)
            assert await store.get(SID) == ({"user": "ann"} if live else None)
            await store.update(SID, lambda session: session.update(user="eve"))
            assert await store.all() == [{"user": "bob"}, *[{"user": "eve"}] * live]
            past = update(store.table).where(store._layout.sid != SID)
            past = past.values({expires: text("'2020-01-01'")})
            await in_transaction(store._opened.engine, past)
            assert await store.clear_expired_sessions() == 2 - live
            assert await store.length() == live
            await in_transaction(store._opened.engine, text("DROP TABLE far"))
        await engine.dispose()


@pytest.mark.parametrize(
    "odd", [1700000000000, "2020-13-45 00:00:00.000 +00:00", "2020-01-01", "", "12020-04-06"]
)
def test_a_moment_that_is_none_does_not_end_the_sweeping(services: Services, odd: object) -> None:
    """SQLite keeps whatever is written there, and Sequelize compares it as text."""
    with SQLSessionStore.connect_session_sequelize(
        _url("sqlite", services), check_expiration_interval=0
    ) as store:
        store.sync()
        store.clear()
        for sid in (f"{n:032}" for n in range(SWEEP_BATCH + 1)):
            store.set(sid, {}, expires=datetime(2020, 1, 2, tzinfo=UTC))
        store.set(SID, {"user": "ann"})
        with store._opened.engine.begin() as connection:
            connection.execute(
                text("UPDATE Sessions SET expires = :odd WHERE sid < :sid"),
                {"odd": odd, "sid": f"{SWEEP_BATCH // 2:032}"},
            )
        assert store.clear_expired_sessions() == SWEEP_BATCH + 1
        assert store.all() == [{"user": "ann"}]


def test_nor_does_the_zero_of_mysql(services: Services) -> None:
    """Which drivers read as text. Here a whole batch, and the next one goes on from there."""
    engine = create_engine(_url("pymysql", services))
    event.listen(engine, "connect", lambda made, _: made.query("SET SESSION sql_mode = ''"))
    with SQLSessionStore.connect_session_sequelize(engine, check_expiration_interval=0) as store:
        store.sync()
        store.clear()
        for n in range(SWEEP_BATCH + 1):
            store.set(f"{n:032}", {})
        with engine.begin() as connection:
            connection.execute(text("UPDATE Sessions SET expires = 0"))
        store.set(SID, {"user": "ann"})
        assert store.clear_expired_sessions() == SWEEP_BATCH + 1
        assert store.all() == [{"user": "ann"}]
        store.clear()
    engine.dispose()


def test_a_moment_is_cut_to_seconds_for_mysql() -> None:
    """As Sequelize does. MySQL would round it, MariaDB cuts by itself."""
    dialect = mysql.dialect()
    convert = CONNECT_SESSION_SEQUELIZE.expires.type.dialect_impl(dialect).bind_processor(dialect)
    assert convert is not None
    assert convert(datetime(2037, 1, 1, 0, 0, 0, 999_999)) == datetime(2037, 1, 1)  # noqa: DTZ001


def test_a_session_that_mysql_would_cut_is_refused(services: Services) -> None:
    """Sequelize's TEXT ends at 64 KiB there, and not on the others."""
    with SQLSessionStore.connect_session_sequelize(
        _url("pymysql", services), check_expiration_interval=0
    ) as store:
        store.sync()
        with pytest.raises(SessionTooLarge, match="65535"):
            store.set(SID, {"much": "x" * 65_535})
    with SQLSessionStore.connect_session_sequelize("sqlite://", max_size=70_000) as store:
        store.sync()
        store.set(SID, {"much": "x" * 65_535})
        assert store.max_size == 70_000


class TestOptions:
    @pytest.mark.parametrize(
        ("package", "message"),
        [
            (SIMPLE, "connect-pg-simple keeps its sessions in postgresql, not in sqlite"),
            (EMS, "express-mysql-session keeps its sessions in mysql, not in sqlite"),
        ],
    )
    def test_a_database_that_the_package_does_not_know(self, package: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            getattr(SQLSessionStore, package)("sqlite://")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"table": "sessions"}, "table can not be given: the layout of connect-session-seq"),
            ({"codec": JSONCodec()}, "codec can not be given"),
            ({"columns": ["userId"]}, "columns takes SQLAlchemy's Columns, not 'userId'"),
            ({"layout": "sequelize"}, "layout is a TableFormat, not 'sequelize'"),
            ({"expiration": 86_400_000}, "expiration is in seconds.* divided by 1000"),
            ({"mirror_fields": {"data": "x"}}, "can not write 'data'"),
            ({"mirror_fields": {"createdAt": "x"}}, "can not write 'createdAt'"),
            ({"mirror_fields": {"nothing": "x"}}, "no column 'nothing'"),
        ],
    )
    def test_what_can_not_work_is_refused(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            SQLSessionStore.connect_session_sequelize("sqlite://", **options)

    def test_more_than_a_year_is_meant_if_it_is_a_timedelta(self) -> None:
        """A number is what may have been copied from Express, where it is milliseconds."""
        for lasts in timedelta(days=1000), 365 * 86400:
            SQLSessionStore.connect_session_sequelize("sqlite://", expiration=lasts)
        SQLSessionStore("sqlite://", expiration=86_400_000)

    def test_sync_says_which_table_it_has_made(self, caplog: pytest.LogCaptureFixture) -> None:
        """The Express app has one; if that was not found, it has another name."""
        with SQLSessionStore.connect_session_sequelize("sqlite://", table_name="Typo") as store:
            store.sync()
            store.sync()
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        assert "made the table Typo for connect-session-sequelize" in record.getMessage()
        with SQLSessionStore("sqlite://") as store:
            store.sync()
        assert len(caplog.records) == 1

    def test_a_column_is_of_one_table_and_there_once(self) -> None:
        columns = [Column("userId", String(20))]
        SQLSessionStore.connect_session_sequelize("sqlite://", columns=columns)
        for wrong in (columns, [Column("sid", Integer)], [Column("a", Integer) for _ in range(2)]):
            with pytest.raises(ConfigurationError, match="make one for each store"):
                SQLSessionStore.connect_session_sequelize("sqlite://", columns=wrong)

    def test_a_layout_may_have_digests(self) -> None:
        """Whose length says nothing about ids. No other rule for keys is one that can be read."""
        hashed = replace(
            CONNECT_SESSION_SEQUELIZE,
            key_rule=HASHED,
            sid=FormatColumn("sid", LargeBinary(32)),
        )
        with SQLSessionStore("sqlite://", layout=hashed) as store:
            store.sync()
            store.set(SID, {"user": "ann"})
            assert store.get(SID) == {"user": "ann"}
            Lifecycle(store, SessionSettings(secret="a long and random secret"))
        with pytest.raises(ConfigurationError, match="key_rule is PLAIN or HASHED"):
            replace(CONNECT_SESSION_SEQUELIZE, key_rule=lambda sid: plain_key(f"s:{sid.value}"))

    def test_columns_need_a_layout(self) -> None:
        with pytest.raises(ConfigurationError, match="columns are for a table that has a layout"):
            SQLSessionStore("sqlite://", columns=[Column("a", Integer)])

    def test_a_table_of_another_kind_is_not_taken_over(self) -> None:
        metadata = MetaData()
        SQLSessionStore("sqlite://", registry=metadata)
        with pytest.raises(ConfigurationError, match="not laid out for connect-session-sequelize"):
            SQLSessionStore.connect_session_sequelize(
                "sqlite://", registry=metadata, table_name="sessions"
            )

    def test_two_stores_share_a_table(self) -> None:
        metadata = MetaData()
        first, second = (
            SQLSessionStore.connect_session_sequelize("sqlite://", registry=metadata)
            for _ in range(2)
        )
        assert first.table is second.table
