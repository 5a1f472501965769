"""What `db` takes: a URL, an Engine, an AsyncEngine; anything else is said at construction."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, make_url
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import StaticPool

from tests.fixtures.services import Services
from tests.sql.drivers import ALL, Face, Way, a_name, a_sid, dispose, on_servers, ways
from websessions.errors import ConfigurationError, StoreError
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore

PASSWORD = "hunter2-hunter2"
BOTH = pytest.mark.parametrize("kind", [SQLSessionStore, AsyncSQLSessionStore])


def everything_said(error: BaseException | None) -> str:
    """The message of an error and of all that led to it."""
    text = ""
    while error is not None:
        text += f"{error!r} {error}\n"
        error = error.__cause__ or error.__context__
    return text


@ways(*ALL)
async def test_a_url_is_enough(services: Services, way: Way) -> None:
    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(sid, {"cart": [1]})
        assert await store.get(sid) == {"cart": [1]}


@ways(*ALL)
async def test_a_url_may_be_sqlalchemy_s_own_object(services: Services, way: Way) -> None:
    async with way.open(make_url(way.url(services)), table_name=a_name()) as store:
        assert await store.length() == 0


@ways(*ALL)
async def test_an_engine_will_do(services: Services, way: Way) -> None:
    engine = way.engine(way.url(services))
    sid = a_sid()
    async with way.open(engine, table_name=a_name()) as store:
        await store.set(sid, {"cart": [1]})
        assert await store.get(sid) == {"cart": [1]}
    await dispose(engine)


@pytest.mark.parametrize(
    ("scheme", "kind", "driver"),
    [
        ("postgresql", SQLSessionStore, "psycopg"),
        ("postgres", SQLSessionStore, "psycopg"),
        ("postgresql", AsyncSQLSessionStore, "asyncpg"),
        ("mysql", SQLSessionStore, "pymysql"),
        ("mariadb", SQLSessionStore, "pymysql"),
        ("mysql", AsyncSQLSessionStore, "asyncmy"),
        ("mariadb", AsyncSQLSessionStore, "asyncmy"),
        ("sqlite", AsyncSQLSessionStore, "pysqlite"),
    ],
)
def test_a_url_without_a_driver_gets_a_good_one(scheme: str, kind: Any, driver: str) -> None:
    url = "sqlite://" if scheme == "sqlite" else f"{scheme}://me@127.0.0.1/x"
    store = kind(url, check_expiration_interval=None)
    assert store._opened.engine.dialect.driver == driver


@BOTH
@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
def test_without_the_first_driver_the_next_installed_one_is_taken(
    monkeypatch: pytest.MonkeyPatch, kind: Any, scheme: str
) -> None:
    first = kind(f"{scheme}://me@127.0.0.1/x")._opened.engine.dialect.dbapi
    name = getattr(first, "__name__", type(first).__module__.rpartition(".")[2])
    monkeypatch.setitem(sys.modules, name, None)
    installed = second_driver(kind, scheme)
    assert installed != name


def second_driver(kind: Any, scheme: str) -> str:
    """The driver that is taken, or what is said where none of the others is installed."""
    try:
        return str(kind(f"{scheme}://me@127.0.0.1/x")._opened.engine.dialect.driver)
    except ConfigurationError as error:
        return str(error)


@BOTH
@pytest.mark.parametrize(
    ("db", "said"),
    [
        (None, "db is missing"),
        (5, "not int"),
        (object(), "not object"),
        (b"sqlite://", "not bytes"),
        (Path("sessions.db"), "Path"),
        ("", "no database URL"),
        ("sessions.db", "no database URL"),
        ("nosql://host/x", "can not be used"),
        ("postgresql+nosuchdriver://host/x", "can not be used"),
        ("sqlite+nosuchdriver:///x.db", "can not be used"),
        ("postgresql://host:port/x", "no database URL"),
        ("sqlite:////no/such/folder/x.db", "/no/such/folder"),
        ("sqlite:////tmp", "is a folder"),
    ],
)
def test_what_is_no_database_is_said_at_construction(kind: Any, db: Any, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        kind(db)


@BOTH
def test_nothing_at_all_is_said_at_construction(kind: Any) -> None:
    with pytest.raises(ConfigurationError, match="db is missing"):
        kind()


@pytest.mark.parametrize("driver", ["asyncpg", "asyncmy", "aiosqlite"])
def test_an_async_driver_in_a_sync_store_is_refused(services: Services, driver: str) -> None:
    with pytest.raises(ConfigurationError, match="AsyncSQLSessionStore"):
        SQLSessionStore(services.url(driver))


async def test_an_async_engine_in_a_sync_store_is_refused(services: Services) -> None:
    engine = create_async_engine(services.url("aiosqlite"))
    with pytest.raises(ConfigurationError, match="AsyncSQLSessionStore"):
        SQLSessionStore(engine)  # type: ignore[arg-type]
    await engine.dispose()


@BOTH
async def test_the_sync_side_of_an_async_engine_is_refused(services: Services, kind: Any) -> None:
    engine = create_async_engine(services.url("aiosqlite"))
    with pytest.raises(ConfigurationError, match="AsyncEngine"):
        kind(engine.sync_engine)
    await engine.dispose()


async def test_a_sync_driver_in_an_async_store_works_in_a_thread(services: Services) -> None:
    sid = a_sid()
    async with AsyncSQLSessionStore(services.url("pymysql"), table_name=a_name()) as store:
        await store.sync()
        await store.set(sid, {"a": 1})
        assert await store.get(sid) == {"a": 1}


def test_a_memory_database_for_each_thread_is_refused_in_an_async_store() -> None:
    engine = create_engine("sqlite://")
    with pytest.raises(ConfigurationError, match="StaticPool"):
        AsyncSQLSessionStore(engine)
    engine.dispose()


@BOTH
@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql+psycopg://me@h/x", "psycopg", "postgres"),
        ("mysql+pymysql://me@h/x", "pymysql", "mysql"),
    ],
)
def test_a_missing_driver_is_said_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, kind: Any, url: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'websessions\[{extra}\]'"):
        kind(url)


@pytest.mark.parametrize(
    ("url", "module", "extra"),
    [
        ("postgresql+asyncpg://me@h/x", "asyncpg", "asyncpg"),
        ("mysql+asyncmy://me@h/x", "asyncmy", "asyncmy"),
        ("sqlite+aiosqlite://", "aiosqlite", "aiosqlite"),
    ],
)
def test_a_missing_async_driver_is_said_with_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, url: str, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigurationError, match=rf"pip install 'websessions\[{extra}\]'"):
        AsyncSQLSessionStore(url)


@BOTH
@pytest.mark.parametrize(
    "url",
    [
        "nosql://me:{}@host/x",
        "postgresql+nosuchdriver://me:{}@host/x",
        "postgresql://me:{}@host:port/x",
        "postgresql:/me:{}@host/x",
        "me:{}@host/x",
    ],
)
def test_no_message_holds_the_password(kind: Any, url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(url.format(PASSWORD))
    assert PASSWORD not in str(caught.value)
    assert PASSWORD not in repr(caught.value)


@ways(*on_servers(ALL))
async def test_a_database_that_refuses_does_not_tell_the_password(
    services: Services, way: Way
) -> None:
    url = make_url(way.url(services)).set(port=1, password=PASSWORD)
    with pytest.raises(StoreError) as caught:
        async with way.open(url):
            pass
    assert PASSWORD not in everything_said(caught.value)


@ways(*(way for way in on_servers(ALL) if way.driver != "asyncpg"))
async def test_what_the_url_says_about_connecting_counts(
    services: Services, way: Way, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store's own settings of a connection give way to those in the URL."""
    url = make_url(way.url(services)).update_query_dict({"connect_timeout": "7"})
    face = Face(way.store(url, timeout=30, table_name=a_name()))
    asked: list[dict[str, Any]] = []
    dbapi: Any = face.engine.dialect.dbapi
    if way.id == "psycopg":
        # Its connections are made by a class of the store's own.
        connect = dbapi.Connection.connect.__func__

        def connect_and_tell(kind: Any, *args: Any, **kwargs: Any) -> Any:
            asked.append(kwargs)
            return connect(kind, *args, **kwargs)

        monkeypatch.setattr(dbapi.Connection, "connect", classmethod(connect_and_tell))
    else:
        event.listen(
            face.engine, "do_connect", lambda d, r, args, kwargs: asked.append(dict(kwargs))
        )
    await face.sync()
    await face.close()
    assert str(asked[0]["connect_timeout"]) == "7"


async def test_a_memory_database_is_one_for_all_threads() -> None:
    sid = a_sid()
    async with AsyncSQLSessionStore("sqlite://") as store:
        await store.sync()
        await store.set(sid, {"a": 1})
        assert await store.get(sid) == {"a": 1}


async def test_an_app_s_memory_database_works() -> None:
    engine = create_engine(
        "sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False}
    )
    sid = a_sid()
    async with AsyncSQLSessionStore(engine) as store:
        await store.sync()
        await store.set(sid, {"a": 1})
        assert await store.get(sid) == {"a": 1}
    engine.dispose()
