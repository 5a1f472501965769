"""The pages of `apps.py` in FastAPI, and besides them what only ASGI has.

GET  /events        server-sent events; the session changes on the way
POST /go            lets the events go on
GET  /left          how many streams have ended
WS   /socket        says everything back, and keeps it in the session
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from tests.servers import apps
from websessions import Session
from websessions.asgi import SessionMiddleware
from websessions.sql import AsyncSQLSessionStore
from websessions.starlette import get_session

CurrentSession = Annotated[Session, Depends(get_session)]

store = AsyncSQLSessionStore(**apps.store_options())
everybody = asyncio.Barrier(apps.PARTY)
go = asyncio.Event()
left = 0


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with store:
        await store.sync()
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(SessionMiddleware, store=store, secret=apps.SECRET)


@app.get("/")
async def show(session: CurrentSession) -> dict[str, Any]:
    return apps.shown(session)


@app.post("/login/{name}")
def log_in(name: str, session: CurrentSession) -> None:
    # Not async: FastAPI runs it in a thread, which sees the same session.
    apps.log_in(session, name)


@app.post("/cart/{item}")
async def put(item: str, session: CurrentSession) -> None:
    apps.put_into_cart(session, item)


@app.post("/key/{name}")
async def write(name: str, session: CurrentSession) -> None:
    session[name] = name


@app.post("/meet/{name}")
async def meet(name: str, session: CurrentSession) -> None:
    assert name not in session
    async with asyncio.timeout(apps.PATIENCE):
        await everybody.wait()
    session[name] = name


@app.post("/logout")
async def log_out(session: CurrentSession) -> None:
    session.destroy()


@app.get("/events")
async def events(session: CurrentSession) -> StreamingResponse:
    session["before"] = True
    go.clear()

    async def send() -> AsyncIterator[str]:
        global left
        try:
            session["saved"] = True
            await session.save()
            yield "data: saved\n\n"
            session["late"] = True
            yield "data: late\n\n"
            async with asyncio.timeout(apps.PATIENCE):
                await go.wait()
            session["last"] = True
            yield "data: last\n\n"
        finally:
            left += 1

    return StreamingResponse(send(), media_type="text/event-stream")


@app.post("/go")
async def let_go() -> None:
    go.set()


@app.get("/left")
async def how_many_left() -> int:
    return left


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    session = get_session(websocket)
    await websocket.accept()
    async for text in websocket.iter_text():
        session.setdefault("said", []).append(text)
        if text == "save":
            await session.save()
        await websocket.send_text(text)
        if text == "bye":
            await websocket.close()
            return
