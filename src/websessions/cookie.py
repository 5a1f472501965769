"""The cookie: from the request's header to a session id, and from there to `Set-Cookie`.

A value is the session id and its signature, `<sid>.<base64url of HMAC-SHA256>`. The signature
makes a forged or mistyped cookie cost no database statement; the session's safety does not rest
on it but on the 256 random bits of the id.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from binascii import b2a_base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TypeAlias

from .settings import CookieSettings
from .sid import Sid

__all__ = ["SessionCookies", "SignedValue"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_BegunHMAC: TypeAlias = tuple["hashlib._Hash", "hashlib._Hash"]


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


class SignedValue:
    """Writes a session id as a cookie value and reads it back.

    The name of the cookie is signed with the id, so that a value can not be moved to another
    cookie that has the same secret.
    """

    _SHAPE = re.compile(r"[A-Za-z0-9_-]{22,128}\.[A-Za-z0-9_-]{43}", re.ASCII)

    def __init__(self, name: str, secrets: Sequence[bytes]) -> None:
        context = b"websessions:" + name.encode() + b":"
        self._secrets = [_begun_hmac(secret, context) for secret in secrets]

    def _signature(self, secret: _BegunHMAC, sid: str) -> bytes:
        inner, outer = secret[0].copy(), secret[1].copy()
        inner.update(sid.encode())
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False).translate(_URL_SAFE)[:43]

    def sign(self, sid: Sid) -> str:
        """The cookie's value, signed with the first secret."""
        return f"{sid.value}.{self._signature(self._secrets[0], sid.value).decode()}"

    def verify(self, value: str) -> Sid | None:
        """The session id, if any of the secrets signed it."""
        if not self._SHAPE.fullmatch(value):
            return None
        sid, _, signature = value.rpartition(".")
        presented = signature.encode()
        for secret in self._secrets:
            if hmac.compare_digest(self._signature(secret, sid), presented):
                return Sid(sid)
        return None


class SessionCookies:
    """Reads and writes the session cookie of one middleware."""

    def __init__(self, settings: CookieSettings, secrets: Sequence[bytes]) -> None:
        self._settings = settings
        self._value = SignedValue(settings.name, secrets)
        attributes = []
        if settings.domain is not None:
            attributes.append(f"Domain={settings.domain}")
        attributes.append(f"Path={settings.path}")
        self._scope = "; ".join(attributes)
        flags = []
        if settings.httponly:
            flags.append("HttpOnly")
        if settings.samesite is not None:
            flags.append(f"SameSite={settings.samesite.capitalize()}")
        if settings.partitioned:
            flags.append("Partitioned")
        if settings.priority is not None:
            flags.append(f"Priority={settings.priority.capitalize()}")
        self._flags = "".join(f"; {flag}" for flag in flags)

    def read(self, header: str) -> Sid | None:
        """The session id out of a `Cookie` header.

        A browser may send several cookies of one name, since a sibling domain can set one too.
        The one that verifies counts. Where two different ones verify, none does: there is no
        telling which is this visitor's own, and picking wrong would plant a session (OWASP's
        session fixation).
        """
        name = self._settings.name
        found: Sid | None = None
        for pair in header.split(";"):
            if name not in pair:
                continue
            key, separator, value = pair.partition("=")
            # Only what RFC 6265 calls white space: Python strips more, and to a browser
            # "\xa0__Host-sid" is no name with a prefix.
            if not separator or key.strip(" \t") != name:
                continue
            sid = self._value.verify(value.strip(" \t").strip('"'))
            if sid is None:
                continue
            if found is not None and found != sid:
                return None
            found = sid
        return found

    def can_be_set(self, *, https: bool) -> bool:
        """Whether a browser would accept the cookie on this response."""
        return https or (self._settings.secure is not True and self._settings.samesite != "none")

    def set(self, sid: Sid, *, now: datetime, expires: datetime | None, https: bool) -> str:
        """The `Set-Cookie` value that gives a browser `sid`, until `expires` or it is closed."""
        return self._header(self._value.sign(sid), now=now, expires=expires, https=https)

    def clear(self, *, https: bool) -> str:
        """The `Set-Cookie` value that makes a browser forget the cookie.

        It repeats every attribute: a browser refuses to let go of a prefixed cookie otherwise.
        """
        return self._header("", now=_EPOCH, expires=_EPOCH, https=https)

    def _header(self, value: str, *, now: datetime, expires: datetime | None, https: bool) -> str:
        text = f"{self._settings.name}={value}; {self._scope}"
        if expires is not None:
            seconds = max(0, round((expires - now) / timedelta(seconds=1)))
            moment = format_datetime(expires.astimezone(UTC).replace(microsecond=0), usegmt=True)
            text += f"; Max-Age={seconds}; Expires={moment}"
        text += self._flags
        if self._settings.secure is True or (self._settings.secure == "auto" and https):
            text += "; Secure"
        return text
