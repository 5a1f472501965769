"""Sessions in Flask, told by its test client: what holds for `flask.session` holds here too."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import timedelta
from typing import Any, cast

import pytest
from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    after_this_request,
    flash,
    get_flashed_messages,
    redirect,
    render_template_string,
    request,
    session,
    stream_with_context,
)
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from flask_login import (
    LoginManager,
    UserMixin,
    current_user,
    login_required,
    login_user,
    logout_user,
    user_logged_in,
)
from sqlalchemy import Engine, create_engine
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.fixtures.services import Services
from tests.fixtures.wire import Seen, SQLiteTap
from websessions import CookieSettings, Session
from websessions.errors import ConfigurationError, SessionError, StoreUnavailable
from websessions.flask import FlaskSession, WebSessions
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.store import Call, Insert, Replace

SECRET = "the secret that these tests sign with"
OLDER = "the secret that came before that one"


class BreakableStore(SQLSessionStore):
    """A store whose database refuses to write while `broken`, and that counts the attempts."""

    broken = False
    writes = 0

    def perform(self, calls: Sequence[Call[Any]], /) -> list[Any]:
        self.writes += sum(isinstance(call, Insert | Replace) for call in calls)
        if self.broken and any(isinstance(call, Insert | Replace) for call in calls):
            return [StoreUnavailable("the disk is full") for _ in calls]
        return super().perform(calls)


@pytest.fixture
def engine(services: Services) -> Iterator[Engine]:
    engine = create_engine(services.sqlite_url())
    yield engine
    engine.dispose()


@pytest.fixture
def store(engine: Engine) -> Iterator[BreakableStore]:
    with BreakableStore(engine) as store:
        store.sync()
        yield store


def make_app(store: SQLSessionStore, *, secret_key: str = SECRET, **options: Any) -> Flask:
    """An app whose pages show and change its session."""
    app = Flask(__name__)
    app.secret_key = secret_key
    WebSessions(app, store=store, **options)
    add_pages(app)
    return app


def add_pages(app: Flask) -> None:
    @app.get("/")
    def show() -> dict[str, Any]:
        return dict(session)

    @app.post("/<key>/<value>")
    def put(key: str, value: str) -> str:
        session[key] = value
        return "stored"


@pytest.fixture
def app(store: SQLSessionStore) -> Flask:
    return make_app(store)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


def current() -> FlaskSession:
    """`flask.session` by its real type."""
    return cast(FlaskSession, session)


def sid_cookie(client: FlaskClient) -> str | None:
    cookie = client.get_cookie("sid")
    return cookie.value if cookie else None


def stored(client: FlaskClient) -> Any:
    """What the next request finds."""
    return client.get("/").json


# What flask.session is


def test_flask_session_is_a_websessions_session(app: Flask, client: FlaskClient) -> None:
    """It has everything that a `Session` has, and WSGI code finds the same one in the environ."""

    @app.get("/is")
    def look() -> dict[str, bool]:
        real = cast(Any, session)._get_current_object()
        return {
            "session": isinstance(real, Session),
            "same": request.environ["websessions.session"] is real,
        }

    assert client.get("/is").json == {"session": True, "same": True}


def test_a_value_is_there_in_the_next_request_of_its_visitor_alone(
    app: Flask, client: FlaskClient
) -> None:
    client.post("/colour/green")
    assert stored(client) == {"colour": "green"}
    assert stored(app.test_client()) == {}


def test_nested_changes_are_noticed_without_session_modified(
    app: Flask, client: FlaskClient
) -> None:
    """With Flask's own sessions such a change is lost unless the handler says so."""

    @app.post("/add")
    def add() -> str:
        session.setdefault("cart", {"items": []})["items"].append("tea")
        return "added"

    client.post("/add")
    client.post("/add")
    assert stored(client) == {"cart": {"items": ["tea", "tea"]}}


