"""Promise 1: what a handler put into the session before its response began is in the database
before the first byte of that response leaves, whatever its status. A handler that raises saves
nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from tests.adapters.by_hand import Connection, Message
from tests.adapters.kit import SECRET, Boom
from tests.fixtures.services import Services
from websessions import Session, Sid, asgi, wsgi
from websessions.asgi import ASGIApp, Receive, Scope, Send
from websessions.cookie import SignedValue
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.wsgi import ENVIRON_KEY

STATUSES = [200, 204, 303, 404, 500, 503]


def rows(url: str, table: str) -> int:
    """Rows of the table, counted by a connection that has nothing to do with the store."""
    query = f"SELECT count(*) FROM {table}"
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        other = sqlite3.connect(parsed.database or "")
        try:
            return int(other.execute(query).fetchone()[0])
        finally:
            other.close()
    plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        [count] = connection.execute(query.encode()).fetchone() or [None]
        return int(count or 0)


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg", "psycopg"])
@pytest.mark.parametrize("status", STATUSES)
async def test_over_asgi(services: Services, driver: str, status: int) -> None:
    url = services.url(driver)
    async with make_async_store(url) as store:
        await store.sync()
        seen: list[tuple[str, int]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["user_id"] = 7
            await send({"type": "http.response.start", "status": status})
            await send({"type": "http.response.body", "body": b"x"})

        async def watch(message: Message) -> None:
            seen.append((message["type"], rows(url, store.table.name)))

        before = rows(url, store.table.name)
        await Connection(asgi.SessionMiddleware(app, store, secret=SECRET), watch=watch).run()
        assert seen == [("http.response.start", before + 1), ("http.response.body", before + 1)]


@pytest.mark.parametrize("driver", ["sqlite", "psycopg"])
@pytest.mark.parametrize("status", STATUSES)
def test_over_wsgi(services: Services, driver: str, status: int) -> None:
    url = services.url(driver)
    with SQLSessionStore(url, check_expiration_interval=None) as store:
        store.sync()
        before, seen = rows(url, store.table.name), []

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            start_response(f"{status} Whatever", [])
            environ[ENVIRON_KEY]["user_id"] = 7
            yield b"x"

        def start_response(*args: Any) -> Any:
            seen.append(rows(url, store.table.name))

        body = wsgi.SessionMiddleware(app, store, secret=SECRET)({}, start_response)
        seen.extend(rows(url, store.table.name) for _ in body)
        assert seen == [before + 1, before + 1]


def raising(change: Callable[[Session], object]) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        change(scope["session"])
        raise Boom

    return app


CHANGES: dict[str, Callable[[Session], object]] = {
    "write": lambda session: session.update(user_id=8),
    "clear": lambda session: session.clear(),
    "regenerate": lambda session: session.regenerate(),
    "destroy": lambda session: session.destroy(),
}


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg"])
@pytest.mark.parametrize("change", CHANGES)
async def test_a_handler_that_raises_saves_nothing(
    services: Services, driver: str, change: str
) -> None:
    url = services.url(driver)
    async with make_async_store(url) as store:
        await store.sync()
        sid = Sid.new()
        await store.set(sid, {"user_id": 7})
        before = rows(url, store.table.name)
        middleware = asgi.SessionMiddleware(raising(CHANGES[change]), store, secret=SECRET)
        for cookie in (None, SignedValue("sid", [SECRET.encode()]).sign(sid)):
            with pytest.raises(Boom):
                await Connection(middleware, cookie=cookie).run()
        assert rows(url, store.table.name) == before
        assert await store.get(sid) == {"user_id": 7}


def make_async_store(url: str) -> AsyncSQLSessionStore:
    return AsyncSQLSessionStore(url, check_expiration_interval=None)
