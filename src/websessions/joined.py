"""A save within a transaction of the app's: stored if that commits, undone if it does not.

SQLAlchemy says when a transaction is rolled back, be it to a savepoint. At that moment the request
goes back to what it knew before the save, and its session shows that. Of a commit it can not say
that it has succeeded. So when a request goes on after one, it looks whether the save is stored.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import ConfigurationError, SessionError
from .outcome import CookieAction, Intent, Row
from .store import Load, Steps, ask

if TYPE_CHECKING:
    from .lifecycle import RequestSession
    from .session import Session

__all__ = [
    "Joined",
    "Transaction",
    "after_transaction_steps",
    "end_steps",
    "join_steps",
    "joined_store",
    "refuse_open_end",
]

log = logging.getLogger("websessions")

_FACTS: Final = (
    *("_presented", "_row", "_record", "_as_found"),
    *("_cookie", "_saved", "_left_a_grace"),
)

_OF_NOBODY: Final = -1
"""A version that no record has."""


class _Uncommitted(SessionError):
    """The session has gone back to what it was before an earlier save."""


class Transaction(Protocol):
    """A store that is part of a transaction of the app's."""

    undone: Callable[[], None] | None
    """To be called when what was performed is rolled back."""

    @property
    def connection(self) -> object:
        """What the app calls its connection."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the transaction that something was performed in goes on."""
        ...


class Checkpoint:
    """What a request knows at a moment."""

    def __init__(self, request: RequestSession[Any]) -> None:
        self.facts = {name: getattr(request, name) for name in _FACTS}
        self.holder = None if request._held is None else request._held.holder

    def restore(self, request: RequestSession[Any], session: Session) -> None:
        """Know no more than then, and have the session show what was stored."""
        for name, fact in self.facts.items():
            setattr(request, name, fact)
        if request._held is not None and self.holder is not None:
            request._held.holder = self.holder
        session._settle()
        row, record = request._row, request._record
        if record is not None:
            session._adopt(request._presented, request._decode(record))
        elif row is not Row.ENDED:
            session._forget(loaded=row is Row.UNBORN)


@dataclass(slots=True, eq=False, weakref_slot=True)
class Joined:
    """A save whose transaction may not be over.

    Attributes:
        request, session: whose save it is.
        transaction: the transaction.
        before: what the request knew before the save.
        earlier: another save in the same transaction.
    """

    request: RequestSession[Any]
    session: Session
    transaction: Transaction
    before: Checkpoint
    earlier: Joined | None

    def undo(self) -> None:
        """The transaction has been rolled back, at least to a savepoint before this save."""
        if self.request.joined is self:
            self.request.joined = self.earlier
            self.before.restore(self.request, self.session)


def joined_store(store: object, connection: object) -> object:
    """The store as part of a transaction.

    Raises:
        ConfigurationError: it knows none.
    """
    within = getattr(store, "within", None)
    if within is None:
        raise ConfigurationError(
            f"save(within=...) needs a SQL store; {type(store).__name__} has no transactions"
        )
    joined: object = within(connection)
    return joined


def join_steps(request: RequestSession[Any], transaction: Transaction) -> Steps[None]:
    """Settle the session within a transaction; these steps are run on that.

    If that fails, what was to be saved is not saved later, either: the app has been told.
    """
    session = request.session
    before = Checkpoint(request)
    try:
        if request.joined is not None:
            yield from end_steps(request, transaction.connection)
            before = Checkpoint(request)
        earlier, request.joined = request.joined, None
        joined = Joined(request, session, transaction, before, earlier)
        transaction.undone = joined.undo
        try:
            yield from request.settle_steps()
        finally:
            request.joined = earlier
        if transaction.is_open:
            request.joined = joined
    except _Uncommitted:
        raise
    except BaseException:
        before.restore(request, session)
        raise


def end_steps(request: RequestSession[Any], connection: object = None) -> Steps[None]:
    """If the transaction is over, make sure that the save is stored.

    Args:
        request: a request whose session was saved within a transaction.
        connection: the app's connection, if it is about to be saved within one again.

    Raises:
        SessionError: the transaction goes on, and what was changed since can not be saved before
            that has ended, since it has the row. Or it is about to be saved again, after a commit
            that has failed.
    """
    joined = request.joined
    assert joined is not None
    if joined.transaction.is_open:
        if joined.transaction.connection is not connection and _asks_for_more(request):
            raise SessionError(
                "the session was saved within a transaction that goes on, and was changed again:"
                " end the transaction first, or save within the same one"
            )
        return
    while joined.earlier is not None:
        joined = joined.earlier
    is_stored = yield from _is_stored_steps(request, joined.before)
    request.joined = None
    if is_stored:
        return
    joined.before.restore(request, joined.session)
    log.warning(
        "the transaction that a session was saved within was not committed; what its request has"
        " changed in it since is dropped"
    )
    if connection is not None:
        raise _Uncommitted(
            "the transaction that the session was saved within before was not committed; the"
            " session is as it was before that: begin once more, with reload()"
        )


def after_transaction_steps(request: RequestSession[Any], what: str) -> Steps[None]:
    """Make sure that the save is stored, before something that needs to know.

    Raises:
        SessionError: the transaction goes on.
    """
    if request.joined is None:
        return
    if request.joined.transaction.is_open:
        raise SessionError(
            f"the session was saved within a transaction that goes on; {what} comes after its"
            " end, or before that save"
        )
    yield from end_steps(request)


def refuse_open_end(request: RequestSession[Any]) -> None:
    """Have no response say what may be undone.

    Raises:
        SessionError: its cookie depends on a transaction that goes on.
    """
    if request.joined is not None and request._cookie is not CookieAction.NONE:
        raise SessionError(
            "a session that begins, ends or has a new id was saved within a transaction that goes"
            " on: end that before the response begins, which sets or clears its cookie"
        )


def _is_stored_steps(request: RequestSession[Any], before: Checkpoint) -> Steps[bool]:
    """Whether what was saved within a transaction is there, now that it is over."""
    key_of = request._store.key
    presented, was = request._presented, before.facts["_presented"]
    if presented is None:
        return was is None or (yield from ask(Load(key_of(was)))) is None
    found = yield from ask(Load(key_of(presented)))
    if presented != was:
        return found is not None
    record, old = request._record, before.facts["_record"]
    if found is None or record is None or old is None:
        return True  # it has ended, and the next save will see
    if (found.version, found.data) == (old.version, old.data) and found.data != record.data:
        return False
    if (found.version, found.data) != (record.version, record.data):
        # Somebody else has written since, maybe with the number of a version that was undone.
        version = None if record.version is None else _OF_NOBODY
        request._record = replace(record, version=version)
    return True


def _asks_for_more(request: RequestSession[Any]) -> bool:
    """Whether the handler has asked for something since the save."""
    session = request.session
    if session._intent not in (Intent.KEEP, Intent.ABANDON):
        return True
    return request._may_have_changed() and request._has_changed(request._encoded())
