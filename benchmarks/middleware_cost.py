"""What the middleware itself costs: everything but I/O, with the memory store.

The ASGI app is called in this process, one request after another, without HTTP; the request has
the headers that a browser sends, and three cookies. The bare app's cost is taken off. The rivals
are others' middlewares around the same handler: Starlette's cookie sessions, which do no I/O
either, and starsessions with its memory store.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.middleware.sessions import SessionMiddleware as CookieSessions
from starsessions import InMemoryStore, SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StarSessions

from websessions import AsyncMemoryStore
from websessions.asgi import SessionMiddleware

from .apps.handler import ASGIApp, Message, Scope, bare_handler, handler
from .harness.data import SECRET
from .harness.machine import CORES
from .harness.results import Contender, Figure, Ratio, Results, alternating, arguments, chosen

BARE, OURS = "bare app", "websessions, memory store"
COOKIE, STAR = "Starlette's cookie sessions", "starsessions, memory store"
CONTENDERS = [
    Contender(BARE, "bare"),
    Contender(OURS, "ours", "signature, hashed key, guard, Vary"),
    Contender(COOKIE, "rival", "the cookie holds the session"),
    Contender(STAR, "rival", "writes at every request"),
]
READ, WRITE = "read", "read and write"
RATIOS = [
    Ratio("app_us", OURS, rival, case, over=(BARE, BARE))
    for rival in (COOKIE, STAR)
    for case in (READ, WRITE)
]
FIGURES = [Figure("app_us", OURS, case, minus=BARE, at_most=25) for case in (READ, WRITE)]
PATHS = {READ: "/read", WRITE: "/write"}


def _app(name: str) -> ASGIApp:
    around: Any = handler
    if name == BARE:
        return bare_handler
    if name == OURS:
        return SessionMiddleware(around, store=AsyncMemoryStore(), secret=SECRET)
    if name == COOKIE:
        return CookieSessions(around, secret_key=SECRET)  # type: ignore[return-value]
    star = SessionAutoloadMiddleware(around)
    return StarSessions(star, store=InMemoryStore(), lifetime=86400, cookie_https_only=False)  # type: ignore[return-value]


def _scope(path: str, cookie: bytes | None) -> Scope:
    cookies = b"theme=dark; " + (cookie + b"; " if cookie else b"") + b"consent=yes"
    headers = [
        (b"host", b"www.example.org"),
        (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        (b"accept", b"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        (b"accept-encoding", b"gzip, deflate, br, zstd"),
        (b"cookie", cookies),
    ]
    return {"type": "http", "method": "GET", "path": path, "scheme": "http", "headers": headers}


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def _sink(message: Message) -> None:
    pass


async def _visit(app: ASGIApp, path: str, cookie: bytes | None) -> tuple[bytes, bytes | None]:
    """The body, and the cookie if one was set."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(_scope(path, cookie), _receive, send)
    for name, value in sent[0]["headers"]:
        if name.lower() == b"set-cookie":
            cookie = value.partition(b";")[0]
    return sent[1]["body"], cookie


async def check(app: ASGIApp) -> bytes:
    """It counts to three; the cookie of a session of 500 bytes."""
    cookie = None
    for n in (b"1", b"2", b"3"):
        body, cookie = await _visit(app, "/write", cookie)
        if body != n:
            raise RuntimeError(f"it does not count: {body!r} instead of {n!r}")
    _, cookie = await _visit(app, "/fill", None)
    assert cookie is not None
    return cookie


async def _cost(call: Callable[[], Awaitable[None]], seconds: float) -> float:
    """CPU of one call, in microseconds."""
    count, stop = 0, time.perf_counter() + seconds
    gc.collect()
    began = time.process_time()
    while time.perf_counter() < stop:
        for _ in range(200):
            await call()
        count += 200
    return (time.process_time() - began) / count * 1e6


async def main() -> None:
    options = arguments(seconds=2, repeats=7)
    contenders = chosen(CONTENDERS, options)
    results = Results(
        "middleware_cost",
        "The middleware alone",
        __doc__ or "",
        contenders,
        RATIOS,
        vars(options),
        FIGURES,
    )
    print(results.title)
    CORES.pin_here(CORES.app)
    for repeat, contender in alternating(contenders, options.repeats):
        app = _app(contender.name)
        cookie = b"sid=none" if contender.name == BARE else await check(app)
        for case, path in PATHS.items():

            async def call(app: ASGIApp = app, path: str = path, cookie: bytes = cookie) -> None:
                await app(_scope(path, cookie), _receive, _sink)

            await _cost(call, options.seconds / 4)
            results.add(contender.name, case, repeat, app_us=await _cost(call, options.seconds))
    results.save()


if __name__ == "__main__":
    asyncio.run(main())
