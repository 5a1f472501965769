"""Whole HTTP requests under uvicorn: websessions against what else there is for ASGI.

One uvicorn worker with the defaults of uvicorn[standard] (uvloop, httptools), the same bare ASGI
handler under every middleware (Litestar has its own), a session of 500 bytes, 512 visitors whose
requests come in turn. App and database CPU are those of all their processes.
"""

from __future__ import annotations

from .harness.http import App, run, uvicorn
from .harness.results import Ratio, arguments

BARE = "bare app"
ASYNCPG, PSYCOPG, SQLITE = (
    "websessions, asyncpg",
    "websessions, psycopg",
    "websessions, SQLite",
)
BY_HAND = "by hand, asyncpg"
BY_HAND_PSYCOPG = "by hand, psycopg"
BY_HAND_SQLITE = "by hand, sqlite3 in the loop"

APPS: list[App] = [
    uvicorn("asgi_bare", BARE, "bare"),
    uvicorn("asgi_websessions", ASYNCPG, "ours", "postgres", env={"DRIVER": "asyncpg"}),
    uvicorn(
        "asgi_by_hand_asyncpg",
        BY_HAND,
        "rival",
        "postgres",
        peer=ASYNCPG,
        what="no signature, no guard",
    ),
    uvicorn("asgi_websessions", PSYCOPG, "ours", "postgres", env={"DRIVER": "psycopg"}),
    uvicorn(
        "asgi_by_hand_psycopg",
        BY_HAND_PSYCOPG,
        "rival",
        "postgres",
        peer=PSYCOPG,
        what="no signature, no guard",
    ),
    uvicorn(
        "asgi_by_hand_core",
        "by hand, SQLAlchemy Core",
        "rival",
        "postgres",
        peer=ASYNCPG,
        what="asyncpg, AUTOCOMMIT; no signature, no guard",
    ),
    uvicorn("asgi_websessions", SQLITE, "ours", "sqlite"),
    uvicorn(
        "asgi_by_hand_sqlite",
        BY_HAND_SQLITE,
        "rival",
        "sqlite",
        peer=SQLITE,
        what="a lock or a slow disk stops the loop",
    ),
    uvicorn(
        "asgi_starlette_cookie",
        "Starlette's cookie sessions",
        "rival",
        in_cookie=True,
        peer=ASYNCPG,
        what="no database: the cookie holds all, and nothing can be ended",
    ),
    uvicorn(
        "asgi_starsessions",
        "starsessions, Redis",
        "rival",
        "redis",
        peer=ASYNCPG,
        what="writes at every request",
    ),
    uvicorn("litestar_bare", "bare Litestar", "bare"),
    uvicorn(
        "litestar_sessions",
        "Litestar, advanced-alchemy",
        "rival",
        "postgres",
        peer=ASYNCPG,
        what="asyncpg; writes at every request",
    ),
]

READ, WRITE = "read", "read and write"
_OVER = (BARE, BARE)


def _ratios() -> list[Ratio]:
    found = []
    for ours, rival, binding in ((ASYNCPG, BY_HAND, True), (PSYCOPG, BY_HAND_PSYCOPG, False)):
        for load, case, least in (
            (16, READ, 1.3),
            (16, WRITE, 1.2),
            (64, READ, 1.5),
            (64, WRITE, 1.4),
        ):
            goal = least if binding else None
            found.append(Ratio("per_second", ours, rival, case, load, at_least=goal))
            for metric, over, read_most, write_most in (
                ("app_us", _OVER, 0.65, 0.75),
                ("database_us", None, 0.45, 0.6),
            ):
                most = (read_most if case == READ else write_most) if binding else None
                found.append(Ratio(metric, ours, rival, case, load, over, at_most=most))
            found.append(Ratio("p99_ms", ours, rival, case, load))
        found += [Ratio("app_us", ours, rival, case, 1, _OVER) for case in (READ, WRITE)]
    for case in (READ, WRITE):
        found.append(Ratio("app_us", SQLITE, BY_HAND_SQLITE, case, 16, _OVER, at_most=1.5))
        for rival, bare in (
            ("by hand, SQLAlchemy Core", BARE),
            ("Starlette's cookie sessions", BARE),
            ("starsessions, Redis", BARE),
            ("Litestar, advanced-alchemy", "bare Litestar"),
        ):
            found.append(Ratio("app_us", ASYNCPG, rival, case, 16, (BARE, bare)))
    return found


if __name__ == "__main__":
    run(
        "http_asgi",
        "A whole HTTP request, ASGI",
        __doc__ or "",
        APPS,
        _ratios(),
        arguments(loads=(1, 16, 64), seconds=4, repeats=5),
    )
