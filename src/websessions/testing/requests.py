"""Scripts: what the parties of a run do, as steps that yield calls.

    "A": request(read, write("cart")),          # a request, and what its handler does
    "B": [request(login("ada")), request(read)] # several, one after the other, in one tab

A script is a function of a `Tab` that returns steps; an act is a function of a `Visit` that does.
So whatever a lifecycle or a store can do is added as a function of a few lines.
"""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any, NoReturn, TypeAlias

from ..errors import SessionNotLoaded, WebSessionsError
from ..lifecycle import RequestSession
from ..lock import lock_steps, unlock_steps
from ..store import Steps, Sweep, ask
from .scene import Tab, TimePasses

__all__ = [
    "Act",
    "Script",
    "Visit",
    "fail",
    "locked",
    "login",
    "logout",
    "read",
    "regenerate",
    "reload",
    "remove",
    "request",
    "respond",
    "save",
    "sweep",
    "time_passes",
    "touch",
    "write",
]

Script: TypeAlias = Callable[[Tab], Steps[None]]
"""What a party does, or a part of it."""


class Visit(RequestSession[Any]):
    """One request. Its steps are performed by whoever runs the script, call by call."""

    def __init__(self, tab: Tab, visitor: str | None) -> None:
        super().__init__(tab.scene.lifecycle, tab.cookie(visitor), https=False)
        self.tab = tab
        self.ledger = tab.scene.ledger
        self._visitor = visitor
        self._base: dict[str, Any] = {}
        self.ledger.arrives(tab.name)
        if self._presented is None:
            self.ledger.may_begin(tab.name)

    def open(self) -> Steps[None]:
        """Load the session, unless that is done already."""
        if not self.session._loaded:
            yield from self.load_steps()
            self._read()

    def write(self) -> Steps[None]:
        """Save now, as `session.save()` does."""
        self._tell()
        yield from self.settle_steps()
        self._told()

    def again(self) -> Steps[None]:
        """Drop what was changed and read again, as `session.reload()` does."""
        yield from self.reload_steps()
        self._read()

    def under_lock(self, acts: Sequence[Act]) -> Steps[None]:
        """Do these acts as `with session.lock(timeout=0):` does."""
        yield from lock_steps(self, timedelta(0), timedelta(seconds=30))
        if self._record is not None:
            self._base = self._decode(self._record)
        try:
            for act in acts:
                yield from act(self)
        except (_Failed, WebSessionsError):
            yield from unlock_steps(self, failed=True)
            raise
        self._tell()
        yield from unlock_steps(self, failed=False)
        self._told()

    def respond(self) -> Steps[None]:
        """Save, and answer the browser."""
        self._tell()
        finished = yield from self.finish_steps()
        self._told()
        self.tab.take(self._visitor, finished)

    def end(self) -> Steps[None]:
        """Save what was changed since the response began."""
        self._tell()
        yield from self.close_steps()
        self._told()

    def end_session(self) -> None:
        self.session.destroy()
        self._base = {}
        self.ledger.may_begin(self.tab.name)

    def _read(self) -> None:
        self._base = copy.deepcopy(self.session._values)
        if self.session.is_new:
            self.ledger.may_begin(self.tab.name)

    def _tell(self) -> None:
        session, sid = self.session, self._presented
        self.ledger.intends(
            self.tab.name,
            None if sid is None else self._store.key(sid),
            self._base,
            session._values,
            emptied=session._emptied,
        )

    def _told(self) -> None:
        self.ledger.settled(self.tab.name)
        self._base = copy.deepcopy(self.session._values)

    # Scripts load and save by steps.

    must_await = True

    def require(self) -> None:
        raise SessionNotLoaded("an act that uses the session begins with `yield from visit.open()`")

    def _refuse(self) -> NoReturn:
        raise NotImplementedError("an act uses the steps of the visit: open, write, again")

    def load(self) -> Awaitable[None]:
        self._refuse()

    def save(self, within: object = None) -> Awaitable[None]:
        self._refuse()

    def reload(self) -> Awaitable[None]:
        self._refuse()

    def lock(self, timeout: timedelta, lease: timedelta) -> Awaitable[None]:
        self._refuse()

    def unlock(self, *, failed: bool) -> Awaitable[None]:
        self._refuse()


