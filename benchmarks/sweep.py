"""A million expired rows swept on PostgreSQL, beside reads and touches: what do those notice?

Calls arrive at a fixed rate (1,000 a second, one in ten a touch) on 2,000 live sessions, whether
or not the ones before have been answered. Each is timed from the moment at which it was due, to
within the millisecond of asyncio's clock. First nothing else happens; then the rows are swept by
the sweeper of another process, by that of the same process, or by the rival: the one
`DELETE ... WHERE expires < now()` that session stores are used to send, on a table with an index on
`expires`. On two cores the other process shares PostgreSQL's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from websessions.sql import AsyncSQLSessionStore
from websessions.store import Insert, Load, Touch

from .harness.data import session_data
from .harness.machine import CORES, pinned
from .harness.results import (
    Contender,
    Ratio,
    Results,
    alternating,
    arguments,
    chosen,
    percentile,
)
from .harness.services import Postgres, postgres, with_driver
from .touch_wal import indexed_table

OTHER, SAME, DELETE = "websessions, another process", "websessions, same process", "one DELETE"
CONTENDERS = [
    Contender(OTHER, "ours"),
    Contender(SAME, "ours"),
    Contender(DELETE, "rival", "one statement, index on expires"),
]
RATE, LIVE = 1000, 2000
BEFORE, DURING = "no sweep", "sweep"
LOADS, TOUCHES, SWEEP = "loads", "touches", "the sweep"


def _case(kind: str, when: str) -> str:
    return f"{kind}, {when}"


async def _paced(
    store: AsyncSQLSessionStore, keys: list[bytes], running: Callable[[], bool]
) -> dict[str, list[float]]:
    """Send calls at the rate while `running()`; their times in milliseconds, by kind."""
    times: dict[str, list[float]] = {LOADS: [], TOUCHES: []}
    under_way: set[asyncio.Task[None]] = set()
    failures: list[str] = []
    late = 0

    async def send(kind: str, call: Any, due: float) -> None:
        [answer] = await store.perform((call,))
        times[kind].append((time.perf_counter() - due) * 1e3)
        if answer is None or answer is False or isinstance(answer, BaseException):
            failures.append(f"{kind}: {answer!r}")

    began, number = time.perf_counter(), 0
    while running():
        now = time.perf_counter()
        while (due := began + number / RATE) <= now:
            late += now - due > 0.005
            key = keys[number % len(keys)]
            # Each touch moves the expiry, so that each is a write.
            expires = datetime.now(UTC) + timedelta(hours=2)
            touch = number % 10 == 0
            call = Touch(key, expires) if touch else Load(key)  # type: ignore[arg-type]
            task = asyncio.create_task(send(TOUCHES if touch else LOADS, call, due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            number += 1
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
    await asyncio.gather(*under_way)
    if failures:
        raise RuntimeError(f"{len(failures)} calls failed; the first: {failures[0]}")
    times["late"] = [100 * late / max(1, number)]
    return times


def _fill(server: Postgres, url: str, rows: int, *, ours: bool) -> None:
    """Rows that expired within the last day, 500 bytes each."""
    data = json.dumps(session_data(), separators=(",", ":")).replace("'", "''")
    past = "now() - random() * interval '1 day'"
    columns = "sid, data, expires, version"
    values = f"sha256(n::text::bytea), '{data}', past, 1"
    if ours:
        columns += ", created_at, updated_at, user_id, sweep_after"
        values += ", past, past, n::text, past"
    server.execute(
        f"INSERT INTO sessions ({columns}) SELECT {values} FROM"
        f" (SELECT n, {past} AS past FROM generate_series(1, {rows}) AS n) AS expired",
        "VACUUM ANALYZE sessions",
        "CHECKPOINT",
        url=url,
    )


async def _delete(url: str) -> int:
    """The rival's sweep, on a connection of its own."""
    connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
    async with connection:
        cursor = await connection.execute("DELETE FROM sessions WHERE expires < now()")
        return cursor.rowcount


