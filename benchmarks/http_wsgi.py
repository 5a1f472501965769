"""Whole HTTP requests to Flask and Django under gunicorn's sync worker, on PostgreSQL.

The sync worker serves one request at a time and closes the connection after each, so one
connection and four show the same CPU a request; it is the CPU that is compared.
"""

from __future__ import annotations

from .harness.http import App, gunicorn, run
from .harness.results import Ratio, arguments

BARE, OURS, BY_HAND = "bare Flask", "websessions.flask, psycopg", "Flask by hand, psycopg"
FLASK_SESSION = "Flask-Session"
DJANGO = "Django database sessions"

APPS: list[App] = [
    gunicorn("flask_bare", BARE, "bare"),
    gunicorn("flask_websessions", OURS, "ours", "postgres"),
    gunicorn("flask_by_hand", BY_HAND, "rival", "postgres", what="no signature, no guard"),
    gunicorn(
        "flask_flask_session",
        FLASK_SESSION,
        "rival",
        "postgres",
        what="SQLAlchemy backend as shipped: writes at every request",
    ),
    gunicorn(
        "flask_flask_session",
        "Flask-Session, writing changes only",
        "rival",
        "postgres",
        env={"REFRESH": "0"},
        what="SESSION_REFRESH_EACH_REQUEST = False",
    ),
    gunicorn("django_app", "bare Django", "bare"),
    gunicorn("django_app", DJANGO, "rival", "postgres"),
]


def _ratios() -> list[Ratio]:
    found = [
        Ratio("app_us", OURS, BY_HAND, case, load, (BARE, BARE), at_most=1.3 if load == 1 else None)
        for case in ("read", "read and write")
        for load in (1, 4)
    ]
    for case in ("read", "read and write"):
        for rival, bare in (
            (FLASK_SESSION, BARE),
            ("Flask-Session, writing changes only", BARE),
            (DJANGO, "bare Django"),
        ):
            found.append(Ratio("app_us", OURS, rival, case, 1, (BARE, bare)))
        found.append(Ratio("database_us", OURS, BY_HAND, case, 1))
    return found


if __name__ == "__main__":
    run(
        "http_wsgi",
        "A whole HTTP request, WSGI",
        __doc__ or "",
        APPS,
        _ratios(),
        arguments(loads=(1, 4), seconds=4, repeats=5),
    )
