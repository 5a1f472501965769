"""The dict that a handler uses, and the cookie beside it. Neither does any I/O.

A session remembers what the handler intends; the lifecycle carries it out when the response
begins. What is stored is a *document*: the session's dict, plus the cookie's own expiry under the
reserved key `$cookie` where a handler gave this one session another than the settings have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterator, MutableMapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from .codec import Codec
from .errors import CorruptRecord, SessionError
from .expiry import NO_LIFETIME, Lifetime
from .outcome import Intent
from .settings import COOKIE_KEY, USER_KEY, Seconds, as_span
from .sid import Sid
from .store import Record

__all__ = ["COOKIE_KEY", "Completed", "Exchange", "Session", "SessionCookie"]

_RAISED: Final = (Intent.REGENERATE, Intent.PRIVILEGE)
_IMMUTABLE: Final = frozenset({str, int, float, bool, bytes, type(None)})


class Completed(Awaitable[None]):
    """Work that is done already: awaiting it does nothing, and sync code need not."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Exchange(Protocol):
    """One request and its response, as far as its session sees them."""

    @property
    def responding(self) -> bool:
        """Whether the response has begun, so that no cookie can be set any more."""
        ...

    def new_sid(self) -> Sid:
        """A fresh session id."""
        ...

    def require(self) -> None:
        """Load the session now, or raise because that has to be awaited."""
        ...

    def load(self) -> Awaitable[None]:
        """Load the session, unless it is loaded."""
        ...

    def save(self) -> Awaitable[None]:
        """Carry out now what would be carried out when the response begins."""
        ...

    def reload(self) -> Awaitable[None]:
        """Read the session again and drop changes."""
        ...


def stored_lifetime(stored: object) -> Lifetime:
    """A cookie's own lifetime out of what a document has under `COOKIE_KEY`.

    Raises:
        ValueError: it is nothing that a session stores there.
    """
    match stored:
        case {"expires": str(moment)}:
            with suppress(ValueError):  # its message would quote what is stored
                expires = datetime.fromisoformat(moment)
                if expires.utcoffset() is not None:
                    return Lifetime(None, expires)
        case {"max_age": None}:
            return Lifetime(None, None)
        case {"max_age": int(seconds) | float(seconds)}:
            try:
                return Lifetime(timedelta(seconds=seconds), None)
            except OverflowError:
                pass
    raise ValueError(f"{COOKIE_KEY} is not what a session cookie stores")


def _to_store(lifetime: Lifetime) -> dict[str, Any]:
    """What a document has under `COOKIE_KEY`."""
    if lifetime.expires is not None:
        return {"expires": lifetime.expires.isoformat()}
    seconds = None if lifetime.max_age is None else lifetime.max_age.total_seconds()
    return {"max_age": int(seconds) if seconds is not None and seconds % 1 == 0 else seconds}


def decode_document(codec: Codec, record: Record) -> tuple[dict[str, Any], Lifetime]:
    """A stored document, and the lifetime that it has for its cookie.

    Raises:
        CorruptRecord: it is nothing that was stored by a session.
    """
    try:
        document = codec.decode(record.data)
        if COOKIE_KEY not in document:
            return document, NO_LIFETIME
        return document, stored_lifetime(document[COOKIE_KEY])
    except ValueError as error:
        raise CorruptRecord(record.key.hex(), str(error)) from error


class SessionCookie:
    """The cookie of one session: how long it lasts. Everything else is in `CookieSettings`."""

    __slots__ = ("_session",)

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def max_age(self) -> timedelta | None:
        """How long the session lasts after its last use; None: as long as the browser is open.

        Takes a timedelta, seconds or None. Once set it stays with this session ("remember me"):

        >>> request.session.cookie.max_age = timedelta(days=30)  # doctest: +SKIP
        """
        self._session._look()
        return self._session._lifetime.max_age

    @max_age.setter
    def max_age(self, value: timedelta | Seconds | None) -> None:
        span = None if value is None else as_span(value, "session.cookie.max_age")
        self._session._set_lifetime(Lifetime(span, None))

    @property
    def expires(self) -> datetime | None:
        """The fixed moment at which this session ends, if it has one. Takes an aware datetime."""
        self._session._look()
        return self._session._lifetime.expires

    @expires.setter
    def expires(self, value: datetime | None) -> None:
        if value is not None and (not isinstance(value, datetime) or value.utcoffset() is None):
            raise ValueError(f"session.cookie.expires has to be an aware datetime, not {value!r}")
        self._session._set_lifetime(Lifetime(None, value))

    @property
    def persistent(self) -> bool:
        """Whether the cookie outlives the browser."""
        return self._session._lifetime.is_persistent

    def __repr__(self) -> str:
        max_age, expires = self._session._lifetime
        return f"SessionCookie(max_age={max_age!r}, expires={expires!r})"


