"""A session middleware as one writes it for one's own app, well and without any of the extras.

The cookie is the key, unsigned; the last write wins; nothing tells caches about the cookie. But
the table has an index, expiry is checked, JSON is msgspec's, and what did not change is not
written.
"""

from __future__ import annotations

import secrets
from typing import Any, Protocol

import msgspec

from .handler import ASGIApp, Message, Receive, Scope, Send

SELECT = "SELECT data FROM sessions WHERE sid = {0} AND expires > {now}"
UPDATE = "UPDATE sessions SET data = {1}, expires = {later} WHERE sid = {0}"
INSERT = "INSERT INTO sessions (sid, data, expires) VALUES ({0}, {1}, {later})"


class Storage(Protocol):
    """The three statements, with one driver."""

    async def select(self, sid: str) -> str | None: ...
    async def update(self, sid: str, data: str) -> Any: ...
    async def insert(self, sid: str, data: str) -> Any: ...


class ByHand:
    def __init__(self, app: ASGIApp, storage: Storage) -> None:
        self._app = app
        self._storage = storage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sid = _sid(scope)
        stored = None if sid is None else await self._storage.select(sid)
        session: dict[str, Any] = {} if stored is None else msgspec.json.decode(stored)
        scope["session"] = session

        async def send_with_session(message: Message) -> None:
            if message["type"] == "http.response.start":
                data = msgspec.json.encode(session).decode()
                if stored is None:
                    if session:
                        new = secrets.token_urlsafe(32)
                        await self._storage.insert(new, data)
                        cookie = f"sid={new}; Path=/; HttpOnly; SameSite=Lax".encode()
                        message["headers"] = [*message["headers"], (b"set-cookie", cookie)]
                elif data != stored:
                    assert sid is not None
                    await self._storage.update(sid, data)
            await send(message)

        await self._app(scope, receive, send_with_session)


def _sid(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"cookie":
            for pair in value.decode("latin-1").split("; "):
                if pair.startswith("sid="):
                    return str(pair[4:])
    return None
