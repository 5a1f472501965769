"""The cookie: signing and verifying, picking one out of a header, and what `Set-Cookie` says."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookies import SimpleCookie
from itertools import product
from typing import Any, Literal

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from websessions import CookieSettings
from websessions.cookie import SessionCookies, SignedValue
from websessions.sid import Sid

NOW = datetime(2037, 1, 1, tzinfo=UTC)
OLD, NEW, OTHER = b"an old secret, retired", b"a new secret, in front", b"nobody's secret at all"
SID = Sid("a" * 43)
TWIN = Sid("b" * 43)


def cookies(*secrets: bytes, **options: Any) -> SessionCookies:
    return SessionCookies(CookieSettings(**options), secrets or (NEW,))


def signed(sid: Sid, *secrets: bytes, name: str = "sid") -> str:
    return SignedValue(name, secrets or (NEW,)).sign(sid)


class TestSigning:
    def test_what_was_signed_verifies(self) -> None:
        assert SignedValue("sid", [NEW]).verify(signed(SID)) == SID

    def test_the_format_is_fixed(self) -> None:
        """Another format would log everybody out at the next deployment."""
        assert signed(SID) == "a" * 43 + ".6aOJH4By7pruOasV7wblm2vZ7cOtNRUbvyfKh8MIYX4"

    @given(st.binary(min_size=1, max_size=200), st.text("abcXYZ-_019", min_size=22, max_size=128))
    @example(b"k" * 64, "a" * 43)
    @example(b"k" * 65, "a" * 43)
    def test_the_signature_is_the_standard_librarys_hmac(self, secret: bytes, sid: str) -> None:
        """Whose two hashes are begun once: RFC 2104, with secrets of any length."""
        mac = hmac.digest(secret, b"websessions:sid:" + sid.encode(), "sha256")
        signature = urlsafe_b64encode(mac).rstrip(b"=").decode()
        value = SignedValue("sid", [secret])
        for _ in range(2):  # a signature leaves nothing behind for the next
            assert value.sign(Sid(sid)) == f"{sid}.{signature}"
            assert value.verify(f"{sid}.{signature}") == Sid(sid)

    @pytest.mark.parametrize("secrets", [(NEW, OLD), (OLD, NEW)])
    def test_the_first_secret_signs(self, secrets: Sequence[bytes]) -> None:
        """Not the last one, as in itsdangerous."""
        assert signed(SID, *secrets) == signed(SID, secrets[0])

    def test_all_secrets_verify(self) -> None:
        value = SignedValue("sid", [NEW, OLD])
        assert value.verify(signed(SID, NEW)) == SID
        assert value.verify(signed(SID, OLD)) == SID
        assert value.verify(signed(SID, OTHER)) is None

    def test_a_retired_secret_verifies_no_more(self) -> None:
        assert SignedValue("sid", [NEW]).verify(signed(SID, OLD)) is None

    def test_a_value_does_not_verify_under_another_name(self) -> None:
        """Two middlewares may share a secret; a cookie of one is nothing to the other."""
        assert SignedValue("admin", [NEW]).verify(signed(SID, name="sid")) is None

    def test_the_names_end_is_signed_too(self) -> None:
        """`sid` + `aaa…` is not `sida` + `aa…`."""
        moved = signed(SID, name="sid").removeprefix("a")
        assert SignedValue("sida", [NEW]).verify(moved) is None

    def test_each_changed_character_is_noticed(self) -> None:
        value = signed(SID)
        for index, character in enumerate(value):
            for other in "A", "z", "-", ".":
                if other != character:
                    changed = value[:index] + other + value[index + 1 :]
                    assert SignedValue("sid", [NEW]).verify(changed) is None, changed

    @given(st.text())
    @example("")
    @example(".")
    @example("a" * 43)
    @example("a" * 43 + ".")
    @example("." + "a" * 43)
    @example("a" * 43 + "." + "a" * 43)
    @example("a" * 100_000)
    @example("ä" * 43 + "." + "a" * 43)
    @example("\ud800" * 43 + "." + "a" * 43)
    @example(signed(SID) + "\n")
    @example(signed(SID) + "=")
    @example("s:" + signed(SID))
    @example(signed(SID, OTHER))
    def test_whatever_else_comes_neither_verifies_nor_raises(self, junk: str) -> None:
        assume(junk != signed(SID))
        assert SignedValue("sid", [NEW, OLD]).verify(junk) is None


class TestReading:
    @pytest.mark.parametrize(
        "header",
        [
            "sid={}",
            "sid={};",
            "  sid={}  ",
            "other=1; sid={}; more=2",
            "other=1;sid={};more=2",
            'sid="{}"',
            "sid = {}",
            "xsid=1; sid={}; sidx=2",
            "sid=; sid={}",
            "sid; sid={}",
            "=; sid={}",
            "sid={}; sid={}",
        ],
    )
    def test_it_is_found_in_what_browsers_and_proxies_send(self, header: str) -> None:
        assert cookies().read(header.replace("{}", signed(SID))) == SID

    @pytest.mark.parametrize(
        "header",
        [
            "",
            "sid",
            "sid=",
            "sid==",
            "SID={}",
            "xsid={}",
            "sidx={}",
            "other=sid={}",
            "sid=x{}",
            "sid={}x",
            "sid=%{}",
            "sid=s%3A{}",
            "sid={},other=1",
            "sid=" + "a" * 5000,
            "sid=" + "é" * 40,
        ],
    )
    def test_anything_else_is_no_session(self, header: str) -> None:
        assert cookies().read(header.replace("{}", signed(SID))) is None

    @given(st.text(st.characters(max_codepoint=255)))
    @example('sid="')
    @example("sid=\xff\xfe; sid=\x00")
    @example(";" * 1000)
    @example("sid=;" * 1000)
    def test_no_header_raises(self, junk: str) -> None:
        assert cookies().read(junk) is None
        assert cookies().read("sid=" + junk) is None

    @given(st.text(st.characters(max_codepoint=255, exclude_characters=";")))
    def test_junk_of_the_same_name_beside_it_does_no_harm(self, junk: str) -> None:
        """A sibling domain must not be able to log a visitor out."""
        assume(junk.strip().strip('"') != signed(SID))
        value = signed(SID)
        assert cookies().read(f"sid={junk}; sid={value}") == SID
        assert cookies().read(f"sid={value}; sid={junk}") == SID

    def test_of_two_different_ones_that_verify_none_counts(self) -> None:
        """A sibling domain must not be able to plant a session of its own: there is no telling."""
        mine, planted = signed(SID), signed(TWIN)
        for order in (
            [mine, planted],
            [planted, mine],
            [mine, planted, mine],
            [mine, mine, planted],
            [mine, "junk", planted],
        ):
            assert cookies().read("; ".join(f"sid={value}" for value in order)) is None

    def test_one_session_signed_twice_is_one(self) -> None:
        """During a rotation a browser may hold it under two paths, signed by either secret."""
        header = f"sid={signed(SID, NEW)}; sid={signed(SID, OLD)}"
        assert cookies(NEW, OLD).read(header) == SID

    @pytest.mark.parametrize("space", ["\xa0", "\x85", "\x0b", "\x1f"])
    def test_what_only_python_takes_for_space_is_part_of_a_name(self, space: str) -> None:
        """A browser checks no prefix of such a name, so a sibling domain could set it."""
        reader = cookies(name="__Host-sid", secure=True)
        value = signed(SID, name="__Host-sid")
        assert reader.read(f"__Host-sid={value}") == SID
        assert reader.read(f"{space}__Host-sid={value}") is None
        assert reader.read(f"__Host-sid{space}={value}") is None


class TestSetting:
    @pytest.mark.parametrize("https", [True, False])
    @pytest.mark.parametrize("expires", [None, NOW + timedelta(days=1)])
    def test_every_combination_of_attributes_reads_back(
        self, expires: datetime | None, https: bool
    ) -> None:
        for values in product(
            ("/", "/app"),
            (None, "example.com"),
            (True, False, "auto"),
            (True, False),
            ("lax", "strict", "none", None),
            (True, False),
            ("low", "medium", "high", None),
        ):
            names = ("path", "domain", "secure", "httponly", "samesite", "partitioned", "priority")
            options: dict[str, Any] = dict(zip(names, values, strict=True))
            insecure = options["secure"] is not True
            if (options["partitioned"] and insecure) or (
                options["samesite"] == "none" and options["secure"] is False
            ):
                continue  # refused at construction
            text = cookies(**options).set(SID, now=NOW, expires=expires, https=https)
            assert parsed(text) == wanted(options, signed(SID), expires, https), text

    def test_the_default_is_a_safe_one(self) -> None:
        assert cookies().set(SID, now=NOW, expires=None, https=True) == (
            f"sid={signed(SID)}; Path=/; HttpOnly; SameSite=Lax; Secure"
        )

    def test_a_cookie_that_outlives_the_browser_says_when_twice(self) -> None:
        """Max-Age is what counts; Expires is for the clients that know no other."""
        text = cookies().set(SID, now=NOW, expires=NOW + timedelta(hours=1), https=False)
        assert "; Max-Age=3600; Expires=Thu, 01 Jan 2037 01:00:00 GMT;" in text

    def test_a_local_expiry_is_written_in_gmt(self) -> None:
        east = datetime.fromisoformat("2037-01-01T05:00:00+05:00")
        text = cookies().set(SID, now=NOW - timedelta(minutes=1), expires=east, https=False)
        assert "; Max-Age=60; Expires=Thu, 01 Jan 2037 00:00:00 GMT;" in text

    def test_a_moment_in_the_past_is_no_negative_age(self) -> None:
        text = cookies().set(SID, now=NOW, expires=NOW - timedelta(hours=1), https=False)
        assert "; Max-Age=0;" in text

    @pytest.mark.parametrize("https", [True, False])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"domain": "example.com", "path": "/app", "samesite": "strict"},
            {"name": "__Host-sid", "secure": True, "partitioned": True, "priority": "high"},
            {"httponly": False, "samesite": None},
        ],
    )
    def test_clearing_repeats_every_attribute(self, options: dict[str, Any], https: bool) -> None:
        """A browser keeps a prefixed or partitioned cookie that is cleared with less."""
        text = cookies(**options).clear(https=https)
        then = datetime(1970, 1, 1, tzinfo=UTC)
        assert parsed(text) == wanted(options, "", then, https)
        assert "Max-Age=0" in text

    @pytest.mark.parametrize(
        ("secure", "https", "is_secure"),
        [
            ("auto", True, True),
            ("auto", False, False),
            (True, True, True),
            (True, False, True),
            (False, True, False),
            (False, False, False),
        ],
    )
    def test_secure_auto_follows_the_request(
        self, secure: bool | Literal["auto"], https: bool, is_secure: bool
    ) -> None:
        text = cookies(secure=secure).set(SID, now=NOW, expires=None, https=https)
        assert ("Secure" in text.split("; ")) is is_secure

    @pytest.mark.parametrize(
        ("options", "over_http"),
        [
            ({}, True),
            ({"secure": False}, True),
            ({"secure": True}, False),
            ({"samesite": "none"}, False),
        ],
    )
    def test_whether_a_browser_would_take_it(
        self, options: dict[str, Any], over_http: bool
    ) -> None:
        assert cookies(**options).can_be_set(https=True)
        assert cookies(**options).can_be_set(https=False) is over_http

    def test_the_secret_is_in_no_repr(self) -> None:
        shown = repr(cookies()) + repr(SignedValue("sid", [NEW]))
        assert NEW.decode() not in shown


def parsed(text: str) -> dict[str, str | bool]:
    """A `Set-Cookie` value, strictly: each attribute once, and as the stdlib reads it."""
    pair, *attributes = text.split("; ")
    name, _, value = pair.partition("=")
    found: dict[str, str | bool] = {"name": name, "value": value}
    for attribute in attributes:
        key, separator, of = attribute.partition("=")
        assert key.lower() not in found, f"{key} twice"
        found[key.lower()] = of if separator else True
    stdlib = SimpleCookie(text.replace("; Partitioned", "").replace("; Priority", "; Version"))
    [morsel] = stdlib.values()
    assert (morsel.key, morsel.value) == (name, value)
    for key in ("path", "domain", "httponly", "samesite", "secure", "expires"):
        assert (morsel[key] or None) == found.get(key), key
    return found


def wanted(
    options: dict[str, Any], value: str, expires: datetime | None, https: bool
) -> dict[str, str | bool]:
    settings = CookieSettings(**options)
    found: dict[str, str | bool] = {"name": settings.name, "value": value, "path": settings.path}
    if settings.domain:
        found["domain"] = settings.domain
    if expires is not None:
        found["max-age"] = "86400" if expires > NOW else "0"
        found["expires"] = expires.strftime("%a, %d %b %Y %H:%M:%S GMT")
        assert parsedate_to_datetime(str(found["expires"])) == expires
    if settings.httponly:
        found["httponly"] = True
    if settings.samesite:
        found["samesite"] = settings.samesite.capitalize()
    if settings.partitioned:
        found["partitioned"] = True
    if settings.priority:
        found["priority"] = settings.priority.capitalize()
    if settings.secure is True or (settings.secure == "auto" and https):
        found["secure"] = True
    return found
