"""Many processes on one SQLite file: they wait for each other, and the event loop for none."""

from __future__ import annotations

import asyncio
import time

from tests.clusters.counting import PROCESSES, WORKERS, counted
from tests.fixtures.services import Services
from tests.sql.drivers import ALL, BY_ID, Way, a_name, a_sid, ways
from tests.sql.processes import child

SQLITE = tuple(way for way in ALL if way.database == "sqlite")
ROUNDS = 12

HELD = 0.7
HOLD = f"""
import sqlite3, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
say()
time.sleep({HELD})
connection.execute("ROLLBACK")
"""


@ways(*SQLITE)
async def test_processes_share_a_file(services: Services, way: Way) -> None:
    """Under a mixed load no call fails, "database is locked" included, and counters are exact."""
    url, table = way.url(services), a_name()
    async with way.open(url, table_name=table) as face:
        total = await counted(face, way.id, url, table, rounds=ROUNDS, mixed=True, sessions=3)
        assert total == PROCESSES * WORKERS * ROUNDS
        assert await face.length() == 3 + PROCESSES * WORKERS


@ways(BY_ID["sqlite-thread"], BY_ID["aiosqlite"])
async def test_a_locked_file_does_not_block_the_event_loop(services: Services, way: Way) -> None:
    """The write waits for another process's lock; everything else in the loop goes on."""
    url, sid = way.url(services), a_sid()
    gaps: list[float] = []

    async def heart() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async with way.open(url) as face:
        await face.set(sid, {"n": 1})
        with child(HOLD, url.partition("///")[2]) as holder:
            holder.hear()
            beating = asyncio.create_task(heart())
            began = time.monotonic()
            await face.set(sid, {"n": 2})
            waited = time.monotonic() - began
            beating.cancel()
            holder.finish()
        assert await face.get(sid) == {"n": 2}
    assert waited > HELD / 2
    assert max(gaps) < 0.25
