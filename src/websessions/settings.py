"""The options of a middleware, checked where they are made and not at the first request."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, Self, TypeAlias, TypedDict, Unpack, cast

from .errors import ConfigurationError
from .expiry import LONGEST_SPAN, Lifetime
from .resolvers import Resolver
from .signing import FORMATS, CookieFormat

__all__ = [
    "COOKIE_KEY",
    "USER_KEY",
    "CookieOptions",
    "CookieSettings",
    "FormerCookie",
    "OnConflict",
    "OptionalSessionOptions",
    "SessionOptions",
    "SessionSettings",
    "as_span",
]

COOKIE_KEY: Final = "$cookie"
"""The key of a document that holds the lifetime of a cookie of its own."""

USER_KEY: Final = "user_id"
"""The key that says who is logged in."""

LONGEST_GRACE: Final = timedelta(seconds=10)
"""The most that `regenerate_grace` may be."""

Seconds: TypeAlias = int | float

OnConflict: TypeAlias = Literal["merge", "overwrite", "error"] | Mapping[str, Resolver]
"""What becomes of a save that another request has forestalled."""


class CookieOptions(TypedDict, total=False):
    """The keyword arguments of `CookieSettings`."""

    name: str
    path: str
    domain: str | None
    secure: bool | Literal["auto"]
    httponly: bool
    samesite: Literal["lax", "strict", "none"] | None
    partitioned: bool
    priority: Literal["low", "medium", "high"] | None
    max_age: timedelta | Seconds | None
    expires: datetime | None
    format: CookieFormat


class OptionalSessionOptions(TypedDict, total=False):
    """The keyword arguments of every session middleware, apart from `secret`."""

    cookie: CookieSettings
    resave: bool
    save_uninitialized: bool
    rolling: bool
    proxy: bool
    unset: Literal["keep", "destroy"]
    genid: Callable[[], str] | None
    exclude: Iterable[str]
    load: Literal["eager", "on_demand"]
    on_corrupt: Literal["new", "error"]
    on_conflict: OnConflict
    regenerate_grace: timedelta | Seconds
    former: FormerCookie | None


class SessionOptions(OptionalSessionOptions):
    """The keyword arguments of every session middleware; `SessionSettings` says what they do."""

    secret: str | bytes | Sequence[str | bytes]


_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", re.ASCII)  # RFC 9110, 5.6.2
_ATTRIBUTE = re.compile(r"[ !-:<-~]*", re.ASCII)  # RFC 6265, 4.1.1: no control characters, no ";"


def as_span(value: timedelta | Seconds, name: str) -> timedelta:
    """A span from an option that takes a timedelta or seconds; `name` is for the message.

    Raises:
        ConfigurationError: it is neither, or negative.
    """
    if isinstance(value, bool) or not isinstance(value, timedelta | int | float):
        raise ConfigurationError(f"{name} has to be a timedelta or seconds, not {value!r}")
    try:
        span = value if isinstance(value, timedelta) else timedelta(seconds=value)
    except (OverflowError, ValueError):
        raise ConfigurationError(f"{name} is no span of time: {value!r} seconds") from None
    if span < timedelta(0):
        raise ConfigurationError(f"{name} can not be negative, it is {value!r}")
    if span > LONGEST_SPAN:
        raise ConfigurationError(f"{name} can not be over 1000 years, it is {value!r}")
    return span


@dataclass(frozen=True, slots=True, kw_only=True)
class CookieSettings:
    """What the cookie looks like.

    Attributes:
        name: a neutral one by default. With a `__Host-` or `__Secure-` prefix the browser
            enforces the prefix's rules, and so does this class.
        path: the part of the site that gets the cookie.
        domain: None (this host only) or a domain whose every subdomain gets the cookie, and can
            set one of the same name.
        secure: True (https only), False, or "auto": Secure whenever the request came by https.
            With True, a session that a plain http request begins is not stored: the browser
            would not accept its cookie.
        httponly: keep it from JavaScript.
        samesite: "lax", "strict", "none" (which browsers accept with Secure alone) or None to
            leave the attribute out.
        partitioned: keep one cookie jar per top-level site (CHIPS); needs `secure=True`.
        priority: "low", "medium", "high" or None; Chromium's order of eviction.
        max_age: a timedelta, seconds, or None for a cookie that ends with the browser. It slides:
            the session lives this long after its last use. A handler sets another one for a
            single session with `session.cookie.max_age`.
        expires: an aware datetime at which every session ends; instead of `max_age`.
        format: what the value looks like: "websessions", or "express-session" to share the cookie
            with an Express app; see `express_session()`.

    Raises:
        ConfigurationError: the attributes contradict each other or are no cookie attributes.

    Sources: RFC 6265bis 4.1 and 5.6; ASVS 5.0 3.3.
    """

    name: str = "sid"
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"
    httponly: bool = True
    samesite: Literal["lax", "strict", "none"] | None = "lax"
    partitioned: bool = False
    priority: Literal["low", "medium", "high"] | None = None
    max_age: timedelta | Seconds | None = None
    expires: datetime | None = None
    format: CookieFormat = "websessions"

    @classmethod
    def express_session(cls, **overrides: Unpack[CookieOptions]) -> Self:
        """The cookie of an Express app that uses express-session, to be shared with it.

        Named `connect.sid`, in Express's format, with express-session's own defaults: what the
        Express app sets differently in its options `name` and `cookie` is to be set here, too, or
        the browser has the cookie with the attributes of whoever wrote it last. The middleware's
        `secret` is the Express app's, and a list has the same order: in both the first signs.

        >>> CookieSettings.express_session(secure=True, max_age=3600).name
        'connect.sid'
        """
        options: CookieOptions = {
            "name": "connect.sid",
            "secure": False,
            "samesite": None,
            "format": "express-session",
        }
        options.update(overrides)
        return cls(**options)

    def __post_init__(self) -> None:
        if not isinstance(self.format, str) or self.format not in FORMATS:
            raise ConfigurationError(
                f"cookie format is {' or '.join(map(repr, FORMATS))}, not {self.format!r}"
            )
        if not isinstance(self.name, str) or not _TOKEN.fullmatch(self.name):
            raise ConfigurationError(f"cookie name {self.name!r} is not an RFC 9110 token")
        if not isinstance(self.path, str) or not self.path.startswith("/"):
            raise ConfigurationError(f"cookie path {self.path!r} has to begin with '/'")
        if self.domain is not None and (not isinstance(self.domain, str) or not self.domain):
            raise ConfigurationError(f"cookie domain is a host name or None, not {self.domain!r}")
        for name, value in (("path", self.path), ("domain", self.domain or "")):
            if not _ATTRIBUTE.fullmatch(value):
                raise ConfigurationError(f"cookie {name} {value!r} holds a character it can not")
        # Not `in`: 1 == True, and a cookie that is nearly secure is not.
        if not isinstance(self.secure, bool) and self.secure != "auto":
            raise ConfigurationError(f"cookie secure is True, False or 'auto', not {self.secure!r}")
        for name, flag in (("httponly", self.httponly), ("partitioned", self.partitioned)):
            if not isinstance(flag, bool):
                raise ConfigurationError(f"cookie {name} is True or False, not {flag!r}")
        if self.samesite not in ("lax", "strict", "none", None):
            raise ConfigurationError(
                f"cookie samesite is 'lax', 'strict', 'none' or None, not {self.samesite!r}"
            )
        if self.priority not in ("low", "medium", "high", None):
            raise ConfigurationError(
                f"cookie priority is 'low', 'medium', 'high' or None, not {self.priority!r}"
            )
        if self.max_age is not None:
            if self.expires is not None:
                raise ConfigurationError("a cookie has max_age or expires, not both")
            object.__setattr__(self, "max_age", as_span(self.max_age, "cookie max_age"))
        if self.expires is not None and (
            not isinstance(self.expires, datetime) or self.expires.utcoffset() is None
        ):
            raise ConfigurationError(
                f"cookie expires has to be an aware datetime, it is {self.expires!r}"
            )
        if self.samesite == "none" and self.secure is False:
            raise ConfigurationError("samesite='none' needs secure: browsers refuse it otherwise")
        if self.partitioned and self.secure is not True:
            raise ConfigurationError("partitioned needs secure=True: browsers refuse it otherwise")
        self._check_prefix()

    def _check_prefix(self) -> None:
        prefix = self.name.lower()
        for start, host, http in (
            ("__host-http-", True, True),
            ("__host-", True, False),
            ("__http-", False, True),
            ("__secure-", False, False),
        ):
            if not prefix.startswith(start):
                continue
            wrong = []
            if self.secure is not True:
                wrong.append("secure=True")
            if host and self.path != "/":
                wrong.append("path='/'")
            if host and self.domain is not None:
                wrong.append("domain=None")
            if http and not self.httponly:
                wrong.append("httponly=True")
            if wrong:
                raise ConfigurationError(
                    f"cookie name {self.name!r}: its prefix needs {' and '.join(wrong)}"
                )
            return

    @property
    def lifetime(self) -> Lifetime:
        """`max_age`, as a timedelta, and `expires`."""
        return Lifetime(cast("timedelta | None", self.max_age), self.expires)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormerCookie:
    """A cookie that sessions had before, and that still opens them once.

    Attributes:
        secret: what it was signed with; a list, if there were several.
        cookie: what it looks like; Express's by default. If the Express app has given it another
            name: `CookieSettings.express_session(name=...)`.
    """

    secret: str | bytes | Sequence[str | bytes] = field(repr=False)
    cookie: CookieSettings = field(default_factory=CookieSettings.express_session)

    def __post_init__(self) -> None:
        object.__setattr__(self, "secret", _secrets(self.secret, signs=False))
        if not isinstance(self.cookie, CookieSettings):
            raise ConfigurationError(f"cookie has to be a CookieSettings, not {self.cookie!r}")

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets as bytes."""
        return cast("tuple[bytes, ...]", self.secret)


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSettings:
    """The options of every session middleware, whatever the framework.

    Attributes:
        secret: one secret or a list. **The first signs, all verify**: put a new one in front, and
            drop the old one when its cookies have expired. (itsdangerous signs with the last.)
        cookie: see `CookieSettings`.
        resave: write a session back although nothing in it changed.
        save_uninitialized: store a new session, and set its cookie, although nobody wrote to it.
        rolling: set the cookie again on every response.
        proxy: trust the `X-Forwarded-Proto` header. Only behind a proxy that sets it itself.
        unset: what becomes of the stored session when the app takes the session out of the
            request (`scope["session"] = None`): "keep" or "destroy".
        genid: makes new session ids; must be unguessable. Default: 256 random bits.
        exclude: path prefixes, in whole segments, for which no session is loaded.
        load: "eager" loads the session before the handler runs, "on_demand" when the handler
            awaits `session.load()`. Sync adapters always load at first use.
        on_corrupt: a stored session that can not be decoded: "new" logs an error and gives the
            visitor a new session, "error" lets the request fail with `CorruptRecord`. The same
            for one that can not be moved to the table of a `MovingStore`, whatever its error.
        on_conflict: what becomes of a save whose session another request has changed since it was
            read. "merge": its changes are made to what is there, and of two changes of one key the
            later wins. "overwrite": all of it wins. "error": it fails with `Conflict`. A dict of
            keys and resolvers (`websessions.resolvers`): merge, and they decide about their keys.
            A session that has ended stays ended with each of them.
        regenerate_grace: how long the old id still finds a session that `regenerate()` gave a new
            one, for requests that are under way; a timedelta or seconds, at most 10, or 0 for not
            at all. None is given at a change of privilege, nor by a table without the columns.
        former: a cookie of another format or name that still opens a session, once: the session
            is given a new id, and a cookie as `cookie` has it. Requests that come with the former
            one within `regenerate_grace` still find it. See `websessions.moving`.

    Raises:
        ConfigurationError: a value that can not work.
    """

    secret: str | bytes | Sequence[str | bytes] = field(repr=False)
    cookie: CookieSettings = field(default_factory=CookieSettings)
    resave: bool = False
    save_uninitialized: bool = False
    rolling: bool = False
    proxy: bool = False
    unset: Literal["keep", "destroy"] = "keep"
    genid: Callable[[], str] | None = None
    exclude: Iterable[str] = ()
    load: Literal["eager", "on_demand"] = "eager"
    on_corrupt: Literal["new", "error"] = "new"
    on_conflict: OnConflict = "merge"
    regenerate_grace: timedelta | Seconds = 5
    former: FormerCookie | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "secret", _secrets(self.secret))
        if not isinstance(self.cookie, CookieSettings):
            raise ConfigurationError(f"cookie has to be a CookieSettings, not {self.cookie!r}")
        for name, allowed in (
            ("unset", ("keep", "destroy")),
            ("load", ("eager", "on_demand")),
            ("on_corrupt", ("new", "error")),
            ("resave", (True, False)),
            ("save_uninitialized", (True, False)),
            ("rolling", (True, False)),
            ("proxy", (True, False)),
        ):
            value = getattr(self, name)
            if value not in allowed:
                choices = " or ".join(repr(choice) for choice in allowed)
                raise ConfigurationError(f"{name} is {choices}, not {value!r}")
        if self.genid is not None and not callable(self.genid):
            raise ConfigurationError(f"genid has to be a function, not {self.genid!r}")
        if not isinstance(self.exclude, Iterable):
            raise ConfigurationError(f"exclude is a list of paths, not {self.exclude!r}")
        exclude = (self.exclude,) if isinstance(self.exclude, str) else tuple(self.exclude)
        for prefix in exclude:
            if not isinstance(prefix, str) or not prefix.startswith("/"):
                raise ConfigurationError(f"exclude takes paths that begin with '/', not {prefix!r}")
        object.__setattr__(self, "exclude", exclude)
        object.__setattr__(self, "on_conflict", _policy(self.on_conflict))
        grace = as_span(self.regenerate_grace, "regenerate_grace")
        if grace > LONGEST_GRACE:
            raise ConfigurationError(
                f"regenerate_grace is at most {LONGEST_GRACE.total_seconds():g} seconds, not"
                f" {self.regenerate_grace!r}: it is for requests that are under way"
            )
        object.__setattr__(self, "regenerate_grace", grace)
        if self.former is not None and not isinstance(self.former, FormerCookie):
            raise ConfigurationError(f"former is a FormerCookie or None, not {self.former!r}")

    def excludes(self, path: str) -> bool:
        """Whether `path` is one that opted out of sessions, or lies below one.

        >>> settings = SessionSettings(secret="a long and random one", exclude=["/static"])
        >>> settings.excludes("/static/app.css"), settings.excludes("/statics")
        (True, False)
        """
        return any(
            path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in self.exclude
        )

    def is_https(self, scheme: str, forwarded_proto: str | None) -> bool:
        """Whether the request came over TLS; `X-Forwarded-Proto` counts with `proxy` alone.

        Of several values the first counts: it is what the browser used.
        """
        if self.proxy and forwarded_proto:
            scheme = forwarded_proto.partition(",")[0].strip().lower()
        return scheme in ("https", "wss")

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """The secrets as bytes, the signing one first."""
        return cast("tuple[bytes, ...]", self.secret)

    @property
    def grace(self) -> timedelta:
        """`regenerate_grace` as a timedelta."""
        return cast("timedelta", self.regenerate_grace)

    @property
    def resolvers(self) -> Mapping[str, Resolver]:
        """The app's own rules for single keys."""
        return {} if isinstance(self.on_conflict, str) else self.on_conflict

    @property
    def looks_at_every_session(self) -> bool:
        """Whether the options ask for something even where the handler never looked."""
        return self.resave or self.save_uninitialized or self.rolling


