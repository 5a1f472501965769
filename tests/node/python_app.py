"""The Python app of the tests, as ASGI and as WSGI: `app.js` has the same paths, which do the same.

It is configured by the same variables of the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterable
from typing import Any

from websessions import CookieSettings, FormerCookie, Session
from websessions.asgi import SessionMiddleware as ASGISessions
from websessions.moving import AsyncMovingStore
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.wsgi import SessionMiddleware as WSGISessions

PACKAGE = os.environ["PACKAGE"].removesuffix("-8").replace("-", "_")
SECRETS = json.loads(os.environ["SECRETS"])
COOKIE = CookieSettings.express_session()


def handle(session: Session, path: str, body: Any) -> Any:
    """What a path does; the answer."""
    match path:
        case "/login":
            session.regenerate(keep_data=False)
            session["user"] = body
        case "/count":
            session["count"] = session.get("count", 0) + 1
        case "/set":
            session.update(body)
        case "/delete":
            del session[body]
        case "/max-age":
            session.cookie.max_age = body
            session["remembered"] = body
        case "/logout":
            session.destroy()
            return {}
    return {"id": session.id.value, "values": dict(session)}


class Gate:
    """A request that has read its session goes on when it is told to."""

    def __init__(self) -> None:
        self.close()

    def close(self) -> None:
        self.arrived, self.opened = asyncio.Event(), asyncio.Event()

    async def hold(self) -> None:
        self.arrived.set()
        await self.opened.wait()
        self.close()


gate = Gate()


async def handle_asgi(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    path = scope["path"]
    if path == "/held":
        await gate.hold()
        path = "/set"
    elif path == "/arrived":
        await gate.arrived.wait()
    elif path == "/open":
        gate.opened.set()
    answer = handle(scope["session"], path, json.loads(body or "null"))
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(answer).encode()})


def handle_wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    size = int(environ.get("CONTENT_LENGTH") or 0)
    body = json.loads(environ["wsgi.input"].read(size) or "null")
    answer = handle(environ["websessions.session"], environ["PATH_INFO"], body)
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


def asgi() -> Any:
    store = getattr(AsyncSQLSessionStore, PACKAGE)(os.environ["ASYNC_URL"])
    return ASGISessions(handle_asgi, store, secret=SECRETS, cookie=COOKIE)


def wsgi() -> Any:
    store = getattr(SQLSessionStore, PACKAGE)(os.environ["SYNC_URL"])
    return WSGISessions(handle_wsgi, store, secret=SECRETS, cookie=COOKIE)


def moving() -> Any:
    """The same, on a table of its own: it takes the sessions over from Express."""
    former = getattr(AsyncSQLSessionStore, PACKAGE)(os.environ["ASYNC_URL"])
    own = AsyncSQLSessionStore(os.environ["ASYNC_URL"], table_name="own_sessions")
    return ASGISessions(
        handle_asgi,
        AsyncMovingStore(own, former),
        secret="a secret that Express never had",
        former=FormerCookie(secret=SECRETS),
    )
