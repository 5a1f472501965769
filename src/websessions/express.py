"""What Express apps store: express-session's JSON, and the `cookie` object in it.

The format is that of express-session 1.19 and of the stores that call `JSON.stringify`. What was
read and not changed is written as JavaScript wrote it, byte for byte: the order of the keys, lone
surrogates, numbers of any size. Dates are strings here, as they are in Express after a load.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, ClassVar, Final

from .codec import finite, json_dumps, json_reader, may_be_deep
from .cookie_form import CookieForm, Moment
from .errors import SessionEncodingError
from .expiry import LONGEST_SPAN, NO_LIFETIME, Lifetime
from .settings import COOKIE_KEY, CookieSettings

__all__ = ["ExpressForm", "ExpressJSON"]

_COOKIE: Final = "cookie"
"""The key that holds the cookie in Express's JSON."""

_BARE: Final = {"originalMaxAge": None, "expires": None, "httpOnly": True, "path": "/"}
"""The cookie that express-session makes without options."""

_FIXED: Final = "$fixed"
"""Beside `expires`: a handler has set that, and until it is written it is no span yet."""

_MILLISECOND: Final = timedelta(milliseconds=1)


class ExpressForm:
    """The `cookie` object: `originalMaxAge` in milliseconds, `expires`, and the attributes.

    It says how long the session lasts, whatever the settings are, as it does in Express. Fields
    that nobody here knows stay as they are.
    """

    def lifetime(self, kept: Any) -> Lifetime:
        if not isinstance(kept, dict):
            raise ValueError(f"{_COOKIE} is not an object")
        if kept.get(_FIXED) is True and type(kept.get("expires")) is str:
            with suppress(ValueError):
                return Lifetime(None, datetime.fromisoformat(kept["expires"]).astimezone(UTC))
        age = kept.get("originalMaxAge")
        if age is None or age is False:  # what `cookie.expires = false` leaves there
            return NO_LIFETIME
        if isinstance(age, bool) or not isinstance(age, int | float):
            raise ValueError("originalMaxAge is not a number")
        if age < 0:  # over at once: how long ago is nothing that each column could say
            return Lifetime(timedelta(0), None)
        try:
            return Lifetime(min(timedelta(milliseconds=age), LONGEST_SPAN), None)
        except OverflowError:
            return Lifetime(LONGEST_SPAN, None)

    def changed(self, kept: Any, lifetime: Lifetime, *, is_default: bool) -> Any:
        if kept is not None and self.lifetime(kept) == lifetime:
            return kept
        cookie = _without_mark(kept or {})
        if lifetime.expires is not None:
            fixed = {"originalMaxAge": None, "expires": _iso(lifetime.expires), _FIXED: True}
            return {**cookie, **fixed}
        age = None if lifetime.max_age is None else lifetime.max_age // _MILLISECOND
        if kept is None:
            return {"originalMaxAge": age}
        return {**cookie, "originalMaxAge": age, "expires": None}

    def written(
        self,
        kept: Any,
        lifetime: Lifetime,
        moment: Moment,
        settings: CookieSettings,
        *,
        https: bool,
    ) -> Any:
        """With the attributes of a new cookie, and with the moment at which it expires now.

        A fixed end is a `max_age` from here on: Express knows no other.
        """
        cookie = {} if kept is None else _without_mark(kept)
        if "path" not in cookie:
            cookie = {**_attributes(settings, https=https), **cookie}
        if lifetime.expires is not None:
            cookie = {**cookie, "originalMaxAge": (lifetime.expires - moment.now) // _MILLISECOND}
        elif kept is None and lifetime.max_age is not None:
            cookie = {**cookie, "originalMaxAge": lifetime.max_age // _MILLISECOND}
        if lifetime.is_persistent:
            return {**cookie, "expires": _iso(moment.expires)}
        return cookie


def _without_mark(cookie: dict[str, Any]) -> dict[str, Any]:
    if _FIXED not in cookie:
        return cookie
    return {name: value for name, value in cookie.items() if name != _FIXED}


def _attributes(settings: CookieSettings, *, https: bool) -> dict[str, Any]:
    """The fields of a new cookie, in Express's order; what is not set is left out."""
    fields = {
        "originalMaxAge": None,
        "partitioned": settings.partitioned or NotImplemented,
        "priority": settings.priority or NotImplemented,
        "expires": None,
        "secure": settings.secure is True or (settings.secure == "auto" and https),
        "httpOnly": settings.httponly,
        "domain": settings.domain or NotImplemented,
        "path": settings.path,
        "sameSite": settings.samesite or NotImplemented,
    }
    if not fields["secure"]:
        fields["secure"] = NotImplemented
    return {name: value for name, value in fields.items() if value is not NotImplemented}


def _iso(moment: datetime) -> str:
    """As `Date.prototype.toISOString` writes it."""
    text = moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")
    return f"{text}Z"


class ExpressJSON:
    """Documents as express-session's stores write them; for a table that an Express app shares.

    What JSON has, and nothing else: a value that Express would not give back as it was is refused.
    """

    is_text: Final = True
    cookie_form: ClassVar[CookieForm] = ExpressForm()

    writes_as_read: ClassVar = False
    """Others write the rows, too: bytes that differ may be the same document."""

    def encode(self, values: Mapping[str, object]) -> bytes:
        """Raises `SessionEncodingError` for what Express could not read, or not give back."""
        cookie = values.get(COOKIE_KEY, _BARE)
        indices = sorted(filter(_is_index, values), key=int)
        document: dict[str, object] = {key: values[key] for key in indices}
        document[_COOKIE] = cookie
        for key, value in values.items():
            if key == COOKIE_KEY:
                continue
            if key in _TAKEN:
                raise SessionEncodingError(key, _TAKEN[key])
            document[_unescaped(key)] = value
        try:
            writes_itself = _check(document, "")
            text = _write(document) if writes_itself else json_dumps(document)
        except RecursionError:
            raise SessionEncodingError("", "lists and dicts are nested too deep") from None
        # A surrogate is all that UTF-8 refuses, and backslashreplace writes it as JavaScript does.
        return text.encode("utf-8", "backslashreplace")

    def decode(self, data: bytes) -> dict[str, Any]:
        """Raises `ValueError` for anything but an object with a `cookie`, or with none."""
        problem = ""
        stored: Any = None
        try:
            stored = _json_loads(data.decode())
        except RecursionError:
            if not may_be_deep(data):
                raise  # the app's own calls have filled the stack
            problem = "lists and objects are nested too deep"
        except ValueError as error:
            problem = f"not JSON: {error}"
        # Raised out here, so that no parser's error, which holds the data, is its context.
        if problem:
            raise ValueError(problem)
        if type(stored) is not dict:
            raise ValueError("the top level is not an object")
        document: dict[str, Any] = {}
        for key, value in stored.items():
            if key == _COOKIE:
                document[COOKIE_KEY] = value
            elif key not in _TAKEN:  # which Express can write, and drops when it reads
                document[_escaped(key)] = value
        return document


def _integer(text: str) -> int | float:
    """As JavaScript reads it, and would write it again.

    JavaScript itself writes no other, but jsonb spells its 1e+21 out, and other programs have
    larger integers. So what was read can always be written.
    """
    if len(text) < 16:
        return int(text)
    number = finite(text)
    return number if abs(number) >= 10**21 else _digits(number)


_json_loads: Final = json_reader(_integer)

_INDEX: Final = re.compile(r"0|[1-9]\d{0,9}", re.ASCII)


def _is_index(key: object) -> bool:
    """Whether JavaScript puts this key before all others, and in the order of numbers
    (ECMAScript, OrdinaryOwnPropertyKeys).
    """
    return type(key) is str and bool(_INDEX.fullmatch(key)) and int(key) < 2**32 - 1


# A user's own key of that name is kept, with a "$" more.
_LIKE_OURS: Final = re.compile(r"\$+cookie")


def _escaped(key: str) -> str:
    return f"${key}" if _LIKE_OURS.fullmatch(key) else key


def _unescaped(key: str) -> str:
    return key[1:] if type(key) is str and _LIKE_OURS.fullmatch(key) else key


_METHODS: Final = (
    *("id", "req", "save", "touch", "reload", "destroy", "regenerate", "resetMaxAge"),
    *("constructor", "toString", "toLocaleString", "valueOf", "hasOwnProperty"),
    *("isPrototypeOf", "propertyIsEnumerable", "__proto__"),
    *("__defineGetter__", "__defineSetter__", "__lookupGetter__", "__lookupSetter__"),
)
_TAKEN: Final[Mapping[object, str]] = {
    _COOKIE: "Express keeps the session's cookie under this key; use another one, or"
    " session.cookie for how long it lasts",
    **dict.fromkeys(
        _METHODS,
        "Express drops this key when it loads the session, because its session object has a"
        " property of that name; use another one",
    ),
}
"""Keys that a session of Express can not have."""


# -- Writing -------------------------------------------------------------------------------------

_SAFE: Final = 2**53
"""Below this, every integer is a JavaScript number."""

_REMEDIES: Final[Mapping[type, str]] = {
    tuple: "list(...) of it",
    set: "sorted(...) of it",
    frozenset: "sorted(...) of it",
    datetime: "its .isoformat()",
    bytes: "text, such as its .hex()",
}


def _check(value: object, path: str) -> bool:
    """Whether a number in it is one that Python's encoder would write in another way.

    Raises:
        SessionEncodingError: something in it is not JSON, or not the same to JavaScript.
    """
    kind = type(value)
    if kind is str or kind is bool or kind is NoneType:
        return False
    if kind is int:
        assert isinstance(value, int)
        if not -_SAFE <= value <= _SAFE and not _is_javascript(value):
            raise SessionEncodingError(
                path, "JavaScript has no such integer and would change it; store str(...) of it"
            )
        return False
    if kind is float:
        assert isinstance(value, float)
        if value - value != 0:
            raise SessionEncodingError(path, f"JSON has no {value!r}")
        return 0 < abs(value) < 1e-4
    found = False
    if kind is dict:
        assert isinstance(value, dict)
        for key, item in value.items():
            if type(key) is not str:
                raise SessionEncodingError(
                    path, f"the keys of an object are strings, not {type(key).__name__}"
                )
            found |= _check(item, f"{path}.{key}" if path else key)
        return found
    if kind is list:
        assert isinstance(value, list)
        for index, item in enumerate(value):
            found |= _check(item, f"{path}[{index}]")
        return found
    remedy = _REMEDIES.get(kind, "what JSON has: str, int, float, bool, None, list, dict")
    raise SessionEncodingError(
        path, f"{kind.__name__} is not JSON, and Express reads nothing else; store {remedy}"
    )


def _is_javascript(value: int) -> bool:
    """Whether JavaScript reads this integer and writes the same digits."""
    return abs(value) < 10**21 and _digits(float(value)) == value


def _digits(number: float) -> int:
    """The digits that JavaScript writes of a whole number below 10**21."""
    return int(Decimal(repr(number)))


def _write(value: object) -> str:
    """The same as `json_dumps`, but small floats as JavaScript writes them."""
    if type(value) is dict:
        return "{" + ",".join(f"{json_dumps(k)}:{_write(v)}" for k, v in value.items()) + "}"
    if type(value) is list:
        return "[" + ",".join(map(_write, value)) + "]"
    if type(value) is float and 0 < abs(value) < 1e-4:
        digits, _, exponent = repr(value).partition("e")
        if int(exponent) < -6:
            return f"{digits}e{int(exponent)}"
        return format(Decimal(repr(value)), "f")
    return json_dumps(value)
