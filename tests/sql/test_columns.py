"""Columns of the app's own: `extend_default_fields` at insert, `mirror_fields` at every write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, DateTime, Integer, LargeBinary, MetaData, String, Table, Text, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from tests.fixtures.services import Services
from tests.sql.drivers import ALL, ASYNC, BY_ID, ONE_A_DATABASE, Face, Way, a_name, a_sid, ways
from websessions.asgi import SessionMiddleware
from websessions.errors import ConfigurationError, StoreError, ValueRefused
from websessions.sid import Key, Sid
from websessions.sql import SQLSessionStore
from websessions.store import Insert, Load, Put, Replace

SOON = datetime.now(UTC) + timedelta(days=1)


def app_table(*more: Column[Any]) -> Table:
    return Table(
        a_name(),
        MetaData(),
        Column("sid", String(64), primary_key=True),
        Column("expires", DateTime, nullable=False),
        Column("data", Text, nullable=False),
        Column("user_id", String(50)),
        Column("address", String(50)),
        Column("items", Integer),
        *more,
        mysql_charset="utf8mb4",
    )


async def row(store: Face, *names: str) -> Any:
    table = store.store.table
    [found] = await store.rows(select(*(table.c[name] for name in names)))
    return found[0] if len(names) == 1 else tuple(found)


# extend_default_fields


def extend(defaults: dict[str, Any], session: Mapping[str, Any]) -> dict[str, Any]:
    return {**defaults, "address": session.get("address"), "items": len(session.get("cart", ()))}


@ways(*ALL)
async def test_extended_fields_are_written_at_insert_and_left_alone(
    services: Services, way: Way
) -> None:
    sid = a_sid()
    async with way.open(
        way.url(services), table=app_table(), extend_default_fields=extend
    ) as store:
        await store.set(sid, {"address": "10.0.0.1", "cart": [1, 2]})
        assert await row(store, "address", "items") == ("10.0.0.1", 2)

        await store.set(sid, {"address": "10.0.0.2", "cart": []})
        seen = await store.ask(Load(Sid(sid).digest()))
        assert await store.ask(Replace(seen, b'{"address":"x"}', SOON, {"address": "x"}))
        await store.touch(sid)
        assert await row(store, "address", "items") == ("10.0.0.1", 2)

        await store.destroy(sid)
        await store.set(sid, {"address": "10.0.0.2"})
        assert await row(store, "address", "items") == ("10.0.0.2", 0), "a new row"


@ways(*ALL)
async def test_the_lifecycle_s_insert_extends_too(services: Services, way: Way) -> None:
    async with way.open(
        way.url(services), table=app_table(), extend_default_fields=extend
    ) as store:
        assert await store.ask(Insert(Sid.new().digest(), b"{}", SOON, {"address": "a"}))
        assert await row(store, "address", "items") == ("a", 0)


def test_the_function_gets_the_columns_and_the_session() -> None:
    got: list[Any] = []

    def remember(defaults: dict[str, Any], session: Mapping[str, Any]) -> dict[str, Any]:
        got.append((dict(defaults), dict(session)))
        return defaults

    with SQLSessionStore("sqlite://", extend_default_fields=remember) as store:
        store.sync()
        store.set(a_sid(), {"n": 1}, expires=SOON)
    [(defaults, session)] = got
    assert session == {"n": 1}
    assert set(defaults) == {"data", "expires"}
    assert '"n":1' in defaults["data"].replace(" ", "")


def test_the_function_can_not_change_the_session() -> None:
    def meddle(defaults: dict[str, Any], session: Any) -> dict[str, Any]:
        session["n"] = 2
        return defaults

    with SQLSessionStore("sqlite://", extend_default_fields=meddle) as store:
        store.sync()
        sid = a_sid()
        store.set(sid, {"n": 1})
        assert store.get(sid) == {"n": 1}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (lambda d: {k: v for k, v in d.items() if k != "data"}, "dropped 'data'"),
        (lambda d: {k: v for k, v in d.items() if k != "expires"}, "dropped 'expires'"),
        (lambda d: {}, "dropped"),
        (lambda d: {**d, "data": "{}"}, "changed 'data'"),
        (lambda d: {**d, "expires": SOON + timedelta(days=9)}, "changed 'expires'"),
        (lambda d: {**d, "expires": None}, "changed 'expires'"),
        (lambda d: {**d, "adress": 1, "nonsense": 2}, "'adress', 'nonsense'.* are address, items"),
        (lambda d: {**d, "sid": "x"}, "'sid'"),
        (lambda d: {**d, 5: "x"}, "5"),
        (lambda d: None, "it returned NoneType"),
        (lambda d: [("address", 1)], "it returned list"),
        (lambda d: "address", "it returned str"),
    ],
    ids=range(12),
)
@ways(BY_ID["sqlite"], BY_ID["asyncpg"])
async def test_a_result_that_can_not_be_written_is_an_error(
    services: Services, way: Way, returned: Any, said: str
) -> None:
    options: dict[str, Any] = {"extend_default_fields": lambda defaults, _: returned(defaults)}
    async with way.open(way.url(services), table=app_table(), **options) as store:
        with pytest.raises(ConfigurationError, match=said) as caught:
            await store.set(a_sid(), {"secret": "hunter2"})
        assert "hunter2" not in str(caught.value)
        assert await store.length() == 0


@ways(BY_ID["sqlite"], BY_ID["sqlite-thread"], BY_ID["asyncpg"])
async def test_the_function_s_own_error_is_its_caller_s(services: Services, way: Way) -> None:
    def fail(defaults: Any, session: Any) -> Any:
        raise LookupError("no such thing")

    async with way.open(way.url(services), table=app_table(), extend_default_fields=fail) as store:
        with pytest.raises(LookupError, match="no such thing"):
            await store.set(a_sid(), {})
        assert await store.length() == 0


async def test_one_call_s_error_is_not_its_neighbour_s(services: Services) -> None:
    def fail(defaults: Any, session: Any) -> Any:
        return None if session.get("bad") else defaults

    store = SQLSessionStore(services.url("psycopg"), table=app_table(), extend_default_fields=fail)
    store.sync()
    answers = store.perform(
        [Put(Sid.new().digest(), b"{}", SOON, {"bad": bad}) for bad in (False, True, False)]
    )
    assert [isinstance(answer, ConfigurationError) for answer in answers] == [False, True, False]
    assert store.length() == 2
    store.close()


# mirror_fields

MIRRORS: dict[str, Any] = {"user_id": "user", "items": lambda session: len(session.get("cart", ()))}


@ways(*ALL)
async def test_what_a_mirrored_column_can_not_take_is_refused(services: Services, way: Way) -> None:
    """And nothing is written of it. (SQLite's text has no length.)"""
    value = "\ud800" if way.driver in ("sqlite", "aiosqlite") else "x" * 60
    async with way.open(way.url(services), table=app_table(), mirror_fields=MIRRORS) as store:
        sid = a_sid()
        with pytest.raises(ValueRefused, match="refused what a session brings"):
            await store.set(sid, {"user": value})
        assert await store.get(sid) is None


@ways(*ALL)
async def test_mirrored_fields_follow_every_write(services: Services, way: Way) -> None:
    sid = a_sid()
    async with way.open(way.url(services), table=app_table(), mirror_fields=MIRRORS) as store:
        await store.set(sid, {"cart": [1]})
        assert await row(store, "user_id", "items") == (None, 1)
        await store.set(sid, {"user": "ann", "cart": [1, 2]})
        assert await row(store, "user_id", "items") == ("ann", 2)

        seen = await store.ask(Load(Sid(sid).digest()))
        seen = await store.ask(Replace(seen, b'{"user":"bob"}', SOON, {"user": "bob"}))
        assert await row(store, "user_id", "items") == ("bob", 0)
        assert await store.ask(Replace(seen, b"{}", SOON, {}, Sid.new().digest()))
        assert await row(store, "user_id", "items") == (None, 0)


@ways(*ALL)
async def test_a_value_that_goes_away_is_null(services: Services, way: Way) -> None:
    sid = a_sid()
    async with way.open(way.url(services), table=app_table(), mirror_fields=MIRRORS) as store:
        await store.set(sid, {"user": "ann"})
        await store.set(sid, {})
        assert await row(store, "user_id") is None


@ways(*ONE_A_DATABASE)
async def test_both_may_be_used(services: Services, way: Way) -> None:
    sid = a_sid()
    options: dict[str, Any] = {
        "extend_default_fields": lambda d, s: {**d, "address": "here", "user_id": "overruled"},
        "mirror_fields": {"user_id": "user"},
    }
    async with way.open(way.url(services), table=app_table(), **options) as store:
        await store.set(sid, {"user": "ann"})
        assert await row(store, "user_id", "address") == ("ann", "here")
        await store.set(sid, {"user": "bob"})
        assert await row(store, "user_id", "address") == ("bob", "here")


@pytest.mark.parametrize("name", ["nonsense", "User_id"])
def test_a_mirror_into_a_column_that_is_not_there_is_said_at_construction(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"no column '{name}'.*user_id"):
        SQLSessionStore("sqlite://", mirror_fields={name: "user"})


@pytest.mark.parametrize("name", ["sid", "data", "expires", "version", "sweep_after"])
def test_a_mirror_into_a_column_of_the_store_s_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"can not write '{name}'"):
        SQLSessionStore("sqlite://", mirror_fields={name: "user"})


