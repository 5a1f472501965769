"""The dict that a handler uses, and the cookie beside it. Neither does any I/O.

A session remembers what the handler intends; the lifecycle carries it out when the response
begins. What is stored is a *document*: the session's dict, plus the cookie's own expiry under the
reserved key `$cookie` where a handler gave this one session another than the settings have; what
is there in a table that Express shares, `cookie_form.py` says.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Generator, Iterator, MutableMapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, TypeAlias

from .codec import Codec
from .cookie_form import CookieForm, form_of
from .errors import ConfigurationError, CorruptRecord, SessionError
from .expiry import NO_LIFETIME, Lifetime
from .outcome import Intent
from .settings import COOKIE_KEY, USER_KEY, Seconds, as_span
from .sid import Sid, shown
from .store import Record

if TYPE_CHECKING:
    from sqlalchemy import Connection, orm
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

__all__ = [
    "COOKIE_KEY",
    "Completed",
    "Exchange",
    "Session",
    "SessionCookie",
    "SessionLock",
    "Transactional",
    "decode_document",
    "is_unchanged",
]

Transactional: TypeAlias = (
    "Connection | orm.Session | orm.scoped_session[Any]"
    " | AsyncConnection | AsyncSession | async_scoped_session[Any]"
)
"""What has a transaction of SQLAlchemy's."""

_RAISED: Final = (Intent.REGENERATE, Intent.PRIVILEGE)
_IMMUTABLE: Final = frozenset({str, int, float, bool, bytes, type(None)})


class Completed(Awaitable[None]):
    """Work that is done already: awaiting it does nothing, and sync code need not."""

    def __await__(self) -> Generator[Any, None, None]:
        return
        yield


class Exchange(Protocol):
    """One request and its response, as far as its session sees them."""

    session: Session

    @property
    def responding(self) -> bool:
        """Whether the response has begun, so that no cookie can be set any more."""
        ...

    @property
    def cookie_form(self) -> CookieForm:
        """How a document keeps the cookie."""
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

    def save(self, within: object = None) -> Awaitable[None]:
        """Carry out now what would be carried out when the response begins."""
        ...

    def reload(self) -> Awaitable[None]:
        """Read the session again and drop changes."""
        ...

    @property
    def must_await(self) -> bool:
        """Whether what does I/O is done only when it has been awaited."""
        ...

    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        """Take the session's lock and read the session again."""
        ...

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        """Save, and release the lock; only the latter after a failure."""
        ...


def decode_document(codec: Codec, record: Record) -> tuple[dict[str, Any], Lifetime]:
    """A stored document, and the lifetime that it has for its cookie.

    Raises:
        CorruptRecord: it is nothing that was stored by a session.
    """
    try:
        document = codec.decode(record.data)
        if COOKIE_KEY not in document:
            return document, NO_LIFETIME
        return document, form_of(codec).lifetime(document[COOKIE_KEY])
    except ValueError as error:
        raise CorruptRecord(shown(record.key), str(error)) from error


def is_unchanged(codec: Codec, data: bytes, record: Record) -> bool:
    """Whether the encoded document is the one that was read.

    Where only this package writes the rows, that is a matter of their bytes. Another program may
    write the same document with other spaces, or its keys in another order.
    """
    if data == record.data:
        return True
    if getattr(codec, "writes_as_read", True):
        return False
    return data == codec.encode(decode_document(codec, record)[0])


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


class SessionLock:
    """What `session.lock()` returns: a context manager, in async code an asynchronous one."""

    __slots__ = ("_lease", "_session", "_timeout")

    def __init__(self, session: Session, timeout: timedelta, lease: timedelta) -> None:
        self._session = session
        self._timeout = timeout
        self._lease = lease

    def __enter__(self) -> None:
        request = self._session._request
        if request.must_await:
            raise SessionError("in async code a session is locked by `async with session.lock():`")
        request.lock(self._timeout, self._lease)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._session._request.unlock(failed=kind is not None)

    async def __aenter__(self) -> None:
        await self._session._request.lock(self._timeout, self._lease)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._session._request.unlock(failed=kind is not None)


