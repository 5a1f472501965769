"""The session id that the browser holds, and the key that the table holds instead of it.

They are two types on purpose: a `Sid` logs someone in and so hides its value, a `Key` only finds
a row. A key is the SHA-256 of the sid, so who reads the table has nothing to put in a cookie
(promise 5). No salt is needed: 256 random bits can not be guessed from their digest.

The tables of Express's stores hold the sid itself. Such a key hides itself like a sid.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NewType, TypeAlias

from .errors import ConfigurationError

__all__ = [
    "EXPRESS_IDS",
    "HASHED",
    "OWN_IDS",
    "PLAIN",
    "Key",
    "KeyRule",
    "Sid",
    "SidForm",
    "generated_sid",
    "plain_key",
    "shown",
]

Key = NewType("Key", bytes)
"""What the store files a session under; see `Sid.digest`."""


class _PlainKey(bytes):
    """A sid as a key: a secret, so its repr masks it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Key(****)"

    __str__ = __repr__


def plain_key(value: str) -> Key:
    """The key of a table whose keys are the session ids themselves."""
    return Key(_PlainKey(value.encode("utf-8", "surrogatepass")))


def shown(key: Key) -> str:
    """A key in hexadecimal digits, for messages: it finds the row, and is no way to log in.

    Of a key that is a session id it is the SHA-256.
    """
    return hashlib.sha256(key).hexdigest() if isinstance(key, _PlainKey) else key.hex()


@dataclass(frozen=True)
class SidForm:
    """What session ids look like.

    Attributes:
        pattern: what is accepted as one.
        described: the same in words, for a message.
        size: random bytes in a new one.
    """

    pattern: re.Pattern[str]
    described: str
    size: int

    @property
    def length(self) -> int:
        """How many characters a new one has."""
        return -(-self.size * 4 // 3)


# 22 characters of base64url are 132 bits: ASVS 5.0 asks for 128 (7.2.3).
OWN_IDS: Final = SidForm(
    re.compile(r"[A-Za-z0-9_-]{22,128}", re.ASCII),
    "22 to 128 characters out of A-Z a-z 0-9 - _",
    32,
)

# 24 bytes make 32 characters: what uid-safe makes for express-session, whose tables may have no
# room for more. An Express app's genid may return any string.
EXPRESS_IDS: Final = SidForm(
    re.compile("[^\x00-\x1f\x7f\ud800-\udfff]{1,255}"),
    "1 to 255 characters, none of them a control character",
    24,
)


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

    def plain(self) -> Key:
        """The key in a table that holds the ids themselves."""
        return plain_key(self.value)

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


KeyRule: TypeAlias = Callable[[Sid], Key]
"""What a table holds for a session id."""

HASHED: Final[KeyRule] = Sid.digest
PLAIN: Final[KeyRule] = Sid.plain


def generated_sid(genid: Callable[[], str] | None, form: SidForm = OWN_IDS) -> Sid:
    """A new id, from the app's own `genid` where it gave one.

    Raises:
        ConfigurationError: `genid` returned what can not be an id of this form.
    """
    if genid is None:
        return Sid(secrets.token_urlsafe(form.size))
    value = genid()
    if not isinstance(value, str) or not form.pattern.fullmatch(value):
        raise ConfigurationError(
            f"genid has to return a str of {form.described}"
            f" (secrets.token_urlsafe({form.size}) does);"
            f" it returned {type(value).__name__}"
            + (f" of length {len(value)}" if isinstance(value, str) else "")
        )
    return Sid(value)