@asynccontextmanager
async def _sweeping(
    name: str, url: str, store: AsyncSQLSessionStore
) -> AsyncIterator[asyncio.Task[int]]:
    """The sweep, under way; the task's result is the number of rows."""
    if name == DELETE:
        yield asyncio.create_task(_delete(url))
    elif name == SAME:
        yield asyncio.create_task(store.clear_expired_sessions())
    else:
        command = pinned(CORES.client, sys.executable, "-m", "benchmarks.sweep")
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, "SWEEP_URL": url}, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        await process.stdout.readline()  # it is up and about to begin

        async def wait() -> int:
            out, _ = await process.communicate()
            return int(out)

        yield asyncio.create_task(wait())


async def sweep_here(url: str) -> None:
    """What the other process does."""
    store = AsyncSQLSessionStore(with_driver(url, "asyncpg"), check_expiration_interval=None)
    await store.length()
    print("ready", flush=True)
    print(await store.clear_expired_sessions())
    await store.close()


async def measure(
    name: str, repeat: int, server: Postgres, options: Namespace, results: Results
) -> None:
    rows = 20_000 if options.smoke else options.rows
    url = server.database()
    store = AsyncSQLSessionStore(
        with_driver(url, "asyncpg"),
        check_expiration_interval=None,
        **({"table": indexed_table()} if name == DELETE else {}),
    )
    try:
        await store.sync()
        keys = [hashlib.sha256(f"live {number}".encode()).digest() for number in range(LIVE)]
        expires = datetime.now(UTC) + timedelta(hours=1)
        data = store.codec.encode(session_data())
        await store.perform([Insert(key, data, expires, session_data()) for key in keys])  # type: ignore[arg-type]
        _fill(server, url, rows, ours=name != DELETE)

        async def record(when: str, running: Callable[[], bool]) -> None:
            times = await _paced(store, keys, running)
            [late] = times.pop("late")
            for kind, found in times.items():
                found.sort()
                results.add(
                    name,
                    _case(kind, when),
                    repeat,
                    p50_ms=percentile(found, 0.5),
                    p99_ms=percentile(found, 0.99),
                    late=late,
                )

        warm = time.perf_counter() + options.seconds / 4
        await _paced(store, keys, lambda: time.perf_counter() < warm)
        stop = time.perf_counter() + options.seconds
        await record(BEFORE, lambda: time.perf_counter() < stop)
        async with _sweeping(name, url, store) as sweep:
            began, cpu = time.perf_counter(), server.cpu_seconds()
            ended: list[float] = []
            sweep.add_done_callback(lambda _: ended.append(time.perf_counter()))
            await record(DURING, lambda: not sweep.done())
            swept = await sweep
            await asyncio.sleep(0)  # the callback is called in the turn after
        if swept != rows:
            raise RuntimeError(f"{name} swept {swept} rows of {rows}")
        took = ended[0] - began
        results.add(
            name,
            SWEEP,
            repeat,
            seconds=took,
            rows_per_second=rows / took,
            # That of the calls beside it included.
            database_us=(server.cpu_seconds() - cpu) / rows * 1e6,
        )
        if await store.length() != LIVE:
            raise RuntimeError(f"{await store.length()} of {LIVE} live sessions are left")
    finally:
        await store.close()
        server.execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")


def _ratios() -> list[Ratio]:
    found = []
    for name in (OTHER, SAME, DELETE):
        for kind in (LOADS, TOUCHES):
            during, before = _case(kind, DURING), _case(kind, BEFORE)
            goal = 2.0 if name != DELETE else None
            found.append(Ratio("p99_ms", name, name, during, to_case=before, at_most=goal))
    found.append(Ratio("rows_per_second", OTHER, DELETE, SWEEP))
    return found


def main() -> None:
    options = arguments(seconds=15, repeats=3)
    options.rows = int(os.environ.get("SWEEP_ROWS", "1000000"))
    contenders = chosen(CONTENDERS, options)
    results = Results("sweep", "The sweep", __doc__ or "", contenders, _ratios(), vars(options))
    print(results.title)
    with postgres() as server:
        CORES.pin_here(CORES.app)
        results.services = {"PostgreSQL": server.describe()}
        for repeat, contender in alternating(contenders, options.repeats):
            asyncio.run(measure(contender.name, repeat, server, options, results))
        results.save()


if __name__ == "__main__":
    if "SWEEP_URL" in os.environ:
        asyncio.run(sweep_here(os.environ["SWEEP_URL"]))
    else:
        main()