class Session(MutableMapping[str, Any]):
    """The server-side memory of one browser.

    Use it as a dict. Changes are noticed by comparing what is stored, so those inside nested
    lists and dicts count too. They are in the database before the response begins.

    >>> request.session["cart"]["4006381333931"] = 2        # doctest: +SKIP
    >>> request.session.regenerate()                        # at login   # doctest: +SKIP
    >>> request.session.destroy()                           # at logout  # doctest: +SKIP
    """

    __slots__ = (
        "__weakref__",
        "_default_lifetime",
        "_emptied",
        "_exchange",
        "_intent",
        "_kept",
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
        self._kept: Any = None
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
            self._own_lifetime = self._kept = None
            self._emptied = True

    def destroy(self) -> None:
        """End the session: the row is deleted and the cookie cleared when the response begins.

        The session is empty from here on. What is written into it afterwards, in this request,
        begins a new one with a new id (a message for the next page, say).
        """
        self._used = True
        self._values = {}
        self._own_lifetime = self._kept = None
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
        return self._request.load()

    def save(self, *, within: Transactional | None = None) -> Awaitable[None]:
        """Save now instead of when the response begins; await it in async code.

        For what changes after the response began (a stream, a WebSocket, a background task), or
        to know that it is stored before going on. Or, with `within`, to have it stored together
        with something else, or not at all:

        >>> with engine.begin() as connection:                            # doctest: +SKIP
        ...     connection.execute(insert(orders).values(items=session["cart"]))
        ...     del session["cart"]
        ...     session.save(within=connection)

        Args:
            within: a connection or a session of SQLAlchemy's on the database that has the
                sessions: a `Connection` or `orm.Session`, with an async store an
                `AsyncConnection` or `AsyncSession`. What the session has changed, a new id
                included, then commits with its transaction. A rollback undoes it in the session,
                too, and so does an error of this save: it shows what was stored before, and
                nothing of it is saved later. Other requests' writes of this session wait until the
                transaction ends; so make it the last thing before the commit.

        Raises:
            SessionError: the session is new, and the response that could have set its cookie has
                begun already. Or it was saved within a transaction that goes on, and was changed
                again, which can only be saved within the same one. Or an earlier one that it was
                saved within has failed at its commit, and `reload()` has not come in between.
            Conflict: other requests changed the session, and the option `on_conflict` or the
                deadline had it fail. Nothing of it is saved, not when the response begins either,
                unless `reload()` came first and the changes were made again.
            StoreError: it could not be saved.
            TypeError: `within` is nothing that the store can join. (What else SQLAlchemy has to
                say about it, such as that it is closed, it says itself.)
            ConfigurationError: the store has no transactions, or those of another database.
        """
        return self._request.save(within)

    def reload(self) -> Awaitable[None]:
        """Drop what was changed and read the session again; await it in async code."""
        return self._request.reload()

    def lock(
        self, timeout: timedelta | Seconds = 5, *, lease: timedelta | Seconds = 30
    ) -> SessionLock:
        """Have the session to this request, among those that lock it: `with`, or `async with`.

        For the rare handler whose work must not be done twice at once, such as spending a balance
        or calling another system. The block sees the session as the last holder left it, with what
        this request had changed before. At its end the session is saved and the lock released.
        Where the block raises, the lock is released and the session is as it was when the block
        began, or when it last called `save()`; a `destroy()` or `regenerate()` stands.

        Only those who lock wait for each other: other requests read and write meanwhile, and their
        writes are merged as always. The lock ends with the block, and at the latest when the
        response begins.

        Args:
            timeout: how long to wait for another holder, as a timedelta or seconds.
            lease: after that others may take the lock, in case that its holder has died: longer
                than the block ever takes. Who comes late loses nothing: its save is guarded.

        Raises, where the block is entered:
            SessionLocked: another request held the lock for longer than `timeout`.
            SessionError: this request is in such a block already.
            ConfigurationError: the store can not lock; the message says what it needs.
            Conflict: what the request had changed before can not be merged with what others wrote.
            StoreError: the lock could not be taken. Besides, what `save()` raises, at the end.

        >>> with request.session.lock():                        # doctest: +SKIP
        ...     request.session["balance"] -= 1
        """
        spans = as_span(timeout, "timeout"), as_span(lease, "lease")
        if not spans[1]:
            raise ConfigurationError("lease can not be 0: the lock would end as it is taken")
        return SessionLock(self, *spans)

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

    @property
    def _request(self) -> Exchange:
        """The request. If it is over it has let go of its session; now it has it again, for
        whatever it is asked to do.
        """
        self._exchange.session = self
        return self._exchange

    def _unowned(self) -> Self:
        """This session, for who does not keep it alive."""
        unowned: Self = weakref.proxy(self)
        return unowned

    def _look(self) -> None:
        self._used = True
        if not self._loaded:
            self._request.require()

    @property
    def _lifetime(self) -> Lifetime:
        return self._default_lifetime if self._own_lifetime is None else self._own_lifetime

    def _set_lifetime(self, lifetime: Lifetime) -> None:
        """Give this session a lifetime of its own, unless it is the one that the settings have."""
        self._look()
        self._written = True
        is_default = lifetime == self._default_lifetime
        self._own_lifetime = None if is_default else lifetime
        form = self._exchange.cookie_form
        self._kept = form.changed(self._kept, lifetime, is_default=is_default)

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
        self._forget(loaded=True)
        self._intent = Intent.KEEP

    def _forget(self, *, loaded: bool) -> None:
        """Hold nothing: because there is nothing, or it is to be loaded when it is looked at."""
        self._values = {}
        self._own_lifetime = self._kept = None
        self._sid = None
        self._new = True
        self._loaded = loaded

    def _adopt(self, sid: Sid | None, document: dict[str, Any]) -> None:
        """This document is what is stored under `sid`."""
        kept = self._kept = document.pop(COOKIE_KEY, None)
        self._own_lifetime = None if kept is None else self._exchange.cookie_form.lifetime(kept)
        self._values = document
        self._sid = sid
        self._new = False
        self._loaded = True

    def _take_back(self, document: dict[str, Any], *, emptied: bool) -> None:
        """What was written since it held this is undone; what was asked for stands."""
        is_new = self._new
        self._adopt(self._sid, document)
        self._new, self._emptied = is_new, emptied

    def _document(self) -> dict[str, Any]:
        """What is to be stored."""
        kept = self._kept
        return self._values if kept is None else {**self._values, COOKIE_KEY: kept}
