"""The site, served by several processes, and browsers that visit it over real HTTP."""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal

from tests.fixtures.daemon import HOST
from tests.fixtures.server import Server, serve

__all__ = ["Answer", "Browser", "Kind", "served"]

Kind = Literal["wsgi", "asgi"]

PROCESSES: Final = "2"
PATIENCE: Final = 60.0
"""Seconds after which a request counts as not answered."""

COMMANDS: Final[dict[Kind, list[str]]] = {
    "wsgi": [
        *(sys.executable, "-m", "gunicorn", "tests.histories.wsgi_site:app"),
        *("--bind", "{host}:{port}", "--workers", PROCESSES, "--threads", "16"),
        *("--no-control-socket", "--backlog", "1024"),
    ],
    "asgi": [
        *(sys.executable, "-m", "uvicorn", "tests.histories.asgi_site:app"),
        *("--host", "{host}", "--port", "{port}", "--workers", PROCESSES, "--no-access-log"),
    ],
}


@contextmanager
def served(kind: Kind, database: str, *, last_write_wins: bool = False) -> Iterator[Server]:
    """The site, in a table of its own."""
    env = {
        "HISTORIES_DATABASE": database,
        "HISTORIES_TABLE": f"history_{secrets.token_hex(6)}",
        "HISTORIES_LAST_WRITE_WINS": str(int(last_write_wins)),
    }
    with serve(COMMANDS[kind], env=env) as server:
        yield server


@dataclass(frozen=True)
class Answer:
    """A response; `cookie` is what it set, if anything, and "" if it cleared it."""

    status: int
    value: Any
    cookie: str | None


class Browser:
    """Somebody with a cookie. Each request has a connection of its own, so any process may answer.

    Attributes:
        cookie: what it sends; another browser may have the same.
    """

    def __init__(self, port: int, cookie: str = "") -> None:
        self._port = port
        self.cookie = cookie

    def twin(self) -> Browser:
        """Another one with the cookie that this one has now."""
        return Browser(self._port, self.cookie)

    async def get(self, path: str) -> Answer:
        return await self._visit("GET", path)

    async def post(self, path: str) -> Answer:
        return await self._visit("POST", path)

    async def _visit(self, method: str, path: str) -> Answer:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(HOST, self._port)
            try:
                lines = [f"{method} {path} HTTP/1.1", f"Host: {HOST}", "Connection: close"]
                lines += [f"Cookie: {self.cookie}"] if self.cookie else []
                lines += ["Content-Length: 0"] if method == "POST" else []
                writer.write("\r\n".join([*lines, "", ""]).encode())
                head, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
            finally:
                writer.close()
        first, *headers = head.decode().split("\r\n")
        answer = Answer(int(first.split()[1]), _value(body), _cookie(headers))
        if answer.cookie is not None:
            self.cookie = answer.cookie
        return answer


def _value(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None  # an error page


def _cookie(headers: list[str]) -> str | None:
    for header in headers:
        name, _, value = header.partition(":")
        if name.lower() == "set-cookie":
            pair = value.strip().partition(";")[0]
            return pair if pair.partition("=")[2] else ""
    return None
