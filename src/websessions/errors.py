"""Every error this package raises, in one tree.

Catch `WebSessionsError` for all of them, `StoreError` for what the place where sessions live
did wrong, `SessionError` for what one session did wrong. No message holds a secret: neither a
session id nor a value out of a session.
"""

from __future__ import annotations

__all__ = [
    "ConfigurationError",
    "Conflict",
    "CorruptRecord",
    "SessionEncodingError",
    "SessionError",
    "SessionLocked",
    "SessionNotLoaded",
    "SessionTooLarge",
    "StoreError",
    "StoreTimeout",
    "StoreUnavailable",
    "ValueRefused",
    "WebSessionsError",
]


class WebSessionsError(Exception):
    """The root of the tree."""


class ConfigurationError(WebSessionsError):
    """An option that can not work. Raised where the object is made.

    Only a function of the app's, `genid` or `extend_default_fields`, can not be tried there; what
    it returns wrongly is said when it is called. And whose a table is, `sync()` sees.
    """


class StoreError(WebSessionsError):
    """The database failed; `__cause__` is the driver's own error, where there is one."""


class StoreUnavailable(StoreError):
    """The database can not be reached: refused, restarting, or lost in the middle of a call.

    Never the same as "no such session": answer 503, and the visitor is still logged in when the
    database is back.
    """


class StoreTimeout(StoreUnavailable):
    """The database, or a free connection to it, did not answer in time."""


class ValueRefused(StoreError):
    """A column can not take what a session brings to it: too long, or not of its kind.

    Such as a `user_id`, or another key that `mirror_fields` names. Nothing has been written.
    """


class SessionError(WebSessionsError):
    """One session can not be read or written as it is; others are not affected."""


class SessionEncodingError(SessionError):
    """The session holds a value that can not be stored and read back unchanged.

    Attributes:
        path: where the value is, as Python would write it: `cart.items[3].price`.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"session value at {path or 'the top level'} can not be stored: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[SessionEncodingError], tuple[str, str]]:
        return type(self), (self.path, self.reason)


class SessionTooLarge(SessionError):
    """The encoded session is over the store's `max_size`.

    Attributes:
        size: bytes it would take.
        limit: bytes it may take.
        largest: the largest top-level keys with their encoded sizes in bytes, largest first.
    """

    def __init__(self, size: int, limit: int, largest: tuple[tuple[str, int], ...] = ()) -> None:
        named = ", ".join(f"{key!r} ({bytes_} bytes)" for key, bytes_ in largest)
        super().__init__(
            f"the session takes {size} bytes, the limit is {limit}"
            + (f"; its largest keys are {named}" if named else "")
            + "; keep the bulk in a table of your own and its id in the session,"
            " or raise the store's max_size"
        )
        self.size = size
        self.limit = limit
        self.largest = largest

    def __reduce__(
        self,
    ) -> tuple[type[SessionTooLarge], tuple[int, int, tuple[tuple[str, int], ...]]]:
        return type(self), (self.size, self.limit, self.largest)


class CorruptRecord(SessionError):
    """A stored row can not be decoded. The row is left as it is, to be looked at.

    Attributes:
        key: the row's key as hexadecimal digits: it finds the row, it is no way to log in. Where
            the table holds the session ids themselves, as Express's do, it is their SHA-256.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"the session row with key {key} can not be decoded: {reason}")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[CorruptRecord], tuple[str, str]]:
        return type(self), (self.key, self.reason)


class Conflict(SessionError):
    """Others changed this session at the same time, and this change was not saved.

    With `on_conflict="error"` at once; else after the deadline, or because a resolver failed, or
    because two requests made the session two different users'. What is stored is as the others
    left it. `reload()` reads that, so that the change can be made again.
    """


class SessionLocked(SessionError):
    """Another request held the session's lock for longer than `session.lock()` was to wait.

    Nothing has happened to the session, and what this request has changed in it is still there.
    """


class SessionNotLoaded(SessionError):
    """The session was used before it was loaded: `await request.session.load()` first."""
