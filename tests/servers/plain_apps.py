"""Two applications side by side, as WSGI and as ASGI: `/trusting` has `proxy=True`, `/plain` not.

Each writes to the session of every request, so that every first response sets the cookie.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from websessions.asgi import SessionMiddleware as ASGISessions
from websessions.memory import AsyncMemoryStore, MemoryStore
from websessions.wsgi import SessionMiddleware as WSGISessions

SECRET = "the secret of the applications that are served"


def write(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    environ["websessions.session"]["seen"] = True
    start_response("204 No Content", [])
    return []


wsgi_trusting = WSGISessions(write, MemoryStore(), secret=SECRET, proxy=True)
wsgi_plain = WSGISessions(write, MemoryStore(), secret=SECRET)


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    app = wsgi_trusting if environ["PATH_INFO"] == "/trusting" else wsgi_plain
    return app(environ, start_response)


async def write_async(scope: Any, receive: Any, send: Any) -> None:
    scope["session"]["seen"] = True
    await send({"type": "http.response.start", "status": 204})
    await send({"type": "http.response.body"})


asgi_trusting = ASGISessions(write_async, AsyncMemoryStore(), secret=SECRET, proxy=True)
asgi_plain = ASGISessions(write_async, AsyncMemoryStore(), secret=SECRET)


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "lifespan":
        app = asgi_trusting if scope["path"] == "/trusting" else asgi_plain
        await app(scope, receive, send)
