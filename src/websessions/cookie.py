"""The cookie: from the request's header to a session id, and from there to `Set-Cookie`.

What its value looks like is `signing.py`'s business.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from .settings import CookieSettings
from .sid import Sid
from .signing import FORMATS, SignedValue

__all__ = ["SessionCookies", "SignedValue"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class SessionCookies:
    """Reads and writes the session cookie of one middleware."""

    def __init__(self, settings: CookieSettings, secrets: Sequence[bytes]) -> None:
        self._settings = settings
        self._value = FORMATS[settings.format](settings.name, secrets)
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

    def has_any(self, header: str) -> bool:
        """Whether a `Cookie` header has a cookie that verifies, be it one of several."""
        return any(self.read(pair) is not None for pair in header.split(";"))

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