def test_session_modified_does_no_harm(app: Flask, client: FlaskClient) -> None:
    """Code written for Flask's own sessions sets it; here nothing depends on it."""

    @app.post("/say")
    def say() -> str:
        session["cart"] = ["tea"]
        session.modified = True
        return "said"

    client.post("/say")
    assert stored(client) == {"cart": ["tea"]}


def test_session_new_is_true_until_the_visitor_comes_back(app: Flask, client: FlaskClient) -> None:
    @app.get("/new")
    def new() -> dict[str, bool]:
        return {"new": session.new}

    assert client.get("/new").json == {"new": True}
    client.post("/colour/green")
    assert client.get("/new").json == {"new": False}


# session.permanent


@pytest.fixture
def lasting(app: Flask) -> FlaskClient:
    """A client of an app with a page for `session.permanent`."""
    app.permanent_session_lifetime = timedelta(days=5)

    @app.post("/permanent/<int:value>")
    def set_permanent(value: int) -> str:
        session["user"] = "ada"
        session.permanent = bool(value)
        return "set"

    @app.get("/permanent")
    def get_permanent() -> dict[str, bool]:
        return {"permanent": session.permanent}

    return app.test_client()


def test_a_session_ends_with_the_browser_unless_it_is_permanent(lasting: FlaskClient) -> None:
    lasting.post("/colour/green")
    cookie = lasting.get_cookie("sid")
    assert cookie is not None
    assert cookie.max_age is None
    assert lasting.get("/permanent").json == {"permanent": False}


def test_a_permanent_session_lasts_as_long_as_the_app_says(lasting: FlaskClient) -> None:
    lasting.post("/permanent/1")
    cookie = lasting.get_cookie("sid")
    assert cookie is not None
    assert cookie.max_age == 5 * 24 * 3600


def test_permanent_stays_with_the_session(lasting: FlaskClient) -> None:
    """Also where it is the first thing that a request asks its session for."""
    lasting.post("/permanent/1")
    assert lasting.get("/permanent").json == {"permanent": True}
    lasting.post("/permanent/0")
    assert lasting.get("/permanent").json == {"permanent": False}


def test_permanent_for_every_request_stores_no_empty_sessions(
    app: Flask, store: SQLSessionStore, client: FlaskClient
) -> None:
    """`before_request` is where many apps set it."""

    @app.before_request
    def make_permanent() -> None:
        session.permanent = True

    assert stored(client) == {}
    assert sid_cookie(client) is None
    assert store.length() == 0


# regenerate and destroy


def test_regenerate_keeps_the_data_and_kills_the_old_id(app: Flask, client: FlaskClient) -> None:
    @app.post("/login")
    def login() -> str:
        current().regenerate(privilege=True)
        session["user"] = "ada"
        return "welcome"

    client.post("/colour/green")
    before = sid_cookie(client)
    client.post("/login")
    assert sid_cookie(client) != before
    assert stored(client) == {"colour": "green", "user": "ada"}

    assert before is not None
    thief = app.test_client()
    thief.set_cookie("sid", before)
    assert stored(thief) == {}


def test_destroy_deletes_the_row_and_clears_the_cookie(
    app: Flask, store: SQLSessionStore, client: FlaskClient
) -> None:
    @app.post("/logout")
    def logout() -> str:
        current().destroy()
        return "bye"

    client.post("/user/ada")
    assert store.length() == 1
    client.post("/logout")
    assert store.length() == 0
    assert sid_cookie(client) is None
    assert stored(client) == {}


# Secrets


def test_the_secret_is_the_apps_secret_key(store: SQLSessionStore) -> None:
    client = make_app(store, secret_key=SECRET).test_client()
    client.post("/user/ada")
    cookie = sid_cookie(client)
    assert cookie is not None

    for secret_key, found in ((SECRET, {"user": "ada"}), (OLDER, {})):
        other = make_app(store, secret_key=secret_key).test_client()
        other.set_cookie("sid", cookie)
        assert stored(other) == found


