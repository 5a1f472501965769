"""The Flask application of every contestant whose sessions are `flask.session`."""

from flask import Flask, session

from benchmarks.harness.data import session_data


def add_views(app: Flask) -> None:
    @app.get("/read")
    def read() -> str:
        return str(session.get("n", 0))

    @app.get("/write")
    def write() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    @app.get("/fill")
    def fill() -> str:
        session.update(session_data())
        return "0"
