"""What only WSGI has: `start_response`, `write`, bodies that are made while they are sent."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from wsgiref.handlers import SimpleHandler
from wsgiref.util import FileWrapper, setup_testing_defaults
from wsgiref.validate import validator

import pytest

from tests.adapters.kit import SECRET, Boom
from websessions import AsyncMemoryStore, ConfigurationError, MemoryStore, Session, Sid
from websessions.cookie import SignedValue
from websessions.errors import StoreUnavailable
from websessions.sql import AsyncSQLSessionStore
from websessions.store import Call, Insert, Replace
from websessions.testing import FakeClock
from websessions.wsgi import ENVIRON_KEY, SessionMiddleware, WSGIApp

SID = "f" * 43
COOKIE = SignedValue("sid", [SECRET.encode()]).sign(Sid(SID))


class Server:
    """The server's side, step by step. `events` tells what happened in which order."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.events: list[str] = []
        self.headers: list[tuple[str, str]] = []
        self.status = ""
        store.events = self.events

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if self.status and exc_info is None:
            raise AssertionError("start_response was called twice")
        self.status, self.headers = status, headers
        self.events.append(f"start {status[:3]}")
        return lambda data: self.events.append(f"write {data.decode()}")

    def call(self, app: WSGIApp, cookie: str | None = COOKIE, **environ: Any) -> Iterable[bytes]:
        """Call the application; its body, untouched."""
        setup_testing_defaults(environ)
        if cookie is not None:
            environ["HTTP_COOKIE"] = f"sid={cookie}"
        return SessionMiddleware(app, self.store, secret=SECRET)(environ, self.start_response)

    def send(self, body: Iterable[bytes]) -> None:
        """Send a body and close it, as a server does."""
        try:
            for part in body:
                self.events.append(f"part {part.decode()}")
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    def serve(self, app: WSGIApp, cookie: str | None = COOKIE, **environ: Any) -> None:
        self.send(self.call(app, cookie, **environ))

    def header(self, name: str) -> str | None:
        return dict(self.headers).get(name)


class Store(MemoryStore):
    """A store that tells when it is called, and can fail."""

    def __init__(self) -> None:
        super().__init__(clock=FakeClock(), check_expiration_interval=None)
        self.events: list[str] = []
        self.failing: type[Call[Any]] | None = None

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        [call] = calls
        self.events.append(type(call).__name__.lower())
        if type(call) is self.failing:
            return [StoreUnavailable("the database is down")]
        return super().perform(calls)


@pytest.fixture
def server() -> Server:
    store = Store()
    store.set(SID, {"a": 1})
    return Server(store)


class Body:
    """A body that counts how often it is closed."""

    def __init__(self, parts: Iterable[bytes], closing: Callable[[], None] | None = None) -> None:
        self._parts = iter(parts)
        self._closing = closing
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self._parts

    def close(self) -> None:
        self.closed += 1
        if self._closing is not None:
            self._closing()


def session_of(environ: dict[str, Any]) -> Session:
    session: Session = environ[ENVIRON_KEY]
    return session


class TestMaking:
    def test_an_async_store_is_refused_by_name(self) -> None:
        stores: list[Any] = [AsyncMemoryStore(), None, "sqlite://"]
        for store in stores:
            with pytest.raises(ConfigurationError, match=f"{type(store).__name__} is none"):
                SessionMiddleware(lambda environ, start: [], store, secret=SECRET)
        refused: Any = AsyncSQLSessionStore("sqlite://")
        with pytest.raises(ConfigurationError, match="AsyncSQLSessionStore is none"):
            SessionMiddleware(lambda environ, start: [], refused, secret=SECRET)


