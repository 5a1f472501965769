"""Small clients for the applications that the documentation builds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, TypeAlias

import httpx

__all__ = ["Visitors"]

ASGIApp: TypeAlias = Callable[..., Awaitable[Any]]
WSGIApp: TypeAlias = Callable[..., Any]
Message: TypeAlias = MutableMapping[str, Any]


class Visitors:
    """Makes clients, and ends what they have begun.

    A client is a browser with a cookie jar, at http://testserver; with `https=True`, over TLS.
    An ASGI application is started (its lifespan) before its first visitor comes.
    """

    def __init__(self) -> None:
        self._running: dict[int, _Lifespan] = {}
        self._clients: list[httpx.AsyncClient] = []

    async def browser(
        self, app: ASGIApp, *, https: bool = False, errors: bool = True
    ) -> httpx.AsyncClient:
        """A browser on an ASGI application; with `errors=False` a failing app answers 500."""
        await self.start(app)
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app, raise_app_exceptions=errors),
            base_url="https://testserver" if https else "http://testserver",
        )
        self._clients.append(client)
        return client

    def wsgi_browser(self, app: WSGIApp, *, https: bool = False) -> httpx.Client:
        """A browser on a WSGI application."""
        return httpx.Client(
            transport=httpx.WSGITransport(app),
            base_url="https://testserver" if https else "http://testserver",
        )

    async def start(self, app: ASGIApp) -> None:
        """Run the application's start-up, once."""
        if id(app) not in self._running:
            self._running[id(app)] = lifespan = _Lifespan(app)
            await lifespan.start()

    async def stop(self, app: ASGIApp) -> None:
        """Run the application's shutdown."""
        await self._running.pop(id(app)).stop()

    async def socket(
        self, app: ASGIApp, path: str, texts: Sequence[str] = (), *, cookies: str = ""
    ) -> list[Message]:
        """Open a WebSocket, send texts, close it; all that the application sent."""
        await self.start(app)
        sent: list[Message] = []
        incoming: list[Message] = [
            {"type": "websocket.connect"},
            *({"type": "websocket.receive", "text": text} for text in texts),
            {"type": "websocket.disconnect", "code": 1000},
        ]

        async def receive() -> Message:
            return incoming.pop(0)

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {
            "type": "websocket",
            "asgi": {"version": "3.0"},
            "scheme": "ws",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"cookie", cookies.encode())] if cookies else [],
            "subprotocols": [],
            "client": ("127.0.0.1", 1),
            "server": ("testserver", 80),
        }
        await app(scope, receive, send)
        return sent

    async def leave(self) -> None:
        """Close the clients and shut the applications down."""
        for client in self._clients:
            await client.aclose()
        for lifespan in self._running.values():
            await lifespan.stop()


class _Lifespan:
    """An ASGI application's lifespan, as a server drives it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._outgoing: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[Any] | None = None

    async def start(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

        async def run() -> None:
            await self._app(scope, self._incoming.get, self._outgoing.put)

        self._task = asyncio.create_task(run())
        await self._say("startup")

    async def stop(self) -> None:
        await self._say("shutdown")
        assert self._task is not None
        await self._task

    async def _say(self, word: str) -> None:
        """Say it and wait for the answer; an application without a lifespan just fails."""
        assert self._task is not None
        await self._incoming.put({"type": f"lifespan.{word}"})
        answer = asyncio.create_task(self._outgoing.get())
        await asyncio.wait({answer, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not answer.done():
            answer.cancel()
            await self._task  # raises what ended it
            return
        message = answer.result()
        assert message["type"] == f"lifespan.{word}.complete", message
