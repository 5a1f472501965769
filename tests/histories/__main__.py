"""Long histories: `scripts/histories [KIND-DRIVER ...]`, such as `asgi-asyncpg wsgi-sqlite`.

For each site, by default for all of `test_histories.py`: 64 clients that make 20,000 requests to
one session, the same to one and to 8 others, 1,000 slow writers whose visitors log out, and 1,000
new ids under 8 parallel requests each.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.fixtures.services import Services
from tests.histories.history import History, log_out_under_writers, regenerate_under_writers
from tests.histories.site import served
from tests.histories.test_histories import SITES
from tests.servers.visitor import assert_no_errors

CLIENTS = 64
REQUESTS = 20_000
WRITERS = 1_000
NEW_IDS = 1_000
VISITORS = 20


def main(wanted: list[str]) -> None:
    sites = {f"{kind}-{driver}": (kind, driver) for kind, driver in SITES}
    if unknown := set(wanted) - set(sites):
        raise SystemExit(f"no site is called {', '.join(unknown)}; there are {', '.join(sites)}")
    with tempfile.TemporaryDirectory() as folder, closing(Services(Path(folder))) as services:
        for name in wanted or sites:
            kind, driver = sites[name]
            with served(kind, services.url(driver)) as server:
                failures = 0
                for others, where in ((0, "on one session"), (8, "on one and 8 others")):
                    history = History(server.port, CLIENTS, -(-REQUESTS // CLIENTS), others)
                    _tell(f"{name}: {REQUESTS} requests {where}", history.make())
                    _say(f"{name}: {len(history.failures)} not acknowledged at the first try")
                    failures += len(history.failures)
                _tell(
                    f"{name}: {WRITERS} slow writers logged out",
                    log_out_under_writers(server.port, WRITERS, at_once=20),
                )
                _tell(
                    f"{name}: {NEW_IDS} new ids under 8 requests each",
                    regenerate_under_writers(server.port, VISITORS, NEW_IDS // VISITORS),
                )
                if not failures:
                    assert_no_errors(server)
    _say("nothing was lost, and nothing came back")


def _tell(what: str, history: Coroutine[Any, Any, None]) -> None:
    began = time.monotonic()
    asyncio.run(history)
    _say(f"{what}: {time.monotonic() - began:.0f} s")


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
