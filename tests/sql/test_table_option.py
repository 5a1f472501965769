"""`table`, `registry`, `table_name`, `schema`: which table it is, and what is wrong with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import (
    JSON,
    Column,
    Date,
    DateTime,
    Enum,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    orm,
    text,
)
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, declarative_base, mapped_column

from tests.fixtures.services import Services
from tests.sql.drivers import ALL, ONE_A_DATABASE, Way, a_name, a_sid, in_transaction, ways
from websessions.errors import ConfigurationError
from websessions.sid import Sid
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Load, Lock, Replace, Unlock

BINARY = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")

TEXT = String(64)
HOLDER = String(32)

BOTH = pytest.mark.parametrize("kind", [SQLSessionStore, AsyncSQLSessionStore])


def store(**options: Any) -> SQLSessionStore:
    return SQLSessionStore("sqlite://", check_expiration_interval=None, **options)


def node_table(metadata: MetaData, name: str = "sessions", **changes: Any) -> Table:
    """The three required columns; a change replaces one, None leaves it out."""
    columns: dict[str, Any] = {
        "sid": Column("sid", String(64), primary_key=True),
        "expires": Column("expires", DateTime, nullable=False),
        "data": Column("data", Text, nullable=False),
        **changes,
    }
    return Table(name, metadata, *(column for column in columns.values() if column is not None))


class Base(DeclarativeBase):
    pass


class WebSession(Base):
    __tablename__ = "web_sessions"
    sid: Mapped[str] = mapped_column(String(64), primary_key=True)
    expires: Mapped[datetime]
    data: Mapped[str] = mapped_column(Text)


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)


# Which table


def test_a_table_is_taken_as_it_is() -> None:
    table = node_table(MetaData())
    assert store(table=table).table is table


def test_a_mapped_class_is_taken_with_its_table() -> None:
    made = store(table=WebSession)
    assert made.table is WebSession.__table__
    assert made.model is WebSession


@pytest.mark.parametrize("registry", [Base, Base.registry], ids=["DeclarativeBase", "registry"])
def test_a_class_is_found_by_its_name(registry: Any) -> None:
    assert store(table="WebSession", registry=registry).model is WebSession


@pytest.mark.parametrize(
    "registry",
    [Base, Base.registry, Base.metadata],
    ids=["DeclarativeBase", "registry", "MetaData"],
)
def test_a_table_is_found_by_its_name(registry: Any) -> None:
    made = store(table="web_sessions", registry=registry)
    assert made.table is WebSession.__table__
    if registry is not Base.metadata:
        assert made.model is WebSession


def test_a_table_in_a_schema_is_found_by_its_full_name() -> None:
    metadata = MetaData()
    table = Table(
        "s",
        metadata,
        Column("sid", String(64), primary_key=True),
        Column("expires", DateTime),
        Column("data", Text),
        schema="web",
    )
    assert store(table="web.s", registry=metadata).table is table


def test_an_older_base_will_do() -> None:
    old: Any = declarative_base()
    made = store(registry=old, model_key="Visit", table_name="visits")
    assert issubclass(made.model, old)


@BOTH
def test_a_name_that_is_not_there_is_said_with_those_that_are(kind: Any) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind("sqlite://", table="WebSesion", registry=Base)
    for name in ("WebSesion", "WebSession", "User", "web_sessions", "users"):
        assert name in str(caught.value)


def test_an_empty_registry_says_so() -> None:
    with pytest.raises(ConfigurationError, match="none at all"):
        store(table="x", registry=MetaData())


def test_a_name_without_a_registry_says_what_to_pass() -> None:
    with pytest.raises(ConfigurationError, match="registry="):
        store(table="WebSession")


@pytest.mark.parametrize("table", [5, object(), b"sessions", ["sessions"]])
def test_what_is_no_table_is_refused(table: Any) -> None:
    with pytest.raises(ConfigurationError, match="table takes"):
        store(table=table)


@pytest.mark.parametrize("table", [int, Base, dict])
def test_a_class_that_is_not_mapped_is_refused(table: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{table.__name__} is not a mapped class"):
        store(table=table)


@pytest.mark.parametrize("registry", [5, "Base", object(), int])
def test_what_is_no_registry_is_refused(registry: Any) -> None:
    with pytest.raises(ConfigurationError, match="registry takes"):
        store(registry=registry)
    with pytest.raises(ConfigurationError, match="registry takes"):
        store(table="sessions", registry=registry)


@pytest.mark.parametrize("options", [{"table_name": "x"}, {"schema": "x"}])
def test_a_table_of_the_app_s_has_its_own_name(options: Any) -> None:
    with pytest.raises(ConfigurationError, match="generated table"):
        store(table=node_table(MetaData()), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"model_key": 5},
        {"model_key": "not a name"},
        {"model_key": ""},
        {"extend_default_fields": {"a": 1}},
        {"mirror_fields": ["user_id"]},
        {"mirror_fields": {"user_id": 5}},
        {"mirror_fields": "user_id"},
        {"table_name": 5},
        {"table_name": ""},
        {"schema": 5},
        {"timeout": 0},
        {"timeout": -1},
        {"timeout": "10"},
        {"codec": object()},
    ],
    ids=repr,
)
@BOTH
def test_an_option_that_can_not_work_is_named(kind: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(options))):
        kind("sqlite://", **options)


@BOTH
def test_an_unknown_option_is_a_type_error(kind: Any) -> None:
    with pytest.raises(TypeError, match="expiraton"):
        kind("sqlite://", expiraton=5)


# What is wrong with it


@pytest.mark.parametrize("missing", ["sid", "expires", "data"])
def test_a_missing_column_is_named(missing: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'sessions' has no column named {missing}"):
        store(table=node_table(MetaData(), "sessions", **dict.fromkeys([missing])))


def test_missing_columns_are_all_named_beside_those_that_are_there() -> None:
    with pytest.raises(ConfigurationError) as caught:
        store(table=User)
    message = str(caught.value)
    for name in ("'users'", "sid", "expires", "data", "id"):
        assert name in message


def previous(
    *, key: Any = TEXT, until: Any = DateTime, nullable: bool = True, index: bool = True
) -> dict[str, Any]:
    """The two columns by which a session is found in the grace of its previous id."""
    return {
        "previous_key": Column("previous_key", key, nullable=nullable, index=index),
        "previous_until": Column("previous_until", until, nullable=nullable),
    }


def lock(*, by: Any = HOLDER, until: Any = DateTime, nullable: bool = True) -> dict[str, Any]:
    """The two columns of a session's lock."""
    return {
        "locked_by": Column("locked_by", by, nullable=nullable),
        "locked_until": Column("locked_until", until, nullable=nullable),
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sid": Column("sid", String(64))}, "sid has to be the primary key, or unique"),
        ({"sid": Column("sid", String(32), primary_key=True)}, "sid takes 32 characters"),
        ({"sid": Column("sid", Integer, primary_key=True)}, "sid has to be a String"),
        ({"expires": Column("expires", Date)}, "expires has to be a DateTime"),
        ({"expires": Column("expires", Integer)}, "expires has to be a DateTime"),
        ({"data": Column("data", JSON)}, "a JSON type does not keep them"),
        ({"data": Column("data", Integer)}, "data has to be a text or a binary column"),
        (previous(key=String(32)), "previous_key takes 32 characters"),
        (previous(key=Integer), "previous_key has to be a String"),
        (previous(until=Date), "previous_until has to be a DateTime"),
        (previous(nullable=False), "have to be nullable"),
        (previous(index=False), "previous_key needs an index"),
        (lock(by=String(16)), r"locked_by has to be a String\(32\)"),
        (lock(by=Integer), r"locked_by has to be a String\(32\)"),
        (lock(by=Enum("me")), r"locked_by has to be a String\(32\)"),
        (lock(until=Date), "locked_until has to be a DateTime"),
        (lock(nullable=False), "locked_by and locked_until have to be nullable"),
    ],
)
def test_a_column_that_can_not_do_its_work_is_named(change: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        store(table=node_table(MetaData(), **change))


@pytest.mark.parametrize(
    "unique",
    [
        lambda: [Column("sid", String(64), unique=True), Column("id", Integer, primary_key=True)],
        lambda: [
            Column("sid", String(64)),
            Column("id", Integer, primary_key=True),
            UniqueConstraint("sid"),
        ],
        lambda: [
            Column("sid", String(64)),
            Column("id", Integer, primary_key=True),
            Index("sid_index", "sid", unique=True),
        ],
        lambda: [Column("sid", String(64)), PrimaryKeyConstraint("sid")],
    ],
    ids=["column", "constraint", "index", "primary key"],
)
def test_a_unique_sid_is_as_good_as_a_primary_key(unique: Any) -> None:
    table = Table("t", MetaData(), *unique(), Column("expires", DateTime), Column("data", Text))
    made = store(table=table)
    made.sync()
    sid = a_sid()
    made.set(sid, {"n": 1})
    made.set(sid, {"n": 2})
    assert made.get(sid) == {"n": 2}
    made.close()


@pytest.mark.parametrize(
    "columns",
    [
        [Column("a", Integer, primary_key=True), Column("sid", String(64), primary_key=True)],
        [
            Column("a", Integer, primary_key=True),
            Column("sid", String(64)),
            UniqueConstraint("a", "sid"),
        ],
    ],
    ids=["primary key of two", "constraint on two"],
)
def test_a_sid_that_is_unique_with_another_column_only_is_refused(columns: Any) -> None:
    table = Table("t", MetaData(), *columns, Column("expires", DateTime), Column("data", Text))
    with pytest.raises(ConfigurationError, match="sid has to be the primary key, or unique"):
        store(table=table)


# The generated table


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "sessions"),
        ({"model_key": "WebVisit"}, "web_visits"),
        ({"model_key": "HTTPSession"}, "httpsessions"),
        ({"table_name": "visits"}, "visits"),
        ({"model_key": "Visit", "table_name": "things"}, "things"),
    ],
)
def test_the_generated_table_is_named_after_the_class(options: Any, name: str) -> None:
    assert store(**options).table.name == name


