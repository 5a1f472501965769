"""Sessions for ASGI: Starlette, FastAPI, Litestar, or a bare application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, MutableMapping
from operator import methodcaller
from typing import Any, TypeAlias, Unpack

from .errors import ConfigurationError
from .exchange import AsyncExchange
from .headers import Amender
from .lifecycle import Lifecycle
from .settings import SessionOptions, SessionSettings
from .store import AsyncPerforms

__all__ = ["SessionMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

# What begins a response: from then on no cookie can be set.
_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)

_amend = Amender(
    *(b"vary", b"cache-control", b"set-cookie"),
    encode=methodcaller("encode", "latin-1"),
    decode=methodcaller("decode", "latin-1"),
).amend


class SessionMiddleware:
    """Gives every request its session, as `request.session` (`scope["session"]`).

    What the handler wrote is in the database before the first byte of the response leaves,
    whatever its status; a handler that raises saves nothing. What changes after the response has
    begun, in a stream, a WebSocket or a background task, is saved by `await session.save()` or
    else when the application returns.

    Args:
        app: the application.
        store: an async store, such as `AsyncSQLSessionStore`.
        **options: see `SessionSettings`; `secret` is required.

    Raises:
        ConfigurationError: an option can not work.

    >>> app.add_middleware(SessionMiddleware, store=store, secret="...")  # doctest: +SKIP
    """

    def __init__(
        self, app: ASGIApp, store: AsyncPerforms, **options: Unpack[SessionOptions]
    ) -> None:
        if not inspect.iscoroutinefunction(getattr(store, "perform", None)):
            raise ConfigurationError(
                "SessionMiddleware for ASGI takes an async store, such as AsyncSQLSessionStore;"
                f" {type(store).__name__} is none"
            )
        self.app = app
        self._settings = SessionSettings(**options)
        self._lifecycle = Lifecycle(store, self._settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange = self._exchange(scope)
        session = scope["session"] = exchange.session
        if self._settings.load == "eager" and not (exchange.opted_out or session._loaded):
            await exchange.load()
        if scope["type"] == "websocket":
            receive = _receiving(receive, exchange)
        await self.app(scope, receive, _Sending(send, exchange, scope))
        await exchange.close()

    def _exchange(self, scope: Scope) -> AsyncExchange:
        cookies, forwarded = b"", b""
        for name, value in scope["headers"]:
            if name == b"cookie":
                # HTTP/2 may send several (RFC 9113, 8.2.3).
                cookies = cookies + b"; " + value if cookies else value
            elif name == b"x-forwarded-proto" and not forwarded:
                forwarded = value
        settings = self._settings
        return AsyncExchange(
            self._lifecycle,
            cookies.decode("latin-1"),
            https=settings.is_https(scope.get("scheme", "http"), forwarded.decode("latin-1")),
            opted_out=bool(settings.exclude) and settings.excludes(scope["path"]),
        )


class _Sending:
    """`send`, with the session settled before the response begins.

    An object: a function that closes over as much is half a dozen of them at every request.
    """

    __slots__ = ("_exchange", "_scope", "_send", "_session")

    def __init__(self, send: Send, exchange: AsyncExchange, scope: Scope) -> None:
        self._send = send
        self._exchange = exchange
        self._scope = scope
        self._session = exchange.session

    async def __call__(self, message: Message) -> None:
        exchange = self._exchange
        if message["type"] in _BEGINNINGS and not exchange.responding:
            unset = self._scope.get("session") is not self._session
            finished = await exchange.finish(unset=unset)
            if finished.vary:
                message["headers"] = _amend(message.get("headers") or (), finished)
        elif message["type"] == "websocket.close":
            # Before an accept it is a refusal, and no cookie can go with that.
            exchange.responding = True
            await exchange.close()
        await self._send(message)


def _receiving(receive: Receive, exchange: AsyncExchange) -> Receive:
    """`receive` for a WebSocket, whose handler leaves by the exception that a disconnect becomes:
    what it changed is saved before that."""

    async def receive_with_session() -> Message:
        message = await receive()
        if message["type"] == "websocket.disconnect":
            await exchange.close()
        return message

    return receive_with_session
