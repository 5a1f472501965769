"""What a session does to a response's caching headers (RFC 9110 12.5.5, RFC 9111 5.2.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import AnyStr, Generic

from .lifecycle import Finished

__all__ = ["Amender", "private", "vary_by_cookie"]


class Amender(Generic[AnyStr]):
    """Adds what a session needs to a response's header fields, in a server's kind of string.

    Args:
        vary, cache_control, set_cookie: the names as that server writes them.
        encode: turns the value of a field into its kind of string.
        decode: turns it back.
    """

    def __init__(
        self,
        vary: AnyStr,
        cache_control: AnyStr,
        set_cookie: AnyStr,
        *,
        encode: Callable[[str], AnyStr],
        decode: Callable[[AnyStr], str],
    ) -> None:
        self._vary: AnyStr = vary
        self._cache_control: AnyStr = cache_control
        self._set_cookie: AnyStr = set_cookie
        self._encode: Callable[[str], AnyStr] = encode
        self._decode: Callable[[AnyStr], str] = decode

    def amend(
        self, headers: Iterable[tuple[AnyStr, AnyStr]], finished: Finished
    ) -> list[tuple[AnyStr, AnyStr]]:
        """The fields with those of the session; `headers` is left as it is."""
        amended = list(headers)
        if finished.vary:
            amended = self._changed(amended, self._vary, vary_by_cookie)
        if finished.cookie is not None:
            amended = self._changed(amended, self._cache_control, private)
            amended.append((self._set_cookie, self._encode(finished.cookie)))
        return amended

    def _changed(
        self,
        headers: list[tuple[AnyStr, AnyStr]],
        name: AnyStr,
        change: Callable[[str | None], str],
    ) -> list[tuple[AnyStr, AnyStr]]:
        lower, before = name.lower(), None
        others = [header for header in headers if header[0].lower() != lower]
        if len(others) < len(headers):
            before = ", ".join(self._decode(of) for key, of in headers if key.lower() == lower)
        others.append((name, self._encode(change(before))))
        return others


def vary_by_cookie(vary: str | None) -> str:
    """A `Vary` field that names Cookie besides what it named before.

    >>> vary_by_cookie("Accept-Encoding")
    'Accept-Encoding, Cookie'
    """
    if not vary:
        return "Cookie"
    named = {name.strip().lower() for name in vary.split(",")}
    return vary if "cookie" in named or "*" in named else f"{vary}, Cookie"


def private(cache_control: str | None) -> str:
    """A `Cache-Control` field that keeps the response out of shared caches.

    A cache that stored a `Set-Cookie` would hand one visitor's session to the next.

    >>> private("public, max-age=60")
    'max-age=60, private'
    """
    if not cache_control:
        return "private"
    if '"' in cache_control:  # private="..." is about single fields
        return "private, no-store" if "no-store" in cache_control.lower() else "private"
    directives = [directive.strip() for directive in cache_control.split(",")]
    names = {directive.partition("=")[0].strip().lower() for directive in directives}
    if "no-store" in names or ("private" in names and not names & {"public", "s-maxage"}):
        return cache_control
    kept = [
        directive
        for directive in directives
        if directive.partition("=")[0].strip().lower() not in ("public", "s-maxage", "private")
    ]
    return ", ".join([*(directive for directive in kept if directive), "private"])
