"""What Express apps store: read, kept as it is, and written as Express can read it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websessions import (
    CookieSettings,
    CorruptRecord,
    MemoryStore,
    SessionEncodingError,
    SessionSettings,
    Sid,
)
from websessions.exchange import SyncExchange
from websessions.express import ExpressForm, ExpressJSON
from websessions.lifecycle import Lifecycle
from websessions.signing import ExpressValue
from websessions.store import Load, Performs, Put
from websessions.testing import FakeClock

SECRET = "keyboard cat, and then some"
COOKIE = '"cookie":{"originalMaxAge":null,"expires":null,"httpOnly":true,"path":"/"}'
CODEC = ExpressJSON()

# What JSON.stringify wrote, in Node 20.
WRITTEN = {
    "nothing": "{" + COOKIE + "}",
    "emoji": "{" + COOKIE + ',"🛒":"👩‍🚀","flag":"🇪🇺"}',
    "lone surrogates": "{" + COOKIE + r',"high":"\ud83d","low":"\ude00x","\udfff":["\ud800 x"]}',
    "control characters": "{"
    + COOKIE
    + ',"all":"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\\u001f\x7f\u2028"}',
    "quotes": "{" + COOKIE + r',"\"":"\\","/":"</script>"}',
    "large integers": "{" + COOKIE + ',"a":9007199254740993000,"b":1152921504606847000,"c":-0.5}',
    "the largest integer": "{" + COOKIE + ',"a":999999999999999900000,"b":1e+21,"c":1.5e+300}',
    "small numbers": "{" + COOKIE + ',"a":0.00001,"b":0.000001,"c":1e-7,"d":1.5e-7,"e":5e-324}',
    "dates": "{" + COOKIE + ',"seen":"2026-11-24T09:24:55.308Z"}',
    "order": '{"2":1,"10":2,' + COOKIE + ',"4294967295":0,"01":1,"z":3,"a":{"y":1,"b":2}}',
    "prototypes": "{" + COOKIE + ',"a":{"__proto__":{"x":1},"constructor":1}}',
    "nested cookie": "{" + COOKIE + ',"user":{"cookie":{"a":1}}}',
    "our own key": "{" + COOKIE + ',"$cookie":1,"$$cookie":2,"$":["datetime","no"]}',
    "all attributes": '{"cookie":{"originalMaxAge":3600000,"partitioned":true,"priority":"high",'
    '"expires":"2026-11-24T09:24:55.308Z","secure":true,"httpOnly":true,"domain":"example.com",'
    '"path":"/","sameSite":"lax","ours":{"later":[1]}},"user":"ann"}',
    "no originalMaxAge": '{"cookie":{"path":"/"},"a":1}',
    "expires = false": '{"cookie":{"originalMaxAge":false,"expires":false,"path":"/"},"a":1}',
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_node_wrote_is_written_the_same(name: str) -> None:
    data = WRITTEN[name].encode()
    assert CODEC.encode(CODEC.decode(data)) == data


@pytest.mark.parametrize(
    ("spelled", "read", "written"),
    [
        ("1" + "0" * 21, 1e21, "1e+21"),
        ("-1" + "0" * 300, -1e300, "-1e+300"),
        ("1234567890123456789", 1234567890123456800, "1234567890123456800"),
        ("9007199254740993", 9007199254740992, "9007199254740992"),
        ("999999999999999", 999999999999999, "999999999999999"),
    ],
)
def test_an_integer_is_what_javascript_reads(spelled: str, read: object, written: str) -> None:
    """jsonb spells 1e+21 out, and other programs may have written what JavaScript has not."""
    visit = Visit()
    visit.node_wrote("{" + COOKIE + ',"n":' + spelled + "}")
    exchange = visit.request()
    assert (exchange.session["n"], type(exchange.session["n"])) == (read, type(read))
    exchange.session["from python"] = 1
    exchange.finish()
    assert visit.stored() == "{" + COOKIE + ',"n":' + written + ',"from python":1}'


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda k: k != "$cookie"), JSON)
)
def test_what_is_written_is_read_back(values: dict[str, Any]) -> None:
    try:
        data = CODEC.encode(values)
    except SessionEncodingError:
        return  # a key that Express has for itself
    document = CODEC.decode(data)
    assert document.pop("$cookie")["path"] == "/"
    assert document == values
    indices = [
        key
        for key in values
        if key.isascii() and key.isdigit() and str(int(key)) == key and int(key) < 2**32 - 1
    ]
    others = [key for key in values if key not in indices]
    assert list(document) == [*sorted(indices, key=int), *others]
    assert json.loads(data).keys() - {"cookie"} == {
        key[1:] if key.lstrip("$") == "cookie" and key != "cookie" else key for key in values
    }


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ({"n": 2**53 + 1}, "n", "JavaScript has no such integer"),
        ({"n": {"id": [1234567890123456789]}}, "n.id[0]", "JavaScript has no such integer"),
        ({"n": 10**21}, "n", "JavaScript has no such integer"),
        ({"n": 10**400}, "n", "JavaScript has no such integer"),
        ({"n": math.nan}, "n", "JSON has no nan"),
        ({"n": [math.inf]}, r"n[0]", "JSON has no inf"),
        ({"n": (1, 2)}, "n", "tuple is not JSON"),
        ({"n": datetime(2026, 1, 1, tzinfo=UTC)}, "n", "its .isoformat"),
        ({"n": Decimal(1)}, "n", "Decimal is not JSON"),
        ({"n": {1: 2}}, "n", "keys of an object are strings"),
        ({"cookie": {}}, "cookie", "session.cookie"),
        ({"id": 7}, "id", "Express drops this key"),
        ({"touch": 7}, "touch", "Express drops this key"),
        ({"__proto__": 7}, "__proto__", "Express drops this key"),
        ({"__defineGetter__": 7}, "__defineGetter__", "Express drops this key"),
    ],
)
def test_what_express_would_lose_is_refused(
    value: Mapping[str, object], path: str, reason: str
) -> None:
    """And the message says where it is and what to do."""
    with pytest.raises(SessionEncodingError, match=reason) as caught:
        CODEC.encode(value)
    assert caught.value.path == path


def test_what_nests_too_deep_to_be_written_is_refused() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SessionEncodingError, match="nested too deep"):
        CODEC.encode({"deep": deep})


def test_what_express_drops_when_it_reads_is_dropped() -> None:
    """It writes `req.session.toString = "x"`, so a session can come with such keys."""
    visit = Visit()
    text = "{" + COOKIE + ',"toString":"x","a":[1],"valueOf":null}'
    visit.node_wrote(text)
    exchange = visit.request()
    assert dict(exchange.session) == {"a": [1]}
    exchange.finish()
    assert visit.stored() == text
    exchange = visit.request()
    exchange.session["a"].append(2)
    exchange.finish()
    assert visit.stored() == "{" + COOKIE + ',"a":[1,2]}'


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b'{"cookie":', b'{"a":NaN}', b'{"a":1e999}', b"\xff{}"),
        b'{"a":1' + b"0" * 400 + b"}",
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
)
def test_what_is_no_session_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not JSON|top level|nested"):
        CODEC.decode(data)


def test_a_full_stack_is_not_blamed_on_the_row() -> None:
    """If the app's own calls have used up the stack, a good row is not called malformed."""
    data = ("{" + COOKIE + ',"a":' + "[" * 150 + "]" * 150 + "}").encode()

    def descend() -> object:
        try:
            return descend()
        except RecursionError:
            return CODEC.decode(data)

    assert descend() == CODEC.decode(data)


