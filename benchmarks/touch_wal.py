"""What a touch writes on PostgreSQL: WAL bytes, and the share of updates that are HOT.

10,000 sessions are touched once each, in random order, with the pages' first change since a
checkpoint behind them (that one writes the whole page, whoever makes it), and with autovacuum off,
whose WAL would be counted too. The rival is the same store on a table as most
have it: an index on `expires`, no coarse `sweep_after`, PostgreSQL's default fillfactor.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from argparse import Namespace
from datetime import UTC, datetime, timedelta

from sqlalchemy import BigInteger, Column, DateTime, LargeBinary, MetaData, Table, Text

from websessions.sql import AsyncSQLSessionStore
from websessions.store import Insert, Touch

from .harness.data import session_data
from .harness.machine import CORES
from .harness.results import (
    Contender,
    Figure,
    Ratio,
    Results,
    alternating,
    arguments,
    chosen,
    number,
)
from .harness.services import Postgres, postgres, with_driver

OURS, INDEXED = "websessions, its own table", "websessions, index on expires"
CONTENDERS = [
    Contender(OURS, "ours"),
    Contender(INDEXED, "rival", "the table that most session stores make"),
]
CASE = "touch"
FIGURES = [
    *(Figure("wal_bytes", OURS, CASE, load, at_most=330) for load in (1, 64)),
    *(Figure("hot_share", OURS, CASE, load, at_least=100) for load in (1, 64)),
]
RATIOS = [
    Ratio(metric, OURS, INDEXED, CASE, load)
    for load in (1, 64)
    for metric in ("wal_bytes", "database_us")
]


def indexed_table() -> Table:
    return Table(
        "sessions",
        MetaData(),
        Column("sid", LargeBinary, primary_key=True),
        Column("data", Text, nullable=False),
        Column("expires", DateTime(timezone=True), nullable=False, index=True),
        Column("version", BigInteger, nullable=False),
    )


async def _hot_updates(
    server: Postgres, url: str, store: AsyncSQLSessionStore, expected: int
) -> int:
    """How many updates were HOT, once all that are expected have been counted."""
    give_up = time.monotonic() + 90
    while True:
        # A connection reports its counts when it is used again after a while.
        await asyncio.gather(*(store.get(f"{n:043}") for n in range(64)))
        [(updates, hot)] = server.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'sessions'",
            url=url,
        )
        if updates == expected:
            return int(hot)
        if time.monotonic() > give_up:
            raise RuntimeError(f"PostgreSQL counted {updates} updates, not {expected}")
        await asyncio.sleep(0.5)


def _position(server: Postgres) -> int:
    [(position,)] = server.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")
    return int(position)


async def measure(
    name: str, repeat: int, server: Postgres, options: Namespace, results: Results
) -> None:
    sessions = 2_000 if options.smoke else 10_000
    url = server.database()
    store = AsyncSQLSessionStore(
        with_driver(url, "asyncpg"),
        check_expiration_interval=None,
        touch_after=0,
        **({} if name == OURS else {"table": indexed_table()}),
    )
    keys = [hashlib.sha256(str(number).encode()).digest() for number in range(sessions)]
    try:
        await store.sync()
        data, values = store.codec.encode(session_data()), session_data()
        expires = datetime.now(UTC) + timedelta(hours=1)
        await store.perform([Insert(key, data, expires, values) for key in keys])  # type: ignore[arg-type]
        server.execute("VACUUM ANALYZE sessions", "CHECKPOINT", url=url)
        random.Random(repeat).shuffle(keys)
        later = expires

        async def touch_all(in_flight: int) -> int:
            nonlocal later
            later += timedelta(minutes=1)

            async def work(worker: int) -> int:
                return sum(
                    [
                        (await store.perform([Touch(key, later)])) == [True]  # type: ignore[arg-type]
                        for key in keys[worker::in_flight]
                    ]
                )

            return sum(await asyncio.gather(*map(work, range(in_flight))))

        total, hot_before = await touch_all(64), 0
        for in_flight in (0, *options.loads):
            position, cpu = _position(server), server.cpu_seconds()
            touched = await touch_all(in_flight) if in_flight else 0
            wal, cpu = _position(server) - position, server.cpu_seconds() - cpu
            total += touched
            hot = await _hot_updates(server, url, store, total)
            hot_now, hot_before = hot - hot_before, hot
            if not in_flight:  # only to have the counts of the first round settled
                continue
            if touched != sessions:
                raise RuntimeError(f"{sessions - touched} of {sessions} touches did nothing")
            results.add(
                name,
                CASE,
                repeat,
                in_flight,
                wal_bytes=wal / touched,
                hot_share=100 * hot_now / touched,
                database_us=cpu / touched * 1e6,
            )
        [(size,)] = server.execute("SELECT pg_total_relation_size('sessions')", url=url)
        print(f"      {name}: table and indexes {number(size / 2**20)} MiB afterwards")
    finally:
        await store.close()


async def main() -> None:
    options = arguments(loads=(1, 64), repeats=5)
    contenders = chosen(CONTENDERS, options)
    results = Results(
        "touch_wal", "A touch", __doc__ or "", contenders, RATIOS, vars(options), FIGURES
    )
    print(results.title)
    with postgres() as server:
        server.execute(
            "ALTER SYSTEM SET autovacuum = off",
            "ALTER SYSTEM SET checkpoint_timeout = '1h'",
            "SELECT pg_reload_conf()",
        )
        CORES.pin_here(CORES.app)
        results.services = {"PostgreSQL": server.describe()}
        for repeat, contender in alternating(contenders, options.repeats):
            await measure(contender.name, repeat, server, options, results)
        results.save()


if __name__ == "__main__":
    asyncio.run(main())