def test_the_generated_table_is_put_where_the_app_says() -> None:
    metadata = MetaData()
    assert store(registry=metadata).table is metadata.tables["sessions"]


def test_two_stores_on_one_metadata_may_share_the_table_or_not() -> None:
    metadata = MetaData()
    one, same = store(registry=metadata), store(registry=metadata)
    other = store(registry=metadata, model_key="Other")
    assert one.table is same.table
    assert sorted(metadata.tables) == ["others", "others_lease", "sessions", "sessions_lease"]
    assert other.table is not one.table


def test_two_stores_that_would_share_a_table_but_not_a_codec_are_refused() -> None:
    class Binary:
        is_text = False

        def encode(self, document: Any) -> bytes:
            return repr(document).encode()

        def decode(self, data: bytes) -> Any:
            return {}

    metadata = MetaData()
    store(registry=metadata)
    with pytest.raises(ConfigurationError, match="codec makes binary data"):
        store(registry=metadata, codec=Binary())


def test_a_table_of_the_app_s_is_not_taken_for_a_generated_one() -> None:
    metadata = MetaData()
    node_table(metadata)
    with pytest.raises(ConfigurationError, match="table='sessions'"):
        store(registry=metadata)


@ways(*(way for way in ALL if way.database == "postgresql"))
async def test_a_schema_holds_the_table(services: Services, way: Way) -> None:
    schema = a_name("schema")
    async with way.open(way.url(services), table_name=a_name()) as store:
        await in_transaction(store.engine, text(f"CREATE SCHEMA {schema}"))
    name = a_name()
    async with way.open(way.url(services), table_name=name, schema=schema) as store:
        sid = a_sid()
        await store.set(sid, {"n": 1})
        await store.sync()
        assert await store.get(sid) == {"n": 1}
        assert await store.rows(text(f"SELECT count(*) FROM {schema}.{name}")) == [(1,)]
        assert store.store.table.fullname == f"{schema}.{name}"


