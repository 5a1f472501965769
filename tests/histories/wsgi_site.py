"""The pages as a WSGI application."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import Any

from tests.histories import pages
from tests.histories.last_write_wins import LastWriteWins
from websessions.sql import SQLSessionStore
from websessions.wsgi import SessionMiddleware

kind = LastWriteWins if pages.bites() else SQLSessionStore
store = kind(**pages.store_options())
store.sync()


def site(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    session, path = environ["websessions.session"], environ["PATH_INFO"].strip("/").split("/")
    answer: object
    if path == ["count"]:
        answer = store.length()
    else:
        if path[0] == "slow":
            session.get("begun")  # read, if it was not yet
            time.sleep(pages.SLOW)
        answer = pages.page(session, path)
    body = json.dumps(answer).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]


app = SessionMiddleware(site, store, secret=pages.SECRET, on_conflict=pages.RESOLVERS)