def test_secret_key_fallbacks_verify(store: SQLSessionStore) -> None:
    """A cookie from before a change of secrets keeps its visitor; new ones get the new secret."""
    before = make_app(store, secret_key=OLDER).test_client()
    before.post("/user/ada")
    cookie = sid_cookie(before)
    assert cookie is not None

    app = Flask(__name__)
    app.config.update(SECRET_KEY=SECRET, SECRET_KEY_FALLBACKS=[OLDER])
    WebSessions(app, store=store)
    add_pages(app)
    client = app.test_client()
    client.set_cookie("sid", cookie)
    assert stored(client) == {"user": "ada"}

    fresh = app.test_client()
    fresh.post("/user/bob")
    signed = sid_cookie(fresh)
    assert signed is not None
    after = make_app(store, secret_key=SECRET).test_client()
    after.set_cookie("sid", signed)
    assert stored(after) == {"user": "bob"}


def test_a_secret_of_its_own_goes_before_the_apps(store: SQLSessionStore) -> None:
    client = make_app(store, secret_key=SECRET, secret=OLDER).test_client()
    client.post("/user/ada")
    cookie = sid_cookie(client)
    assert cookie is not None
    other = make_app(store, secret_key=OLDER).test_client()
    other.set_cookie("sid", cookie)
    assert stored(other) == {"user": "ada"}


def test_a_missing_secret_is_an_error_at_once(store: SQLSessionStore) -> None:
    """And the app stays as it was."""
    app = Flask(__name__)
    with pytest.raises(ConfigurationError, match="secret is missing"):
        WebSessions(app, store=store)
    with pytest.raises(ConfigurationError, match="secret is missing"):
        WebSessions(store=store).init_app(app)
    assert type(app.session_interface) is SecureCookieSessionInterface


def test_an_async_store_is_an_error_at_once(services: Services) -> None:
    store = AsyncSQLSessionStore(services.sqlite_url())
    with pytest.raises(ConfigurationError, match="SQLSessionStore"):
        WebSessions(store=store)  # type: ignore[arg-type]


# Several apps


def test_one_extension_serves_several_apps(store: SQLSessionStore) -> None:
    """Each with its own secret; a cookie of one means nothing to the other."""
    sessions = WebSessions(store=store)
    clients = []
    for number, secret in enumerate((SECRET, OLDER)):
        app = Flask(f"app{number}")
        app.secret_key = secret
        sessions.init_app(app)
        add_pages(app)
        clients.append(app.test_client())
    one, other = clients
    one.post("/user/ada")
    assert stored(one) == {"user": "ada"}
    cookie = sid_cookie(one)
    assert cookie is not None
    other.set_cookie("sid", cookie)
    assert stored(other) == {}


def test_init_app_twice_is_as_good_as_once(store: SQLSessionStore) -> None:
    app = make_app(store)
    WebSessions(store=store).init_app(app)
    client = app.test_client()
    client.post("/user/ada")
    assert stored(client) == {"user": "ada"}
    assert store.length() == 1


def test_an_app_within_an_app_has_a_session_of_its_own(
    store: SQLSessionStore, app: Flask, client: FlaskClient
) -> None:
    """A view that answers with another app's response does not lose its own session to it."""
    inner = make_app(store)

    @app.get("/outer")
    def outer() -> Response:
        session["here"] = "outer"
        response = Response.from_app(inner.wsgi_app, request.environ | {"PATH_INFO": "/"})
        session["there"] = response.status_code
        return Response(response.get_data())

    client.get("/outer")
    assert stored(client) == {"here": "outer", "there": 200}


def test_apps_beside_each_other_share_a_session(store: SQLSessionStore) -> None:
    """Two apps under one dispatcher, with one secret: one visitor, one session."""
    app, admin = make_app(store), make_app(store)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/admin": admin})  # type: ignore[method-assign]
    client = app.test_client()
    client.post("/admin/user/ada")
    assert stored(client) == {"user": "ada"}


# Errors


