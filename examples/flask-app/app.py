"""Sessions in Flask: three lines in `create_app`, and `flask.session` is in the database.

`python examples/flask-app` starts it; a WSGI server does with
`gunicorn --chdir examples/flask-app "app:create_app()"`. It needs `websessions[flask]`.
"""

import os
import secrets
from pathlib import Path
from typing import cast

from flask import Flask, flash, redirect, render_template_string, request, session
from werkzeug.wrappers import Response

from websessions.flask import FlaskSession, WebSessions
from websessions.sql import SQLSessionStore

DATA = Path(__file__).parent / "data"

PAGE = """
<!doctype html>
<html lang="en">
<title>Hello</title>
{% for message in get_flashed_messages() %}<p role="status">{{ message }}</p>{% endfor %}
{% if "user_id" in session %}
  <h1>Hello {{ session["user_id"] }}</h1>
  <p>You have been here {{ session["visits"] }} times.</p>
  <form method="post" action="/logout"><button>Log out</button></form>
{% else %}
  <h1>Hello stranger</h1>
  <form method="post" action="/login">
    <label>Your name <input name="name" required></label> <button>Log in</button>
  </form>
{% endif %}
"""


def create_app() -> Flask:
    DATA.mkdir(exist_ok=True)
    app = Flask(__name__)
    app.secret_key = load_secret()

    url = os.environ.get("DATABASE_URL", f"sqlite:///{DATA / 'sessions.db'}")
    store = SQLSessionStore(url)
    store.sync()  # makes the table if it is missing
    WebSessions(app, store=store)

    @app.get("/")
    def home() -> str:
        if "user_id" in session:
            session["visits"] += 1
        return render_template_string(PAGE)

    @app.post("/login")
    def log_in() -> Response:
        # A real app asks for a password here. An id from before the login is worth nothing after.
        cast(FlaskSession, session).regenerate(privilege=True)
        session["user_id"] = request.form["name"]
        session["visits"] = 0
        return redirect("/")

    @app.post("/logout")
    def log_out() -> Response:
        cast(FlaskSession, session).destroy()
        flash("You have logged out.")  # begins a new session
        return redirect("/")

    return app


def load_secret() -> str:
    """From SECRET_KEY, or else made once and kept: a new one would log everyone out."""
    if secret := os.environ.get("SECRET_KEY"):
        return secret
    file = DATA / "secret"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(secrets.token_urlsafe(32))
    return file.read_text()