class TestLifetime:
    @pytest.mark.parametrize(
        ("kept", "max_age"),
        [
            ({"originalMaxAge": 3_600_000}, timedelta(hours=1)),
            ({"originalMaxAge": 1500.5}, timedelta(milliseconds=1500.5)),
            ({"originalMaxAge": None, "expires": None}, None),
            ({"originalMaxAge": None, "expires": "2026-11-24T09:24:55.308Z"}, None),
            ({}, None),
            ({"originalMaxAge": False, "expires": False}, None),
            ({"originalMaxAge": -1}, timedelta(0)),
            ({"originalMaxAge": -(10**300)}, timedelta(0)),
            ({"originalMaxAge": -1e300}, timedelta(0)),
            ({"originalMaxAge": 10**16}, timedelta(days=365_250)),
            ({"originalMaxAge": 10**300}, timedelta(days=365_250)),
        ],
    )
    def test_it_is_the_original_max_age(self, kept: Any, max_age: timedelta | None) -> None:
        """Which is what Express resets `maxAge` to at each request."""
        assert ExpressForm().lifetime(kept) == (max_age, None)

    @pytest.mark.parametrize(
        "kept", [None, 7, [], {"originalMaxAge": "1"}, {"originalMaxAge": True}]
    )
    def test_what_express_would_fail_at_is_refused(self, kept: Any) -> None:
        with pytest.raises(ValueError, match="not a"):
            ExpressForm().lifetime(kept)