@pytest.mark.parametrize("propagate", [True, False])
def test_an_unhandled_exception_saves_nothing(
    app: Flask, client: FlaskClient, propagate: bool
) -> None:
    """Whether Flask answers for it with a 500 or lets it through to the server."""
    app.config["PROPAGATE_EXCEPTIONS"] = propagate

    @app.post("/fail")
    def fail() -> str:
        session["colour"] = "red"
        session["more"] = 1
        raise RuntimeError("as planned")

    client.post("/colour/green")
    if propagate:
        with pytest.raises(RuntimeError, match="as planned"):
            client.post("/fail")
    else:
        assert client.post("/fail").status_code == 500
    assert stored(client) == {"colour": "green"}


def test_an_unhandled_exception_begins_no_session(
    app: Flask, store: SQLSessionStore, client: FlaskClient
) -> None:
    @app.get("/fail")
    def fail() -> str:
        session["user"] = "ada"
        raise RuntimeError("as planned")

    assert client.get("/fail").status_code == 500
    assert sid_cookie(client) is None
    assert store.length() == 0


def test_an_unhandled_exception_undoes_regenerate_and_destroy(
    app: Flask, client: FlaskClient
) -> None:
    @app.post("/fail/<how>")
    def fail(how: str) -> str:
        getattr(current(), how)()
        raise RuntimeError("as planned")

    client.post("/user/ada")
    cookie = sid_cookie(client)
    for how in ("regenerate", "destroy"):
        client.post(f"/fail/{how}")
        assert sid_cookie(client) == cookie
        assert stored(client) == {"user": "ada"}


def test_a_page_for_500_errors_saves_nothing(app: Flask, client: FlaskClient) -> None:
    """The app words the answer, but the handler failed all the same."""

    @app.errorhandler(500)
    def sorry(error: Exception) -> tuple[str, int]:
        session["seen"] = "sorry"
        return "sorry", 500

    @app.post("/fail")
    def fail() -> str:
        session["colour"] = "red"
        raise RuntimeError("as planned")

    client.post("/colour/green")
    assert client.post("/fail").text == "sorry"
    assert stored(client) == {"colour": "green"}


def test_a_handled_exception_saves(app: Flask, client: FlaskClient) -> None:
    """An error handler for the exception itself makes a response like any other."""

    @app.errorhandler(LookupError)
    def handle(error: Exception) -> tuple[str, int]:
        session["handled"] = str(error)
        return "no such tea", 404

    @app.post("/order")
    def order() -> str:
        session["asked"] = "lapsang"
        raise LookupError("lapsang")

    assert client.post("/order").status_code == 404
    assert stored(client) == {"asked": "lapsang", "handled": "lapsang"}


@pytest.mark.parametrize("status", [302, 404, 500, 503])
def test_a_response_saves_whatever_its_status(app: Flask, client: FlaskClient, status: int) -> None:
    @app.post("/answer")
    def answer() -> tuple[str, int]:
        session["answered"] = status
        return "", status

    assert client.post("/answer").status_code == status
    assert stored(client) == {"answered": status}


@pytest.mark.parametrize("status", [403, 503])
def test_abort_saves(app: Flask, client: FlaskClient, status: int) -> None:
    """It is how Flask spells a response with that status."""

    @app.post("/no")
    def no() -> str:
        session["tries"] = 1
        abort(status)

    assert client.post("/no").status_code == status
    assert stored(client) == {"tries": 1}


