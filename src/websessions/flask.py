"""Sessions for Flask: `flask.session` is a `websessions.Session`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Unpack

from flask import Flask, Request, Response, current_app, got_request_exception, request
from flask.sessions import SessionInterface, SessionMixin

from .exchange import SyncExchange
from .headers import private, vary_by_cookie
from .lifecycle import Lifecycle
from .session import Session
from .settings import OptionalSessionOptions, SessionSettings
from .store import Performs
from .wsgi import ENVIRON_KEY, open_exchange, sync_store

__all__ = ["FlaskSession", "WebSessions"]

_EXCHANGE_KEY = "websessions.exchange"


class FlaskSession(Session, SessionMixin):
    """A `Session` with what Flask's own sessions have besides."""

    @property
    def new(self) -> bool:  # type: ignore[override]
        """Whether the request came without a live session: `is_new` by Flask's name."""
        return self.is_new

    @property
    def permanent(self) -> bool:
        """Whether the cookie outlives the browser.

        True gives it the app's `PERMANENT_SESSION_LIFETIME` as `max_age`; False makes it end with
        the browser.
        """
        # Both look, and so load; whether the cookie is persistent it knows only after that.
        return self.cookie.max_age is not None or self.cookie.expires is not None

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.cookie.max_age = current_app.permanent_session_lifetime if value else None


class FlaskOptions(OptionalSessionOptions, total=False):
    """The keyword arguments of `WebSessions`; `SessionSettings` says what they do."""

    secret: str | bytes | Sequence[str | bytes]


class WebSessions(SessionInterface):
    """Keeps `flask.session` in a store.

    It is loaded at its first use and saved before the response leaves, whatever its status. When
    a handler raises and Flask answers for it with a 500, be it in the words of the app's
    `errorhandler(500)`, nothing is saved; when an error handler for the exception itself answers,
    that is a response like any other. What changes while a body is streamed is saved when the
    server closes it, unless making it failed.

    Args:
        app: the application, or None to call `init_app` later.
        store: a sync store, such as `SQLSessionStore`.
        **options: see `SessionSettings`; `secret` is by default the app's `SECRET_KEY`, and its
            `SECRET_KEY_FALLBACKS` verify.

    Raises:
        ConfigurationError: an option can not work.

    >>> WebSessions(app, store=SQLSessionStore("sqlite:///sessions.db"))  # doctest: +SKIP
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        store: Performs,
        **options: Unpack[FlaskOptions],
    ) -> None:
        self._store = sync_store(store)
        self._options = options
        self._lifecycles: dict[Flask, Lifecycle[Performs]] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Give an app its sessions."""
        options = dict(self._options)
        if options.get("secret") is None and app.secret_key:
            fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
            options["secret"] = [app.secret_key, *fallbacks]
        settings = SessionSettings(**{"secret": (), **options})  # type: ignore[arg-type]
        self._lifecycles[app] = Lifecycle(self._store, settings)
        app.session_interface = self
        got_request_exception.connect(_abandon, app)

    def open_session(self, app: Flask, request: Request) -> FlaskSession:
        environ = request.environ
        exchange = open_exchange(self._lifecycles[app], environ, FlaskSession)
        environ[_EXCHANGE_KEY] = exchange
        environ[ENVIRON_KEY] = exchange.session
        assert isinstance(exchange.session, FlaskSession)
        return exchange.session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        environ = request.environ
        exchange: SyncExchange = environ[_EXCHANGE_KEY]
        finished = exchange.finish(unset=environ.get(ENVIRON_KEY) is not session)
        if finished.vary:
            _change(response, "Vary", vary_by_cookie)
        if finished.cookie is not None:
            _change(response, "Cache-Control", private)
            response.headers.add("Set-Cookie", finished.cookie)
        if response.is_streamed and not response.direct_passthrough:
            response.response = _Stream(response.response, exchange)
        response.call_on_close(exchange.close)


class _Stream(Iterator[Any]):
    """A body that is made while it is sent; where that fails, nothing more is saved."""

    def __init__(self, parts: Iterable[Any], exchange: SyncExchange) -> None:
        self._parts = parts
        self._iterator = iter(parts)
        self._exchange = exchange

    def __next__(self) -> Any:
        try:
            return next(self._iterator)
        except StopIteration:
            raise
        except BaseException:
            self._exchange.abandon()
            raise

    def close(self) -> None:
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()


def _change(response: Response, name: str, change: Callable[[str | None], str]) -> None:
    present = response.headers.getlist(name)
    if present:
        response.headers.set(name, change(", ".join(present)))
    else:
        response.headers.add(name, change(None))


def _abandon(app: Flask, **_: Any) -> None:
    """Flask is about to answer for a handler that raised."""
    exchange = request.environ.get(_EXCHANGE_KEY)
    if exchange is not None:
        exchange.abandon()