class Session(MutableMapping[str, Any]):
    """The server-side memory of one browser.

    Use it as a dict. Changes are noticed by comparing what is stored, so those inside nested
    lists and dicts count too. They are in the database before the response begins.

    >>> request.session["cart"]["4006381333931"] = 2        # doctest: +SKIP
    >>> request.session.regenerate()                        # at login   # doctest: +SKIP
    >>> request.session.destroy()                           # at logout  # doctest: +SKIP
    """

    __slots__ = (
        "_default_lifetime",
        "_emptied",
        "_exchange",
        "_intent",
        "_lent",
        "_loaded",
        "_new",
        "_own_lifetime",
        "_sid",
        "_touched",
        "_used",
        "_values",
        "_written",
    )

    def __init__(self, exchange: Exchange, lifetime: Lifetime) -> None:
        self._exchange = exchange
        self._default_lifetime = lifetime
        self._own_lifetime: Lifetime | None = None
        self._values: dict[str, Any] = {}
        self._sid: Sid | None = None
        self._new = True
        self._loaded = False
        self._used = False
        self._touched = False
        self._emptied = False
        self._lent = self._written = False
        self._intent = Intent.KEEP

    # What a handler asks for

    @property
    def id(self) -> Sid:
        """The session id: a secret, so it hides itself from logs; `id.value` is the string."""
        self._look()
        if self._sid is None:
            self._sid = self._exchange.new_sid()
        return self._sid

    @property
    def is_new(self) -> bool:
        """Whether the request came without a live session."""
        self._look()
        return self._new

    @property
    def cookie(self) -> SessionCookie:
        """How long this session's cookie lasts."""
        return SessionCookie(self)

    @property
    def user_id(self) -> Any:
        """The value under the key `user_id`: who is logged in, or None. None logs nobody in."""
        return self.get(USER_KEY)

    @user_id.setter
    def user_id(self, value: Any) -> None:
        if value is None:
            self.pop(USER_KEY, None)
        else:
            self[USER_KEY] = value

    def regenerate(self, *, keep_data: bool = True, privilege: bool = False) -> None:
        """Give the visitor a new session id when the response begins.

        Call it at every login and every change of privilege, so that an id that was planted or
        overheard before is worth nothing after (session fixation; ASVS 5.0 7.2.4).

        Requests that are under way with the old id still find the session by it for the option
        `regenerate_grace`, 5 seconds by default, so that they are neither logged out nor fork it.
        At a change of privilege the old id is dead at once, and what such requests write is
        dropped. If another request has given the session a new id meanwhile, that one counts.

        Args:
            keep_data: False empties the session as well. Its old id is then dead at once, too.
            privilege: this is a login or another change of privilege. A changed `user_id` is one
                in any case.

        Raises:
            SessionError: the response has begun, so its cookie can not be changed any more.
        """
        self._look()
        self._refuse_after_response("regenerate()")
        self._intend(Intent.PRIVILEGE if privilege or not keep_data else Intent.REGENERATE)
        self._sid = self._exchange.new_sid()
        if not keep_data:
            self._written = True
            self._values.clear()
            self._own_lifetime = None
            self._emptied = True

    def destroy(self) -> None:
        """End the session: the row is deleted and the cookie cleared when the response begins.

        The session is empty from here on. What is written into it afterwards, in this request,
        begins a new one with a new id (a message for the next page, say).
        """
        self._used = True
        self._values = {}
        self._own_lifetime = None
        self._loaded = True
        self._new = True
        self._sid = None
        self._intent = Intent.DESTROY

    def touch(self) -> None:
        """Push the expiry on when the response begins, `touch_after` or not."""
        self._look()
        self._touched = True

    def load(self) -> Awaitable[None]:
        """Read the session from the store, unless that is done already.

        Only needed, and then awaited, where it is loaded on demand (`load="on_demand"`, paths
        in `exclude`).
        """
        return self._exchange.load()

    def save(self) -> Awaitable[None]:
        """Save now instead of when the response begins; await it in async code.

        For what changes after the response began (a stream, a WebSocket, a background task), or
        to know that it is stored before going on.

        Raises:
            SessionError: the session is new, and the response that could have set its cookie has
                begun already.
            Conflict: other requests changed the session, and the option `on_conflict` or the
                deadline had it fail. Nothing of it is saved, not when the response begins either,
                unless `reload()` came first and the changes were made again.
            StoreError: it could not be saved.
        """
        return self._exchange.save()

    def reload(self) -> Awaitable[None]:
        """Drop what was changed and read the session again; await it in async code."""
        return self._exchange.reload()

    # The mapping

    def __getitem__(self, key: str) -> Any:
        self._look()
        value = self._values[key]
        if type(value) not in _IMMUTABLE:
            # Whoever has it may change it, now or later, and nobody would be told.
            self._lent = True
        return value

    def __setitem__(self, key: str, value: Any) -> None:
        if not isinstance(key, str):
            raise TypeError(f"session keys are strings, not {type(key).__name__}")
        if key == COOKIE_KEY:
            raise ValueError(f"the session key {COOKIE_KEY!r} is reserved: use session.cookie")
        self._look()
        self._written = True
        if type(value) not in _IMMUTABLE:
            self._lent = True
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        self._look()
        self._written = True
        del self._values[key]

    def __iter__(self) -> Iterator[str]:
        self._look()
        return iter(self._values)

    def __len__(self) -> int:
        self._look()
        return len(self._values)

    def __contains__(self, key: object) -> bool:
        self._look()
        return key in self._values

    def clear(self) -> None:
        """Remove every key. The session itself goes on; `destroy()` ends it."""
        self._look()
        self._written = True
        self._values.clear()

    def __repr__(self) -> str:
        state = "new" if self._new else "stored"
        return f"<Session {state if self._loaded else 'not loaded'}>"

    # What the lifecycle asks for

    def _look(self) -> None:
        self._used = True
        if not self._loaded:
            self._exchange.require()

    @property
    def _lifetime(self) -> Lifetime:
        return self._default_lifetime if self._own_lifetime is None else self._own_lifetime

    def _set_lifetime(self, lifetime: Lifetime) -> None:
        """Give this session a lifetime of its own, unless it is the one that the settings have."""
        self._look()
        self._written = True
        self._own_lifetime = None if lifetime == self._default_lifetime else lifetime

    def _refuse_after_response(self, what: str) -> None:
        if self._exchange.responding:
            raise SessionError(
                f"{what} came after the response had begun: its cookie can not be changed any more"
            )

    def _intend(self, wanted: Intent) -> None:
        """What is wanted besides what was already: a change of privilege is not taken back."""
        if self._intent is Intent.KEEP or (self._intent, wanted) == _RAISED:
            self._intent = wanted

    def _settle(self) -> None:
        """What was asked for is being carried out, or there was nothing."""
        if self._intent is not Intent.ABANDON:
            self._intent = Intent.KEEP
        self._touched = self._emptied = self._written = False

    def _begin(self) -> None:
        """Nothing is stored: a new session."""
        self._values = {}
        self._own_lifetime = None
        self._sid = None
        self._new = True
        self._loaded = True
        self._intent = Intent.KEEP

    def _adopt(self, sid: Sid, document: dict[str, Any]) -> None:
        """This document is what is stored under `sid`."""
        stored = document.pop(COOKIE_KEY, None)
        self._own_lifetime = None if stored is None else stored_lifetime(stored)
        self._values = document
        self._sid = sid
        self._new = False
        self._loaded = True

    def _document(self) -> dict[str, Any]:
        """What is to be stored."""
        own = self._own_lifetime
        return self._values if own is None else {**self._values, COOKIE_KEY: _to_store(own)}
