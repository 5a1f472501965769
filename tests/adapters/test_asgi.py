"""What only ASGI has: messages, streams, background tasks, disconnects and cancellation."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import anyio
import httpx
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from tests.adapters.by_hand import Connection, Message
from tests.adapters.kit import SECRET, Boom
from websessions import (
    AsyncMemoryStore,
    ConfigurationError,
    CookieSettings,
    MemoryStore,
    Session,
    SessionError,
    SessionNotLoaded,
    Sid,
    StoreError,
    StoreUnavailable,
)
from websessions.asgi import ASGIApp, Receive, Scope, Send, SessionMiddleware
from websessions.cookie import SignedValue
from websessions.sql import SQLSessionStore
from websessions.starlette import get_session
from websessions.store import Call, Insert, Load, Lock, Replace
from websessions.testing import FakeClock

SID = "f" * 43
COOKIE = SignedValue("sid", [SECRET.encode()]).sign(Sid(SID))
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
END: Message = {"type": "http.response.body", "body": b""}


class Store(AsyncMemoryStore):
    """A store whose writes can be held up, or fail."""

    def __init__(self) -> None:
        super().__init__(clock=FakeClock(), check_expiration_interval=None)
        self.failing: type[Call[Any]] | None = None
        self.held: type[Call[Any]] | None = None
        self.reached = asyncio.Event()
        self.go_on = asyncio.Event()

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        [call] = calls
        if type(call) is self.held:
            self.reached.set()
            await self.go_on.wait()
        if type(call) is self.failing:
            return [StoreUnavailable("the database is down")]
        return await super().perform(calls)


@pytest.fixture
async def store() -> Store:
    store = Store()
    await store.set(SID, {"a": 1})
    return store


def wrap(app: ASGIApp, store: AsyncMemoryStore, **options: Any) -> SessionMiddleware:
    return SessionMiddleware(app, store, secret=SECRET, **options)


def plain(message: Message) -> Message:
    """A copy, as an app would make one for each response."""
    return {**message}


class TestMaking:
    def test_a_sync_store_is_refused_by_name(self) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None: ...

        stores: list[Any] = [MemoryStore(), SQLSessionStore("sqlite://"), None, "sqlite://"]
        for store in stores:
            with pytest.raises(ConfigurationError, match=f"{type(store).__name__} is none"):
                SessionMiddleware(app, store, secret=SECRET)
            if isinstance(store, SQLSessionStore):
                store.close()

    async def test_what_is_no_request_is_left_alone(self, store: Store) -> None:
        seen: list[Scope] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(scope)

        for kind in ("lifespan", "something.new"):
            scope = {"type": kind}
            await wrap(app, store)(scope, None, None)  # type: ignore[arg-type]
            assert scope == {"type": kind}
        assert len(seen) == 2


class TestRequests:
    async def test_it_is_stored_before_the_first_byte_leaves(self, store: Store) -> None:
        """Promise 1."""
        there: list[int] = []

        async def watch(message: Message) -> None:
            there.append(await store.length())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["new"] = True
            await send(plain(START))
            await send(plain(END))

        await Connection(wrap(app, store), watch=watch).run()
        assert there == [2, 2]

    async def test_cookies_in_several_headers_are_one(self, store: Store) -> None:
        """HTTP/2 splits them (RFC 9113, 8.2.3)."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["seen"] = scope["session"]["a"]
            await send(plain(START))

        headers = [(b"cookie", b"x=1"), (b"cookie", f"sid={COOKIE}".encode()), (b"cookie", b"y=2")]
        await Connection(wrap(app, store), headers=headers).run()
        assert await store.get(SID) == {"a": 1, "seen": 1}

    async def test_of_several_forwarded_protos_the_first_counts(self, store: Store) -> None:
        """As where a server joined them into one header."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 1
            await send(plain(START))

        for first, second, secure in ((b"https", b"http", True), (b"http", b"https", False)):
            headers = [(b"x-forwarded-proto", first), (b"x-forwarded-proto", second)]
            connection = Connection(wrap(app, store, proxy=True), headers=headers)
            await connection.run()
            [cookie] = connection.headers("set-cookie")
            assert cookie.endswith("; Secure") is secure

    async def test_a_copied_scope_holds_the_same_session(self, store: Store) -> None:
        """Routers and middlewares copy the scope."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["copied"] = True
            await send(plain(START))

        async def copying(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope}, receive, send)

        await Connection(wrap(copying, store), cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 1, "copied": True}

    async def test_a_message_without_headers_gets_them(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 1
            await send({"type": "http.response.start", "status": 200})

        connection = Connection(wrap(app, store))
        await connection.run()
        assert connection.cookie is not None

    async def test_the_apps_own_list_of_headers_is_not_changed(self, store: Store) -> None:
        """It may be a constant of the app's."""
        headers: list[tuple[bytes, bytes]] = [(b"x-own", b"1")]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 1
            await send({"type": "http.response.start", "status": 200, "headers": headers})

        await Connection(wrap(app, store)).run()
        assert headers == [(b"x-own", b"1")]

    async def test_early_hints_begin_no_response(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.early_hint", "links": []})
            scope["session"].regenerate()
            await send(plain(START))

        connection = Connection(wrap(app, store), cookie=COOKIE)
        await connection.run()
        assert connection.cookie not in (None, COOKIE)

    async def test_a_handler_that_answers_nothing_saves_nothing(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2

        await Connection(wrap(app, store), cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 1}


class TestLoadingOnDemand:
    async def test_using_it_unloaded_says_what_to_do(self, store: Store) -> None:
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            for use in (
                lambda: session["a"],
                lambda: session.get("a"),
                lambda: session.update(a=2),
                lambda: session.is_new,
                lambda: session.id,
                lambda: len(session),
                lambda: session.cookie.max_age,
                lambda: session.regenerate(),
                lambda: session.touch(),
            ):
                with pytest.raises(SessionNotLoaded) as caught:
                    use()
                seen.append(str(caught.value))
            await send(plain(START))

        await Connection(wrap(app, store, load="on_demand"), cookie=COOKIE).run()
        assert set(seen) == {
            "this session is loaded on demand: await request.session.load() before using it"
        }
        assert await store.get(SID) == {"a": 1}

    async def test_loading_it_makes_it_usable(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            await session.load()
            await session.load()
            session["a"] += 1
            await send(plain(START))

        await Connection(wrap(app, store, load="on_demand"), cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 2}

    async def test_without_a_cookie_there_is_nothing_to_load(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 1
            await send(plain(START))

        connection = Connection(wrap(app, store, load="on_demand"))
        await connection.run()
        assert connection.cookie is not None

    async def test_it_is_not_loaded_for_a_handler_that_does_not_ask(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(plain(START))

        store.failing = Load
        connection = Connection(wrap(app, store, load="on_demand"), cookie=COOKIE)
        await connection.run()
        assert connection.headers("vary") == []


class TestStreams:
    @staticmethod
    def streaming(parts: AsyncIterator[str]) -> Response:
        return StreamingResponse(parts, media_type="text/event-stream")

    async def test_what_changes_while_it_streams_is_saved_at_its_end(self, store: Store) -> None:
        async def page(request: Request) -> Response:
            async def parts() -> AsyncIterator[str]:
                yield "one"
                request.session["a"] = 2
                yield "two"

            return self.streaming(parts())

        app = wrap(Starlette(routes=[Route("/", page)]), store)
        await Connection(app, cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 2}

    async def test_saving_by_hand_saves_at_once(self, store: Store) -> None:
        seen: list[Any] = []

        async def page(request: Request) -> Response:
            async def parts() -> AsyncIterator[str]:
                yield "one"
                request.session["a"] = 2
                await get_session(request).save()
                seen.append(await store.get(SID))
                yield "two"

            return self.streaming(parts())

        app = wrap(Starlette(routes=[Route("/", page)]), store)
        await Connection(app, cookie=COOKIE).run()
        assert seen == [{"a": 2}]

    async def test_what_was_taken_out_before_may_change_later(self, store: Store) -> None:
        await store.set(SID, {"log": []})

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            log = scope["session"]["log"]
            await send(plain(START))
            log.append("late")

        await Connection(wrap(app, store), cookie=COOKIE).run()
        assert await store.get(SID) == {"log": ["late"]}

    async def test_it_is_too_late_for_a_new_session_or_a_new_id(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            await send(plain(START))
            with pytest.raises(SessionError, match="response had begun"):
                session.regenerate()
            session["b"] = 1
            if session.is_new:
                with pytest.raises(SessionError, match="after the response has begun"):
                    await session.save()

        for cookie in (COOKIE, None):
            await Connection(wrap(app, store), cookie=cookie).run()
        assert await store.length() == 1
        assert await store.get(SID) == {"a": 1, "b": 1}
        assert "it is lost" in caplog.text

    async def test_a_late_logout_is_one(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(plain(START))
            scope["session"].destroy()
            scope["session"]["message"] = "goodbye"

        await Connection(wrap(app, store), cookie=COOKIE).run()
        assert await store.length() == 0

    async def test_a_stream_that_breaks_saves_no_more(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            await send(plain(START))
            scope["session"]["a"] = 3
            raise Boom

        with pytest.raises(Boom):
            await Connection(wrap(app, store), cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 2}

    async def test_a_client_that_leaves_ends_the_stream_and_changes_are_saved(
        self, store: Store
    ) -> None:
        forever = asyncio.Event()

        async def page(request: Request) -> Response:
            async def parts() -> AsyncIterator[str]:
                request.session["a"] = 2
                yield "one"
                await forever.wait()

            return self.streaming(parts())

        connection = Connection(wrap(Starlette(routes=[Route("/", page)]), store), cookie=COOKIE)
        connection.scope["asgi"]["spec_version"] = "2.3"  # where Starlette listens for it
        task = connection.start()
        await connection.seen("http.response.body")
        connection.leave()
        await task
        assert await store.get(SID) == {"a": 2}


class TestBackgroundTasks:
    async def test_what_one_changes_is_saved_after_the_answer(self, store: Store) -> None:
        may_go_on = asyncio.Event()

        async def page(request: Request) -> Response:
            async def later() -> None:
                await may_go_on.wait()
                request.session["a"] = 2

            return Response("ok", background=BackgroundTask(later))

        app = wrap(Starlette(routes=[Route("/", page)]), store)
        connection = Connection(app, cookie=COOKIE)
        task = connection.start()
        await connection.seen("http.response.body")
        assert await store.get(SID) == {"a": 1}
        may_go_on.set()
        await task
        assert await store.get(SID) == {"a": 2}

    async def test_one_that_fails_saves_nothing(self, store: Store) -> None:
        async def page(request: Request) -> Response:
            async def later() -> None:
                request.session["a"] = 2
                raise Boom

            return Response("ok", background=BackgroundTask(later))

        connection = Connection(wrap(Starlette(routes=[Route("/", page)]), store), cookie=COOKIE)
        with pytest.raises(Boom):
            await connection.run()
        assert await store.get(SID) == {"a": 1}


class TestCancellation:
    async def test_in_a_handler_saves_nothing(self, store: Store) -> None:
        reached = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            reached.set()
            await asyncio.Event().wait()

        task = Connection(wrap(app, store), cookie=COOKIE).start()
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get(SID) == {"a": 1}

    @pytest.mark.parametrize(
        ("call", "cookie"), [(Insert, None), (Replace, COOKIE)], ids=["insert", "replace"]
    )
    async def test_in_the_middle_of_a_save_leaves_nothing_half_done(
        self, store: Store, call: type[Call[Any]], cookie: str | None
    ) -> None:
        """The call was not performed, and nothing performs it later."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            try:
                await send(plain(START))
            finally:
                await send(plain(START))  # an error page, say

        store.held = call
        connection = Connection(wrap(app, store), cookie=cookie)
        task = connection.start()
        await store.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.length() == 1
        assert await store.get(SID) == {"a": 1}
        assert connection.cookie is None
        assert store.reached.is_set()

    async def test_of_one_request_does_no_harm_to_its_neighbour(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"][scope["path"]] = True
            await send(plain(START))

        store.held = Replace
        middleware = wrap(app, store)
        one = Connection(middleware, cookie=COOKIE, path="/one").start()
        other = Connection(middleware, cookie=COOKIE, path="/other").start()
        await store.reached.wait()
        one.cancel()
        store.go_on.set()
        await asyncio.gather(one, other, return_exceptions=True)
        assert one.cancelled()
        assert await store.get(SID) == {"a": 1, "/other": True}


class TestOneThingAtATime:
    """A handler may save in one task while it works in another."""

    async def test_saves_of_one_session_do_not_overlap(self) -> None:
        class Watched(Store):
            under_way = most = 0

            async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
                self.under_way += 1
                self.most = max(self.most, self.under_way)
                try:
                    await asyncio.sleep(0)  # the others' turn
                    return await super().perform(calls)
                finally:
                    self.under_way -= 1

        store = Watched()
        await store.set(SID, {})

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]

            async def work(key: str) -> None:
                session[key] = True
                await session.save()

            await asyncio.gather(*map(work, "abcde"))
            session["f"] = True
            await send(plain(START))

        await Connection(wrap(app, store), cookie=COOKIE).run()
        assert store.most == 1
        assert await store.get(SID) == dict.fromkeys("abcdef", True)

    async def test_one_who_waits_and_is_cancelled_holds_nobody_up(self, store: Store) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            session["a"] = 2
            saves = [asyncio.ensure_future(session.save())]
            await store.reached.wait()
            session["b"] = 2
            saves += [asyncio.ensure_future(session.save()) for _ in range(3)]
            await asyncio.sleep(0)
            saves[1].cancel()
            store.go_on.set()
            results = await asyncio.gather(*saves, return_exceptions=True)
            assert [type(result) for result in results] == [
                *(type(None), asyncio.CancelledError, type(None), type(None))
            ]
            await send(plain(START))

        store.held = Replace
        await Connection(wrap(app, store), cookie=COOKIE).run()
        assert await store.get(SID) == {"a": 2, "b": 2}

    async def test_a_response_waits_for_a_save_that_is_under_way(self, store: Store) -> None:
        """Promise 1, although nothing has changed since that save began."""
        there: list[Any] = []

        async def watch(message: Message) -> None:
            there.append(await store.get(SID))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            save = asyncio.create_task(scope["session"].save())
            await store.reached.wait()
            store.held = None
            asyncio.get_running_loop().call_soon(store.go_on.set)
            await send(plain(START))
            await save

        store.held = Replace
        await Connection(
            wrap(
                app,
                store,
            ),
            cookie=COOKIE,
            watch=watch,
        ).run()
        assert there == [{"a": 2}]


class TestErrors:
    """Whose error page it is, and what it may still say about the session."""

    @staticmethod
    def site(store: Store, page: Any, **handlers: Any) -> httpx.AsyncClient:
        app = Starlette(
            routes=[Route("/", page)],
            middleware=[Middleware(SessionMiddleware, store=store, secret=SECRET)],
            exception_handlers=handlers.get("handlers"),
        )
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://shop.example", cookies={"sid": COOKIE}
        )

    async def test_starlettes_page_for_an_unhandled_error_saves_nothing(self, store: Store) -> None:
        async def page(request: Request) -> Response:
            request.session["a"] = 2
            raise Boom

        async with self.site(store, page) as client:
            response = await client.get("/")
        assert response.status_code == 500
        assert "set-cookie" not in response.headers
        assert await store.get(SID) == {"a": 1}

    async def test_the_apps_answer_to_an_exception_is_an_answer_and_saves(
        self, store: Store
    ) -> None:
        async def page(request: Request) -> Response:
            request.session["a"] = 2
            raise Boom

        async def answer(request: Request, error: Exception) -> Response:
            return PlainTextResponse("sorry", 500)

        async with self.site(store, page, handlers={Boom: answer}) as client:
            response = await client.get("/")
        assert (response.status_code, response.text) == (500, "sorry")
        assert await store.get(SID) == {"a": 2}

    async def test_an_app_can_answer_for_a_save_that_failed(self, store: Store) -> None:
        """Its page leaves, and does not try to save again."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"].regenerate()
            try:
                await send(plain(START))
            except StoreError:
                await send({"type": "http.response.start", "status": 503})

        store.failing = Replace
        connection = Connection(wrap(app, store), cookie=COOKIE)
        await connection.run()
        assert [message["status"] for message in connection.sent] == [503]
        assert connection.cookie is None
        assert await store.get(SID) == {"a": 1}

    async def test_starlettes_exception_handlers_come_too_late_for_that(self, store: Store) -> None:
        """They think that the response has begun once it was handed to the middleware."""

        async def page(request: Request) -> Response:
            get_session(request).regenerate()
            return Response("welcome")

        async def answer(request: Request, error: Exception) -> Response:
            return PlainTextResponse("never seen", 503)

        store.failing = Replace
        async with self.site(store, page, handlers={StoreError: answer}) as client:
            response = await client.get("/")
        assert (response.status_code, response.text) == (500, "Internal Server Error")
        assert "set-cookie" not in response.headers
        assert await store.get(SID) == {"a": 1}

    async def test_without_one_it_is_a_500(self, store: Store) -> None:
        async def page(request: Request) -> Response:
            request.session["a"] = 2
            return Response("saved")

        store.failing = Replace
        async with self.site(store, page) as client:
            response = await client.get("/")
        assert response.status_code == 500
        assert "saved" not in response.text

    async def test_a_late_save_that_fails_is_the_servers_to_log(self, store: Store) -> None:
        """The answer has left; it was not about what came after it."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(plain(START))
            await send(plain(END))
            scope["session"]["a"] = 2

        store.failing = Replace
        connection = Connection(wrap(app, store), cookie=COOKIE)
        with pytest.raises(StoreUnavailable):
            await connection.run()
        assert connection.kinds == ["http.response.start", "http.response.body"]


class TestAmongOthers:
    async def test_mounted_apps_share_the_session(self, store: Store) -> None:
        async def page(request: Request) -> Response:
            request.session["a"] += 1
            return Response(request.url.path)

        inner = Starlette(routes=[Route("/page", page)])
        app = wrap(Starlette(routes=[Mount("/app", inner)]), store)
        await Connection(app, cookie=COOKIE, path="/app/page").run()
        assert await store.get(SID) == {"a": 2}

    @pytest.mark.parametrize("outside", [True, False])
    async def test_starlettes_base_middleware_on_either_side(
        self, store: Store, outside: bool
    ) -> None:
        class Passing(BaseHTTPMiddleware):
            async def dispatch(self, request: Request, go_on: RequestResponseEndpoint) -> Response:
                return await go_on(request)

        async def page(request: Request) -> Response:
            request.session["a"] += 1
            get_session(request).regenerate(privilege=True)
            return Response("ok")

        ours = Middleware(SessionMiddleware, store=store, secret=SECRET)
        layers = [Middleware(Passing), ours] if outside else [ours, Middleware(Passing)]
        connection = Connection(
            Starlette(routes=[Route("/", page)], middleware=layers), cookie=COOKIE
        )
        await connection.run()
        assert connection.cookie is not None
        assert await store.get(connection.cookie.partition(".")[0]) == {"a": 2}
        assert await store.get(SID) is None

    async def test_two_middlewares_with_two_cookies_do_not_meet(self, store: Store) -> None:
        """An admin area with a session of its own: the inner one's is the request's."""

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["inner"] = True
            await send(plain(START))

        other = Store()
        inner = wrap(app, other, cookie=CookieSettings(name="admin"))
        connection = Connection(wrap(inner, store), cookie=COOKIE)
        await connection.run()
        [cookie] = connection.headers("set-cookie")
        assert cookie.startswith("admin=")
        assert await store.get(SID) == {"a": 1}

    async def test_nothing_is_logged_in_the_ordinary_case(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] += 1
            scope["session"].regenerate()
            await send(plain(START))
            scope["session"]["a"] += 1

        with caplog.at_level(logging.DEBUG, "websessions"):
            await Connection(wrap(app, store), cookie=COOKIE).run()
        assert [entry for entry in caplog.records if entry.name == "websessions"] == []


class TestTasksThatOutliveTheRequest:
    async def test_a_save_that_nobody_waits_for_is_made(self, store: Store) -> None:
        """Neither the request nor the handler has the session any more when it begins."""
        saving: list[asyncio.Task[None]] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START)
            await send(END)
            session: Session = scope["session"]
            session["a"] = 2
            saving.append(asyncio.ensure_future(session.save()))

        def visit() -> Any:
            headers = [(b"cookie", f"sid={COOKIE}".encode())]
            scope = {"type": "http", "method": "GET", "path": "/", "headers": headers}
            return SessionMiddleware(app, store, secret=SECRET)(scope, _nothing, _sent)

        await visit()
        gc.collect()
        await saving[0]
        assert await store.get(SID) == {"a": 2}

    @pytest.mark.parametrize("turns", range(24))
    async def test_no_lock_is_left_by_a_cancelled_handler(self, turns: int) -> None:
        """anyio cancels whatever a cancelled task waits for, also what it cleans up with."""
        store = SlowStore(check_expiration_interval=None)
        before = asyncio.all_tasks()
        await store.set(SID, {"a": 1})

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            with anyio.CancelScope() as cancelling:
                asyncio.get_running_loop().call_soon(_after, turns, cancelling.cancel)
                async with scope["session"].lock():
                    scope["session"]["a"] = 2
            await send(START)
            await send(END)

        middleware = SessionMiddleware(app, store, secret=SECRET)
        await Connection(middleware, cookie=COOKIE).run()
        others = Lock(store.key(Sid(SID)), "other", store.clock() + timedelta(seconds=1))
        async with asyncio.timeout(5):
            while asyncio.all_tasks() - before:  # noqa: ASYNC110  they end
                await asyncio.sleep(0)
        assert await store.perform([others]) == [True]


class SlowStore(AsyncMemoryStore):
    """A store that takes a few turns of the loop, before it does something and after that."""

    async def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        answers = await super().perform(calls)
        await asyncio.sleep(0)
        return answers


def _after(turns: int, do: Callable[[], None]) -> None:
    if turns:
        asyncio.get_running_loop().call_soon(_after, turns - 1, do)
    else:
        do()


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


async def _sent(message: Any) -> None:
    pass
