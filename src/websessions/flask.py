"""Sessions for Flask: `flask.session` is a `websessions.Session`."""

from __future__ import annotations

from collections.abc import Sequence
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
        return self.cookie.persistent

    @permanent.setter
    def permanent(self, value: bool) -> None:
        self.cookie.max_age = current_app.permanent_session_lifetime if value else None


class FlaskOptions(OptionalSessionOptions, total=False):
    """The keyword arguments of `WebSessions`; `SessionSettings` says what they do."""

    secret: str | bytes | Sequence[str | bytes]


class WebSessions(SessionInterface):
    """Keeps `flask.session` in a store.

    It is loaded at its first use and saved before the response leaves, whatever its status. When
    a handler raises and Flask answers for it with a 500, nothing is saved; when an error handler
    of the app's answers, that is a response like any other.

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
        self._lifecycles: dict[Flask, Lifecycle] = {}
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
        exchange = open_exchange(self._lifecycles[app], self._store, request.environ, FlaskSession)
        request.environ[_EXCHANGE_KEY] = exchange
        request.environ[ENVIRON_KEY] = exchange.session
        assert isinstance(exchange.session, FlaskSession)
        return exchange.session

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        exchange: SyncExchange = request.environ[_EXCHANGE_KEY]
        finished = exchange.finish(unset=request.environ.get(ENVIRON_KEY) is not session)
        if finished.vary:
            response.headers["Vary"] = vary_by_cookie(_joined(response, "Vary"))
        if finished.cookie is not None:
            response.headers["Cache-Control"] = private(_joined(response, "Cache-Control"))
            response.headers.add("Set-Cookie", finished.cookie)
        response.call_on_close(exchange.close)


def _joined(response: Response, name: str) -> str | None:
    return ", ".join(response.headers.getlist(name)) or None


def _abandon(app: Flask, **_: Any) -> None:
    """Flask is about to answer for a handler that raised."""
    exchange = request.environ.get(_EXCHANGE_KEY)
    if exchange is not None:
        exchange.abandon()