def test_an_attached_database_is_a_schema_of_sqlite(tmp_path: Any) -> None:
    from sqlalchemy import create_engine, event

    engine = create_engine(f"sqlite:///{tmp_path}/main.db")

    @event.listens_for(engine, "connect")
    def attach(connection: Any, _: object) -> None:
        connection.execute(f"ATTACH '{tmp_path}/web.db' AS web")

    with SQLSessionStore(engine, schema="web") as made:
        made.sync()
        made.sync()
        made.set(a_sid(), {"n": 1})
        assert made.length() == 1
        assert made.clear_expired_sessions() == 0
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM web.sessions")) == 1
    engine.dispose()


# What a table can do


@pytest.mark.parametrize(
    ("columns", "has_it"),
    [
        ({}, False),
        (previous(), True),
        (previous(key=BINARY), True),
        ({"previous_key": Column("previous_key", Integer)}, False),
        ({"previous_until": Column("previous_until", Integer)}, False),
    ],
    ids=["none", "both", "of another kind than sid", "the key alone", "the moment alone"],
)
@ways(*ONE_A_DATABASE)
async def test_a_table_with_both_columns_gives_a_previous_id_its_grace(
    services: Services, way: Way, columns: dict[str, Any], has_it: bool
) -> None:
    columns = {name: column._copy() for name, column in columns.items()}
    sid, new = Sid(a_sid()), Sid(a_sid())
    async with way.open(
        way.url(services), table=node_table(MetaData(), a_name(), **columns)
    ) as store:
        await store.sync()
        await store.set(sid.value, {"n": 1})
        seen = await store.ask(Load(sid.digest()))
        until = datetime.now(UTC) + timedelta(minutes=1)
        assert await store.ask(Replace(seen, seen.data, seen.expires, {}, new.digest(), until))
        assert await store.get(new.value) == {"n": 1}
        assert (await store.get(sid.value) is not None) is has_it
        await store.destroy(sid.value)
        assert (await store.get(new.value) is None) is has_it


