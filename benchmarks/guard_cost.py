"""What the guard costs, and what it saves: guarded writes against the last write winning.

First without contention, the store alone: a replace that carries the version it has seen, and the
same statement without that condition, by websessions' path and by hand on asyncpg.

Then whole requests that meet: 8 workers take turns on 3 hot sessions through the ASGI middleware
(in this process, no HTTP), each pausing 2 ms between reading and writing. Each counts in a key
of its own ("own key"), where no update has to be lost, or all in one ("same key"), where the later
save wins unless the app says how to merge. Rival: the hand-written middleware, which stores what
its request saw. Lost is what was counted and is not there at the end.
"""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import Any

from .apps.by_hand import ByHand
from .apps.handler import ASGIApp, Message, Scope
from .harness.by_hand import AsyncpgByHand, Store
from .harness.calls import drive, own_share
from .harness.data import SECRET, session_data
from .harness.machine import CORES
from .harness.ours import Unguarded, WebSessions
from .harness.results import Contender, Ratio, Results, alternating, arguments, chosen
from .harness.services import Postgres, postgres, with_driver
from .store_load_replace import DATA, KEYS

GUARDED, UNGUARDED = "websessions, asyncpg", "websessions without the guard"
BY_HAND, BY_HAND_UNGUARDED = "by hand, asyncpg, guarded", "by hand, asyncpg, last write wins"
CONTENDERS = [
    Contender(GUARDED, "ours"),
    Contender(UNGUARDED, "rival", "patched for this benchmark: the same path, no version check"),
    Contender(BY_HAND, "rival"),
    Contender(BY_HAND_UNGUARDED, "rival"),
]
MAKERS: dict[str, Callable[[], Store]] = {
    GUARDED: lambda: WebSessions("asyncpg"),
    UNGUARDED: lambda: Unguarded("asyncpg"),
    BY_HAND: AsyncpgByHand,
    BY_HAND_UNGUARDED: lambda: AsyncpgByHand(guarded=False),
}
REPLACE, OWN_KEY, SAME_KEY = "replace", "hot sessions, own key", "hot sessions, same key"
WORKERS, HOT = 8, 3
RATIOS = [
    *(Ratio("app_us", GUARDED, UNGUARDED, REPLACE, load, at_most=1.05) for load in (1, 16, 64)),
    *(Ratio("database_us", GUARDED, UNGUARDED, REPLACE, load) for load in (1, 16, 64)),
    *(Ratio("app_us", BY_HAND, BY_HAND_UNGUARDED, REPLACE, load) for load in (1, 16, 64)),
    *(
        Ratio("per_second", GUARDED, BY_HAND_UNGUARDED, case, WORKERS, at_least=0.95)
        for case in (OWN_KEY, SAME_KEY)
    ),
]


async def replaces(
    name: str, repeat: int, server: Postgres, options: Namespace, results: Results
) -> None:
    store = await MAKERS[name]().open(server.database())
    try:
        for key in KEYS:
            await store.insert(key, DATA)
        seen = {key: await store.load(key) for key in KEYS}
        for in_flight in options.loads:

            async def replace(worker: int, number: int, in_flight: int = in_flight) -> None:
                key = own_share(KEYS, worker, number, in_flight)
                seen[key] = await store.replace(key, seen[key], DATA)
                if seen[key] is None:
                    raise RuntimeError("a write was refused that nobody contested")

            await drive(replace, in_flight=in_flight, seconds=options.seconds / 4)
            values = await drive(
                replace, in_flight=in_flight, seconds=options.seconds, server=server
            )
            results.add(name, REPLACE, repeat, in_flight, **values)
    finally:
        await store.close()


async def _counting(scope: Scope, receive: Any, send: Any) -> None:
    """Counts in the key that the path names, with a pause in which others can come between."""
    session = scope["session"]
    name = scope["path"][1:]
    if name == "fill":
        session.update(session_data())
    elif name:
        count = session.get(name, 0)
        await asyncio.sleep(0.002)
        session[name] = count + 1
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(dict(session)).encode()})


async def _request(app: ASGIApp, path: str, cookie: bytes | None) -> list[Message]:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"host", b"localhost")] + ([(b"cookie", cookie)] if cookie else [])
    scope = {"type": "http", "method": "GET", "path": path, "scheme": "http", "headers": headers}
    await app(scope, receive, send)
    return sent


async def _websessions(url: str) -> tuple[ASGIApp, Callable[[], Awaitable[Any]]]:
    from websessions.asgi import SessionMiddleware
    from websessions.sql import AsyncSQLSessionStore

    store = AsyncSQLSessionStore(with_driver(url, "asyncpg"))
    await store.sync()
    return SessionMiddleware(_counting, store=store, secret=SECRET), store.close


async def _by_hand(url: str) -> tuple[ASGIApp, Callable[[], Awaitable[Any]]]:
    from .apps import asgi_by_hand_asyncpg as by_hand

    by_hand.DATABASE_URL = url
    storage = by_hand.Asyncpg()
    await storage.open()
    return ByHand(_counting, storage), storage.close


APPS = {GUARDED: _websessions, BY_HAND_UNGUARDED: _by_hand}


async def hot_sessions(
    name: str, repeat: int, server: Postgres, options: Namespace, results: Results
) -> None:
    app, close = await APPS[name](server.database())
    try:
        for case in (OWN_KEY, SAME_KEY):
            cookies = []
            for _ in range(HOT):
                start = (await _request(app, "/fill", None))[0]
                cookies.append(dict(start["headers"])[b"set-cookie"].partition(b";")[0])
            done = [0] * WORKERS

            async def request(
                worker: int,
                number: int,
                own: bool = case == OWN_KEY,
                cookies: list[bytes] = cookies,
                done: list[int] = done,
            ) -> None:
                path = f"/worker-{worker}" if own else "/all"
                await _request(app, path, cookies[(worker + number) % HOT])
                done[worker] += 1

            values = await drive(request, in_flight=WORKERS, seconds=options.seconds, server=server)
            there = 0
            for cookie in cookies:
                session = json.loads((await _request(app, "/", cookie))[1]["body"])
                there += sum(n for key, n in session.items() if key[:6] == "worker" or key == "all")
            share = 100 * (sum(done) - there) / sum(done)
            results.add(name, case, repeat, WORKERS, **values, lost_share=share)
    finally:
        await close()


async def main() -> None:
    options = arguments(loads=(1, 16, 64), seconds=3, repeats=5)
    contenders = chosen(CONTENDERS, options)
    results = Results("guard_cost", "The guard", __doc__ or "", contenders, RATIOS, vars(options))
    print(results.title)
    with postgres() as server:
        CORES.pin_here(CORES.app)
        results.services = {"PostgreSQL": server.describe()}
        for repeat, contender in alternating(contenders, options.repeats):
            await replaces(contender.name, repeat, server, options, results)
            if contender.name in APPS:
                await hot_sessions(contender.name, repeat, server, options, results)
        results.save()


if __name__ == "__main__":
    asyncio.run(main())
