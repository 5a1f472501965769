"""The suite, for sync and for async stores. Its rules are in `store_rules`, each written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from .any_store import finished
from .bench import Bench, Capabilities, MakeStore
from .store_rules import CallRules, DirectRules, LockRules, RaceRules, SweepRules

__all__ = ["AsyncStoreSuite", "StoreSuite"]


class _Suite(CallRules, LockRules, DirectRules, SweepRules, RaceRules, Capabilities):
    """All rules. A suite adds only how a test that awaits is run."""


class StoreSuite(_Suite):
    """The rules for a `SessionStore`. Subclass it, and give it a fixture `make_store`.

    The fixture returns a function `make(clock, **options)` that makes a store on the clock with
    the options (those of `websessions.direct.StoreOptions`). A test calls it once or more; it may
    return stores over the same records, since each is cleared when it has been made.

    Override what is in `Capabilities` where your store differs.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        # In the order in which they are written, which is how pytest then runs them.
        for owner in reversed(cls.__mro__):
            for name in list(vars(owner)):
                test = getattr(cls, name)
                if name.startswith("test_") and inspect.iscoroutinefunction(test):
                    setattr(cls, name, _at_once(test))

    @pytest.fixture
    def bench(self, make_store: MakeStore) -> Iterator[Bench]:
        bench = Bench(make_store, self)
        yield bench
        finished(bench.close())


class AsyncStoreSuite(_Suite):
    """The rules for an `AsyncSessionStore`; otherwise the same as `StoreSuite`.

    Runs under anyio's pytest plugin; `make_store` may be an async fixture.
    """

    pytestmark = pytest.mark.anyio

    @pytest.fixture
    def anyio_backend(self) -> str:
        return "asyncio"

    @pytest.fixture
    async def bench(self, make_store: MakeStore) -> AsyncIterator[Bench]:
        bench = Bench(make_store, self)
        yield bench
        await bench.close()


def _at_once(test: Callable[..., Any]) -> Callable[..., None]:
    """The test as a plain function, over a sync store."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        finished(test(*args, **fixtures))

    return run