class Visit:
    """Requests with one cookie over a store whose rows Node has written."""

    def __init__(self, **cookie: Any) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(codec=CODEC, clock=self.clock, check_expiration_interval=0)
        settings = SessionSettings(secret=SECRET, cookie=CookieSettings.express_session(**cookie))
        self._lifecycle: Lifecycle[Performs] = Lifecycle(self.store, settings)
        self.sid = Sid("tXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ")

    def node_wrote(self, text: str) -> None:
        expires = self.clock() + timedelta(hours=24)
        self.store.perform([Put(self.store.key(self.sid), text.encode(), expires, {})])

    def stored(self) -> str:
        (record,) = self.store.perform([Load(self.store.key(self.sid))])
        assert record is not None
        data: bytes = record.data
        return data.decode()

    def request(self, *, cookie: bool = True, https: bool = False) -> SyncExchange:
        value = ExpressValue("connect.sid", [SECRET.encode()]).sign(self.sid)
        return SyncExchange(self._lifecycle, f"connect.sid={value}" * cookie, https=https)

    def born(self, *, https: bool = False, **values: Any) -> dict[str, Any]:
        """The cookie that is stored with a new session."""
        exchange = self.request(cookie=False, https=https)
        exchange.session.update(values)
        exchange.finish()
        self.sid = exchange.session.id
        cookie: dict[str, Any] = json.loads(self.stored())["cookie"]
        return cookie