@ways(BY_ID["sqlite"], BY_ID["psycopg-async"])
async def test_a_mirror_function_s_own_error_is_its_caller_s(services: Services, way: Way) -> None:
    options: dict[str, Any] = {"mirror_fields": {"user_id": lambda session: session["user"]}}
    async with way.open(way.url(services), table=app_table(), **options) as store:
        with pytest.raises(KeyError, match="user"):
            await store.set(a_sid(), {})


@ways(*ALL)
async def test_the_generated_table_mirrors_the_user_id(services: Services, way: Way) -> None:
    """As text, whatever it is: numbers and UUIDs are what apps have."""
    sid = a_sid()
    async with way.open(way.url(services), table_name=a_name()) as store:
        await store.set(sid, {"user_id": 7})
        assert await row(store, "user_id") == "7"
        await store.set(sid, {})
        assert await row(store, "user_id") is None


def test_the_user_id_may_be_mirrored_from_elsewhere() -> None:
    with SQLSessionStore("sqlite://", mirror_fields={"user_id": "owner"}) as store:
        store.sync()
        store.set(a_sid(), {"owner": "ann", "user_id": 7})
        [model] = _rows(store)
        assert model == ("ann",)


def test_an_app_that_extends_decides_about_the_user_id_itself() -> None:
    options: Any = {"extend_default_fields": lambda d, s: {**d, "user_id": s.get("owner")}}
    with SQLSessionStore("sqlite://", **options) as store:
        store.sync()
        store.set(a_sid(), {"owner": "ann", "user_id": 7})
        assert _rows(store) == [("ann",)]


