"""A bad option is refused where it is given, by name; a secret is shown nowhere."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from websessions import ConfigurationError, CookieSettings, SessionSettings, resolvers
from websessions.settings import as_span

SECRET = "a long and random secret"
NOW = datetime(2037, 1, 1, tzinfo=UTC)
NAIVE = datetime(2037, 1, 1)  # noqa: DTZ001


def settings(**options: Any) -> SessionSettings:
    return SessionSettings(**{"secret": SECRET, **options})


class TestCookie:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"name": ""}, "name"),
            ({"name": "a b"}, "name"),
            ({"name": "a=b"}, "name"),
            ({"name": "a;b"}, "name"),
            ({"name": "ä"}, "name"),
            ({"name": "a\n"}, "name"),
            ({"name": None}, "name"),
            ({"path": ""}, "path"),
            ({"path": "app"}, "path"),
            ({"path": None}, "path"),
            ({"path": "/a;b"}, "path"),
            ({"path": "/a\nb"}, "path"),
            ({"domain": "a;b"}, "domain"),
            ({"domain": "a\r\nSet-Cookie: x=y"}, "domain"),
            ({"domain": ""}, "domain"),
            ({"domain": 7}, "domain"),
            ({"secure": "yes"}, "secure"),
            ({"secure": 1}, "secure"),
            ({"secure": None}, "secure"),
            ({"httponly": "no"}, "httponly"),
            ({"httponly": None}, "httponly"),
            ({"partitioned": "yes", "secure": True}, "partitioned"),
            ({"samesite": "Lax"}, "samesite"),
            ({"samesite": False}, "samesite"),
            ({"priority": "High"}, "priority"),
            ({"max_age": "1 h"}, "max_age"),
            ({"max_age": -1}, "max_age"),
            ({"max_age": True}, "max_age"),
            ({"max_age": float("nan")}, "max_age"),
            ({"max_age": float("inf")}, "max_age"),
            ({"max_age": 10**30}, "max_age"),
            ({"max_age": timedelta.max}, "max_age"),
            ({"expires": NAIVE}, "expires"),
            ({"expires": "tomorrow"}, "expires"),
            ({"expires": 3600}, "expires"),
        ],
        ids=repr,
    )
    def test_what_is_no_attribute_is_refused_by_name(
        self, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=named):
            CookieSettings(**options)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_age": 60, "expires": NOW}, "max_age or expires, not both"),
            ({"samesite": "none", "secure": False}, "samesite='none' needs secure"),
            ({"partitioned": True}, "partitioned needs secure=True"),
            ({"partitioned": True, "secure": False}, "partitioned needs secure=True"),
            ({"name": "__Secure-sid"}, "prefix needs secure=True"),
            ({"name": "__Secure-sid", "secure": False}, "prefix needs secure=True"),
            ({"name": "__secure-sid", "secure": False}, "prefix needs secure=True"),
            ({"name": "__Host-sid"}, "prefix needs secure=True"),
            ({"name": "__HOST-sid"}, "prefix needs secure=True"),
            ({"name": "__Host-sid", "secure": True, "path": "/app"}, "prefix needs path='/'"),
            ({"name": "__Host-sid", "secure": True, "domain": "a.com"}, "prefix needs domain=None"),
            (
                {"name": "__Host-sid", "path": "/app", "domain": "a.com"},
                "secure=True and path='/' and domain=None",
            ),
            ({"name": "__Http-sid", "secure": True, "httponly": False}, "needs httponly=True"),
            ({"name": "__Host-Http-sid", "secure": True, "httponly": False}, "httponly=True"),
            ({"name": "__Host-Http-sid", "secure": True, "path": "/a"}, "path='/'"),
        ],
        ids=repr,
    )
    def test_contradictions_are_refused_and_named(
        self, options: dict[str, Any], message: str
    ) -> None:
        """A browser would drop such a cookie without a word."""
        with pytest.raises(ConfigurationError, match=message):
            CookieSettings(**options)

    @pytest.mark.parametrize(
        "options",
        [
            {"name": "__Secure-sid", "secure": True, "domain": "a.com", "path": "/app"},
            {"name": "__Host-sid", "secure": True},
            {"name": "__Host-Http-sid", "secure": True},
            {"name": "__Http-sid", "secure": True, "path": "/app"},
            {"name": "__Hostess"},
            {"samesite": "none", "secure": "auto"},
            {"partitioned": True, "secure": True, "samesite": "none"},
            {"max_age": 0},
            {"max_age": 0.5},
            {"expires": NOW},
        ],
        ids=repr,
    )
    def test_what_a_browser_takes_is_taken(self, options: dict[str, Any]) -> None:
        CookieSettings(**options)

    def test_seconds_and_spans_are_the_same(self) -> None:
        assert CookieSettings(max_age=3600) == CookieSettings(max_age=timedelta(hours=1))
        assert CookieSettings(max_age=3600).lifetime == (timedelta(hours=1), None)
        assert CookieSettings().lifetime == (None, None)


class TestSession:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"secret": None}, "secret is missing"),
            ({"secret": ""}, "secret is empty"),
            ({"secret": b""}, "secret is empty"),
            ({"secret": []}, "secret is missing"),
            ({"secret": [SECRET, ""]}, "secret is empty"),
            ({"secret": [SECRET, None]}, "str or bytes, not NoneType"),
            ({"secret": 7}, "a list, not int"),
            ({"secret": {SECRET, "another one"}}, "a list, not set"),
            ({"cookie": {"name": "sid"}}, "cookie has to be a CookieSettings"),
            ({"cookie": None}, "cookie"),
            ({"resave": "yes"}, "resave"),
            ({"save_uninitialized": None}, "save_uninitialized"),
            ({"rolling": "no"}, "rolling"),
            ({"proxy": "10.0.0.1"}, "proxy"),
            ({"unset": "delete"}, "unset is 'keep' or 'destroy', not 'delete'"),
            ({"unset": True}, "unset"),
            ({"genid": "abc"}, "genid"),
            ({"exclude": ["static"]}, "exclude"),
            ({"exclude": "static"}, "exclude"),
            ({"exclude": [None]}, "exclude"),
            ({"exclude": None}, "exclude"),
            ({"exclude": 7}, "exclude"),
            ({"load": "lazy"}, "load is 'eager' or 'on_demand'"),
            ({"on_corrupt": "ignore"}, "on_corrupt is 'new' or 'error'"),
            ({"on_conflict": "retry"}, "on_conflict is 'merge', 'overwrite', 'error' or a dict"),
            ({"on_conflict": None}, "on_conflict is .* not None"),
            ({"on_conflict": resolvers.add}, "on_conflict is"),
            ({"on_conflict": {"n": "add"}}, "the resolver of 'n' is a function"),
            ({"on_conflict": {7: resolvers.add}}, "session keys are strings, not 7"),
            ({"on_conflict": {"user_id": resolvers.latest}}, "'user_id' takes no resolver"),
            ({"on_conflict": {"$cookie": resolvers.latest}}, "'\\$cookie' takes no resolver"),
            ({"regenerate_grace": 11}, "regenerate_grace is at most 10 seconds, not 11"),
            ({"regenerate_grace": -1}, "regenerate_grace"),
            ({"regenerate_grace": None}, "regenerate_grace"),
            ({"regenerate_grace": timedelta(minutes=1)}, "regenerate_grace"),
        ],
        ids=repr,
    )
    def test_what_can_not_work_is_refused_by_name(
        self, options: dict[str, Any], named: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=named):
            settings(**options)

    def test_a_secret_is_needed(self) -> None:
        with pytest.raises(TypeError, match="secret"):
            SessionSettings()  # type: ignore[call-arg]

    @pytest.mark.parametrize(
        "secret", [SECRET, SECRET.encode(), [SECRET], (SECRET.encode(),)], ids=repr
    )
    def test_a_secret_is_text_or_bytes_or_a_list(self, secret: Any) -> None:
        assert settings(secret=secret).secrets == (SECRET.encode(),)

    def test_secrets_keep_their_order(self) -> None:
        assert settings(secret=["the new one, it signs", SECRET]).secrets[1] == SECRET.encode()

    @pytest.mark.parametrize(
        "secret", [SECRET, [SECRET, "another long secret"], [SECRET.encode(), "x" * 20]]
    )
    def test_no_repr_shows_a_secret(self, secret: Any) -> None:
        shown = repr(settings(secret=secret)) + str(settings(secret=secret))
        assert SECRET not in shown
        assert "another" not in shown
        assert "xxx" not in shown

    @pytest.mark.parametrize("secret", [[SECRET, 123456789], {SECRET: 1}, {SECRET}])
    def test_no_message_shows_a_secret(self, secret: Any) -> None:
        with pytest.raises(ConfigurationError) as caught:
            settings(secret=secret)
        assert SECRET not in str(caught.value)
        assert "123456789" not in str(caught.value)

    def test_a_short_secret_is_warned_of_once_and_not_shown(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            short = SessionSettings(secret="hunter2")
            assert short.secrets == (b"hunter2",)
        [warning] = caught
        assert "16 bytes" in str(warning.message)
        assert "hunter2" not in str(warning.message)

    def test_a_short_old_secret_may_verify_until_it_is_gone(self) -> None:
        settings(secret=[SECRET, "short"])

    def test_resolvers_are_taken_as_they_are_given(self) -> None:
        """Whatever becomes of the dict afterwards."""
        given = {"n": resolvers.add}
        made = settings(on_conflict=given)
        given["n"] = resolvers.max
        assert made.resolvers == {"n": resolvers.add}
        assert settings().resolvers == settings(on_conflict="overwrite").resolvers == {}

    def test_a_grace_is_seconds_or_a_span(self) -> None:
        assert settings().grace == timedelta(seconds=5)
        assert settings(regenerate_grace=0).grace == timedelta(0)
        assert settings(regenerate_grace=timedelta(seconds=10)).grace == timedelta(seconds=10)

    def test_settings_are_values(self) -> None:
        assert settings() == settings()
        assert pickle.loads(pickle.dumps(settings(rolling=True))).rolling  # noqa: S301
        with pytest.raises(AttributeError):
            settings().rolling = True  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("exclude", "path", "excluded"),
        [
            (["/static"], "/static", True),
            (["/static"], "/static/", True),
            (["/static"], "/static/app.css", True),
            (["/static/"], "/static/app.css", True),
            (["/static/"], "/static", False),
            (["/static"], "/statics", False),
            (["/static"], "/a/static", False),
            (["/static"], "/Static", False),
            ("/static", "/static/x", True),
            (["/a", "/b"], "/b/c", True),
            (["/"], "/", True),
            (["/"], "/anything", True),
            ((), "/", False),
        ],
    )
    def test_paths_opt_out_in_whole_segments(self, exclude: Any, path: str, excluded: bool) -> None:
        assert settings(exclude=exclude).excludes(path) is excluded

    @pytest.mark.parametrize(
        ("proxy", "scheme", "forwarded", "https"),
        [
            (False, "https", None, True),
            (False, "wss", None, True),
            (False, "http", None, False),
            (False, "ws", None, False),
            (False, "http", "https", False),
            (False, "https", "http", True),
            (True, "http", "https", True),
            (True, "http", "HTTPS", True),
            (True, "http", "wss", True),
            (True, "http", " https , http", True),
            (True, "http", "http, https", False),
            (True, "https", "http", False),
            (True, "https", None, True),
            (True, "https", "", True),
            (True, "http", "httpsx", False),
        ],
    )
    def test_what_a_proxy_says_counts_where_it_is_trusted(
        self, proxy: bool, scheme: str, forwarded: str | None, https: bool
    ) -> None:
        assert settings(proxy=proxy).is_https(scheme, forwarded) is https


@pytest.mark.parametrize("make", [CookieSettings, settings])
def test_a_misspelt_option_is_no_option(make: Callable[..., object]) -> None:
    with pytest.raises(TypeError, match="same_site"):
        make(same_site="lax")


def test_a_span_has_a_length_that_a_clock_can_add() -> None:
    assert NOW + as_span(timedelta(days=365_250), "it") > NOW
    with pytest.raises(ConfigurationError, match="it can not be over 1000 years"):
        as_span(timedelta(days=365_251), "it")
