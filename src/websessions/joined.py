"""A save within a transaction of the app's: real once that commits, and undone if it does not.

Which of the two it was, nobody tells. So when the request goes on after it, it asks the store what
is there. Its key says whether a new id, a new session or the end of one has come true; and a merge
of what the handler did since into what is there is right whether the save before it is part of
that or not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import ConfigurationError, SessionError
from .merge import merge
from .outcome import Intent, Row
from .store import Load, Steps, ask, value

if TYPE_CHECKING:
    from .lifecycle import RequestSession

__all__ = ["Joined", "Transaction", "end_steps", "join_steps", "joined_store"]

_FACTS: Final = (
    *("_presented", "_row", "_record", "_as_found"),
    *("_cookie", "_saved", "_left_a_grace"),
)


class Transaction(Protocol):
    """A store that is part of a transaction of the app's."""

    @property
    def connection(self) -> object:
        """What the app calls its connection."""
        ...

    @property
    def is_open(self) -> bool:
        """Whether the transaction that something was performed in goes on."""
        ...


@value
class Joined:
    """A save whose transaction may not be over.

    Attributes:
        transaction: the transaction.
        data: the encoded session, as the handler had it then.
        before: the facts about the request from before the transaction.
    """

    transaction: Transaction
    data: bytes
    before: Mapping[str, Any]


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
    """Settle the session within a transaction; these steps are run on that."""
    if request.joined is not None:
        yield from end_steps(request, transaction.connection)
    earlier, request.joined = request.joined, None
    before = {name: getattr(request, name) for name in _FACTS}
    try:
        yield from request.settle_steps()
    except BaseException:
        if transaction.is_open:
            # The app rolls back, and what was to be saved is not saved later either.
            request.session._settle()
        raise
    finally:
        if transaction.is_open:
            data = request._encoded()
            request.joined = Joined(
                transaction, data, before if earlier is None else earlier.before
            )
        else:
            request.joined = earlier


def end_steps(request: RequestSession[Any], connection: object = None) -> Steps[None]:
    """If the transaction is over, find out what has become of the save; else wait for its end.

    Args:
        request: a request whose session was saved within a transaction.
        connection: the app's connection, if it is to be saved within one again.

    Raises:
        SessionError: the transaction goes on, and what was changed since can not be saved before
            that has ended, since it has the row.
    """
    joined = request.joined
    assert joined is not None
    if not joined.transaction.is_open:
        yield from _find_steps(request, joined)
        request.joined = None
    elif joined.transaction.connection is not connection and _asks_for_more(request):
        raise SessionError(
            "the session was saved within a transaction that goes on, and was changed again: end"
            " the transaction first, or save within the same one"
        )


def _find_steps(request: RequestSession[Any], joined: Joined) -> Steps[None]:
    """Take the session up as it is stored, with what the handler has changed since."""
    session, store = request.session, request._store
    after, before = request._presented, joined.before["_presented"]
    if after is None and before is None:
        return  # nothing was stored
    found = None
    if after is not None:
        found = yield from ask(Load(store.key(after)))
    if found is None and before != after:
        if before is not None:
            found = yield from ask(Load(store.key(before)))
        if found is None and after is None:
            return  # it was the end of the session, and it has ended
        for name in _FACTS:
            setattr(request, name, joined.before[name])
    if found is not None:
        request._found(found)
    elif request._row is not Row.UNBORN:
        request._has_ended()
        return
    if session._intent is Intent.DESTROY:
        return  # what it has now is a new session's
    base = request._store.codec.decode(joined.data)
    theirs = {} if found is None else request._decode(found)
    resolvers = request._rules.settings.resolvers
    document = merge(base, session._document(), theirs, request._is_same, resolvers)
    sid = request._presented or session.id
    session._adopt(sid, document)
    session._new, session._written = found is None, True


def _asks_for_more(request: RequestSession[Any]) -> bool:
    """Whether the handler has asked for something since the save."""
    session = request.session
    if session._intent not in (Intent.KEEP, Intent.ABANDON):
        return True
    return request._may_have_changed() and request._has_changed(request._encoded())