class TestWhenItIsLoaded:
    def test_at_its_first_use(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            server.events.append("working")
            assert session_of(environ)["a"] == 1
            start_response("200 OK", [])
            return [b"x"]

        server.serve(app)
        assert server.events == ["working", "load", "start 200", "part x"]

    def test_not_at_all_where_nobody_looks(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return [b"x"]

        server.serve(app)
        assert server.events == ["start 200", "part x"]
        assert server.headers == []


class TestWhenItIsSaved:
    def test_before_the_response_starts(self, server: Server) -> None:
        """Promise 1."""

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            return [b"x"]

        server.serve(app)
        assert server.events == ["load", "replace", "start 200", "part x"]

    def test_also_by_an_app_that_starts_its_response_before_it_works(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("X-Own", "1")])
            session_of(environ).regenerate()
            return [b"x"]

        server.serve(app)
        assert server.events == ["load", "replace", "start 200", "part x"]
        assert server.header("X-Own") == "1"
        assert (server.header("Set-Cookie") or "").startswith("sid=")

    def test_also_by_a_generator(self, server: Server) -> None:
        """Empty parts before the first real one do not count (PEP 3333)."""

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            yield b""
            session_of(environ).regenerate()
            yield b""
            session_of(environ)["a"] = 2
            yield b"x"

        server.serve(app)
        assert server.events == ["part ", "load", "part ", "replace", "start 200", "part x"]
        assert (server.header("Set-Cookie") or "").startswith("sid=")

    def test_also_of_an_empty_body(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("204 No Content", [])
            yield from ()

        server.serve(app)
        assert server.events == ["load", "replace", "start 204"]

    def test_what_changes_while_the_body_is_sent_is_saved_at_its_end(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session = session_of(environ)
            session["a"] = 2
            start_response("200 OK", [])
            yield b"x"
            session["a"] = 3
            yield b"y"

        server.serve(app)
        assert server.events == ["load", "replace", "start 200", "part x", "part y", "replace"]
        assert server.store.get(SID) == {"a": 3}

    def test_or_at_once_by_hand(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            yield b"x"
            session_of(environ)["a"] = 3
            session_of(environ).save()
            yield b"y"

        server.serve(app)
        assert server.events == ["start 200", "part x", "load", "replace", "part y"]

    def test_a_body_that_breaks_saves_no_more(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            yield b"x"
            session_of(environ)["a"] = 3
            raise Boom

        with pytest.raises(Boom):
            server.serve(app)
        assert server.store.get(SID) == {"a": 2}

    def test_a_client_that_leaves_loses_nothing_that_was_done(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            session_of(environ)["a"] = 2
            yield b"x"
            session_of(environ)["a"] = 3
            yield b"y"
            session_of(environ)["a"] = 4
            yield b"z"

        body: Any = server.call(app)
        assert [next(body), next(body)] == [b"x", b"y"]
        body.close()
        assert server.store.get(SID) == {"a": 3}

    def test_one_who_leaves_before_the_first_part_leaves_nothing(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            yield b""
            session_of(environ)["a"] = 2
            yield b""
            yield b"x"

        body: Any = server.call(app)
        assert [next(body), next(body)] == [b"", b""]
        body.close()
        assert server.store.get(SID) == {"a": 1}

    def test_an_app_that_raises_saves_nothing(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            raise Boom

        with pytest.raises(Boom):
            server.serve(app)
        assert server.events == ["load"]


class TestWrite:
    def test_what_was_done_before_is_stored_before_it_writes(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            write = start_response("200 OK", [])
            session_of(environ).regenerate()
            write(b"one")
            write(b"two")
            return [b"x"]

        server.serve(app)
        assert server.events == ["load", "replace", "start 200", "write one", "write two", "part x"]
        assert (server.header("Set-Cookie") or "").startswith("sid=")

    def test_what_is_done_afterwards_is_saved_at_the_end(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            write = start_response("200 OK", [])
            write(b"one")
            session_of(environ)["a"] = 2
            return []

        server.serve(app)
        assert server.events == ["start 200", "write one", "load", "replace"]
        assert server.store.get(SID) == {"a": 2}


class TestErrorPages:
    """`start_response` with `exc_info` replaces a response, if it is not too late."""

    def test_before_the_response_is_due_only_the_last_one_counts(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [("X-First", "1")])
            session_of(environ)["a"] = 2
            try:
                raise Boom
            except Boom as error:
                start_response("500 Sorry", [], (Boom, error, error.__traceback__))
            return [b"sorry"]

        server.serve(app)
        assert server.events == ["load", "replace", "start 500", "part sorry"]
        assert server.header("X-First") is None

    def test_after_that_the_new_headers_still_carry_the_session(self, server: Server) -> None:
        """It moved to its new id already: without the cookie its visitor is logged out."""

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            session_of(environ).regenerate()

            def body() -> Iterator[bytes]:
                try:
                    raise Boom
                except Boom as error:
                    start_response("500 Sorry", [], (Boom, error, error.__traceback__))
                yield b"sorry"

            return body()

        server.serve(app)
        assert server.events == ["load", "replace", "start 200", "start 500", "part sorry"]
        assert (server.header("Set-Cookie") or "").startswith("sid=")
        assert server.header("Vary") == "Cookie"
        assert server.header("Cache-Control") == "private"


class TestBodies:
    def test_a_list_is_given_to_the_server_as_it_is(self, server: Server) -> None:
        """Servers measure one for Content-Length."""
        parts = [b"x"]

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return parts

        assert server.call(app) is parts

    def test_so_is_a_file(self, server: Server) -> None:
        """Servers send one with sendfile."""
        files: list[FileWrapper] = []

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            files.append(environ["wsgi.file_wrapper"](io.BytesIO(b"x")))
            return files[0]

        environ: dict[str, Any] = {"wsgi.file_wrapper": FileWrapper}
        body = server.call(app, COOKIE, **environ)
        assert body is files[0]
        assert server.store.get(SID) == {"a": 2}

    def test_it_is_closed_once(self, server: Server) -> None:
        body = Body([b"x", b"y"])

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return body

        server.serve(app)
        assert body.closed == 1

    def test_also_where_saving_fails_and_the_server_never_sees_it(self, server: Server) -> None:
        body = Body([b"x"])
        server.store.failing = Replace

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            return body

        with pytest.raises(StoreUnavailable):
            server.serve(app)
        assert body.closed == 1
        assert server.events == ["load", "replace"]

    def test_also_where_it_fails_at_the_first_part(self, server: Server) -> None:
        server.store.failing = Replace
        made: list[Body] = []

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def parts() -> Iterator[bytes]:
                start_response("200 OK", [])
                session_of(environ)["a"] = 2
                yield b"x"

            made.append(Body(parts()))
            return made[0]

        with pytest.raises(StoreUnavailable):
            server.serve(app)
        assert made[0].closed == 1
        assert server.events == ["load", "replace"]

    def test_also_where_it_fails_at_the_end(self, server: Server) -> None:
        made: list[Body] = []

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def parts() -> Iterator[bytes]:
                start_response("200 OK", [])
                yield b"x"
                session_of(environ)["a"] = 2
                server.store.failing = Replace

            made.append(Body(parts()))
            return made[0]

        with pytest.raises(StoreUnavailable):
            server.serve(app)
        assert made[0].closed == 1

    def test_a_close_that_fails_does_not_keep_changes_from_being_saved(
        self, server: Server
    ) -> None:
        def fail() -> None:
            raise Boom

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            def parts() -> Iterator[bytes]:
                start_response("200 OK", [])
                yield b"x"
                session_of(environ)["a"] = 2

            return Body(parts(), closing=fail)

        with pytest.raises(Boom):
            server.serve(app)
        assert server.store.get(SID) == {"a": 2}

    def test_what_closing_changes_is_saved(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return Body([b"x"], closing=lambda: session_of(environ).update(a=2))

        server.serve(app)
        assert server.store.get(SID) == {"a": 2}


class TestErrors:
    def test_what_can_not_be_saved_is_not_answered(self, server: Server) -> None:
        server.store.failing = Insert

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["a"] = 2
            start_response("200 OK", [])
            return [b"welcome"]

        with pytest.raises(StoreUnavailable):
            server.serve(app, None)
        assert server.events == ["insert"]


class TestPaths:
    @pytest.mark.parametrize(
        ("script", "path", "excluded"),
        [
            ("", "/static/x", True),
            ("/app", "/static/x", False),
            ("/static", "/x", True),
            ("/static", "", True),
            ("", "/größe/x".encode().decode("latin-1"), True),
            ("", "/groesse", False),
        ],
    )
    def test_exclude_sees_the_whole_path_as_people_write_it(
        self, script: str, path: str, excluded: bool
    ) -> None:
        """PEP 3333 hands out UTF-8 as if it were Latin-1."""
        store = Store()

        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            start_response("200 OK", [])
            return []

        middleware = SessionMiddleware(
            app, store, secret=SECRET, exclude=["/static", "/größe"], save_uninitialized=True
        )
        environ = {"SCRIPT_NAME": script, "PATH_INFO": path}
        setup_testing_defaults(environ)
        middleware(environ, lambda *args: print)
        assert store.events == ([] if excluded else ["insert"])

    def test_a_copied_environ_holds_the_same_session(self, server: Server) -> None:
        def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
            session_of(environ)["copied"] = True
            start_response("200 OK", [])
            return []

        server.serve(lambda environ, start_response: app({**environ}, start_response))
        assert server.store.get(SID) == {"a": 1, "copied": True}


@pytest.mark.parametrize("kind", ["list", "generator", "write"])
def test_the_standard_library_finds_no_fault_on_either_side(kind: str) -> None:
    """wsgiref's validator, before and behind the middleware, under wsgiref's own server."""
    store = Store()

    def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        session_of(environ)["kind"] = kind
        write = start_response("200 OK", [("Content-Type", "text/plain")])
        if kind == "list":
            return [b"hello"]
        if kind == "write":
            write(b"hel")
            return [b"lo"]
        return (part for part in (b"hel", b"lo"))

    middleware = SessionMiddleware(validator(app), store, secret=SECRET)
    environ: dict[str, Any] = {"REMOTE_ADDR": "127.0.0.1", "QUERY_STRING": ""}
    setup_testing_defaults(environ)
    output, errors = io.BytesIO(), io.StringIO()
    handler = SimpleHandler(io.BytesIO(), output, errors, environ, multithread=False)
    handler.run(validator(middleware))
    assert errors.getvalue() == ""
    answer = output.getvalue()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    assert b"Set-Cookie: sid=" in answer
    assert store.length() == 1
