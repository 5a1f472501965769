"""The suite of `suite.py` over every adapter and two stores."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from tests.adapters.apps import ADAPTERS
from tests.adapters.kit import Adapter, Site
from tests.adapters.suite import AdapterSuite, OpenSite
from tests.fixtures.services import Services
from websessions import AsyncMemoryStore, AsyncSessionStore, MemoryStore, SessionStore
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore
from websessions.testing import FakeClock


@pytest.fixture(params=ADAPTERS, ids=repr)
def adapter(request: pytest.FixtureRequest) -> Adapter:
    chosen: Adapter = request.param
    return chosen


@pytest.fixture(params=["memory", "sqlite"])
async def open_site(
    request: pytest.FixtureRequest, adapter: Adapter, services: Services
) -> AsyncIterator[OpenSite]:
    async with AsyncExitStack() as stack:

        async def open_site(*, store: dict[str, Any] | None = None, **options: Any) -> Site:
            clock = FakeClock()
            rules = {"clock": clock, "check_expiration_interval": None, **(store or {})}
            opened: SessionStore | AsyncSessionStore
            if adapter.asynchronous:
                if request.param == "memory":
                    opened = AsyncMemoryStore(**rules)
                else:
                    opened = AsyncSQLSessionStore(services.sqlite_url(), **rules)
                await opened.sync()
                await stack.enter_async_context(opened)
            else:
                if request.param == "memory":
                    opened = MemoryStore(**rules)
                else:
                    opened = SQLSessionStore(services.sqlite_url(), **rules)
                opened.sync()
                stack.enter_context(opened)
            return Site(adapter, opened, clock, options)

        yield open_site


class TestAdapters(AdapterSuite):
    pass
