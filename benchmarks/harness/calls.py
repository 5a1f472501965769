"""Load inside this process: so many calls in flight for so long, and what each cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from .results import percentile


class Server(Protocol):
    """A database server whose CPU time is known."""

    def cpu_seconds(self) -> float: ...


async def drive(
    call: Callable[[int, int], Awaitable[Any]],
    *,
    in_flight: int,
    seconds: float,
    server: Server | None = None,
) -> dict[str, float]:
    """Keep `in_flight` workers calling `call(worker, number)`; the metrics of one measurement."""
    times: list[float] = []
    stop = time.perf_counter() + seconds

    async def work(worker: int) -> None:
        number, now = 0, time.perf_counter()
        while now < stop:
            began = now
            await call(worker, number)
            now = time.perf_counter()
            times.append(now - began)
            number += 1

    database = server.cpu_seconds() if server else 0.0
    cpu, began = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work(worker) for worker in range(in_flight)))
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    count = len(times)
    values = {"app_us": cpu / count * 1e6}
    if server:
        values["database_us"] = (server.cpu_seconds() - database) / count * 1e6
    times.sort()
    return values | {
        "per_second": count / took,
        "p50_ms": percentile(times, 0.5) * 1e3,
        "p99_ms": percentile(times, 0.99) * 1e3,
    }


def own_share(items: Sequence[Any], worker: int, number: int, workers: int) -> Any:
    """An item that no other worker uses, another one at each number."""
    mine = range(worker, len(items), workers)
    return items[mine[number % len(mine)]]
