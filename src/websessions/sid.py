"""The session id that the browser holds, and the key that the table holds instead of it.

They are two types on purpose: a `Sid` logs someone in and so hides its value, a `Key` only finds
a row. A key is the SHA-256 of the sid, so who reads the table has nothing to put in a cookie
(promise 5). No salt is needed: 256 random bits can not be guessed from their digest.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from typing import NewType

from .errors import ConfigurationError

__all__ = ["Key", "Sid", "generated_sid"]

Key = NewType("Key", bytes)
"""What the store files a session under; see `Sid.digest`."""

# 22 characters of base64url are 132 bits: ASVS 5.0 asks for 128 (7.2.3).
_PRESENTABLE = re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII)


class Sid:
    """A session id: a secret. `repr()` and `str()` mask it; `value` is the secret itself.

    >>> Sid("correct-horse-battery-staple")
    Sid(****)
    """

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    @classmethod
    def new(cls) -> Sid:
        """A fresh id of 256 bits from the system's random source, as 43 base64url characters."""
        return cls(secrets.token_urlsafe(32))

    def digest(self) -> Key:
        """The key under which the session is stored."""
        return Key(hashlib.sha256(self.value.encode("utf-8", "surrogatepass")).digest())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sid):
            return NotImplemented
        return hmac.compare_digest(
            self.value.encode("utf-8", "surrogatepass"),
            other.value.encode("utf-8", "surrogatepass"),
        )

    def __hash__(self) -> int:
        return hash(self.value)

    def __repr__(self) -> str:
        return "Sid(****)"

    __str__ = __repr__


def generated_sid(genid: Callable[[], str] | None) -> Sid:
    """A new id, from the app's own `genid` where it gave one.

    Raises:
        ConfigurationError: `genid` returned what can not be an id: it has to be a string of 22 to
            128 characters out of `A-Z a-z 0-9 - _`.
    """
    if genid is None:
        return Sid.new()
    value = genid()
    if not isinstance(value, str) or not _PRESENTABLE.fullmatch(value):
        raise ConfigurationError(
            "genid has to return a str of 22 to 128 characters out of A-Z a-z 0-9 - _"
            " (secrets.token_urlsafe(32) does);"
            f" it returned {type(value).__name__}"
            + (f" of length {len(value)}" if isinstance(value, str) else "")
        )
    return Sid(value)
