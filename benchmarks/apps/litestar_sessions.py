"""Litestar with advanced-alchemy's session backend on asyncpg. It writes at every request.

The pool has 10 connections, as those written by hand: with the default of 5 and 10 that come
and go, connecting would be what is measured.
"""

from typing import Any

from advanced_alchemy.extensions.litestar import (
    EngineConfig,
    SQLAlchemyAsyncConfig,
    SQLAlchemyInitPlugin,
)
from advanced_alchemy.extensions.litestar.session import (
    SessionModelMixin,
    SQLAlchemyAsyncSessionBackend,
)
from litestar import Litestar, MediaType, Request, get
from litestar.middleware import DefineMiddleware
from litestar.middleware.session import SessionMiddleware
from litestar.middleware.session.server_side import ServerSideSessionConfig

from benchmarks.harness.data import session_data
from benchmarks.harness.services import with_driver

from .handler import DATABASE_URL


class WebSession(SessionModelMixin):
    __tablename__ = "sessions"


alchemy = SQLAlchemyAsyncConfig(
    connection_string=with_driver(DATABASE_URL, "asyncpg"),
    create_all=True,
    engine_config=EngineConfig(pool_size=10, max_overflow=0),
)
backend = SQLAlchemyAsyncSessionBackend(
    config=ServerSideSessionConfig(), alchemy_config=alchemy, model=WebSession
)


@get("/read", media_type=MediaType.TEXT)
async def read(request: Request[Any, Any, Any]) -> str:
    return str(request.session.get("n", 0))


@get("/write", media_type=MediaType.TEXT)
async def write(request: Request[Any, Any, Any]) -> str:
    request.session["n"] = request.session.get("n", 0) + 1
    return str(request.session["n"])


@get("/fill", media_type=MediaType.TEXT)
async def fill(request: Request[Any, Any, Any]) -> str:
    request.session.update(session_data())
    return "0"


app = Litestar(
    [read, write, fill],
    middleware=[DefineMiddleware(SessionMiddleware, backend=backend)],
    plugins=[SQLAlchemyInitPlugin(config=alchemy)],
)
