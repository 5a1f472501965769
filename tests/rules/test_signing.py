"""The cookie of express-session: what that wrote is read, and written the same."""

from __future__ import annotations

import hmac
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websessions import AsyncMemoryStore, ConfigurationError, CookieSettings, SessionSettings
from websessions.cookie import SessionCookies
from websessions.lifecycle import Lifecycle
from websessions.sid import EXPRESS_IDS, Sid, generated_sid
from websessions.signing import ExpressValue

NOW = datetime(2026, 11, 24, 8, 24, 54, tzinfo=UTC)

# Cookies that express-session 1.19 sent, and values that cookie-signature signed.
SENT = [
    (
        b"keyboard cat",
        "tXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ",
        "s%3AtXa0jzoKVqL6RxFLFRMk22oqRukEAZpJ.2yXhHLiHtVyBCuUuI9LmN16woTsw%2BpQkCkEfV%2BbDvk0",
    ),
    (
        b"new-secret",
        "CTQ9MZ1P7e7SPsQv_G_DDFGnQCdagLBd",
        "s%3ACTQ9MZ1P7e7SPsQv_G_DDFGnQCdagLBd.v9lkQOFKhRlpto8h4ZmPbQ%2FpOeCwt%2FxrGE6tFBjIJWg",
    ),
    (b"tobiiscool", "hello", "s%3Ahello.DGDUkGlIkCzPz%2BC0B064FNgHdEjox7ch8tOBGslZ5QI"),
    (
        bytes.fromhex("A0ABBC0C"),
        "hello",
        "s%3Ahello.hIvljrKw5oOZtHHSq5u%2BMlL27cgnPKX77y7F%2Bx5r1to",
    ),
]


def cookies(*secrets: bytes, **options: Any) -> SessionCookies:
    return SessionCookies(CookieSettings.express_session(**options), secrets)


@pytest.mark.parametrize(("secret", "sid", "value"), SENT)
def test_the_value_is_the_one_that_express_sends(secret: bytes, sid: str, value: str) -> None:
    assert ExpressValue("connect.sid", [secret]).sign(Sid(sid)) == value


@pytest.mark.parametrize(("secret", "sid", "value"), SENT)
def test_a_cookie_of_express_is_read(secret: bytes, sid: str, value: str) -> None:
    """Also where a proxy or another library has taken the percent signs away, or put quotes on."""
    for written in (value, unquote(value), f'"{value}"'):
        assert cookies(secret).read(f"a=b; connect.sid={written}; c=d") == Sid(sid)


@pytest.mark.parametrize(("secret", "sid", "value"), SENT)
def test_what_express_would_refuse_is_refused(secret: bytes, sid: str, value: str) -> None:
    """Unsigned, signed by another, cut, changed, or of another format."""
    signature = unquote(value).rpartition(".")[2]
    for wrong in (
        *(sid, f"s:{sid}", f"s:{sid}.", f"s:.{signature}", f"j:{sid}.{signature}"),
        *(f"{sid}.{signature}", f"s:{sid}x.{signature}", f"s:{sid}.{signature[:-1]}"),
        *(f"s:{sid}.{signature}=", f"s:{sid}.{signature}x", f"s:{sid}.x{signature}"),
        *(value.replace("%3A", "%3a%ff"), f"s:{sid}.{signature[:-1]}\xe9", "s:", "s:.", ""),
    ):
        assert cookies(secret).read(f"connect.sid={wrong}") is None, wrong
    assert cookies(b"another secret").read(f"connect.sid={value}") is None


@pytest.mark.parametrize("secrets", [(b"first", b"second"), (b"second", b"first")])
def test_the_first_secret_signs_and_all_verify(secrets: Sequence[bytes]) -> None:
    """As in express-session; the two lists have the same order."""
    written = ExpressValue("connect.sid", secrets).sign(Sid("a" * 32))
    assert written == ExpressValue("connect.sid", secrets[:1]).sign(Sid("a" * 32))
    for one in secrets:
        value = ExpressValue("connect.sid", [one]).sign(Sid("a" * 32))
        assert ExpressValue("connect.sid", secrets).verify(value) == Sid("a" * 32)


