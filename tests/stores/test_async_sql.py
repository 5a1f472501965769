"""`AsyncSQLSessionStore` keeps the rules: with every driver, in greenlets and in threads.

The combinations that are missing here are in `test_machine.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from tests.fixtures.services import Services
from tests.stores.databases import IN_MEMORY, Maker, Making, async_makers, corrupt_async, prepare
from websessions.sid import Key
from websessions.sql import AsyncSQLSessionStore
from websessions.testing import AnyStore, AsyncStoreSuite

OWN = async_makers("own", "app", *IN_MEMORY, "aiosqlite")


class _AsyncSQLStoreSuite(AsyncStoreSuite):
    @pytest.fixture
    async def make_store(self, maker: Maker, services: Services) -> AsyncIterator[Making]:
        making = Making(maker, services)
        yield making
        await making.aclose()

    async def prepare(self, store: AnyStore) -> None:
        await prepare(store)

    async def corrupt(self, store: AsyncSQLSessionStore, key: Key) -> None:
        await corrupt_async(store, key)


@pytest.mark.parametrize("maker", async_makers("generated", "url", "aiosqlite memory"), ids=str)
class TestAsyncGeneratedTable(_AsyncSQLStoreSuite):
    """With everything that a table can have, on the store's own engine."""


@pytest.mark.parametrize(
    "maker",
    async_makers("binary", "url", *IN_MEMORY, "sqlite", "aiosqlite", "psycopg", "pymysql"),
    ids=str,
)
class TestAsyncBinaryTable(_AsyncSQLStoreSuite):
    """An app's table and codec, both binary."""

    graces = False


@pytest.mark.parametrize("maker", [maker for maker in OWN if not maker.is_mysql], ids=str)
class TestAsyncOwnTable(_AsyncSQLStoreSuite):
    """An app's engine and table, with the required columns alone: the data guards writes."""

    versions = False
    graces = False


@pytest.mark.parametrize("maker", [maker for maker in OWN if maker.is_mysql], ids=str)
class TestAsyncOwnTableInMySQL(_AsyncSQLStoreSuite):
    """The same, where its plain DATETIME ends at seconds."""

    versions = False
    graces = False
    resolution = timedelta(seconds=1)
