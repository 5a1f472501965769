"""What happens to a session between a request and its response, decided once, without I/O.

Each `..._steps` method is a generator: it yields store calls and is sent their answers. The sync
and the async adapters run the same steps (`exchange.py`), so they can not differ.
"""

from __future__ import annotations

import logging
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from .codec import encode_within
from .cookie import SessionCookies
from .errors import ConfigurationError, Conflict, CorruptRecord, SessionError, StoreError
from .expiry import expires_at, touch_is_due
from .merge import merge
from .outcome import OUTCOMES, CookieAction, Intent, Row, StoreAction, cookie_action, saving
from .run import Pause
from .session import Session, decode_document
from .settings import SessionSettings
from .sid import Key, Sid, generated_sid
from .store import Delete, Insert, Load, Record, Replace, Steps, StoreRules, Touch, ask, value

__all__ = ["Finished", "Lifecycle", "RequestSession"]

S = TypeVar("S", bound=StoreRules)

log = logging.getLogger("websessions")

CONFLICT_DEADLINE: Final = 5.0
"""Seconds for which a write that keeps losing to other requests is tried again."""


@value
class Finished:
    """What the response has to carry.

    Attributes:
        cookie: a `Set-Cookie` value, or None.
        vary: whether the response depends on the session.
    """

    cookie: str | None
    vary: bool


class Lifecycle(Generic[S]):
    """The rules of one middleware: its options, its cookie and its store with its options."""

    def __init__(self, store: S, settings: SessionSettings) -> None:
        self.store = store
        self.settings = settings
        self.cookies = SessionCookies(settings.cookie, settings.secrets)
        self.lifetime = settings.cookie.lifetime
        self.looks_at_every_session = settings.looks_at_every_session
        self._corrupt: set[Key] = set()
        self._warned = False

    def report_corrupt(self, key: Key, error: CorruptRecord) -> None:
        """Log a corrupt record as an error, once a record: its visitor may come back often."""
        if key in self._corrupt:
            return
        if len(self._corrupt) < 1000:
            self._corrupt.add(key)
        log.error("%s; its visitor gets a new session", error)

    def report_unsettable(self) -> None:
        """Say once why no session begins."""
        if not self._warned:
            self._warned = True
            log.warning(
                "no session is stored: its cookie needs https and the request came by http;"
                " behind a proxy that ends TLS, set proxy=True"
            )


