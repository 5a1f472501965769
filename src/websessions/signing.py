"""The value of the cookie: a session id and the signature that it travels with.

The signature makes a forged or mistyped cookie cost no database statement; the session's safety
does not rest on it but on the random bits of the id. `FORMATS` has one class a format, so that
nothing else knows how one looks.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Mapping, Sequence
from typing import ClassVar, Final, Literal, Protocol, TypeAlias
from urllib.parse import quote, unquote

from .sid import EXPRESS_IDS, OWN_IDS, Sid, SidForm

__all__ = ["FORMATS", "CookieFormat", "CookieValue", "ExpressValue", "SignedValue"]

_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_BegunHMAC: TypeAlias = tuple["hashlib._Hash", "hashlib._Hash"]

CookieFormat: TypeAlias = Literal["websessions", "express-session"]
"""The names of the formats."""


class CookieValue(Protocol):
    """Writes a session id as a cookie's value and reads it back."""

    ids: ClassVar[SidForm]
    """What the ids in it look like."""

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        """For the cookie of this name. The first secret signs, all verify."""

    def sign(self, sid: Sid) -> str:
        """The cookie's value, signed with the first secret."""
        ...

    def verify(self, value: str) -> Sid | None:
        """The session id, if any of the secrets signed it."""
        ...


def _begun_hmac(secret: bytes, message: bytes) -> _BegunHMAC:
    """The two hashes of RFC 2104, as far as they are the same for all messages that begin so.

    Each message goes on from copies of them: a third of the work, and none of it in Python.
    """
    if len(secret) > 64:
        secret = hashlib.sha256(secret).digest()
    block = secret.ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block) + message)
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))
    return inner, outer


def _signature(begun: _BegunHMAC, sid: str) -> bytes:
    """HMAC-SHA256 in base64, without its padding."""
    inner, outer = begun[0].copy(), begun[1].copy()
    inner.update(sid.encode())
    outer.update(inner.digest())
    return b2a_base64(outer.digest(), newline=False)[:43]


class SignedValue:
    """`<sid>.<base64url of HMAC-SHA256>`.

    The name of the cookie is signed with the id, so that a value can not be moved to another
    cookie that has the same secret.
    """

    ids: ClassVar = OWN_IDS

    _SHAPE = re.compile(r"[A-Za-z0-9_-]{22,128}\.[A-Za-z0-9_-]{43}", re.ASCII)

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        context = b"websessions:" + name.encode() + b":"
        self._secrets = [_begun_hmac(secret, context) for secret in secrets]

    def sign(self, sid: Sid) -> str:
        """The cookie's value, signed with the first secret."""
        signature = _signature(self._secrets[0], sid.value).translate(_URL_SAFE)
        return f"{sid.value}.{signature.decode()}"

    def verify(self, value: str) -> Sid | None:
        """The session id, if any of the secrets signed it."""
        if not self._SHAPE.fullmatch(value):
            return None
        sid, _, signature = value.rpartition(".")
        presented = signature.encode()
        for secret in self._secrets:
            if hmac.compare_digest(_signature(secret, sid).translate(_URL_SAFE), presented):
                return Sid(sid)
        return None


_LONGEST: Final = 3 * (len("s:.") + 4 * 255 + 43)
"""Characters of Express's value: an id of 255 characters and its signature, all percent-encoded."""


class ExpressValue:
    """express-session's `s:<sid>.<base64 of HMAC-SHA256>`, URL-encoded.

    Sources: express-session 1.19 (`setcookie`, `getcookie`), cookie-signature 1.0.7.
    """

    ids: ClassVar = EXPRESS_IDS

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        self._secrets = [_begun_hmac(secret, b"") for secret in secrets]

    def sign(self, sid: Sid) -> str:
        """The cookie's value, signed with the first secret."""
        signature = _signature(self._secrets[0], sid.value).decode()
        return quote(f"s:{sid.value}.{signature}", safe="!~*'()")  # encodeURIComponent

    def verify(self, value: str) -> Sid | None:
        """The session id, if any of the secrets signed it."""
        if len(value) > _LONGEST:
            return None
        if "%" in value:
            try:
                value = unquote(value, errors="strict")
            except UnicodeDecodeError:
                return None
        if not value.startswith("s:"):
            return None
        sid, _, signature = value[2:].rpartition(".")
        if not signature.isascii() or not self.ids.pattern.fullmatch(sid):
            return None
        presented = signature.encode()
        for secret in self._secrets:
            if hmac.compare_digest(_signature(secret, sid), presented):
                return Sid(sid)
        return None


FORMATS: Final[Mapping[CookieFormat, type[CookieValue]]] = {
    "websessions": SignedValue,
    "express-session": ExpressValue,
}
"""How a cookie of each format is written and read."""