@given(
    st.binary(min_size=1, max_size=100),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=255),
)
def test_any_id_of_a_genid_travels(secret: bytes, sid: str) -> None:
    """With dots, colons, spaces, percent signs and letters of any script in it."""
    signature = b64encode(hmac.digest(secret, sid.encode(), "sha256")).decode().rstrip("=")
    value = ExpressValue("any", [secret]).sign(Sid(sid))
    assert value == quote(f"s:{sid}.{signature}", safe="!~*'()")
    assert value.isascii()
    assert not set(value) & set(' ",;\\')
    assert ExpressValue("any", [secret]).verify(value) == Sid(sid)


def test_the_longest_id_travels_and_nothing_longer_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whatever has percent-encoded it. What is longer costs no decoding."""
    cookie, sid = ExpressValue("any", [b"secret"]), "\U0001f6d2" * 255
    value = cookie.sign(Sid(sid))
    everything = "".join(f"%{byte:02X}" for byte in unquote(value).encode())
    assert cookie.verify(value) == cookie.verify(everything) == Sid(sid)
    monkeypatch.setattr("websessions.signing.unquote", None)
    assert cookie.verify(f"{everything}%") is None


def test_the_cookie_has_express_sessions_defaults() -> None:
    """So that the browser sees no difference between the two."""
    header = cookies(b"keyboard cat").set(Sid("a" * 32), now=NOW, expires=None, https=True)
    assert header.partition("; ")[2] == "Path=/; HttpOnly"
    assert header.startswith("connect.sid=s%3A")


def test_the_defaults_can_be_overridden() -> None:
    header = cookies(
        b"keyboard cat", name="app", secure=True, samesite="lax", domain="example.com"
    ).set(Sid("a" * 32), now=NOW, expires=NOW + timedelta(hours=1), https=True)
    assert header.startswith("app=s%3A")
    assert header.endswith(
        "; Domain=example.com; Path=/; Max-Age=3600; Expires=Tue, 24 Nov 2026 09:24:54 GMT"
        "; HttpOnly; SameSite=Lax; Secure"
    )


def test_a_format_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="format is 'websessions' or 'express-session'"):
        CookieSettings(format="php")  # type: ignore[arg-type]


def test_new_ids_are_as_long_as_those_of_uid_safe() -> None:
    """Some tables of Express apps have room for 36 characters."""
    assert {len(generated_sid(None, EXPRESS_IDS).value) for _ in range(20)} == {32}
    assert len({generated_sid(None, EXPRESS_IDS) for _ in range(20)}) == 20


def test_an_id_that_is_too_long_for_the_table_is_found_at_start() -> None:
    """Rather than at the first login, by PostgreSQL."""
    store = AsyncMemoryStore()
    store.longest_sid = 36
    with pytest.raises(ConfigurationError, match=r"43 characters .*express_session"):
        Lifecycle(store, SessionSettings(secret="a long and random secret"))
    ids: Any = {"genid": lambda: "short-enough-for-36-characters"}
    Lifecycle(store, SessionSettings(secret="a long and random secret", **ids))
    store.longest_sid = 32
    express = CookieSettings.express_session()
    Lifecycle(store, SessionSettings(secret="a long and random secret", cookie=express))
    store.longest_sid = 31
    with pytest.raises(ConfigurationError, match="32 characters"):
        Lifecycle(store, SessionSettings(secret="a long and random secret", cookie=express))


def test_a_key_that_is_a_session_id_hides_it() -> None:
    key = Sid("a-secret-of-a-visitor-0123456789").plain()
    assert "secret" not in f"{key!r} {[key]} {str(key)!r}"
