"""What one process of a cluster does: workers that count in sessions they all share.

A sync store's workers are threads, an async store's are tasks of one event loop.
"""

from __future__ import annotations

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from tests.sql.drivers import BY_ID, Face, a_sid
from tests.sql.processes import Child, children
from websessions.codec import JSONCodec
from websessions.sid import Key, Sid
from websessions.store import Load, Replace

PROCESSES = 4
WORKERS = 4

PROGRAM = """
from tests.clusters.counting import Process
way, url, table, rounds, mixed, sids, number = sys.argv[1:]
process = Process(way, url, table, int(rounds), mixed == "mixed", tuple(sids.split()))
process.open()
say()
wait()
process.work()
"""


def cluster(
    way: str, url: str, table: str, *, rounds: int, mixed: bool, sids: list[str]
) -> AbstractContextManager[list[Child]]:
    """The processes, each of which begins when it is told to."""
    kind = "mixed" if mixed else "counting"
    return children(PROCESSES, PROGRAM, way, url, table, str(rounds), kind, " ".join(sids))


async def counted(
    face: Face, way: str, url: str, table: str, *, rounds: int, mixed: bool, sessions: int
) -> int:
    """Start the cluster on a store's table and let it end; the sum of what it counted."""
    sids = [a_sid() for _ in range(sessions)]
    for sid in sids:
        await face.set(sid, {"n": 0})
    with cluster(way, url, table, rounds=rounds, mixed=mixed, sids=sids) as processes:
        for process in processes:
            process.hear()
        for process in processes:
            process.tell()
        for process in processes:
            process.finish()
    return sum([(await face.get(sid))["n"] for sid in sids])


@dataclass
class Process:
    """One process: its store, and what each of its workers does `rounds` times."""

    way: str
    url: str
    table: str
    rounds: int
    mixed: bool
    sids: tuple[str, ...]

    def open(self) -> None:
        self.face = Face(BY_ID[self.way].store(self.url, table_name=self.table, touch_after=0))

    def work(self) -> None:
        if BY_ID[self.way].asynchronous:
            asyncio.run(self._tasks())
            return
        with ThreadPoolExecutor(WORKERS) as threads:
            for done in [threads.submit(self._thread) for _ in range(WORKERS)]:
                done.result()
        self.face.store.close()

    async def _tasks(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._worker())
        await self.face.close()

    def _thread(self) -> None:
        asyncio.run(self._worker())

    async def _worker(self) -> None:
        mine = a_sid()
        for n in range(self.rounds):
            if self.mixed:
                await self.face.set(mine, {"n": n})
                assert await self.face.get(mine) == {"n": n}
                await self.face.touch(mine)
            await increment(self.face, Sid(random.choice(self.sids)).digest())


async def increment(face: Face, key: Key) -> None:
    """Load and replace, until nobody came between."""
    codec = JSONCodec()
    while True:
        seen = await face.ask(Load(key))
        assert seen is not None
        values = {"n": codec.decode(seen.data)["n"] + 1}
        if await face.ask(Replace(seen, codec.encode(values), seen.expires, values)):
            return
