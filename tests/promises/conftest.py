"""Sites for the promises: `open_site("asyncpg-asgi", rolling=True)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any, Protocol

import pytest

from tests.adapters.kit import Site
from tests.fixtures.services import Services
from tests.promises import ways

__all__ = ["OpenSite"]


class OpenSite(Protocol):
    """Opens a site on a database, with the middleware's options, and with the store's as `store`.

    `db` is another way to that database than its URL: an engine, or by way of a tap.
    """

    async def __call__(
        self, way: str, db: Any = None, *, store: dict[str, Any] | None = None, **options: Any
    ) -> Site: ...


@pytest.fixture
async def open_site(services: Services) -> AsyncIterator[OpenSite]:
    async with AsyncExitStack() as stack:

        async def open_site(
            way: str, db: Any = None, *, store: dict[str, Any] | None = None, **options: Any
        ) -> Site:
            chosen = ways.WAYS[way]
            db = services.url(chosen.driver) if db is None else db
            site = await ways.open_site(chosen, db, store=store, **options)
            stack.push_async_callback(site.close)
            return site

        yield open_site
