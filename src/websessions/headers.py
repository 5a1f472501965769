"""What a session does to a response's caching headers (RFC 9110 12.5.5, RFC 9111 5.2.2)."""

from __future__ import annotations

__all__ = ["private", "vary_by_cookie"]


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
    if not cache_control or '"' in cache_control:  # private="..." is about single fields
        return "private"
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
