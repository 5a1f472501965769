"""Responses that depend on a session must not be served to someone else."""

from __future__ import annotations

import pytest

from websessions.headers import private, vary_by_cookie


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "Cookie"),
        ("", "Cookie"),
        ("Accept-Encoding", "Accept-Encoding, Cookie"),
        ("Accept-Encoding,Origin", "Accept-Encoding,Origin, Cookie"),
        ("cookie", "cookie"),
        ("Accept, COOKIE", "Accept, COOKIE"),
        ("Set-Cookie-Policy", "Set-Cookie-Policy, Cookie"),
        ("*", "*"),
        ("Accept, *", "Accept, *"),
    ],
)
def test_vary_names_the_cookie_once_and_keeps_the_rest(before: str | None, after: str) -> None:
    assert vary_by_cookie(before) == after
    assert vary_by_cookie(after) == after


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, "private"),
        ("", "private"),
        ("max-age=60", "max-age=60, private"),
        ("public", "private"),
        ("Public, max-age=60", "max-age=60, private"),
        ("s-maxage=600, max-age=60", "max-age=60, private"),
        ("no-cache", "no-cache, private"),
        ("private", "private"),
        ("private, max-age=60", "private, max-age=60"),
        ("Private", "Private"),
        ("public, private, s-maxage=600", "private"),
        ("no-store", "no-store"),
        ("no-store, max-age=0", "no-store, max-age=0"),
        ("public, no-store", "public, no-store"),
        # Fields in quotes may hold commas; the one word is what counts.
        ('private="X-Name, X-Age", max-age=1', "private"),
        ('no-store, no-cache="Set-Cookie"', "private, no-store"),
        ("max-age=60, , must-revalidate", "max-age=60, must-revalidate, private"),
    ],
)
def test_shared_caches_keep_out(before: str | None, after: str) -> None:
    """`private="field"` lets a shared cache store all but that field, so it is not enough."""
    assert private(before) == after
    assert private(after) == after
