"""Sessions for WSGI: Bottle, Pyramid, a bare application. Flask has `websessions.flask`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias, Unpack

from .errors import ConfigurationError
from .exchange import SyncExchange
from .headers import Amender
from .lifecycle import Finished, Lifecycle
from .session import Session
from .settings import SessionOptions, SessionSettings
from .store import Performs

__all__ = ["ENVIRON_KEY", "SessionMiddleware", "open_exchange", "sync_store"]

ENVIRON_KEY = "websessions.session"

Environ: TypeAlias = dict[str, Any]
Headers: TypeAlias = list[tuple[str, str]]
StartResponse: TypeAlias = Callable[..., Callable[[bytes], Any]]
WSGIApp: TypeAlias = Callable[[Environ, StartResponse], Iterable[bytes]]

_amend = Amender("Vary", "Cache-Control", "Set-Cookie", encode=str, decode=str).amend


class SessionMiddleware:
    """Gives every request its session, as `environ["websessions.session"]`.

    It is loaded at its first use, so a request that does not look costs nothing. What the
    application wrote before the first part of its body is in the database before that part
    leaves, whatever the status; an application that raises saves nothing. (A framework that turns
    its handlers' exceptions into responses itself, as Flask does, gives this middleware a response
    like any other, and it saves; `websessions.flask` knows better.) What changes while the body is
    sent is saved by `session.save()`, or else when the server closes the body.

    Args:
        app: the application.
        store: a sync store, such as `SQLSessionStore`.
        **options: see `SessionSettings`; `secret` is required.

    Raises:
        ConfigurationError: an option can not work.

    >>> application = SessionMiddleware(application, store, secret="...")  # doctest: +SKIP
    """

    def __init__(self, app: WSGIApp, store: Performs, **options: Unpack[SessionOptions]) -> None:
        self.app = app
        self._lifecycle = Lifecycle(sync_store(store), SessionSettings(**options))

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        exchange = open_exchange(self._lifecycle, environ)
        environ[ENVIRON_KEY] = exchange.session
        response = _Response(exchange, environ, start_response)
        body = _Body(self.app(environ, response.start), response)
        written = response.begun
        if response.started:
            # The headers wait until the application has returned: many call start_response
            # first and work afterwards.
            body.begin()
        # After `write()` the application went on, so there may be something left to save.
        if response.begun and not written and _is_complete(body.parts, environ):
            exchange.let_go()
            return body.parts
        return body


def open_exchange(
    lifecycle: Lifecycle[Performs],
    environ: Environ,
    session_type: type[Session] = Session,
) -> SyncExchange:
    """A request's session; the store is not asked before the session is used."""
    settings = lifecycle.settings
    return SyncExchange(
        lifecycle,
        environ.get("HTTP_COOKIE", ""),
        https=settings.is_https(
            environ.get("wsgi.url_scheme", "http"),
            environ.get("HTTP_X_FORWARDED_PROTO"),
        ),
        opted_out=bool(settings.exclude) and settings.excludes(_path(environ)),
        session_type=session_type,
    )


def _path(environ: Environ) -> str:
    path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
    return str(path.encode("latin-1", "replace").decode("utf-8", "replace"))  # PEP 3333


def sync_store(store: Performs) -> Performs:
    """The store, if it is one for sync code.

    Raises:
        ConfigurationError: it is none.
    """
    perform = getattr(store, "perform", None)
    if perform is None or inspect.iscoroutinefunction(perform):
        raise ConfigurationError(
            f"WSGI takes a sync store, such as SQLSessionStore; {type(store).__name__} is none"
        )
    return store


def _is_complete(body: Iterable[bytes], environ: Environ) -> bool:
    """Whether nothing can happen any more while the server sends this body."""
    if isinstance(body, list | tuple):
        return True
    wrapper = environ.get("wsgi.file_wrapper")
    return isinstance(wrapper, type) and isinstance(body, wrapper)


class _Response:
    """A response whose headers are held back until the session is settled."""

    def __init__(
        self, exchange: SyncExchange, environ: Environ, start_response: StartResponse
    ) -> None:
        self.exchange = exchange
        self._finished: Finished | None = None
        self._environ = environ
        self._session: Session = exchange.session
        self._start_response = start_response
        self._held: tuple[str, Headers, tuple[Any, ...]] | None = None
        self._write: Callable[[bytes], Any] | None = None

    @property
    def started(self) -> bool:
        return self._held is not None

    @property
    def begun(self) -> bool:
        return self._finished is not None

    def start(self, status: str, headers: Headers, *exc_info: Any) -> Callable[[bytes], Any]:
        """What the application takes for the server's `start_response` (PEP 3333)."""
        if self._finished is not None:
            # An error while the body was made. If it is not too late for new headers, the session
            # still needs its own: it is stored already.
            return self._start_response(status, _amend(headers, self._finished), *exc_info)
        self._held = (status, headers, exc_info)
        return self._write_first

    def _write_first(self, data: bytes) -> None:
        write = self.begin()
        write(data)

    def begin(self) -> Callable[[bytes], Any]:
        """Settle the session and start the response in earnest, unless that is done."""
        if self._write is None:
            assert self._held is not None
            status, headers, exc_info = self._held
            unset = self._environ.get(ENVIRON_KEY) is not self._session
            self._finished = self.exchange.finish(unset=unset)
            self._write = self._start_response(status, _amend(headers, self._finished), *exc_info)
        return self._write


class _Body:
    """A body that is made while it is sent."""

    def __init__(self, parts: Iterable[bytes], response: _Response) -> None:
        self.parts = parts
        self._response = response
        self._iterator: Iterator[bytes] | None = None
        self._failed = False

    def begin(self) -> None:
        """Begin the response; where that fails, the server never sees this body to close it."""
        try:
            self._response.begin()
        except BaseException:
            self._failed = True
            self.close()
            raise

    def __iter__(self) -> _Body:
        return self

    def __next__(self) -> bytes:
        try:
            if self._iterator is None:
                self._iterator = iter(self.parts)
            part = next(self._iterator, None)
            # PEP 3333: an empty part may come before the headers are due.
            if not self._response.begun and part != b"":
                self._response.begin()
        except BaseException:
            self._failed = True
            raise
        if part is None:
            raise StopIteration
        return part

    def close(self) -> None:
        """The server is done with the response."""
        try:
            close = getattr(self.parts, "close", None)
            if close is not None:
                close()
        finally:
            if not self._failed:
                self._response.exchange.close()
