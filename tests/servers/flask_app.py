"""The pages of `apps.py` in Flask; the store is in use before the server forks, if it preloads."""

from __future__ import annotations

import threading
from typing import Any, cast

from flask import Flask
from flask import session as flask_session

from tests.servers import apps
from websessions.flask import FlaskSession, WebSessions
from websessions.sql import SQLSessionStore

session = cast(FlaskSession, flask_session)

store = SQLSessionStore(**apps.store_options())
store.sync()
store.length()

app = Flask(__name__)
app.secret_key = apps.SECRET
WebSessions(app, store=store)
everybody = threading.Barrier(apps.PARTY)


@app.get("/")
def show() -> dict[str, Any]:
    return apps.shown(session)


@app.post("/login/<name>")
def log_in(name: str) -> str:
    apps.log_in(session, name)
    return "welcome"


@app.post("/cart/<item>")
def put(item: str) -> str:
    apps.put_into_cart(session, item)
    return "in the cart"


@app.post("/key/<name>")
def write(name: str) -> str:
    session[name] = name
    return "written"


@app.post("/meet/<name>")
def meet(name: str) -> str:
    assert name not in session  # read before anybody writes
    everybody.wait(apps.PATIENCE)
    session[name] = name
    return "written"


@app.post("/logout")
def log_out() -> str:
    session.destroy()
    return "bye"
