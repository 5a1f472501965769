"""For those who write stores: the suite that says whether one keeps the rules, and a clock.

    from websessions.testing import StoreSuite

    class TestMyStore(StoreSuite):
        @pytest.fixture
        def make_store(self, tmp_path):
            def make(clock, **options):
                return MyStore(tmp_path / "sessions", clock=clock, **options)

            return make

That is all; pytest runs some eighty tests. `AsyncStoreSuite` is the same suite for an async store
and runs under anyio's pytest plugin. Needs pytest; nothing else in this package imports it.
"""

import pytest

# Before the modules are imported: their asserts are what a store author reads when one fails.
pytest.register_assert_rewrite(f"{__name__}.store_rules", f"{__name__}.suite")

from .any_store import AnyStore  # noqa: E402
from .bench import Bench, Capabilities  # noqa: E402
from .clock import FakeClock  # noqa: E402
from .suite import AsyncStoreSuite, StoreSuite  # noqa: E402

__all__ = [
    "AnyStore",
    "AsyncStoreSuite",
    "Bench",
    "Capabilities",
    "FakeClock",
    "StoreSuite",
]
