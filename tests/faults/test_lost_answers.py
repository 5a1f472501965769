"""A statement that the database carried out, and whose answer never came.

The wire is cut behind each command in turn, so that what is lost is the answer of the write itself
or of what a driver says before it (PREPARE) or after it (COMMIT). Whatever it was: the call ends as
if nothing had happened, and its work is done once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Column, DateTime, MetaData, String, Table, Text, func, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from tests.fixtures.services import Services
from tests.fixtures.wire import WireTap
from tests.sql.drivers import ALL, ASYNC, Face, Way, a_name, a_sid, dispose, on_servers, ways
from websessions.asgi import SessionMiddleware
from websessions.errors import StoreUnavailable
from websessions.sid import Sid
from websessions.store import Delete, Insert, Load, Put, Record, Replace, Scan, Sweep, Touch

SERVERS = on_servers(ALL)
LATER = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
CUTS = range(1, 5)
"""No call has more commands than this, on any driver."""


@contextlib.asynccontextmanager
async def tapped(
    services: Services, way: Way, *, app_engine: bool, table: Table | None = None
) -> AsyncIterator[tuple[Face, WireTap]]:
    with WireTap.of(way.url(services)) as tap:
        url = tap.through(way.url(services))
        engine: Any = way.engine(url) if app_engine else None
        options: dict[str, Any] = {"table_name": a_name()} if table is None else {"table": table}
        async with way.open(engine or url, **options) as store:
            yield store, tap
            assert store.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        if engine is not None:
            await dispose(engine)


@contextlib.contextmanager
def cut_behind(tap: WireTap, command: int) -> Any:
    """Within, the answer of that command is lost, if there are so many."""
    tap.cut_after(command)
    try:
        yield
    finally:
        tap.heal()


async def count(store: Face) -> int:
    [(number,)] = await store.rows(select(func.count()).select_from(store.store.table))
    return int(number)


OWNERS = pytest.mark.parametrize("app_engine", [False, True], ids=["URL", "app's engine"])


def table_without_version() -> Table:
    return Table(
        a_name(),
        MetaData(),
        Column("sid", String(64), primary_key=True),
        Column("expires", DateTime, nullable=False),
        Column("data", Text, nullable=False),
    )


@OWNERS
@ways(*SERVERS)
async def test_each_write_is_done_once(services: Services, way: Way, app_engine: bool) -> None:
    async with tapped(services, way, app_engine=app_engine) as (store, tap):
        await each_write(store, tap, versioned=True)


@ways(*SERVERS)
async def test_each_write_is_done_once_in_a_table_without_a_version(
    services: Services, way: Way
) -> None:
    table = table_without_version()
    async with tapped(services, way, app_engine=False, table=table) as (store, tap):
        await each_write(store, tap, versioned=False)


async def each_write(store: Face, tap: WireTap, *, versioned: bool) -> None:
    for command in CUTS:
        key, moved = Sid.new().digest(), Sid.new().digest()
        with cut_behind(tap, command):
            born = await store.ask(Insert(key, b'{"n": 1}', LATER, {}))
        assert isinstance(born, Record), "a lost answer is no collision"
        found = await store.ask(Load(key))
        assert (found.data, found.version) == (b'{"n": 1}', 1 if versioned else None)

        with cut_behind(tap, command):
            second = await store.ask(Replace(born, b'{"n": 2}', LATER, {}))
        assert isinstance(second, Record), "a lost answer is no conflict"
        found = await store.ask(Load(key))
        assert (found.data, found.version) == (second.data, second.version)
        assert found.data == b'{"n": 2}'

        with cut_behind(tap, command):
            third = await store.ask(Replace(second, b'{"n": 3}', LATER, {}, moved))
        assert isinstance(third, Record), "a lost answer is no logout"
        assert await store.ask(Load(key)) is None
        found = await store.ask(Load(moved))
        assert (found.key, found.data, found.version) == (moved, b'{"n": 3}', third.version)

        assert await store.ask(Replace(born, b"{}", LATER, {})) is None, "a real conflict stays one"
        with cut_behind(tap, command):
            assert await store.ask(Replace(second, b'{"n": 4}', LATER, {})) is None
        assert (await store.ask(Load(moved))).data == b'{"n": 3}'
        with cut_behind(tap, command):
            assert await store.ask(Insert(moved, b"other", LATER, {})) is None
        assert (await store.ask(Load(moved))).data == b'{"n": 3}'

        later = LATER + timedelta(hours=1)
        with cut_behind(tap, command):
            await store.ask(Touch(moved, later))
        assert (await store.ask(Load(moved))).expires == later

        with cut_behind(tap, command):
            await store.ask(Put(moved, b'{"n": 5}', LATER, {}))
        assert (await store.ask(Load(moved))).data == b'{"n": 5}'

        with cut_behind(tap, command):
            assert [record.key for record in await store.ask(Scan(None, 10))] == [moved]
        assert await store.ask(Load(key)) is None, "on a new connection, where it was the last word"

        with cut_behind(tap, command):
            await store.ask(Delete(moved))
        assert await store.ask(Load(moved)) is None

        past = datetime.now(UTC) - timedelta(hours=1)
        for _ in range(3):
            await store.ask(Put(Sid.new().digest(), b"{}", past, {}))
        with cut_behind(tap, command):
            await store.ask(Sweep(10))
        assert await count(store) == 0


@ways(*(way for way in SERVERS if way in ASYNC))
async def test_a_request_whose_write_has_no_answer_counts_once(
    services: Services, way: Way
) -> None:
    """Birth, change, login and logout, each with the wire cut behind each of their commands."""

    async def visit(request: Request) -> PlainTextResponse:
        request.session["n"] = request.session.get("n", 0) + 1
        return PlainTextResponse(str(request.session["n"]))

    async def login(request: Request) -> PlainTextResponse:
        request.session.regenerate()  # type: ignore[attr-defined]
        request.session["user_id"] = "ann"
        return PlainTextResponse("in")

    async def who(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.session.get("user_id")))

    async def logout(request: Request) -> PlainTextResponse:
        request.session.destroy()  # type: ignore[attr-defined]
        return PlainTextResponse("out")

    routes = [
        Route("/", visit),
        Route("/login", login),
        Route("/who", who),
        Route("/logout", logout),
    ]
    app = Starlette(routes=routes)
    async with tapped(services, way, app_engine=False) as (store, tap):
        wrapped = SessionMiddleware(app, store=store.store, secret="a long and random secret")  # type: ignore[arg-type]
        for command in range(1, 8):
            transport = httpx.ASGITransport(app=wrapped)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

                async def get(path: str, client: Any = client, command: int = command) -> str:
                    with cut_behind(tap, command):
                        return str((await client.get(path)).text)

                for expected in ("1", "2", "3"):
                    assert await get("/") == expected
                assert await get("/login") == "in"
                assert await get("/who") == "ann"
                assert await get("/") == "4"
                cookie = client.cookies["sid"]
                assert await get("/logout") == "out"
                client.cookies.set("sid", cookie)
                assert await get("/who") == "None"
            assert await count(store) == 0, "no row is left behind"


@ways(*(way for way in SERVERS if way in ASYNC))
async def test_calls_in_flight_together_each_end_well(services: Services, way: Way) -> None:
    """One of many connections dies with an answer that many may wait for."""
    sids = [a_sid() for _ in range(12)]
    async with tapped(services, way, app_engine=False) as (store, tap):
        await asyncio.gather(*(store.set(sid, {"n": 0}) for sid in sids))
        for command in range(1, 25, 2):
            with cut_behind(tap, command):
                seen = await asyncio.gather(*(store.ask(Load(Sid(sid).digest())) for sid in sids))
                data = f'{{"n": {command}}}'.encode()
                done = await asyncio.gather(
                    *(store.ask(Replace(record, data, LATER, {})) for record in seen)
                )
            assert all(isinstance(record, Record) for record in done)
            found = await asyncio.gather(*(store.get(sid) for sid in sids))
            assert found == [{"n": command}] * len(sids)


@ways(*SERVERS)
async def test_sync_whose_answer_is_lost_is_done(services: Services, way: Way) -> None:
    with WireTap.of(way.url(services)) as tap:
        for command in range(1, 40, 3):
            store = Face(way.store(tap.through(way.url(services)), table_name=a_name()))
            # Where it was connecting that failed, so may the app's start; the next one finds or
            # finishes what is there.
            with contextlib.suppress(StoreUnavailable), cut_behind(tap, command):
                await store.sync()
            await store.sync()
            await store.set(a_sid(), {"n": 1})
            assert await store.length() == 1
            await store.close()
