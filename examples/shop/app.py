"""The shop, put together. This is the file that shows how sessions get into an app."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException

from websessions.asgi import SessionMiddleware
from websessions.sql import AsyncSQLSessionStore

from .database import Database
from .pages import routes, show_error
from .security import FORGET_AFTER


def create_app(database_url: str, secret: str | list[str]) -> Starlette:
    database = Database(database_url)
    store = AsyncSQLSessionStore(database_url, expiration=FORGET_AFTER)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await database.prepare()
        await store.sync()  # makes the session table if it is missing
        try:
            yield
        finally:
            await store.close()
            await database.close()

    app = Starlette(
        routes=routes,
        lifespan=lifespan,
        exception_handlers={HTTPException: show_error, Exception: show_error},
    )
    app.state.database = database
    app.add_middleware(
        SessionMiddleware,
        store=store,
        secret=secret,
        exclude=("/health", "/static"),  # nobody there needs a session, so none is loaded
    )
    return app
