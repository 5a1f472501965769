"""The smallest app with a session. Change it until it shows the bug: `python -m pytest` in here.

DATABASE_URL names the database, a SQLite database in memory by default.
"""

import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from websessions.asgi import SessionMiddleware
from websessions.sql import AsyncSQLSessionStore
from websessions.starlette import get_session

store = AsyncSQLSessionStore(os.environ.get("DATABASE_URL", "sqlite://"))


async def count(request: Request) -> Response:
    session = get_session(request)
    session["count"] = session.get("count", 0) + 1
    return JSONResponse(dict(session))


app = Starlette(routes=[Route("/", count)])
app.add_middleware(SessionMiddleware, store=store, secret="a secret that is none")
