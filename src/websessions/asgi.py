"""Sessions for ASGI: Starlette, FastAPI, Litestar, or a bare application."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, TypeAlias, Unpack

from .errors import ConfigurationError
from .exchange import AsyncExchange
from .headers import private, vary_by_cookie
from .lifecycle import Finished, Lifecycle
from .settings import SessionOptions, SessionSettings
from .store import AsyncPerforms

__all__ = ["SessionMiddleware"]

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers: TypeAlias = list[tuple[bytes, bytes]]

# What begins a response: from then on no cookie can be set.
_BEGINNINGS = frozenset(
    {"http.response.start", "websocket.accept", "websocket.http.response.start"}
)


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
        self._store = store
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

        async def send_with_session(message: Message) -> None:
            if message["type"] in _BEGINNINGS and not exchange.responding:
                finished = await exchange.finish(unset=scope.get("session") is not session)
                _amend(message, finished)
            elif message["type"] == "websocket.close":
                # Before an accept it is a refusal, and no cookie can go with that.
                exchange.responding = True
                await exchange.close()
            await send(message)

        async def receive_with_session() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                # Handlers leave by the exception that this becomes.
                await exchange.close()
            return message

        is_socket = scope["type"] == "websocket"
        await self.app(scope, receive_with_session if is_socket else receive, send_with_session)
        if exchange.may_be_unsettled:
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
            self._store,
            cookies.decode("latin-1"),
            https=settings.is_https(scope.get("scheme", "http"), forwarded.decode("latin-1")),
            opted_out=bool(settings.exclude) and settings.excludes(scope["path"]),
        )


def _amend(message: Message, finished: Finished) -> None:
    """Put what the session needs into the headers of a message that begins a response."""
    if finished.cookie is None and not finished.vary:
        return
    headers: Headers = list(message.get("headers") or ())
    if finished.vary:
        _replace(headers, b"vary", vary_by_cookie)
    if finished.cookie is not None:
        _replace(headers, b"cache-control", private)
        headers.append((b"set-cookie", finished.cookie.encode("latin-1")))
    message["headers"] = headers


def _replace(headers: Headers, name: bytes, change: Callable[[str | None], str]) -> None:
    present = _values(headers, name)
    value = change(", ".join(present) if present else None)
    headers[:] = [header for header in headers if header[0].lower() != name]
    headers.append((name, value.encode("latin-1")))


def _values(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in headers if key.lower() == name]
