"""`SQLSessionStore` keeps the rules: on every database, engine and kind of table.

The combinations that are missing here are in `test_machine.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from tests.fixtures.services import Services
from tests.stores.databases import Maker, Making, corrupt, prepare, sync_makers
from websessions.sid import Key
from websessions.sql import SQLSessionStore
from websessions.testing import AnyStore, StoreSuite

OWN = sync_makers("own", "app", "sqlite memory")


class _SQLStoreSuite(StoreSuite):
    @pytest.fixture
    def make_store(self, maker: Maker, services: Services) -> Iterator[Making]:
        making = Making(maker, services)
        yield making
        making.close()

    async def prepare(self, store: AnyStore) -> None:
        await prepare(store)

    def corrupt(self, store: SQLSessionStore, key: Key) -> None:
        corrupt(store, key)


@pytest.mark.parametrize("maker", sync_makers("generated", "url"), ids=str)
class TestGeneratedTable(_SQLStoreSuite):
    """With everything that a table can have, on the store's own engine."""


@pytest.mark.parametrize("maker", sync_makers("binary", "url", "sqlite", "sqlite memory"), ids=str)
class TestBinaryTable(_SQLStoreSuite):
    """An app's table and codec, both binary."""

    graces = False


@pytest.mark.parametrize("maker", [maker for maker in OWN if not maker.is_mysql], ids=str)
class TestOwnTable(_SQLStoreSuite):
    """An app's engine and table, with the required columns alone: the data guards writes."""

    versions = False
    graces = False


@pytest.mark.parametrize("maker", [maker for maker in OWN if maker.is_mysql], ids=str)
class TestOwnTableInMySQL(_SQLStoreSuite):
    """The same, where its plain DATETIME ends at seconds."""

    versions = False
    graces = False
    resolution = timedelta(seconds=1)