@pytest.mark.parametrize(
    ("columns", "has_it"),
    [
        ({}, False),
        (lock(), True),
        (lock(by=Text), True),
        (lock(until=DateTime(timezone=True)), True),
        ({"locked_by": Column("locked_by", Integer)}, False),
        ({"locked_until": Column("locked_until", Integer)}, False),
    ],
    ids=["none", "both", "long", "with a zone", "the holder alone", "the moment alone"],
)
@ways(*ONE_A_DATABASE)
async def test_a_table_with_both_columns_locks_sessions(
    services: Services, way: Way, columns: dict[str, Any], has_it: bool
) -> None:
    columns = {name: column._copy() for name, column in columns.items()}
    sid, until = Sid(a_sid()), datetime.now(UTC) + timedelta(minutes=1)
    async with way.open(
        way.url(services), table=node_table(MetaData(), a_name(), **columns)
    ) as store:
        await store.sync()
        await store.set(sid.value, {"n": 1})
        assert store.store.locks is has_it
        if not has_it:
            for call in (Lock(sid.digest(), "me", until), Unlock(sid.digest(), "me")):
                with pytest.raises(ConfigurationError, match="locked_by"):
                    await store.ask(call)
            return
        assert await store.ask(Lock(sid.digest(), "me", until)) is True
        assert await store.ask(Lock(sid.digest(), "you", until)) is False
        assert await store.ask(Unlock(sid.digest(), "me")) is True


# Each shape of table does the work


def shapes() -> list[Any]:
    return [
        pytest.param(lambda n: node_table(MetaData(), n), id="Node's"),
        pytest.param(
            lambda n: Table(
                n,
                MetaData(),
                Column("sid", String(64), primary_key=True),
                Column("expires", DateTime(timezone=True), nullable=False),
                Column("data", Text, nullable=False),
                Column("version", Integer, nullable=False),
            ),
            id="with a version",
        ),
        pytest.param(
            lambda n: node_table(
                MetaData(),
                n,
                sid=Column("sid", String(64), nullable=False, unique=True),
                id=Column("id", Integer, primary_key=True),
            ),
            id="with a number",
        ),
    ]


@pytest.mark.parametrize("shape", shapes())
@ways(*ALL)
async def test_a_table_of_the_app_s_is_enough(services: Services, way: Way, shape: Any) -> None:
    sid, other = a_sid(), a_sid()
    async with way.open(way.url(services), table=shape(a_name())) as store:
        await store.sync()
        await store.set(sid, {"n": 1})
        await store.set(sid, {"n": 2})
        await store.set(other, {"n": 3})
        assert await store.get(sid) == {"n": 2}
        assert sorted(session["n"] for session in await store.all()) == [2, 3]
        assert await store.length() == 2
        await store.touch(sid)
        await store.destroy(sid)
        assert await store.get(sid) is None
        assert await store.clear_expired_sessions() == 0
        await store.clear()
        assert await store.length() == 0


@ways(*ONE_A_DATABASE)
async def test_a_registry_of_orm_maps_the_generated_table(services: Services, way: Way) -> None:
    registry = orm.registry()
    async with way.open(way.url(services), registry=registry, table_name=a_name()) as store:
        assert [mapper.class_ for mapper in registry.mappers] == [store.store.model]
