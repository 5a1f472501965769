"""Flask with sessions written by hand on one psycopg connection, called by the views themselves.

No signature, no guard, no `Vary`: the least that works. The connection belongs to the one thread
that a sync worker has.
"""

import secrets
from typing import Any

import msgspec
import psycopg
from flask import Flask, Response, request

from benchmarks.harness.data import session_data

from .by_hand import INSERT, SELECT, UPDATE
from .handler import DATABASE_URL

_WORDS = {"now": "now()", "later": "now() + interval '24 hours'"}
_SELECT = SELECT.format("%s", **_WORDS)
_UPDATE = UPDATE.format("%(sid)s", "%(data)s", **_WORDS)
_INSERT = INSERT.format("%(sid)s", "%(data)s", **_WORDS)

app = Flask(__name__)
connection = psycopg.connect(DATABASE_URL, autocommit=True)
connection.execute(
    "CREATE TABLE sessions (sid text PRIMARY KEY, data text NOT NULL, expires timestamptz NOT NULL)"
)


def load() -> tuple[str | None, dict[str, Any]]:
    sid = request.cookies.get("sid")
    row = connection.execute(_SELECT, (sid,)).fetchone() if sid else None
    return (None, {}) if row is None else (sid, msgspec.json.decode(row[0]))


def saved(sid: str | None, session: dict[str, Any]) -> Response:
    data = msgspec.json.encode(session).decode()
    response = Response(str(session["n"]))
    if sid is None:
        sid = secrets.token_urlsafe(32)
        connection.execute(_INSERT, {"sid": sid, "data": data})
        response.set_cookie("sid", sid, httponly=True, samesite="Lax")
    else:
        connection.execute(_UPDATE, {"sid": sid, "data": data})
    return response


@app.get("/read")
def read() -> str:
    _, session = load()
    return str(session.get("n", 0))


@app.get("/write")
def write() -> Response:
    sid, session = load()
    session["n"] = session.get("n", 0) + 1
    return saved(sid, session)


@app.get("/fill")
def fill() -> Response:
    return saved(None, session_data())