def _rows(store: SQLSessionStore) -> list[Any]:
    with store._opened.engine.connect() as connection:
        return list(map(tuple, connection.execute(select(store.table.c.user_id))))


@ways(*ASYNC)
async def test_a_login_through_the_middleware_is_mirrored(services: Services, way: Way) -> None:
    """The user id that is known only after login, and a logout that keeps the session."""

    async def visit(request: Request) -> JSONResponse:
        request.session["visits"] = request.session.get("visits", 0) + 1
        return JSONResponse({})

    async def login(request: Request) -> JSONResponse:
        request.session.regenerate()  # type: ignore[attr-defined]
        request.session["user_id"] = "ann"
        return JSONResponse({})

    async def forget(request: Request) -> JSONResponse:
        del request.session["user_id"]
        return JSONResponse({})

    routes = [Route("/", visit), Route("/login", login), Route("/forget", forget)]
    app = Starlette(routes=routes)
    async with way.open(way.url(services), table_name=a_name()) as store:
        wrapped = SessionMiddleware(app, store=store.store, secret="a long and random secret")  # type: ignore[arg-type]
        transport = httpx.ASGITransport(app=wrapped)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for path, expected in (("/", None), ("/login", "ann"), ("/", "ann"), ("/forget", None)):
                assert (await client.get(path)).status_code == 200
                assert await row(store, "user_id") == expected


# Columns that nobody fills


@ways(*ALL)
async def test_a_column_that_must_not_be_null_and_is_not_filled_is_a_clear_error(
    services: Services, way: Way
) -> None:
    table = app_table(Column("tenant", String(20), nullable=False))
    async with way.open(way.url(services), table=table) as store:
        with pytest.raises(StoreError, match="refused") as caught:
            await store.set(a_sid(), {"password": "hunter2"})
        assert "hunter2" not in str(caught.value)
        with pytest.raises(StoreError, match="refused"):
            await store.ask(Insert(Sid.new().digest(), b"{}", SOON, {}))
        assert await store.length() == 0


@ways(*ONE_A_DATABASE)
async def test_a_value_that_does_not_fit_its_column_does_not_leak(
    services: Services, way: Way
) -> None:
    table = app_table(Column("tenant", LargeBinary))
    options: dict[str, Any] = {"mirror_fields": {"tenant": "tenant"}}
    async with way.open(way.url(services), table=table, **options) as store:
        with pytest.raises((StoreError, TypeError, AttributeError)) as caught:
            await store.set(a_sid(), {"tenant": {"password": "hunter2"}})
        if isinstance(caught.value, StoreError):
            assert "hunter2" not in str(caught.value)
        assert await store.length() == 0


@ways(*ALL)
async def test_columns_are_computed_in_the_context_of_their_own_request(
    way: Way, services: Services
) -> None:
    """`flask.request` and its like are context variables: each row gets its own visitor's."""
    visitor: ContextVar[str] = ContextVar("visitor")

    def extend(defaults: dict[str, Any], session: Any) -> dict[str, Any]:
        return {**defaults, "address": visitor.get("nobody")}

    table = app_table()
    names = [f"visitor {number}" for number in range(12)]
    async with way.open(way.url(services), table=table, extend_default_fields=extend) as face:
        store: Any = face.store

        async def begin(name: str) -> None:
            visitor.set(name)
            call = Insert(Key(name.encode().ljust(32)), b"{}", SOON, {})
            if way.asynchronous:
                [record] = await store.perform([call])
            else:
                [record] = await asyncio.to_thread(store.perform, [call])
            assert record is not None

        await asyncio.gather(*map(begin, names))
        rows = await face.rows(select(table.c.sid, table.c.address))
    found = {bytes.fromhex(sid).strip().decode(): address for sid, address in rows}
    assert found == {name: name for name in names}