def test_an_error_while_saving_is_a_500_with_its_cause_logged(
    store: BreakableStore, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The response to the error is not tried to be saved again."""
    client.post("/user/ada")
    cookie = sid_cookie(client)
    store.broken, store.writes = True, 0
    with caplog.at_level(logging.ERROR):
        response = client.post("/user/bob")
    assert response.status_code == 500
    assert response.headers.getlist("Set-Cookie") == []
    assert store.writes == 1
    causes = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert [str(cause) for cause in causes] == ["the disk is full"]
    assert isinstance(causes[0], StoreUnavailable)

    store.broken = False
    assert sid_cookie(client) == cookie
    assert stored(client) == {"user": "ada"}


def test_a_value_that_can_not_be_stored_is_a_500_that_names_it(
    app: Flask, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    @app.post("/odd")
    def odd() -> str:
        session["cart"] = {"items": [object()]}
        return "fine?"

    with caplog.at_level(logging.ERROR):
        assert client.post("/odd").status_code == 500
    (cause,) = [record.exc_info[1] for record in caplog.records if record.exc_info]
    assert "cart.items[0]" in str(cause)
    assert stored(client) == {}


def test_a_database_that_is_down_is_the_handlers_to_catch(
    app: Flask, store: SQLSessionStore, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never an empty session: the first look raises, and an error handler can answer for it."""

    @app.errorhandler(StoreUnavailable)
    def unavailable(error: Exception) -> tuple[str, int]:
        return "try later", 503

    client.post("/user/ada")
    cookie = sid_cookie(client)

    def down(calls: Sequence[Call[Any]]) -> list[Any]:
        return [StoreUnavailable("no route to the database") for _ in calls]

    with monkeypatch.context() as patched:
        patched.setattr(store, "perform", down)
        response = client.get("/")
    assert (response.status_code, response.text) == (503, "try later")
    assert sid_cookie(client) == cookie
    assert stored(client) == {"user": "ada"}


# Flask's own uses of the session


def test_flash_reaches_the_next_page_once(app: Flask, client: FlaskClient) -> None:
    """Also with categories, and across a redirect."""

    @app.post("/order")
    def order() -> Any:
        flash("Thank you!")
        flash("Out of stock", "error")
        return redirect("/page")

    @app.get("/page")
    def page() -> str:
        return render_template_string(
            "{% for category, text in get_flashed_messages(with_categories=true) %}"
            "[{{ category }}: {{ text }}]{% endfor %}"
        )

    assert client.post("/order", follow_redirects=True).text == (
        "[message: Thank you!][error: Out of stock]"
    )
    assert client.get("/page").text == ""


def test_flashed_messages_are_pairs_again_after_the_database(
    app: Flask, client: FlaskClient
) -> None:
    @app.get("/flash")
    def put_one() -> str:
        flash("1", "one")
        return ""

    @app.get("/filter")
    def get_ones() -> dict[str, Any]:
        return {"ones": get_flashed_messages(with_categories=True, category_filter=["one"])}

    client.get("/flash")
    assert client.get("/filter").json == {"ones": [["one", "1"]]}


def test_session_transaction_reads_and_writes(client: FlaskClient) -> None:
    """The way that Flask's docs tell tests to prepare a session."""
    with client.session_transaction() as prepared:
        prepared["user"] = "ada"
    assert stored(client) == {"user": "ada"}
    client.post("/colour/green")
    with client.session_transaction() as seen:
        assert dict(seen) == {"user": "ada", "colour": "green"}
        del seen["colour"]
    assert stored(client) == {"user": "ada"}


def test_session_transaction_that_changes_nothing_stores_nothing(
    store: SQLSessionStore, client: FlaskClient
) -> None:
    with client.session_transaction():
        pass
    assert store.length() == 0
    assert sid_cookie(client) is None


def test_a_test_request_context_has_a_session(app: Flask, store: SQLSessionStore) -> None:
    """Without a response nothing is saved."""
    with app.test_request_context():
        session["user"] = "ada"
        assert session["user"] == "ada"
        assert session.new
    assert store.length() == 0


def test_a_client_that_keeps_its_context_sees_the_session(app: Flask) -> None:
    """`with client:` leaves the last request's session to be looked at."""
    with app.test_client() as client:
        client.post("/user/ada")
        assert session["user"] == "ada"


def test_templates_see_the_session(app: Flask, client: FlaskClient) -> None:
    @app.get("/hello")
    def hello() -> str:
        return render_template_string("Hello {{ session.user or session['user'] }}")

    client.post("/user/ada")
    assert client.get("/hello").text == "Hello ada"


def test_blueprints_and_request_hooks_use_the_session(app: Flask, client: FlaskClient) -> None:
    """Before the view, in the view, and after it."""
    shop = Blueprint("shop", __name__, url_prefix="/shop")

    @shop.before_request
    def count() -> None:
        session["before"] = session.get("before", 0) + 1

    @shop.get("/visit")
    def visit() -> str:
        @after_this_request
        def remember(response: Response) -> Response:
            session["this"] = response.status_code
            return response

        return "seen"

    @app.after_request
    def note(response: Response) -> Response:
        if request.path == "/shop/visit":
            session["after"] = session["this"]
        return response

    app.register_blueprint(shop)
    client.get("/shop/visit")
    assert stored(client) == {"before": 1, "this": 200, "after": 200}


async def _numbers() -> AsyncIterator[int]:
    for number in range(3):
        yield number


def test_async_views_use_the_same_session(app: Flask, client: FlaskClient) -> None:
    @app.post("/async")
    async def view() -> str:
        session["numbers"] = [number async for number in _numbers()]
        await current().save()
        session["user"] = "ada"
        return "done"

    client.post("/async")
    assert stored(client) == {"numbers": [0, 1, 2], "user": "ada"}


# Streaming


def test_changes_in_a_stream_are_saved_when_it_closes(
    app: Flask, store: SQLSessionStore, client: FlaskClient
) -> None:
    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "a"
            session["streamed"] = session["user"]
            yield "b"

        return Response(stream_with_context(parts()))

    client.post("/user/ada")
    assert client.get("/stream", buffered=True).text == "ab"
    assert stored(client) == {"user": "ada", "streamed": "ada"}


def test_what_was_changed_before_a_stream_is_saved_before_its_first_part(
    app: Flask, store: SQLSessionStore, client: FlaskClient
) -> None:
    @app.get("/stream")
    def stream() -> Response:
        session["user"] = "ada"

        def parts() -> Iterator[str]:
            yield repr(store.all())

        return Response(parts())

    assert client.get("/stream", buffered=True).text == "[{'user': 'ada'}]"


def test_a_stream_that_fails_saves_nothing_late(app: Flask, client: FlaskClient) -> None:
    """What was saved before the stream began stays; what the failed part changed is dropped."""

    @app.get("/stream")
    def stream() -> Response:
        session["begun"] = True

        def parts() -> Iterator[str]:
            yield "a"
            session["streamed"] = True
            raise RuntimeError("as planned")

        return Response(stream_with_context(parts()))

    client.post("/user/ada")
    with pytest.raises(RuntimeError, match="as planned"):
        client.get("/stream", buffered=True)
    assert stored(client) == {"user": "ada", "begun": True}


def test_a_client_that_leaves_a_stream_loses_nothing(app: Flask, client: FlaskClient) -> None:
    """The server closes the body, and what was changed until then is saved."""

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            for number in range(100):
                session["sent"] = number
                yield str(number)

        return Response(stream_with_context(parts()))

    client.post("/user/ada")
    response = client.get("/stream", buffered=False)
    assert next(response.response) == b"0"  # type: ignore[call-overload]
    response.close()
    assert stored(client)["sent"] < 99


def test_a_session_that_begins_in_a_stream_is_lost_with_a_warning(
    app: Flask, store: SQLSessionStore, client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody could get its cookie any more."""

    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "a"
            session["user"] = "ada"

        return Response(stream_with_context(parts()))

    with caplog.at_level(logging.WARNING, logger="websessions"):
        assert client.get("/stream", buffered=True).text == "a"
    assert "after its response had begun" in caplog.text
    assert store.length() == 0


def test_regenerate_in_a_stream_is_an_error(app: Flask, client: FlaskClient) -> None:
    @app.get("/stream")
    def stream() -> Response:
        def parts() -> Iterator[str]:
            yield "a"
            with pytest.raises(SessionError, match="response had begun"):
                current().regenerate()

        return Response(stream_with_context(parts()))

    client.post("/user/ada")
    assert client.get("/stream", buffered=True).text == "a"
    assert stored(client) == {"user": "ada"}


def test_teardown_can_still_change_a_stored_session(app: Flask, client: FlaskClient) -> None:
    @app.teardown_request
    def note(error: BaseException | None) -> None:
        if request.method == "POST":
            session["torn"] = "down"

    client.post("/user/ada", buffered=True)
    assert stored(client) == {"user": "ada", "torn": "down"}


def test_save_stores_at_once(app: Flask, store: SQLSessionStore, client: FlaskClient) -> None:
    @app.post("/save")
    def save() -> str:
        session["user"] = "ada"
        current().save()
        return repr(store.all())

    assert client.post("/save").text == "[{'user': 'ada'}]"


# Cost and headers


@pytest.fixture
def tap(engine: Engine) -> Iterator[SQLiteTap]:
    with SQLiteTap(engine) as tap:
        yield tap


def kinds(seen: Seen) -> list[str]:
    return [statement.kind for statement in seen.statements]


@pytest.mark.parametrize("known", [True, False])
def test_an_untouched_session_costs_nothing(
    app: Flask, client: FlaskClient, tap: SQLiteTap, known: bool
) -> None:
    """No statement, no `Vary`, no cookie; rendering a template is no touch either."""

    @app.get("/static-page")
    def page() -> str:
        return render_template_string("The same for everybody")

    if known:
        client.post("/user/ada")
    with tap.recording() as seen:
        response = client.get("/static-page")
        assert client.options("/").status_code == 200
    assert seen.statements == []
    assert "Vary" not in response.headers
    assert "Set-Cookie" not in response.headers


def test_a_read_costs_one_statement(client: FlaskClient, tap: SQLiteTap) -> None:
    client.post("/user/ada")
    with tap.recording() as seen:
        response = client.get("/")
    assert kinds(seen) == ["SELECT"]
    assert response.headers["Vary"] == "Cookie"
    assert "Set-Cookie" not in response.headers


def test_a_new_session_costs_one_statement_a_later_change_two(
    client: FlaskClient, tap: SQLiteTap
) -> None:
    with tap.recording() as seen:
        client.post("/user/ada")
    assert kinds(seen) == ["INSERT"]
    with tap.recording() as seen:
        client.post("/user/bob")
    assert kinds(seen) == ["SELECT", "UPDATE"]


def test_a_forged_cookie_costs_nothing(client: FlaskClient, tap: SQLiteTap) -> None:
    client.set_cookie("sid", "x" * 43 + "." + "y" * 43)
    with tap.recording() as seen:
        assert stored(client) == {}
    assert seen.statements == []


def test_a_response_that_sets_the_cookie_is_kept_out_of_shared_caches(
    app: Flask, client: FlaskClient
) -> None:
    """The response's own headers stay where they do no harm."""

    @app.post("/cached")
    def cached() -> Response:
        session["user"] = "ada"
        response = Response("cached")
        response.vary.add("Accept")
        response.cache_control.public = True
        response.cache_control.max_age = 60
        return response

    headers = client.post("/cached").headers
    assert headers["Vary"] == "Accept, Cookie"
    assert headers["Cache-Control"] == "max-age=60, private"


def test_the_cookie_of_an_https_request_is_secure(app: Flask) -> None:
    """`ProxyFix`, Flask's own way to trust a proxy, counts as well as `proxy=True`."""
    direct = app.test_client().post("/user/ada", base_url="https://shop.example")
    assert "; Secure" in direct.headers["Set-Cookie"]
    forwarded = {"X-Forwarded-Proto": "https"}
    assert "Secure" not in app.test_client().post("/a/b", headers=forwarded).headers["Set-Cookie"]
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    assert "; Secure" in app.test_client().post("/a/b", headers=forwarded).headers["Set-Cookie"]


def test_proxy_trusts_x_forwarded_proto(store: SQLSessionStore) -> None:
    client = make_app(store, proxy=True).test_client()
    response = client.post("/user/ada", headers={"X-Forwarded-Proto": "https"})
    assert "; Secure" in response.headers["Set-Cookie"]


def test_options_reach_the_cookie_and_the_rules(store: SQLSessionStore) -> None:
    app = make_app(
        store, cookie=CookieSettings(name="visit", path="/shop"), save_uninitialized=True
    )
    response = app.test_client().get("/")
    assert response.headers["Set-Cookie"].startswith("visit=")
    assert "; Path=/shop;" in response.headers["Set-Cookie"]
    assert store.length() == 1


# Taking the session out of the request


@pytest.mark.parametrize("unset", ["keep", "destroy"])
@pytest.mark.parametrize("how", ["remove", "empty"])
def test_an_app_can_take_the_session_out_of_the_request(
    store: SQLSessionStore, unset: str, how: str
) -> None:
    """Then nothing of it is saved, and `unset` says what becomes of the stored one."""
    app = make_app(store, unset=unset)

    @app.post("/unset")
    def take() -> str:
        session["colour"] = "red"
        if how == "remove":
            del request.environ["websessions.session"]
        else:
            request.environ["websessions.session"] = None
        return "gone"

    client = app.test_client()
    client.post("/user/ada")
    client.post("/unset")
    assert stored(client) == ({"user": "ada"} if unset == "keep" else {})
    assert store.length() == (1 if unset == "keep" else 0)


# Flask-Login


class User(UserMixin):  # type: ignore[misc]
    def __init__(self, name: str) -> None:
        self.id = name


@pytest.fixture
def members(app: Flask) -> FlaskClient:
    """A client of an app whose members log in with Flask-Login, by its documented calls alone."""
    manager = LoginManager(app)
    manager.user_loader(User)

    @app.post("/login/<name>")
    def login(name: str) -> str:
        login_user(User(name), remember="remember" in request.args)
        return "in"

    @app.post("/logout")
    def logout() -> str:
        logout_user()
        return "out"

    @app.get("/private")
    @login_required  # type: ignore[untyped-decorator]
    def private() -> str:
        return f"{current_user.id}, {'fresh' if session.get('_fresh') else 'remembered'}"

    return app.test_client()


# Flask-Login 0.6.3 asks for the time in a way that Python 3.12 deprecates.
flask_login = pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")


@flask_login
def test_flask_login_logs_in_and_out(members: FlaskClient) -> None:
    assert members.get("/private").status_code == 401
    members.post("/login/ada")
    assert members.get("/private").text == "ada, fresh"
    members.post("/logout")
    assert members.get("/private").status_code == 401


@flask_login
def test_flask_logins_remember_cookie_outlives_the_session(
    members: FlaskClient, store: SQLSessionStore
) -> None:
    """It is a cookie of Flask-Login's own; our cookie and headers leave it alone."""
    members.post("/login/ada?remember")
    assert members.get_cookie("remember_token") is not None
    assert members.get("/private").text == "ada, fresh"
    store.clear()
    assert members.get("/private").text == "ada, remembered"
    members.post("/logout")
    assert members.get_cookie("remember_token") is None
    assert members.get("/private").status_code == 401


@flask_login
def test_flask_logins_signal_is_where_to_regenerate(app: Flask, members: FlaskClient) -> None:
    """Flask-Login itself keeps the session id at login; one line changes it."""

    def regenerate(sender: Flask, **_: Any) -> None:
        current().regenerate()

    members.post("/cart/tea")
    before = sid_cookie(members)
    members.post("/login/ada")
    assert sid_cookie(members) == before
    with user_logged_in.connected_to(regenerate, app):
        members.post("/login/ada")
    assert sid_cookie(members) != before
    assert members.get("/private").text == "ada, fresh"
    assert stored(members)["cart"] == "tea"