Act: TypeAlias = Callable[[Visit], Steps[None]]
"""Something that a handler does."""


class _Failed(Exception):
    """A handler raised."""


def request(
    *acts: Act,
    visitor: str | None = "visitor",
    may_raise: type[WebSessionsError] | None = None,
) -> Script:
    """A request whose handler does these acts, in order.

    The session is loaded at the first act that uses it. It is saved, and the response begins, after
    the last one or at `respond`; what acts do after that is saved at the end.

    Args:
        acts: what the handler does.
        visitor: whose cookie it brings; None: it brings none.
        may_raise: an error that saving may end with; nothing counts as acknowledged then.
    """

    def steps(tab: Tab) -> Steps[None]:
        visit = Visit(tab, visitor)
        try:
            for act in acts:
                yield from act(visit)
            if not visit.responding:
                yield from visit.respond()
            yield from visit.end()
        except _Failed:
            return
        except WebSessionsError as error:
            if may_raise is None or not isinstance(error, may_raise):
                raise

    return steps


# What handlers do


def read(visit: Visit) -> Steps[None]:
    """Look at the session."""
    yield from visit.open()


def write(key: str, value: object = None) -> Act:
    """Write under a key of the session; by default a value that nobody else writes."""

    def act(visit: Visit) -> Steps[None]:
        yield from visit.open()
        visit.session[key] = visit.tab.value() if value is None else value

    return act


def remove(key: str) -> Act:
    """Remove a key from the session, if it is there."""

    def act(visit: Visit) -> Steps[None]:
        yield from visit.open()
        visit.session.pop(key, None)

    return act


def touch(visit: Visit) -> Steps[None]:
    """Push the expiry on."""
    yield from visit.open()
    visit.session.touch()


def regenerate(*, keep_data: bool = True) -> Act:
    """Take a new session id."""

    def act(visit: Visit) -> Steps[None]:
        yield from visit.open()
        visit.session.regenerate(keep_data=keep_data)

    return act


def login(user: str) -> Act:
    """Log a user in, under a new session id."""

    def act(visit: Visit) -> Steps[None]:
        yield from visit.open()
        visit.session.regenerate(privilege=True)
        visit.session.user_id = user

    return act


def logout(visit: Visit) -> Steps[None]:
    """End the session; it need not be read for that."""
    visit.end_session()
    yield from ()


def save(visit: Visit) -> Steps[None]:
    """Save now."""
    yield from visit.write()


def reload(visit: Visit) -> Steps[None]:
    """Drop what was changed and read again."""
    yield from visit.again()


def locked(*acts: Act) -> Act:
    """Do these acts under the session's lock; `SessionLocked` if another request has it."""

    def act(visit: Visit) -> Steps[None]:
        yield from visit.open()
        yield from visit.under_lock(acts)

    return act


def respond(visit: Visit) -> Steps[None]:
    """Begin the response: what was written is saved first."""
    yield from visit.respond()


def fail(visit: Visit) -> Steps[None]:
    """Raise: nothing that the handler wrote is saved."""
    visit.abandon()
    yield from ()
    raise _Failed


# What happens beside requests


def sweep(limit: int = 10) -> Script:
    """Delete what has expired."""

    def steps(tab: Tab) -> Steps[None]:
        more = True
        while more:
            swept = yield from ask(Sweep(limit))
            more = swept.more

    return steps


def time_passes(span: timedelta) -> Script:
    """Let the clock jump."""

    def steps(tab: Tab) -> Steps[None]:
        yield from ask(TimePasses(span))

    return steps
