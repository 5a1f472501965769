"""What a session costs over the bare app: websessions, connect-session-sequelize, Flask-Session.

Express with express-session and connect-session-sequelize (Sequelize, pg) runs on the same
PostgreSQL, with the same client, and all its features on, touch included. Each is compared with
its own framework's bare app, so Node and Python themselves cancel out.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from .harness.data import SECRET, session_data
from .harness.http import App, gunicorn, run, uvicorn
from .harness.machine import answer_of
from .harness.results import Ratio, arguments

_APP = str(Path(__file__).with_name("express") / "app.js")
# Where scripts/benchmark lets npm install them.
_ENV = {
    "NODE_ENV": "production",
    "NODE_PATH": os.environ.get("BENCHMARK_NODE_PATH", ""),
    "SESSION_DATA": json.dumps(session_data()),
    "SECRET": SECRET,
}
_NODE = [shutil.which("node") or "node", _APP, "{port}"]
BARE, OURS, OURS_PSYCOPG = "bare app", "websessions, asyncpg", "websessions, psycopg"
EXPRESS, BARE_EXPRESS = "connect-session-sequelize", "bare Express"
FLASK_SESSION, BARE_FLASK = "Flask-Session", "bare Flask"

APPS: list[App] = [
    uvicorn("asgi_bare", BARE, "bare"),
    uvicorn("asgi_websessions", OURS, "ours", "postgres", env={"DRIVER": "asyncpg"}),
    uvicorn("asgi_websessions", OURS_PSYCOPG, "ours", "postgres", env={"DRIVER": "psycopg"}),
    App(BARE_EXPRESS, "bare", _NODE, env=_ENV, what=f"Node {answer_of('node', '--version')}"),
    App(
        EXPRESS,
        "rival",
        _NODE,
        "postgres",
        env=_ENV,
        what="7.1.7 with express-session and Sequelize 6; touches at every read",
    ),
    gunicorn("flask_bare", BARE_FLASK, "bare"),
    gunicorn("flask_flask_session", FLASK_SESSION, "rival", "postgres", what="as shipped"),
]


def _ratios(loads: tuple[int, ...]) -> list[Ratio]:
    found = []
    for ours in (OURS, OURS_PSYCOPG):
        for rival, bare in ((EXPRESS, BARE_EXPRESS), (FLASK_SESSION, BARE_FLASK)):
            for case in ("read", "read and write"):
                for load in loads:
                    goal = 0.1 if load == 16 and ours == OURS else None
                    found.append(
                        Ratio("app_us", ours, rival, case, load, (BARE, bare), at_most=goal)
                    )
                    found.append(Ratio("database_us", ours, rival, case, load))
    return found


if __name__ == "__main__":
    options = arguments(loads=(1, 16, 64), seconds=4, repeats=5)
    run(
        "http_express",
        "A session's cost over the bare app, against Node's",
        __doc__ or "",
        APPS,
        _ratios(options.loads),
        options,
    )
