"""Sessions over a WebSocket: loaded at the handshake, saved when it ends or when asked."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.adapters.by_hand import Connection, Message
from tests.adapters.kit import SECRET, Boom
from websessions import AsyncMemoryStore, Session, SessionError, Sid
from websessions.asgi import ASGIApp, Receive, Scope, Send, SessionMiddleware
from websessions.cookie import SignedValue
from websessions.starlette import get_session
from websessions.testing import FakeClock

SID = "f" * 43
COOKIE = SignedValue("sid", [SECRET.encode()]).sign(Sid(SID))
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 1000}


@pytest.fixture
async def store() -> AsyncMemoryStore:
    store = AsyncMemoryStore(clock=FakeClock(), check_expiration_interval=None)
    await store.set(SID, {"a": 1})
    return store


def socket(
    app: ASGIApp, store: AsyncMemoryStore, cookie: str | None = COOKIE, **options: Any
) -> Connection:
    middleware = SessionMiddleware(app, store, secret=SECRET)
    return Connection(middleware, cookie=cookie, socket=True, **options)


class TestTheHandshake:
    async def test_the_session_is_there_before_it(self, store: AsyncMemoryStore) -> None:
        seen: list[Any] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(dict(scope["session"]))
            await send({**ACCEPT})

        connection = socket(app, store)
        await connection.run()
        assert seen == [{"a": 1}]
        assert connection.headers("vary") == ["Cookie"]

    async def test_what_changed_before_it_is_stored_before_it_leaves(
        self, store: AsyncMemoryStore
    ) -> None:
        seen: list[Any] = []

        async def watch(message: Message) -> None:
            seen.append(await store.get(SID))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            await send({**ACCEPT})

        await socket(app, store, watch=watch).run()
        assert seen == [{"a": 2}]

    async def test_a_new_session_gets_its_cookie_with_it(self, store: AsyncMemoryStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["b"] = 1
            await send({**ACCEPT, "headers": [(b"x-own", b"1")]})

        connection = socket(app, store, None, scheme="wss")
        await connection.run()
        assert connection.cookie is not None
        assert await store.get(connection.cookie.partition(".")[0]) == {"b": 1}
        assert connection.headers("set-cookie")[0].endswith("; Secure")
        assert connection.headers("x-own") == ["1"]

    async def test_a_refusal_saves_what_an_existing_session_was_told(
        self, store: AsyncMemoryStore
    ) -> None:
        """It is a response like any other (promise 1), save that no cookie can go with it."""
        seen: list[Any] = []

        async def watch(message: Message) -> None:
            seen.append(await store.get(SID))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["refused"] = 1
            scope["session"].regenerate()
            await send({**CLOSE})

        await socket(app, store, watch=watch).run()
        assert seen == [{"a": 1, "refused": 1}]

    async def test_a_refusal_begins_no_session(
        self, store: AsyncMemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["refused"] = 1
            await send({**CLOSE})

        await socket(app, store, None).run()
        assert await store.length() == 1
        assert "it is lost" in caplog.text

    async def test_a_denial_response_is_a_response(self, store: AsyncMemoryStore) -> None:
        async def page(websocket: WebSocket) -> None:
            websocket.session["refused"] = 1
            await websocket.send_denial_response(PlainTextResponse("no", 403))

        app = Starlette(routes=[WebSocketRoute("/", page)])
        connection = socket(app, store, None)
        await connection.run()
        assert connection.kinds[0] == "websocket.http.response.start"
        assert connection.cookie is not None
        assert await store.get(connection.cookie.partition(".")[0]) == {"refused": 1}


class TestWhileItIsOpen:
    async def test_saving_by_hand_saves_at_once(self, store: AsyncMemoryStore) -> None:
        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            websocket.session["a"] = 2
            await get_session(websocket).save()
            await websocket.send_text("saved")
            await websocket.receive_text()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        task = connection.start()
        await connection.seen("websocket.send")
        assert await store.get(SID) == {"a": 2}
        connection.say("thanks")
        await task

    async def test_closing_it_saves_before_the_close_leaves(self, store: AsyncMemoryStore) -> None:
        seen: list[Any] = []

        async def watch(message: Message) -> None:
            seen.append((message["type"], await store.get(SID)))

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send({**ACCEPT})
            scope["session"]["a"] = 2
            await send({**CLOSE})

        await socket(app, store, watch=watch).run()
        assert seen == [("websocket.accept", {"a": 1}), ("websocket.close", {"a": 2})]

    async def test_a_client_that_leaves_is_saved_before_the_handler_hears_of_it(
        self, store: AsyncMemoryStore
    ) -> None:
        seen: list[Any] = []

        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            websocket.session["a"] = 2
            try:
                await websocket.receive_text()
            except WebSocketDisconnect:
                seen.append(await store.get(SID))
                websocket.session["a"] = 3

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        task = connection.start()
        await connection.seen("websocket.accept")
        connection.leave()
        await task
        assert seen == [{"a": 2}]
        assert await store.get(SID) == {"a": 3}

    async def test_the_usual_way_out_is_by_its_exception(self, store: AsyncMemoryStore) -> None:
        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            while True:
                websocket.session["a"] = await websocket.receive_text()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        connection.say("two")
        connection.say("three")
        task = connection.start()
        await connection.seen("websocket.accept")
        connection.leave()
        with pytest.raises(WebSocketDisconnect):
            await task
        assert await store.get(SID) == {"a": "three"}

    async def test_a_list_taken_out_at_the_start_counts_at_the_end(
        self, store: AsyncMemoryStore
    ) -> None:
        await store.set(SID, {"log": []})

        async def page(websocket: WebSocket) -> None:
            log = websocket.session["log"]
            await websocket.accept()
            log.append(await websocket.receive_text())
            await websocket.close()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        connection.say("late")
        await connection.run()
        assert await store.get(SID) == {"log": ["late"]}

    async def test_a_handler_that_raises_saves_nothing_since(self, store: AsyncMemoryStore) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope["session"]["a"] = 2
            await send({**ACCEPT})
            scope["session"]["a"] = 3
            raise Boom

        with pytest.raises(Boom):
            await socket(app, store).run()
        assert await store.get(SID) == {"a": 2}

    async def test_it_is_too_late_for_a_new_session(
        self, store: AsyncMemoryStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            session: Session = scope["session"]
            await send({**ACCEPT})
            session["b"] = 1
            with pytest.raises(SessionError, match="its cookie can not be set any more"):
                await session.save()
            await send({**CLOSE})

        await socket(app, store, None).run()
        assert await store.length() == 1
        assert "it is lost" in caplog.text

    async def test_a_logout_elsewhere_is_not_undone_at_the_end(
        self, store: AsyncMemoryStore
    ) -> None:
        """Promise 3, over the longest requests there are."""

        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            websocket.session["a"] = await websocket.receive_text()
            await websocket.close()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        task = connection.start()
        await connection.seen("websocket.accept")
        await store.destroy(SID)
        connection.say("late")
        await task
        assert await store.length() == 0

    async def test_what_others_wrote_meanwhile_is_kept(self, store: AsyncMemoryStore) -> None:
        """Promise 2."""

        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            websocket.session["mine"] = await websocket.receive_text()
            await websocket.close()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        task = connection.start()
        await connection.seen("websocket.accept")
        await store.set(SID, {"a": 1, "theirs": True})
        connection.say("late")
        await task
        assert await store.get(SID) == {"a": 1, "mine": "late", "theirs": True}

    async def test_reloading_shows_what_others_wrote(self, store: AsyncMemoryStore) -> None:
        seen: list[Any] = []

        async def page(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.receive_text()
            await get_session(websocket).reload()
            seen.append(dict(websocket.session))
            await websocket.close()

        connection = socket(Starlette(routes=[WebSocketRoute("/", page)]), store)
        task = connection.start()
        await connection.seen("websocket.accept")
        await store.set(SID, {"a": 2})
        connection.say("look")
        await task
        assert seen == [{"a": 2}]
