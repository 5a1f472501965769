"""The pages as an ASGI application."""

from __future__ import annotations

import asyncio
import json

from tests.histories import pages
from tests.histories.last_write_wins import AsyncLastWriteWins
from websessions.asgi import Receive, Scope, Send, SessionMiddleware
from websessions.sql import AsyncSQLSessionStore

kind = AsyncLastWriteWins if pages.bites() else AsyncSQLSessionStore
store = kind(**pages.store_options())


async def site(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "lifespan":
        await receive()
        await store.sync()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await store.close()
        await send({"type": "lifespan.shutdown.complete"})
        return
    session, path = scope["session"], scope["path"].strip("/").split("/")
    answer: object
    if path == ["count"]:
        answer = await store.length()
    else:
        if path[0] == "slow":
            session.get("begun")  # read, if it was not yet
            await asyncio.sleep(pages.SLOW)
        answer = pages.page(session, path)
    body = json.dumps(answer).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = SessionMiddleware(site, store, secret=pages.SECRET, on_conflict=pages.RESOLVERS)
