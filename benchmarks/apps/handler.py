"""The ASGI application that every session middleware is put around, and one for startup."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from benchmarks.harness.data import session_data

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

DATABASE_URL = os.environ.get("DATABASE_URL", "")


async def answer(send: Send, text: str) -> None:
    body = text.encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def handler(scope: Scope, receive: Receive, send: Send) -> None:
    """Uses `scope["session"]`, whoever put it there."""
    session: MutableMapping[str, Any] = scope["session"]
    match scope["path"]:
        case "/write":
            session["n"] = session.get("n", 0) + 1
        case "/fill":
            session.update(session_data())
    await answer(send, str(session.get("n", 0)))


async def bare_handler(scope: Scope, receive: Receive, send: Send) -> None:
    """The same without a session."""
    await answer(send, "0")


class Started:
    """An app that has something to do when the server starts and when it stops."""

    def __init__(
        self,
        app: ASGIApp,
        startup: Callable[[], Awaitable[Any]],
        shutdown: Callable[[], Awaitable[Any]],
    ) -> None:
        self._app = app
        self._startup = startup
        self._shutdown = shutdown

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        await self._startup()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._shutdown()
        await send({"type": "lifespan.shutdown.complete"})


async def nothing() -> None:
    """For apps that have nothing to do then."""
