"""What happens to a session between a request and its response, decided once, without I/O.

Each `..._steps` method is a generator: it yields store calls and is sent their answers. The sync
and the async adapters run the same steps (`exchange.py`), so they can not differ.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from dataclasses import field, replace
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

from .codec import encode_within
from .cookie import SessionCookies
from .cookie_form import OWN_FORM, CookieForm, Moment, form_of
from .errors import (
    ConfigurationError,
    CorruptRecord,
    SessionEncodingError,
    SessionError,
    SessionTooLarge,
    StoreError,
)
from .expiry import expires_at, touch_slack
from .joined import Joined, after_transaction_steps, end_steps, refuse_open_end
from .lock import Held, releasing_steps
from .outcome import OUTCOMES, CookieAction, Intent, Row, StoreAction, cookie_action, saving
from .session import Session, decode_document, is_unchanged
from .settings import COOKIE_KEY, USER_KEY, SessionSettings
from .sid import Key, Sid, generated_sid
from .signing import FORMATS
from .store import (
    Delete,
    End,
    Fetch,
    Load,
    Record,
    Steps,
    StoreRules,
    Touch,
    ask,
    value,
)
from .writing import insert_steps, replace_steps

__all__ = ["Finished", "Lifecycle", "RequestSession"]

R = TypeVar("R")
S = TypeVar("S", bound=StoreRules)

log = logging.getLogger("websessions")


@value
class Finished:
    """What the response has to carry.

    Attributes:
        cookie: a `Set-Cookie` value, or None.
        vary: whether the response depends on the session.
    """

    cookie: str | None = field(repr=False)
    vary: bool


class Lifecycle(Generic[S]):
    """The rules of one middleware: its options, its cookie and its store with its options."""

    def __init__(self, store: S, settings: SessionSettings) -> None:
        self.store = store
        self.settings = settings
        self.cookies = SessionCookies(settings.cookie, settings.secrets)
        former = settings.former
        self.former = None if former is None else SessionCookies(former.cookie, former.secrets)
        self.moves: bool = getattr(store, "fetches", False)
        self.lifetime = settings.cookie.lifetime
        self.cookie_form = form_of(store.codec)
        self.refreshes_cookies = self.cookie_form is not OWN_FORM
        self.writes_as_read: bool = getattr(store.codec, "writes_as_read", True)
        self.ids = FORMATS[settings.cookie.format].ids
        if self.moves and former is None:
            raise ConfigurationError(
                f"a {type(store).__name__} moves the sessions of those who come with a cookie that"
                " they had before: say what it looks like, with former=FormerCookie(secret=...)"
            )
        longest: int | None = getattr(store, "longest_sid", None)
        if settings.genid is None and longest is not None and self.ids.length > longest:
            raise ConfigurationError(
                f"a session id of this cookie has {self.ids.length} characters and the table has"
                f" room for {longest}: it is Express's, so pass"
                " cookie=CookieSettings.express_session()"
            )
        self.looks_at_every_session = settings.looks_at_every_session
        self._corrupt: set[Key] = set()
        self._warned = False

    def report_corrupt(self, key: Key, error: SessionError) -> None:
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
                "no session is stored, or given a new cookie: that needs https and the request came"
                " by http; behind a proxy that ends TLS, set proxy=True"
            )


class RequestSession(ABC, Generic[S]):
    """One request's session on its way from the cookie to the response."""

    session: Session
    responding = False
    _record: Record | None = None
    _cookie = CookieAction.NONE
    _saved = False
    _failed = False
    _outdated = False
    _left_a_grace = False
    _as_found: Record | None = None
    joined: Joined | None = None
    _held: Held | None = None
    _refreshed: tuple[Any, Any] | None = None
    _by_former = False
    _is_to_be_moved = False
    """Whether the session may be in another store, where transactions of the app's do not reach."""

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
        own, former = lifecycle.cookies, lifecycle.former
        self._presented = own.read(cookies) if cookies else None
        if self._presented is None and former is not None and not own.has_any(cookies):
            self._presented = former.read(cookies)
            self._by_former = self._presented is not None
            self._is_to_be_moved = self._by_former and lifecycle.moves
        self._row = Row.UNBORN if self._presented is None else Row.UNREAD
        self.session = session_type(self, lifecycle.lifetime)
        if self._presented is None:
            self.session._begin()

    # What the session asks for

    def new_sid(self) -> Sid:
        """A fresh session id."""
        return generated_sid(self._rules.settings.genid, self._rules.ids)

    @property
    def cookie_form(self) -> CookieForm:
        """How a document keeps the cookie: as the store's codec has it."""
        return self._rules.cookie_form

    @abstractmethod
    def require(self) -> None:
        """Load the session now, or raise because that has to be awaited."""

    @abstractmethod
    def load(self) -> Awaitable[None]:
        """Load the session, unless it is loaded."""

    @abstractmethod
    def save(self, within: object = None) -> Awaitable[None]:
        """Settle the session now, or within a transaction of the app's."""

    @abstractmethod
    def reload(self) -> Awaitable[None]:
        """Drop what was changed and read the session again."""

    def let_go(self) -> None:
        """The request is over. Whoever has its session may go on with it.

        The two know each other. Were they left like that, only the garbage collector could free
        them and all that hangs on them, at every request.
        """
        try:  # noqa: SIM105  at every request
            self.session = self.session._unowned()
        except ReferenceError:
            pass  # once more, and nobody has it any more

    must_await: bool
    """Whether the methods here that do I/O have to be awaited."""

    @abstractmethod
    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        """Take the session's lock and read the session again."""

    @abstractmethod
    def unlock(self, *, failed: bool) -> Awaitable[None]:
        """Save, and release the lock; only the latter after a failure."""

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
            record: Record | None
            record = (yield from self._fetch_steps()) if self._is_to_be_moved else (yield Load(key))
            if self.session._intent is Intent.DESTROY:
                return  # asked for while it was being read
            if record is not None:
                document, _ = decode_document(self._store.codec, record)
                self.session._adopt(self._presented, document)
        except (CorruptRecord, SessionEncodingError, SessionTooLarge) as error:
            # The latter two: it is in another table, and does not fit this one.
            if self._rules.settings.on_corrupt == "error":
                raise
            self._rules.report_corrupt(key, error)
            self._is_to_be_moved = False
            record = None
        if record is None:
            self._row = Row.UNBORN
            self.session._begin()
        else:
            self._found(record)
            self._as_found = self._as_found or record
            if self._by_former and self._row is Row.LIVE and self._can_be_given_another():
                # The id has been in another table, and its cookie counts once.
                self._by_former = False
                self.session._intent = Intent.REGENERATE
                self.session._sid = self.new_sid()

    def _fetch_steps(self) -> Steps[Record | None]:
        assert self._presented is not None
        record = yield from ask(Fetch(self._presented))
        self._is_to_be_moved = False  # not before: it may fail or be cancelled, and be asked again
        return record

    def move_steps(self) -> Steps[None]:
        """Have the session where what is done next looks for it. What can not be moved is not
        there.
        """
        if self._is_to_be_moved:
            try:
                yield from self._fetch_steps()
            except (CorruptRecord, SessionEncodingError, SessionTooLarge) as error:
                assert self._presented is not None
                self._rules.report_corrupt(self._store.key(self._presented), error)
                self._is_to_be_moved = False

    def reload_steps(self) -> Steps[None]:
        """Drop what was changed and read again."""
        session = self.session
        yield from after_transaction_steps(self, "reload()")
        if self._row is Row.UNBORN or self._presented is None:
            raise SessionError("there is nothing to reload: the session is not stored yet")
        if session._intent is not Intent.ABANDON:
            session._intent = Intent.KEEP
        session._loaded = self._outdated = False
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
            or self._outdated
            or self.joined is not None
            or self._held is not None
            or self._row is Row.GRACED
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
        if self._held is not None and not self._held.leaving:
            # No response waits under a lock, and none leaves while others wait for it.
            return (yield from releasing_steps(self, self.finish_steps(unset=unset)))
        if self._failed:
            # The app answers the error that saving raised; saving once more would raise it again.
            self.responding = True
            return Finished(None, vary=True)
        try:
            if self.joined is not None:
                yield from end_steps(self)
                refuse_open_end(self)
            if unset and settings.unset == "destroy":
                session.destroy()
            elif unset and session._intent is not Intent.DESTROY:
                self.abandon()
            elif self._rules.looks_at_every_session and not self.opted_out:
                yield from self.load_steps()
            if self._gave_way:
                # save() has told the app, and it answers without its changes.
                session._sid = self._presented
            else:
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
        if self._held is not None and not self._held.leaving:
            yield from releasing_steps(self, self.close_steps())
            return
        if self.joined is not None:
            yield from end_steps(self)
        if self._failed or self._gave_way or not self.responding:
            return
        if session._intent is Intent.ABANDON:
            return
        if not session._used and not self._changed_from_afar():
            return
        if session._intent in (Intent.REGENERATE, Intent.PRIVILEGE):
            # The handshake of a WebSocket was refused: the new id has no cookie to travel in.
            session._intent, session._sid = Intent.KEEP, self._presented
        if session._intent is Intent.DESTROY and (self._row is Row.UNREAD or self._row.is_read):
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
        if self.joined is not None:
            yield from end_steps(self)
            if self.joined is not None:
                return  # what there is to save waits for its transaction to end
        asked = session._intent, session._touched, session._emptied, session._written
        try:
            yield from self._carry_out()
        except BaseException:
            # What was asked for meanwhile counts; else what was asked for still stands.
            session._intend(asked[0])
            session._touched |= asked[1]
            session._emptied |= asked[2]
            session._written |= asked[3]
            raise

    def _carry_out(self) -> Steps[None]:
        session, settings = self.session, self._rules.settings
        self._end_grace()
        data = self._encoded() if self._may_have_changed() else None
        changed = self._has_changed(data)
        self._raise_privilege()
        intent, touched = session._intent, session._touched
        save = saving(
            self._row,
            intent,
            changed=changed,
            save_uninitialized=settings.save_uninitialized and not self.opted_out,
            resave=settings.resave and not self.opted_out and not self._saved,
        )
        action, cookie = OUTCOMES[self._row, intent, save]
        if action in _WRITES and (data is None or self._rules.refreshes_cookies):
            data = self._to_write()
        emptied = session._emptied
        # Settled from here on: the handler may go on meanwhile, and ask for more.
        session._settle()
        if action in _KEEPS_ITS_KEY:
            session._sid = self._presented
        match action:
            case StoreAction.REPLACE:
                yield from replace_steps(self, data, emptied=emptied)
            case StoreAction.TOUCH:
                yield from self._touch_steps(asked=touched)
            case StoreAction.INSERT if not self._cookie_can_be_set():
                cookie = CookieAction.NONE
            case StoreAction.INSERT:
                yield from insert_steps(self, data)
            case StoreAction.MOVE:
                yield from replace_steps(self, data, emptied=emptied, moving=settings.grace)
            case StoreAction.PROMOTE:
                yield from replace_steps(self, data, emptied=emptied, moving=timedelta(0))
            case StoreAction.DELETE:
                yield from self._delete_steps()
            case StoreAction.RENEW:
                # The old session ends, whatever becomes of the new one.
                yield from self._delete_steps()
                if self._cookie_can_be_set():
                    yield from insert_steps(self, data)
                else:
                    cookie = CookieAction.NONE
            case StoreAction.NOTHING:
                pass
        if self._row in (Row.ENDED, Row.GRACED):
            # One that was to be sent since an earlier save is worth nothing any more, either.
            self._cookie = cookie = CookieAction.NONE
        cookie = cookie_action(
            cookie,
            changed=changed or touched,
            rolling=settings.rolling and not self.opted_out,
            persistent=session._lifetime.is_persistent,
        )
        if cookie is not CookieAction.NONE:
            self._cookie = cookie

    def _due_touch(self, *, asked: bool = False) -> Touch | None:
        store, record = self._store, self._record
        assert record is not None
        if store.disable_touch or (self._saved and not asked):
            return None
        (max_age, fixed), expiration = self.session._lifetime, store.expiration
        wanted = expires_at(store.clock(), max_age=max_age, fixed=fixed, expiration=expiration)
        slack = touch_slack(
            record.expires,
            wanted,
            timedelta(0) if asked else store.touch_after,
            max_age=max_age,
            expiration=expiration,
        )
        return None if slack is None else Touch(record.key, wanted, slack, record)

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
        if self._is_to_be_moved:
            yield from ask(End(ended))
            self._is_to_be_moved = False
        else:
            yield from ask(Delete(self._store.key(ended)))
        if self.session._sid == ended:
            self.session._sid = None
        self._row, self._record, self._presented = Row.UNBORN, None, None
        self._outdated = False
        if self._held is not None:
            # The lock went with the row, and what it held does not come back.
            self._held.holder = self._held.since = None
            self._held.document = self._store.codec.encode({})

    # Facts

    def _found(self, record: Record) -> None:
        """This is what is stored."""
        self._record = record
        self._row = Row.LIVE if record.grace_until is None else Row.GRACED

    def _has_ended(self) -> None:
        log.info("a session ended while a request was using it; its changes are dropped")
        self._row, self._record = Row.ENDED, None

    def _end_grace(self) -> None:
        """What was found by its previous id is gone for it when its grace is over."""
        until = None if self._record is None else self._record.grace_until
        if until is not None and until <= self._store.clock():
            self._row, self._record = Row.ENDED, None

    def _raise_privilege(self) -> None:
        """A session that gets a new id and becomes somebody else's has its privilege changed,
        whether the handler says so or not, and in one save or in two.
        """
        session = self.session
        in_two = self._left_a_grace and session._intent is Intent.KEEP and not self.responding
        if self._record is None or not (in_two or session._intent is Intent.REGENERATE):
            return
        # An earlier save of this request may have written who it is: as the old id's session.
        known = [seen for seen in (self._record, self._as_found) if seen is not None]
        user = session._values.get(USER_KEY)
        if all(self._is_same(self._decode(seen).get(USER_KEY), user) for seen in known):
            return
        if in_two:
            session._sid = self.new_sid()
        session._intent = Intent.PRIVILEGE

    @property
    def _gave_way(self) -> bool:
        """Whether what the handler did can not be saved any more: it lost to another request."""
        return self._outdated and self.session._intent is not Intent.DESTROY

    def _may_have_changed(self) -> bool:
        session = self.session
        if not (session._written or session._lent):
            return False
        if not session._loaded or self._row is Row.ENDED:
            return False
        in_place = self._row.is_read and session._intent is not Intent.DESTROY
        return in_place or bool(session._values)

    @property
    def may_be_unsettled(self) -> bool:
        """Whether anything can have changed since the response began."""
        try:
            return self.session._used or self.session._lent or self._held is not None
        except ReferenceError:
            return False  # it was closed before, and nobody has the session any more

    def _changed_from_afar(self) -> bool:
        """Whether a list or dict that the handler took out of the session before has changed."""
        lent = self.session._lent and self._row.is_read
        return lent and self._has_changed(self._encoded())

    def _has_changed(self, data: bytes | None) -> bool:
        if data is None:
            return False
        if self._record is None or self.session._intent is Intent.DESTROY:
            return True
        if data == self._record.data:
            return False
        if self._rules.writes_as_read:
            return True
        return not is_unchanged(self._store.codec, data, self._record)

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

    def _can_be_given_another(self) -> bool:
        """Whether the browser would take a cookie in the place of the former one."""
        return not self.responding and self._cookie_can_be_set()

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

    def _to_write(self) -> bytes:
        """The session as it is written: with what a write says about the cookie."""
        session, rules = self.session, self._rules
        if not rules.refreshes_cookies:
            return self._encoded()
        moment = Moment(self._store.clock(), self._expires())
        fresh = rules.cookie_form.written(
            session._kept, session._lifetime, moment, rules.settings.cookie, https=self._https
        )
        self._refreshed = session._kept, fresh
        document = {**session._values, COOKIE_KEY: fresh}
        return encode_within(self._store.codec, document, self._store.max_size)

    def _keep_written_cookie(self, kept: Any, fresh: Any) -> None:
        """What was written about the cookie is what the session has, unless it was set again."""
        if self.session._kept is kept:
            self.session._kept = fresh

    def _decode(self, record: Record) -> dict[str, Any]:
        return decode_document(self._store.codec, record)[0]

    def _is_same(self, one: Any, other: Any) -> bool:
        """Whether two values are the same in a session, where 1 is not True."""
        encode = self._store.codec.encode
        return encode({"": one}) == encode({"": other})


_WRITES: Final = frozenset(
    {
        *(StoreAction.INSERT, StoreAction.REPLACE, StoreAction.RENEW),
        *(StoreAction.MOVE, StoreAction.PROMOTE),
    }
)

_KEEPS_ITS_KEY: Final = frozenset({StoreAction.REPLACE, StoreAction.TOUCH})
