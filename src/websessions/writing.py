"""How a session is written: inserted, or over what was read, or over what others wrote since.

Like all steps of a request's, these yield store calls and do no I/O.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import ConfigurationError, Conflict
from .merge import merge, overwrite
from .outcome import Intent, Row
from .sid import Sid
from .store import Insert, Record, Replace, Steps, ask
from .swap import swap_steps

if TYPE_CHECKING:
    from .lifecycle import RequestSession

__all__ = ["insert_steps", "replace_steps", "resolved"]


def insert_steps(request: RequestSession[Any], data: bytes | None) -> Steps[None]:
    """Store a new session under a new id.

    Raises:
        ConfigurationError: `genid` returns ids that are taken.
    """
    assert data is not None
    session = request.session
    for _ in range(3):
        sid = session._sid or request.new_sid()
        record = yield from ask(
            Insert(request._store.key(sid), data, request._expires(), dict(session._values))
        )
        if record is not None:
            session._sid = request._presented = sid
            request._found(record)
            if request._refreshed is not None:
                request._keep_written_cookie(*request._refreshed)
            request._saved = True
            return
        session._sid = None
    raise ConfigurationError("genid returned an id that is taken, three times in a row")


def replace_steps(
    request: RequestSession[Any],
    data: bytes | None,
    *,
    emptied: bool,
    moving: timedelta | None = None,
) -> Steps[None]:
    """Write the session over what was read; where someone else wrote first, as the option
    `on_conflict` says.

    Args:
        data: what is to be written.
        emptied: what others wrote is dropped.
        moving: the session's new id is its own from here on, and the old one has this grace.
    """
    assert data is not None
    write = _Write(request, emptied, moving)
    # Whoever came by a previous id has no other right to the record.
    assert request._record is not None
    key = request._record.key if request._row is Row.LIVE else request._store.key(write.presented)
    try:
        written = yield from swap_steps(key, write.of(data), write.again)
    except Conflict:
        request._outdated = True
        raise
    if written is None:
        request._has_ended()
        return
    request._found(written)
    if not write.stopped:
        if request._refreshed is not None:
            request._keep_written_cookie(*request._refreshed)
        request._presented, request._saved = write.sid, True
        if write.moving is not None:
            request._left_a_grace = bool(write.moving)
            if not write.moving:
                request._as_found = written  # no old id is left that could share what follows


def resolved(request: RequestSession[Any], theirs: Record, *, emptied: bool) -> bytes:
    """What is to be written over theirs; the session shows it from here on."""
    session, settings = request.session, request._rules.settings
    assert request._record is not None
    if settings.on_conflict == "error" and theirs.data != request._record.data:
        raise Conflict(
            "another request has changed this session since it was read;"
            " this request's changes are not saved"
        )
    mine = session._document()
    if emptied or session._emptied:
        document = dict(mine)
    else:
        base, other = request._decode(request._record), request._decode(theirs)
        if settings.on_conflict == "overwrite":
            document = overwrite(base, mine, other, request._is_same)
        else:
            document = merge(base, mine, other, request._is_same, settings.resolvers)
    assert session._sid is not None
    session._adopt(session._sid, document)
    # Together: what comes of this request next counts from what they wrote.
    request._found(theirs)
    return request._to_write()


class _Write:
    """One write of a session, and the next ones if others are quicker.

    Attributes:
        sid: the id that the session has when it is done.
        presented: the id that it was found by.
        moving: None, or the grace of that one.
        stopped: the handler has ended the session meanwhile, so there is nothing to write.
    """

    __slots__ = ("_emptied", "_new_key", "_request", "moving", "presented", "sid", "stopped")

    sid: Sid
    presented: Sid
    moving: timedelta | None
    stopped: bool

    def __init__(
        self, request: RequestSession[Any], emptied: bool, moving: timedelta | None
    ) -> None:
        sid, presented = request.session._sid, request._presented
        assert sid is not None
        assert presented is not None
        self._request = request
        self._emptied = emptied
        self._new_key = None if moving is None else request._store.key(sid)
        self.sid = sid
        self.presented = presented
        self.moving = moving
        self.stopped = False

    def of(self, data: bytes) -> Replace:
        """Over what was seen last."""
        request = self._request
        assert request._record is not None
        grace_until = request._store.clock() + self.moving if self.moving else None
        values = dict(request.session._values)  # the handler may go on before they are written
        expires = request._expires()
        return Replace(request._record, data, expires, values, self._new_key, grace_until)

    def again(self, theirs: Record) -> Replace | None:
        """Over what somebody else has written; None if there is nothing to write any more."""
        request, session = self._request, self._request.session
        if self._new_key is not None and theirs == request._record:
            raise ConfigurationError("genid returned an id that is taken")
        if session._intent is Intent.DESTROY:
            self.stopped = True  # asked for meanwhile, and carried out next
            return None
        if self.moving and theirs.grace_until is not None:
            # Two requests regenerate at once: the first has done it for both.
            if session._sid == self.sid:
                session._sid = self.presented
            self._new_key, self.moving, self.sid = None, None, self.presented
        return self.of(resolved(request, theirs, emptied=self._emptied))
