"""Promise 2: two requests that write different keys of one session both win. Two that write the
same key: the later save wins. Nothing else is touched."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest

from tests.adapters.by_hand import Connection
from tests.adapters.kit import SECRET, Boom
from tests.fixtures.services import Services
from tests.promises.conftest import OpenSite
from tests.promises.ways import WAYS
from websessions import Session, SessionLocked, Sid, asgi, resolvers, wsgi
from websessions.asgi import Receive, Scope, Send
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Load, Lock, Replace, Unlock
from websessions.wsgi import ENVIRON_KEY

TOGETHER = 6
MICROSECOND = timedelta(microseconds=1)


async def begin(middleware: Any) -> str:
    """The cookie of a new visitor."""
    connection = Connection(middleware, path="/begin")
    await connection.run()
    assert connection.cookie is not None
    return connection.cookie


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg", "psycopg", "asyncmy"])
async def test_different_keys_all_win(services: Services, driver: str) -> None:
    """Each request reads before any of them writes: the worst case."""
    async with AsyncSQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        await store.sync()
        everyone_has_read = asyncio.Barrier(TOGETHER)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["path"] != "/begin":
                scope["session"][scope["path"]] = True
                await everyone_has_read.wait()
            else:
                scope["session"]["untouched"] = [1, 2]
            await send({"type": "http.response.start", "status": 200})

        middleware = asgi.SessionMiddleware(app, store, secret=SECRET)
        cookie = await begin(middleware)
        paths = [f"/{number}" for number in range(TOGETHER)]
        await asyncio.gather(
            *(Connection(middleware, cookie=cookie, path=path).run() for path in paths)
        )
        assert await store.get(cookie.partition(".")[0]) == {
            "untouched": [1, 2],
            **dict.fromkeys(paths, True),
        }


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg", "psycopg", "asyncmy"])
async def test_they_all_win_while_the_session_gets_a_new_id(
    services: Services, driver: str
) -> None:
    """All came with the old id, and half of them regenerate: one new id is sent, and it is the
    one that works.
    """
    async with AsyncSQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        await store.sync()
        before = await store.length()
        everyone_has_read = asyncio.Barrier(TOGETHER)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"][scope["path"]] = True
            if scope["path"] != "/begin":
                if scope["path"] < "/3":
                    scope["session"].regenerate()
                await everyone_has_read.wait()
            await send({"type": "http.response.start", "status": 200})

        middleware = asgi.SessionMiddleware(app, store, secret=SECRET)
        old = await begin(middleware)
        paths = [f"/{number}" for number in range(TOGETHER)]
        connections = [Connection(middleware, cookie=old, path=path) for path in paths]
        await asyncio.gather(*(connection.run() for connection in connections))
        [new] = [c.cookie for c in connections if c.headers("set-cookie")]
        assert new is not None
        assert new != old
        assert await store.get(new.partition(".")[0]) == dict.fromkeys(["/begin", *paths], True)
        assert await store.length() == before + 1


@pytest.mark.parametrize("driver", ["sqlite", "psycopg", "pymysql"])
def test_different_keys_all_win_in_threads(services: Services, driver: str) -> None:
    with SQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        store.sync()
        everyone_has_read = threading.Barrier(TOGETHER)

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            session = environ[ENVIRON_KEY]
            if environ["PATH_INFO"] != "/begin":
                session[environ["PATH_INFO"]] = True
                everyone_has_read.wait(timeout=30)
            else:
                session["untouched"] = [1, 2]
            start_response("200 OK", [])
            return []

        middleware = wsgi.SessionMiddleware(app, store, secret=SECRET)
        headers: dict[str, str] = {}
        middleware({"PATH_INFO": "/begin"}, lambda status, got, *_: headers.update(got) or print)
        cookie = headers["Set-Cookie"].partition(";")[0]
        paths = [f"/{number}" for number in range(TOGETHER)]

        def visit(path: str) -> None:
            middleware({"PATH_INFO": path, "HTTP_COOKIE": cookie}, lambda *args: print)

        with ThreadPoolExecutor(TOGETHER) as threads:
            list(threads.map(visit, paths))
        assert store.get(cookie.removeprefix("sid=").partition(".")[0]) == {
            "untouched": [1, 2],
            **dict.fromkeys(paths, True),
        }


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg", "asyncmy"])
async def test_of_two_writes_of_one_key_the_later_save_wins(
    services: Services, driver: str
) -> None:
    """Whichever began first; a removed key is a write, and the other keys are left alone."""
    async with AsyncSQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        await store.sync()
        may_finish = {"/first": asyncio.Event(), "/second": asyncio.Event()}
        both_have_read = asyncio.Barrier(3)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session, path = scope["session"], scope["path"]
            if path == "/begin":
                session.update(name="nobody", gone=1, kept=1)
            else:
                session["name"] = path
                if path == "/first":
                    del session["gone"]
                else:
                    session["gone"] = 2
                await both_have_read.wait()
                await may_finish[path].wait()
            await send({"type": "http.response.start", "status": 200})

        middleware = asgi.SessionMiddleware(app, store, secret=SECRET)
        cookie = await begin(middleware)
        first = Connection(middleware, cookie=cookie, path="/first").start()
        second = Connection(middleware, cookie=cookie, path="/second").start()
        await both_have_read.wait()
        may_finish["/second"].set()
        await second
        sid = cookie.partition(".")[0]
        assert await store.get(sid) == {"name": "/second", "gone": 2, "kept": 1}
        may_finish["/first"].set()
        await first
        assert await store.get(sid) == {"name": "/first", "kept": 1}


# Under the session's lock


@pytest.mark.parametrize("driver", ["sqlite", "asyncpg", "psycopg", "asyncmy"])
async def test_who_locks_meets_no_conflict(services: Services, driver: str) -> None:
    """All read before any of them locks, and none may merge; each counts what the last has left."""
    async with AsyncSQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        await store.sync()
        everyone_has_read = asyncio.Barrier(TOGETHER)
        inside = 0

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            nonlocal inside
            session = scope["session"]
            if scope["path"] == "/begin":
                session["n"] = 0
            else:
                assert session["n"] == 0
                await everyone_has_read.wait()
                async with session.lock(timeout=30):
                    inside += 1
                    assert inside == 1
                    await store.length()
                    session["n"] += 1
                    assert inside == 1
                    inside -= 1
            await send({"type": "http.response.start", "status": 200})

        middleware = asgi.SessionMiddleware(app, store, secret=SECRET, on_conflict="error")
        cookie = await begin(middleware)
        await asyncio.gather(
            *(Connection(middleware, cookie=cookie).run() for _ in range(TOGETHER))
        )
        assert await store.get(cookie.partition(".")[0]) == {"n": TOGETHER}


@pytest.mark.parametrize("driver", ["sqlite", "psycopg", "pymysql"])
def test_who_locks_in_threads_meets_no_conflict(services: Services, driver: str) -> None:
    with SQLSessionStore(services.url(driver), check_expiration_interval=None) as store:
        store.sync()
        everyone_has_read = threading.Barrier(TOGETHER)
        inside = threading.Lock()

        def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
            session = environ[ENVIRON_KEY]
            if environ["PATH_INFO"] == "/begin":
                session["n"] = 0
            else:
                assert session["n"] == 0
                everyone_has_read.wait(timeout=30)
                with session.lock(timeout=30):
                    assert inside.acquire(blocking=False)
                    store.length()
                    session["n"] += 1
                    inside.release()
            start_response("200 OK", [])
            return []

        middleware = wsgi.SessionMiddleware(app, store, secret=SECRET, on_conflict="error")
        headers: dict[str, str] = {}
        middleware({"PATH_INFO": "/begin"}, lambda status, got, *_: headers.update(got) or print)
        cookie = headers["Set-Cookie"].partition(";")[0]

        def visit(_: int) -> None:
            middleware({"PATH_INFO": "/", "HTTP_COOKIE": cookie}, lambda *args: print)

        with ThreadPoolExecutor(TOGETHER) as threads:
            list(threads.map(visit, range(TOGETHER)))
        sid = cookie.removeprefix("sid=").partition(".")[0]
        assert store.get(sid) == {"n": TOGETHER}


@pytest.mark.parametrize("way", WAYS)
async def test_a_holder_that_died_is_replaced_when_its_lease_ends(
    open_site: OpenSite, way: str
) -> None:
    """And nobody before that. What it may still write is guarded: it takes nothing back."""
    site = await open_site(way)
    browser = site.browser()
    await browser.visit(lambda session: session.update(n=1))

    async def die(session: Session) -> None:
        await session.lock(lease=20).__aenter__()
        raise Boom

    async def count(session: Session) -> str:
        try:
            async with session.lock(timeout=0):
                session["n"] += 1
        except SessionLocked:
            return "locked"
        return "counted"

    with pytest.raises(Boom):
        await browser.visit(die)
    assert (await browser.visit(count)).result == "locked"
    await browser.visit(lambda session: session.update(by_the_way=True))
    site.clock.advance(timedelta(seconds=20) - MICROSECOND)
    assert (await browser.visit(count)).result == "locked"
    site.clock.advance(MICROSECOND)
    assert (await browser.visit(count)).result == "counted"
    assert await browser.read() == {"n": 2, "by_the_way": True}


@pytest.mark.parametrize("way", WAYS)
async def test_whose_lease_ran_out_loses_no_update(
    open_site: OpenSite, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Another holder wrote meanwhile; the late one's save is merged as any is."""
    site = await open_site(way, on_conflict={"n": resolvers.add})
    browser = site.browser()
    await browser.visit(lambda session: session.update(n=1))
    sid = browser.sid

    async def too_slow(session: Session) -> None:
        async with session.lock(lease=20):
            site.clock.advance(20)
            key, until = Sid(sid).digest(), site.clock() + timedelta(seconds=20)
            answers = site.store.perform([Lock(key, "another", until), Load(key)])
            taken, seen = await answers if inspect.isawaitable(answers) else answers
            assert taken is True
            data = site.store.codec.encode({"n": 10})
            answers = site.store.perform([Replace(seen, data, seen.expires, {"n": 10})])
            assert (await answers if inspect.isawaitable(answers) else answers) != [None]
            session["n"] += 1

    await browser.visit(too_slow)
    assert await browser.read() == {"n": 11}
    assert "took longer than `lease`" in caplog.text
    key, until = Sid(sid).digest(), site.clock() + timedelta(seconds=1)
    answers = site.store.perform([Lock(key, "a third", until), Unlock(key, "another")])
    answers = await answers if inspect.isawaitable(answers) else answers
    assert answers == [False, True], "it has released nobody else's lock"