class TestRequests:
    @pytest.mark.parametrize("name", WRITTEN)
    def test_a_session_that_was_read_is_not_written(self, name: str) -> None:
        """Although the handler could have changed any list or dict that it was given."""
        visit = Visit()
        visit.node_wrote(WRITTEN[name])
        exchange = visit.request()
        dict(exchange.session)
        assert exchange.finish().cookie is None
        assert visit.stored() == WRITTEN[name]

    @pytest.mark.parametrize("name", [name for name in WRITTEN if name != "all attributes"])
    def test_a_write_leaves_what_it_does_not_change(self, name: str) -> None:
        """Byte for byte, and in its place."""
        visit = Visit()
        visit.node_wrote(WRITTEN[name].replace('"cookie":{"path":"/"}', COOKIE))
        exchange = visit.request()
        exchange.session["from python"] = 1
        exchange.finish()
        before = WRITTEN[name].replace('"cookie":{"path":"/"}', COOKIE)
        assert visit.stored() == before[:-1] + ',"from python":1}'

    def test_a_document_with_other_spaces_is_the_same(self) -> None:
        """PostgreSQL's jsonb writes them, and in an order of its own."""
        visit = Visit()
        text = '{"a": [1, 2], "cookie": {"path": "/", "expires": null, "originalMaxAge": null}}'
        visit.node_wrote(text)
        exchange = visit.request()
        assert exchange.session["a"] == [1, 2]
        exchange.finish()
        assert visit.stored() == text

    def test_the_cookie_is_no_key_of_the_session(self) -> None:
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        session = visit.request().session
        assert dict(session) == {"user": "ann"}
        assert session.cookie.max_age == timedelta(hours=1)

    def test_a_write_says_when_the_session_expires_now(self) -> None:
        """As Express does; what it does not know of the cookie stays, in its place."""
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        exchange = visit.request()
        exchange.session["user"] = "bob"
        finished = exchange.finish()
        moment = (visit.clock() + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        expected = WRITTEN["all attributes"].replace("2026-11-24T09:24:55.308Z", moment)
        assert visit.stored() == expected.replace('"ann"', '"bob"')
        assert finished.cookie is not None
        assert "Max-Age=3600" in finished.cookie

    def test_a_second_save_of_the_same_is_none(self) -> None:
        """Although the first one has written another moment than was read."""
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        exchange = visit.request()
        exchange.session["user"] = ["bob"]
        exchange.save()
        written = visit.stored()
        visit.clock.advance(10)
        exchange.finish()
        exchange.close()
        assert visit.stored() == written

    def test_nor_is_one_of_a_new_session(self) -> None:
        visit = Visit(max_age=timedelta(hours=1))
        exchange = visit.request(cookie=False)
        exchange.session["user"] = ["bob"]
        exchange.save()
        visit.sid = exchange.session.id
        written = visit.stored()
        visit.clock.advance(10)
        exchange.finish()
        assert visit.stored() == written

    def test_a_max_age_is_express_s(self) -> None:
        """In milliseconds, and taken back with None."""
        visit = Visit()
        visit.node_wrote(WRITTEN["emoji"])
        exchange = visit.request()
        exchange.session.cookie.max_age = 60
        exchange.finish()
        cookie = json.loads(visit.stored())["cookie"]
        moment = (visit.clock() + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
        assert cookie == {
            "originalMaxAge": 60_000,
            "expires": moment,
            "httpOnly": True,
            "path": "/",
        }
        exchange = visit.request()
        assert exchange.session.cookie.max_age == timedelta(minutes=1)
        exchange.session.cookie.max_age = None
        exchange.finish()
        assert visit.stored() == WRITTEN["emoji"]

    @pytest.mark.parametrize("age", ["-1", "-1900000000000", "-1e300"])
    def test_a_negative_max_age_is_over_at_once(self, age: str) -> None:
        """As in Express. A write says so, and keeps the number."""
        visit = Visit()
        visit.node_wrote("{" + COOKIE.replace(":null", f":{age}", 1) + ',"a":1}')
        exchange = visit.request()
        exchange.session["a"] = 2
        cookie = exchange.finish().cookie
        assert cookie is not None
        assert "Max-Age=0" in cookie
        assert visit.request().session.is_new

    def test_a_max_age_that_is_set_to_what_it_is_changes_nothing(self) -> None:
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        exchange = visit.request()
        exchange.session.cookie.max_age = timedelta(hours=1)
        exchange.finish()
        assert visit.stored() == WRITTEN["all attributes"]

    def test_a_fixed_end_becomes_a_span(self) -> None:
        """Express has no other, and would otherwise forget it at its next request."""
        visit = Visit()
        visit.node_wrote(WRITTEN["emoji"])
        exchange = visit.request()
        exchange.session.cookie.expires = visit.clock() + timedelta(minutes=5)
        exchange.finish()
        assert json.loads(visit.stored())["cookie"]["originalMaxAge"] == 300_000

    @pytest.mark.parametrize("name", ["emoji", "all attributes"])
    def test_a_fixed_end_stands_a_conflict(self, name: str) -> None:
        """It is the handler's whatever others have written meanwhile."""
        visit = Visit()
        visit.node_wrote(WRITTEN[name])
        mine, theirs = visit.request(), visit.request()
        mine.session.cookie.expires = visit.clock() + timedelta(minutes=5)
        theirs.session["y"] = 1
        theirs.finish()
        mine.finish()
        (record,) = visit.store.perform([Load(visit.store.key(visit.sid))])
        assert record.expires - visit.clock() == timedelta(minutes=5)
        document = json.loads(record.data)
        assert document["y"] == 1
        assert document["cookie"]["originalMaxAge"] == 300_000
        assert "$fixed" not in document["cookie"]

    def test_a_fixed_end_is_taken_back(self) -> None:
        visit = Visit()
        visit.node_wrote(WRITTEN["emoji"])
        exchange = visit.request()
        exchange.session.cookie.expires = visit.clock() + timedelta(minutes=5)
        exchange.session.cookie.max_age = None
        assert exchange.finish().cookie is None
        assert visit.stored() == WRITTEN["emoji"]

    def test_a_new_session_has_the_attributes_of_its_cookie(self) -> None:
        """In Express's order: Express sets the cookie again by what it finds there."""
        cookie = Visit(
            domain="example.com",
            samesite="strict",
            max_age=60,
            secure=True,
            partitioned=True,
            priority="low",
        ).born(https=True, user="ann")
        assert list(cookie) == [
            *("originalMaxAge", "partitioned", "priority", "expires", "secure", "httpOnly"),
            *("domain", "path", "sameSite"),
        ]
        assert cookie["originalMaxAge"] == 60_000
        assert (cookie["secure"], cookie["sameSite"], cookie["domain"]) == (
            True,
            "strict",
            "example.com",
        )
        assert Visit().born(user="ann") == {
            "originalMaxAge": None,
            "expires": None,
            "httpOnly": True,
            "path": "/",
        }

    @pytest.mark.parametrize("https", [True, False])
    def test_auto_is_resolved_when_the_session_begins(self, https: bool) -> None:
        """As Express does it."""
        assert Visit(secure="auto").born(https=https, user="ann").get("secure", False) is https

    def test_a_new_session_may_have_a_lifetime_of_its_own(self) -> None:
        visit = Visit(domain="example.com")
        exchange = SyncExchange(visit._lifecycle, "", https=False)
        exchange.session["user"] = "ann"
        exchange.session.cookie.max_age = 10
        exchange.finish()
        visit.sid = exchange.session.id
        cookie = json.loads(visit.stored())["cookie"]
        assert (cookie["originalMaxAge"], cookie["domain"]) == (10_000, "example.com")

    def test_regenerating_without_data_begins_a_cookie(self) -> None:
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        exchange = visit.request()
        exchange.session.regenerate(keep_data=False)
        exchange.finish()
        visit.sid = exchange.session.id
        assert visit.stored() == WRITTEN["nothing"]

    def test_whoever_sets_max_age_wins_over_whoever_only_writes(self) -> None:
        """The moment that a write brings along is no change of the cookie."""
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        mine, theirs = visit.request(), visit.request()
        mine.session["a"] = 1
        theirs.session.cookie.max_age = 60
        theirs.finish()
        mine.finish()
        document = json.loads(visit.stored())
        assert document["cookie"]["originalMaxAge"] == 60_000
        assert document["a"] == 1

    def test_a_row_without_a_cookie_is_healed(self) -> None:
        """Express answers 500 to each request with such a session."""
        visit = Visit()
        visit.node_wrote('{"user":"ann"}')
        exchange = visit.request()
        assert dict(exchange.session) == {"user": "ann"}
        exchange.session["user"] = "bob"
        exchange.finish()
        assert visit.stored() == "{" + COOKIE + ',"user":"bob"}'

    def test_a_cookie_that_is_none_is_corrupt(self) -> None:
        visit = Visit()
        visit.node_wrote('{"cookie":null,"user":"ann"}')
        with pytest.raises(CorruptRecord, match="cookie is not an object"):
            visit.store.get(visit.sid)

    def test_an_update_from_outside_keeps_the_cookie(self) -> None:
        visit = Visit()
        visit.node_wrote(WRITTEN["all attributes"])
        visit.store.update(visit.sid, lambda session: session.update(user="bob"))
        assert visit.stored() == WRITTEN["all attributes"].replace('"ann"', '"bob"')
        visit.store.update(visit.sid, lambda session: None)
        assert visit.store.get(visit.sid) == {"user": "bob"}
