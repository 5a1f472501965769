"""The ways to a session: a driver, and the kind of app that uses it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from tests.adapters.apps import BareASGI, BareWSGI
from tests.adapters.kit import Adapter, Site
from websessions import AsyncSessionStore, SessionStore
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.testing import FakeClock

__all__ = ["WAYS", "Way", "open_site"]


@dataclass(frozen=True)
class Way:
    """A driver under a sync (WSGI) or an async (ASGI) app."""

    driver: str
    asynchronous: bool

    def __str__(self) -> str:
        return f"{self.driver}-{'asgi' if self.asynchronous else 'wsgi'}"

    @property
    def adapter(self) -> Adapter:
        return BareASGI() if self.asynchronous else BareWSGI()


WAYS = {
    str(way): way
    for way in (
        Way("sqlite", asynchronous=False),
        Way("sqlite", asynchronous=True),
        Way("psycopg", asynchronous=False),
        Way("psycopg", asynchronous=True),
        Way("asyncpg", asynchronous=True),
        Way("pymysql", asynchronous=False),
        Way("asyncmy", asynchronous=True),
    )
}


async def open_site(
    way: Way, db: Any, *, store: dict[str, Any] | None = None, **options: Any
) -> Site:
    """A site whose sessions are in a table of its own. Whoever opens it closes it."""
    clock = FakeClock()
    rules: dict[str, Any] = {
        "clock": clock,
        "check_expiration_interval": None,
        "table_name": f"promise_{secrets.token_hex(6)}",
        **(store or {}),
    }
    opened: SessionStore | AsyncSessionStore
    if way.asynchronous:
        opened = AsyncSQLSessionStore(db, **rules)
        await opened.sync()
    else:
        opened = SQLSessionStore(db, **rules)
        opened.sync()
    return Site(way.adapter, opened, clock, options)
