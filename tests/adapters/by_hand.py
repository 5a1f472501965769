"""The server's side of a connection, played by the test: it sees each message as it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias

Message: TypeAlias = MutableMapping[str, Any]
Watch: TypeAlias = Callable[[Message], Awaitable[None]]

__all__ = ["Connection", "Message"]


class Connection:
    """One HTTP request or WebSocket, made of an ASGI app.

    Args:
        app: the application.
        cookie: the value of the session cookie.
        socket: a WebSocket instead of a request.
        watch: called with each message before it counts as sent.
    """

    def __init__(
        self,
        app: Any,
        *,
        cookie: str | None = None,
        socket: bool = False,
        path: str = "/",
        scheme: str | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        watch: Watch | None = None,
    ) -> None:
        self._app = app
        self._watch = watch
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._news = asyncio.Condition()
        self.sent: list[Message] = []
        cookies = [] if cookie is None else [(b"cookie", f"sid={cookie}".encode())]
        self.scope: dict[str, Any] = {
            "type": "websocket" if socket else "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": scheme or ("ws" if socket else "http"),
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"shop.example"), *cookies, *headers],
            "subprotocols": [],
            "extensions": {"websocket.http.response": {}},
        }
        first = "websocket.connect" if socket else "http.request"
        self.tell({"type": first})

    def tell(self, message: Message) -> None:
        """Let the application receive a message."""
        self._inbox.put_nowait(message)

    def say(self, text: str) -> None:
        """A text over the WebSocket."""
        self.tell({"type": "websocket.receive", "text": text})

    def leave(self) -> None:
        """The client is gone."""
        if self.scope["type"] == "websocket":
            self.tell({"type": "websocket.disconnect", "code": 1001})
        else:
            self.tell({"type": "http.disconnect"})

    async def _receive(self) -> Message:
        return await self._inbox.get()

    async def _send(self, message: Message) -> None:
        if self._watch is not None:
            await self._watch(message)
        async with self._news:
            self.sent.append(message)
            self._news.notify_all()

    async def run(self) -> None:
        """Run the application to its end."""
        await self._app(self.scope, self._receive, self._send)

    def start(self) -> asyncio.Task[None]:
        """Run the application beside the test."""
        return asyncio.create_task(self.run())

    async def seen(self, kind: str) -> Message:
        """The first message of a kind, once it is sent."""
        async with self._news:
            await self._news.wait_for(lambda: any(m["type"] == kind for m in self.sent))
        return next(m for m in self.sent if m["type"] == kind)

    @property
    def kinds(self) -> list[str]:
        return [message["type"] for message in self.sent]

    def headers(self, name: str) -> list[str]:
        """The values of a header of the message that began the response."""
        for message in self.sent:
            if "headers" in message:
                return [value.decode() for key, value in message["headers"] if key.decode() == name]
        return []

    @property
    def cookie(self) -> str | None:
        """The value of the session cookie that the response set."""
        for header in self.headers("set-cookie"):
            return header.partition("=")[2].partition(";")[0]
        return None
