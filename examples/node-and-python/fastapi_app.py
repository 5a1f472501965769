"""The routes that have moved to Python, on the sessions of the Express app.

`DATABASE` is the SQLite file, `SESSION_SECRET` the secret of the Express app.
"""

import html
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, Form
from fastapi.responses import HTMLResponse, RedirectResponse

from websessions import CookieSettings, Session
from websessions.asgi import SessionMiddleware
from websessions.sql import AsyncSQLSessionStore
from websessions.starlette import get_session

store = AsyncSQLSessionStore.connect_session_sequelize(f"sqlite:///{os.environ['DATABASE']}")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await store.sync()
    yield
    await store.close()


app = FastAPI(lifespan=lifespan)
app.add_middleware(
    SessionMiddleware,
    store=store,
    secret=os.environ["SESSION_SECRET"],
    cookie=CookieSettings.express_session(samesite="lax"),
)

CurrentSession = Annotated[Session, Depends(get_session)]

FORMS = {
    True: '<form method="post" action="/python/logout"><button>Log out</button></form>',
    False: '<form method="post" action="/python/login"><input name="name" required>'
    "<button>Log in</button></form>",
}


@app.get("/python/", response_class=HTMLResponse)
async def home(session: CurrentSession) -> str:
    user = session.get("user")
    if user:
        session["visits"] += 1
    return f"""<!doctype html>
<html lang="en">
<title>Python</title>
<h1>Python: hello {html.escape(user or "stranger")}</h1>
<p>{session.get("visits", 0)} visits, here and <a href="/">in Express</a>.</p>
{FORMS[bool(user)]}"""


@app.post("/python/login")
async def log_in(session: CurrentSession, name: Annotated[str, Form()]) -> RedirectResponse:
    # A real app asks for a password here.
    session.regenerate(privilege=True)
    session.update(user=name, visits=0)
    return RedirectResponse("/python/", 303)


@app.post("/python/logout")
async def log_out(session: CurrentSession) -> RedirectResponse:
    session.destroy()
    return RedirectResponse("/python/", 303)
