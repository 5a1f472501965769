"""The store alone on PostgreSQL: one load, one guarded replace, at so many calls in flight.

A session of 500 bytes, 512 rows, everything in one process on asyncio's own loop, PostgreSQL on
another core. The rivals do the same work by hand, guard included, with prepared statements and
their driver's own pool of 10 connections. App CPU is this process's, database CPU the server's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from argparse import Namespace
from collections.abc import Callable

from .harness.by_hand import AsyncpgByHand, CoreByHand, PsycopgByHand, Store
from .harness.calls import drive, own_share
from .harness.data import session_data
from .harness.machine import CORES
from .harness.ours import WebSessions
from .harness.results import Contender, Ratio, Results, alternating, arguments, chosen
from .harness.services import Postgres, postgres

ASYNCPG, PSYCOPG = "websessions, asyncpg", "websessions, psycopg"
BY_HAND, BY_HAND_PSYCOPG = "by hand, asyncpg", "by hand, psycopg"
CORE = "by hand, SQLAlchemy Core"
LOAD, REPLACE = "load", "guarded replace"

MAKERS: dict[str, Callable[[], Store]] = {
    ASYNCPG: lambda: WebSessions("asyncpg"),
    BY_HAND: AsyncpgByHand,
    PSYCOPG: lambda: WebSessions("psycopg"),
    BY_HAND_PSYCOPG: PsycopgByHand,
    CORE: CoreByHand,
}
CONTENDERS = [
    Contender(ASYNCPG, "ours"),
    Contender(BY_HAND, "rival", "asyncpg.create_pool, fetchrow", ASYNCPG),
    Contender(PSYCOPG, "ours"),
    Contender(BY_HAND_PSYCOPG, "rival", "psycopg_pool.AsyncConnectionPool", PSYCOPG),
    Contender(CORE, "rival", "asyncpg, AUTOCOMMIT, statements built once", ASYNCPG),
]

_GOALS = {LOAD: {1: 1.4, 16: 0.5, 64: 0.25}, REPLACE: {1: 1.5, 16: 0.4, 64: 0.25}}
KEYS = [hashlib.sha256(str(number).encode()).digest() for number in range(512)]
DATA = json.dumps(session_data(), separators=(",", ":"))


def _ratios() -> list[Ratio]:
    found = []
    for ours, rival in ((ASYNCPG, BY_HAND), (PSYCOPG, BY_HAND_PSYCOPG), (ASYNCPG, CORE)):
        for case, goals in _GOALS.items():
            for load, most in goals.items():
                goal = None if rival == CORE else most
                found.append(Ratio("app_us", ours, rival, case, load, at_most=goal))
                found.append(Ratio("database_us", ours, rival, case, load))
            goal = None if rival == CORE else 0.5
            found.append(Ratio("p99_ms", ours, rival, case, 64, at_most=goal))
    return found


async def check(store: Store) -> None:
    """It counts to three, and a write over something newer is refused."""
    key = b"k" * 32
    await store.insert(key, '{"n":0}')
    first = seen = await store.load(key)
    for n in (1, 2, 3):
        data = json.dumps({"n": n})
        seen = await store.replace(key, seen, data)
        if seen is None or store.data(await store.load(key)) != data:
            raise RuntimeError(f"{type(store).__name__} does not count to {n}")
    if await store.replace(key, first, '{"n":9}') is not None:
        raise RuntimeError(f"{type(store).__name__} has no guard")
    if await store.load(b"-" * 32) is not None:
        raise RuntimeError(f"{type(store).__name__} loads what is not there")


async def measure(
    name: str, repeat: int, server: Postgres, options: Namespace, results: Results
) -> None:
    store = await MAKERS[name]().open(server.database())
    try:
        await check(store)
        for key in KEYS:
            await store.insert(key, DATA)
        seen = {key: await store.load(key) for key in KEYS}
        for in_flight in options.loads:

            async def load(worker: int, number: int) -> None:
                if await store.load(KEYS[(worker * 7 + number) % len(KEYS)]) is None:
                    raise RuntimeError("a session is gone")

            async def replace(worker: int, number: int, in_flight: int = in_flight) -> None:
                key = own_share(KEYS, worker, number, in_flight)
                seen[key] = await store.replace(key, seen[key], DATA)
                if seen[key] is None:
                    raise RuntimeError("a write was refused that nobody contested")

            for case, call in ((LOAD, load), (REPLACE, replace)):
                await drive(call, in_flight=in_flight, seconds=options.seconds / 4)
                values = await drive(
                    call, in_flight=in_flight, seconds=options.seconds, server=server
                )
                results.add(name, case, repeat, in_flight, **values)
    finally:
        await store.close()


async def main() -> None:
    options = arguments(loads=(1, 16, 64), seconds=3, repeats=5)
    contenders = chosen(CONTENDERS, options)
    results = Results(
        "store_load_replace", "The store alone", __doc__ or "", contenders, _ratios(), vars(options)
    )
    print(results.title)
    with postgres() as server:
        CORES.pin_here(CORES.app)
        results.services = {"PostgreSQL": server.describe()}
        for repeat, contender in alternating(contenders, options.repeats):
            await measure(contender.name, repeat, server, options, results)
        results.save()


if __name__ == "__main__":
    asyncio.run(main())