def _policy(on_conflict: OnConflict) -> OnConflict:
    if not isinstance(on_conflict, Mapping):
        if on_conflict not in ("merge", "overwrite", "error"):
            raise ConfigurationError(
                "on_conflict is 'merge', 'overwrite', 'error' or a dict of keys and resolvers,"
                f" not {on_conflict!r}"
            )
        return on_conflict
    for key, resolver in on_conflict.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"on_conflict: session keys are strings, not {key!r}")
        if key in (USER_KEY, COOKIE_KEY):
            raise ConfigurationError(
                f"on_conflict: {key!r} takes no resolver; who is logged in, and for how long, is"
                " what one request says, never a mixture of two"
            )
        if not callable(resolver):
            raise ConfigurationError(
                f"on_conflict: the resolver of {key!r} is a function of (base, mine, theirs),"
                f" not {resolver!r}"
            )
    return dict(on_conflict)


def _secrets(
    secret: str | bytes | Sequence[str | bytes], *, signs: bool = True
) -> tuple[bytes, ...]:
    if secret is not None and not isinstance(secret, str | bytes | Sequence):
        raise ConfigurationError(f"secret is a str, bytes or a list, not {type(secret).__name__}")
    given = (secret,) if isinstance(secret, str | bytes) else tuple(secret or ())
    if not given:
        raise ConfigurationError("secret is missing: give one, or a list whose first one signs")
    secrets = []
    for one in given:
        if not isinstance(one, str | bytes):
            raise ConfigurationError(f"a secret is a str or bytes, not {type(one).__name__}")
        encoded = one.encode() if isinstance(one, str) else one
        if not encoded:
            raise ConfigurationError("a secret is empty")
        secrets.append(encoded)
    # Not an error: a session id is 256 random bits, so what a guessed secret gives away is only
    # the right to make the server look up ids that do not exist.
    if signs and len(secrets[0]) < 16:
        warnings.warn(
            "the signing secret is shorter than 16 bytes; secrets.token_urlsafe(32) makes one",
            UserWarning,
            stacklevel=5,
        )
    return tuple(secrets)