class RequestSession(ABC, Generic[S]):
    """One request's session on its way from the cookie to the response."""

    responding = False
    _record: Record | None = None
    _cookie = CookieAction.NONE
    _saved = False
    _failed = False

    def __init__(
        self,
        lifecycle: Lifecycle[S],
        cookies: str,
        *,
        https: bool,
        opted_out: bool = False,
        session_type: type[Session] = Session,
    ) -> None:
        """Read the request's cookie; no store is asked yet.

        Args:
            lifecycle: the rules.
            cookies: the request's `Cookie` header, or "".
            https: whether the request came over TLS.
            opted_out: the path is an excluded one: nothing is done unless the handler asks.
            session_type: what the handler gets, where its framework wants more of a session.
        """
        self._rules = lifecycle
        self._store = lifecycle.store
        self._https = https
        self.opted_out = opted_out
        self._presented = lifecycle.cookies.read(cookies) if cookies else None
        self._row = Row.UNBORN if self._presented is None else Row.UNREAD
        self.session = session_type(self, lifecycle.lifetime)
        if self._presented is None:
            self.session._begin()

    # What the session asks for

    def new_sid(self) -> Sid:
        """A fresh session id."""
        return generated_sid(self._rules.settings.genid)

    @abstractmethod
    def require(self) -> None:
        """Load the session now, or raise because that has to be awaited."""

    @abstractmethod
    def load(self) -> Awaitable[None]:
        """Load the session, unless it is loaded."""

    @abstractmethod
    def save(self) -> Awaitable[None]:
        """Settle the session now."""

    @abstractmethod
    def reload(self) -> Awaitable[None]:
        """Drop what was changed and read the session again."""

    def abandon(self) -> None:
        """Save nothing of this request: its handler failed."""
        self.session._intent = Intent.ABANDON

    # Steps

    def load_steps(self) -> Steps[None]:
        """Read the session that the cookie names, unless that is done already.

        A sid that finds nothing, be it expired, ended or never issued, is not adopted: the
        visitor gets a new session with a new id (OWASP: strict session management).
        """
        if self.session._loaded or self._presented is None:
            return
        key = self._store.key(self._presented)
        try:
            record: Record | None = yield Load(key)
            if self.session._intent is Intent.DESTROY:
                return  # asked for while it was being read
            if record is not None:
                document, _ = decode_document(self._store.codec, record)
                self.session._adopt(self._presented, document)
        except CorruptRecord as error:
            if self._rules.settings.on_corrupt == "error":
                raise
            self._rules.report_corrupt(key, error)
            record = None
        if record is None:
            self._row = Row.UNBORN
            self.session._begin()
        else:
            self._row, self._record = Row.LIVE, record

    def reload_steps(self) -> Steps[None]:
        """Drop what was changed and read again."""
        session = self.session
        if self._row is Row.UNBORN or self._presented is None:
            raise SessionError("there is nothing to reload: the session is not stored yet")
        if session._intent is not Intent.ABANDON:
            session._intent = Intent.KEEP
        session._loaded = False
        session._touched = session._emptied = False
        yield from self.load_steps()

    def finish_now(self, *, unset: bool = False) -> Finished | None:
        """What `finish_steps` would return, if there is nothing for it to do; None if there may be.

        Most requests only read, and end here. To learn from a generator that there is no call to
        make costs more than the facts that say so: nothing changed, no option asks for more, and
        for a session like that the outcome table has nothing to do, or a touch that is not due.
        """
        session = self.session
        if (
            unset
            or self._failed
            or session._touched
            or self._cookie is not CookieAction.NONE
            or (self._rules.looks_at_every_session and not self.opted_out)
            or self._may_have_changed()
        ):
            return None
        action, _ = OUTCOMES[self._row, session._intent, False]
        if action is StoreAction.TOUCH:
            if self._due_touch() is not None:
                return None
        elif action is not StoreAction.NOTHING:
            return None
        session._settle()
        return self._respond(None)

    def finish_steps(self, *, unset: bool = False) -> Steps[Finished]:
        """Carry out what the request decided, and say what the response has to carry.

        Args:
            unset: the app took the session out of the request.
        """
        session, settings = self.session, self._rules.settings
        if self._failed:
            # The app answers the error that saving raised; saving once more would raise it again.
            self.responding = True
            return Finished(None, vary=True)
        try:
            if unset and settings.unset == "destroy":
                session.destroy()
            elif unset and session._intent is not Intent.DESTROY:
                self.abandon()
            elif self._rules.looks_at_every_session and not self.opted_out:
                yield from self.load_steps()
            yield from self.settle_steps()
        except BaseException:
            self._failed = True
            raise
        if self._cookie is not CookieAction.NONE:
            session._used = True
        return self._respond(self._set_cookie())

    def _respond(self, cookie: str | None) -> Finished:
        finished = Finished(cookie, self.session._used)
        self.responding, self.session._used = True, False
        return finished

    def close_steps(self) -> Steps[None]:
        """Save what was changed after the response began: in a stream, a socket, a task.

        A new session can not be saved any more: nobody has its cookie.
        """
        session = self.session
        if self._failed or not self.responding or session._intent is Intent.ABANDON:
            return
        if not session._used and not self._changed_from_afar():
            return
        if session._intent is Intent.REGENERATE:
            # The handshake of a WebSocket was refused: the new id has no cookie to travel in.
            session._intent, session._sid = Intent.KEEP, self._presented
        if session._intent is Intent.DESTROY and self._row in (Row.UNREAD, Row.LIVE):
            yield from self._delete_steps()
        if self._row is not Row.UNBORN:
            yield from self.settle_steps()
        elif session._values:
            log.warning(
                "a new session was written to after its response had begun; it is lost, since its"
                " cookie could not be set any more"
            )

    def settle_steps(self) -> Steps[None]:
        """Do to the store what the outcome table says; remember what the cookie needs."""
        session = self.session
        asked = session._intent, session._touched, session._emptied, session._written
        try:
            yield from self._carry_out()
        except BaseException:
            # What was asked for meanwhile counts; else what was asked for still stands.
            if session._intent is Intent.KEEP:
                session._intent = asked[0]
            session._touched |= asked[1]
            session._emptied |= asked[2]
            session._written |= asked[3]
            raise

    def _carry_out(self) -> Steps[None]:
        session, settings = self.session, self._rules.settings
        data = self._encoded() if self._may_have_changed() else None
        changed = self._has_changed(data)
        intent, touched = session._intent, session._touched
        save = saving(
            self._row,
            intent,
            changed=changed,
            save_uninitialized=settings.save_uninitialized and not self.opted_out,
            resave=settings.resave and not self.opted_out and not self._saved,
        )
        action, cookie = OUTCOMES[self._row, intent, save]
        if data is None and action in _WRITES:
            data = self._encoded()
        emptied = session._emptied
        # Settled from here on: the handler may go on meanwhile, and ask for more.
        session._settle()
        match action:
            case StoreAction.REPLACE:
                yield from self._replace_steps(data, emptied=emptied)
            case StoreAction.TOUCH:
                yield from self._touch_steps(asked=touched)
            case StoreAction.INSERT if not self._cookie_can_be_set():
                cookie = CookieAction.NONE
            case StoreAction.INSERT:
                yield from self._insert_steps(data)
            case StoreAction.MOVE:
                yield from self._replace_steps(data, moving=True, emptied=emptied)
            case StoreAction.DELETE:
                yield from self._delete_steps()
            case StoreAction.RENEW:
                # The old session ends, whatever becomes of the new one.
                yield from self._delete_steps()
                if self._cookie_can_be_set():
                    yield from self._insert_steps(data)
                else:
                    cookie = CookieAction.NONE
            case StoreAction.NOTHING:
                pass
        if self._row is Row.ENDED:
            cookie = CookieAction.NONE
        cookie = cookie_action(
            cookie,
            changed=changed or touched,
            rolling=settings.rolling and not self.opted_out,
            persistent=session._lifetime.is_persistent,
        )
        if cookie is not CookieAction.NONE:
            self._cookie = cookie

    def _insert_steps(self, data: bytes | None) -> Steps[None]:
        assert data is not None
        session = self.session
        for _ in range(3):
            sid = session._sid or self.new_sid()
            record = yield from ask(
                Insert(self._store.key(sid), data, self._expires(), session._values)
            )
            if record is not None:
                session._sid = self._presented = sid
                self._row, self._record, self._saved = Row.LIVE, record, True
                return
            session._sid = None
        raise ConfigurationError("genid returned an id that is taken, three times in a row")

    def _replace_steps(
        self, data: bytes | None, *, moving: bool = False, emptied: bool = False
    ) -> Steps[None]:
        """Write the session over what was read; where someone else wrote first, merge and retry."""
        session, seen = self.session, self._record
        assert data is not None
        assert seen is not None
        sid = session._sid
        assert sid is not None
        new_key = self._store.key(sid) if moving else None
        give_up = time.monotonic() + CONFLICT_DEADLINE
        wait = 0.0
        while True:
            written = yield from ask(Replace(seen, data, self._expires(), session._values, new_key))
            if written is not None:
                self._presented, self._record, self._saved = sid, written, True
                return
            if wait:
                # Before reading, not after: what was read is old soon on a busy session.
                yield from ask(Pause(random.uniform(0, wait)))  # noqa: S311  jitter is no secret
            wait = min(2 * wait, 0.25) or 0.001
            theirs = yield from ask(Load(seen.key))
            if theirs is None:
                log.info("a session ended while a request was using it; its changes are dropped")
                self._row, self._record = Row.ENDED, None
                return
            if time.monotonic() > give_up:
                raise Conflict(
                    f"other requests kept changing this session for {CONFLICT_DEADLINE:g} s;"
                    " this request's changes are not saved"
                )
            if new_key is not None and theirs == seen:
                raise ConfigurationError("genid returned an id that is taken")
            if session._intent is Intent.DESTROY:
                return  # asked for meanwhile, and carried out next
            data = self._merged(seen, theirs, sid, emptied=emptied)
            seen = theirs

    def _merged(self, base: Record, theirs: Record, sid: Sid, *, emptied: bool) -> bytes:
        """Make my changes to what they wrote; the session shows the result from here on."""
        session, codec = self.session, self._store.codec

        def same(one: Any, other: Any) -> bool:
            return codec.encode({"": one}) == codec.encode({"": other})

        mine = session._document()
        if emptied or session._emptied:
            document = dict(mine)
        else:
            document = merge(self._decode(base), mine, self._decode(theirs), same)
        session._adopt(session._sid or sid, document)
        return self._encoded()

    def _due_touch(self, *, asked: bool = False) -> Touch | None:
        store, record = self._store, self._record
        assert record is not None
        if store.disable_touch or (self._saved and not asked):
            return None
        slack, wanted = timedelta(0) if asked else store.touch_after, self._expires()
        if not touch_is_due(record.expires, wanted, slack):
            return None
        return Touch(record.key, wanted, slack, record)

    def _touch_steps(self, *, asked: bool) -> Steps[None]:
        touch = self._due_touch(asked=asked)
        if touch is None:
            return
        try:
            moved = yield from ask(touch)
        except StoreError as error:
            # Nothing the handler wrote is lost, so its answer is not lost either.
            log.warning("a session could not be touched and may expire early: %s", error)
            return
        if moved and self._record is not None:
            self._record = replace(self._record, expires=touch.expires)

    def _delete_steps(self) -> Steps[None]:
        ended = self._presented
        assert ended is not None
        yield from ask(Delete(self._store.key(ended)))
        if self.session._sid == ended:
            self.session._sid = None
        self._row, self._record, self._presented = Row.UNBORN, None, None

    # Facts

    def _may_have_changed(self) -> bool:
        session = self.session
        if not (session._written or session._lent):
            return False
        if not session._loaded or self._row is Row.ENDED:
            return False
        in_place = self._row is Row.LIVE and session._intent is not Intent.DESTROY
        return in_place or bool(session._values)

    @property
    def may_be_unsettled(self) -> bool:
        """Whether anything can have changed since the response began."""
        return self.session._used or self.session._lent

    def _changed_from_afar(self) -> bool:
        """Whether a list or dict that the handler took out of the session before has changed."""
        lent = self.session._lent and self._row is Row.LIVE
        return lent and self._has_changed(self._encoded())

    def _has_changed(self, data: bytes | None) -> bool:
        if data is None:
            return False
        if self._record is None or self.session._intent is Intent.DESTROY:
            return True
        return data != self._record.data

    def _cookie_can_be_set(self) -> bool:
        if self.responding:
            raise SessionError(
                "a new session can not be saved after the response has begun: its cookie can not"
                " be set any more; write to the session before, or save an existing one"
            )
        if self._rules.cookies.can_be_set(https=self._https):
            return True
        self._rules.report_unsettable()
        return False

    def _set_cookie(self) -> str | None:
        session, cookies = self.session, self._rules.cookies
        if self._cookie is CookieAction.CLEAR:
            return cookies.clear(https=self._https)
        if self._cookie is CookieAction.SET and session._sid is not None:
            return cookies.set(
                session._sid,
                now=self._store.clock(),
                expires=self._expires() if session._lifetime.is_persistent else None,
                https=self._https,
            )
        return None

    # Values

    def _expires(self) -> datetime:
        store, (max_age, fixed) = self._store, self.session._lifetime
        return expires_at(store.clock(), max_age=max_age, fixed=fixed, expiration=store.expiration)

    def _encoded(self) -> bytes:
        return encode_within(self._store.codec, self.session._document(), self._store.max_size)

    def _decode(self, record: Record) -> dict[str, Any]:
        return decode_document(self._store.codec, record)[0]


_WRITES: Final = frozenset(
    {StoreAction.INSERT, StoreAction.REPLACE, StoreAction.MOVE, StoreAction.RENEW}
)
