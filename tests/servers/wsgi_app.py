"""The pages of `apps.py` as a bare WSGI application; run as a program, under wsgiref."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterable
from typing import Any
from wsgiref.simple_server import make_server

from tests.servers import apps
from websessions import Session
from websessions.sql import SQLSessionStore
from websessions.wsgi import SessionMiddleware

everybody = threading.Barrier(apps.PARTY)


def pages(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    session: Session = environ["websessions.session"]
    page, _, name = environ["PATH_INFO"].strip("/").partition("/")
    answer: object = "done"
    match environ["REQUEST_METHOD"], page:
        case "GET", "":
            answer = apps.shown(session)
        case "POST", "login":
            apps.log_in(session, name)
        case "POST", "cart":
            apps.put_into_cart(session, name)
        case "POST", "key":
            session[name] = name
        case "POST", "meet":
            assert name not in session
            everybody.wait(apps.PATIENCE)
            session[name] = name
        case "POST", "logout":
            session.destroy()
        case _:
            start_response("404 Not Found", [])
            return []
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(answer).encode()]


store = SQLSessionStore(**apps.store_options())
store.sync()
app = SessionMiddleware(pages, store, secret=apps.SECRET)

if __name__ == "__main__":
    with make_server("127.0.0.1", int(sys.argv[1]), app) as server:
        server.serve_forever()
