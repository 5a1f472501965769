"""What the middleware may cost, in counts that are the same on every machine and every day.

Times are measured by `benchmarks/`; they differ from one minute to the next, so no test can hold
anyone to them. Python calls, imported modules and bytes on the wire can be counted. The limits are
what it takes today: who lowers one writes the new number down, who needs more says why.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any, Final

import pytest

from tests.fixtures.garbage import our_garbage
from websessions import AsyncMemoryStore, MemoryStore
from websessions.asgi import Message, Receive, Scope, Send
from websessions.asgi import SessionMiddleware as ASGISessions
from websessions.wsgi import SessionMiddleware as WSGISessions

SECRET: Final = "a long and random secret"
THIS_FILE: Final = str(Path(__file__))

CALLS: Final = {
    ("asgi", "read"): 57,
    ("asgi", "write"): 104,
    ("wsgi", "read"): 59,
    ("wsgi", "write"): 104,
}
"""Python functions called for one request, all told: ours, the memory store's, the library's."""


class Calls:
    """Counts the Python functions that are entered, or gone on with, outside of this file."""

    def __init__(self) -> None:
        self.by_name: Counter[str] = Counter()

    def __enter__(self) -> Counter[str]:
        sys.setprofile(self._count)
        return self.by_name

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename != THIS_FILE:
            self.by_name[f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}"] += 1


def use(session: Any, path: str) -> None:
    if path == "/write":
        session["n"] = session.get("n", 0) + 1
    else:
        session.get("n", 0)


async def asgi_app(scope: Scope, receive: Receive, send: Send) -> None:
    use(scope["session"], scope["path"])
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    use(environ["websessions.session"], environ["PATH_INFO"])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
    return [b"ok"]


Visit = Callable[[str, str], Awaitable[list[tuple[str, str]]]]
"""Path and cookie to the headers of the response."""


def asgi() -> Visit:
    app = ASGISessions(asgi_app, AsyncMemoryStore(), secret=SECRET)

    async def visit(path: str, cookie: str) -> list[tuple[str, str]]:
        sent: list[Message] = []

        async def receive() -> Message:
            raise AssertionError("nobody asks")

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"shop.example"), (b"accept", b"*/*"), (b"cookie", cookie.encode())]
        scope = {"type": "http", "method": "GET", "path": path, "scheme": "http"}
        await app({**scope, "headers": headers}, receive, send)
        return [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]

    return visit


def wsgi() -> Visit:
    app = WSGISessions(wsgi_app, MemoryStore(), secret=SECRET)

    async def visit(path: str, cookie: str) -> list[tuple[str, str]]:
        sent: list[tuple[str, str]] = []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            sent.extend(headers)

        environ = {"PATH_INFO": path, "HTTP_COOKIE": cookie, "wsgi.url_scheme": "http"}
        for _ in app(environ, start):
            pass
        return sent

    return visit


ADAPTERS: Final = {"asgi": asgi, "wsgi": wsgi}


async def session_of(visit: Visit) -> str:
    """A visitor's `Cookie` header, after two requests that warmed everything up."""
    sent = dict(await visit("/write", ""))
    cookie = {name.lower(): value for name, value in sent.items()}["set-cookie"]
    header = f"theme=dark; {cookie.partition(';')[0]}; consent=yes"
    for path in ("/read", "/write", "/read", "/write"):
        await visit(path, header)
    return header


@pytest.mark.parametrize(("adapter", "path"), CALLS)
async def test_the_calls_that_a_request_takes(adapter: str, path: str) -> None:
    visit = ADAPTERS[adapter]()
    cookie = await session_of(visit)
    with Calls() as calls:
        await visit(f"/{path}", cookie)
    assert calls.total() <= CALLS[adapter, path], calls.most_common()


@pytest.mark.parametrize(("adapter", "path"), CALLS)
async def test_a_request_leaves_nothing_for_the_garbage_collector(adapter: str, path: str) -> None:
    """A cycle of a few objects at each request has it run often, over all that the process has."""
    visit = ADAPTERS[adapter]()
    cookie = await session_of(visit)
    with our_garbage() as garbage:
        await visit(f"/{path}", cookie)
    assert garbage == []


@pytest.mark.parametrize("adapter", ADAPTERS)
async def test_the_bytes_that_a_response_has_more(adapter: str) -> None:
    """A read says that it depends on the cookie, a first write sets one; no more than that."""
    visit = ADAPTERS[adapter]()
    own = {"content-type", "content-length"}

    async def added(path: str, cookie: str) -> dict[str, int]:
        sent = [(name.lower(), len(value)) for name, value in await visit(path, cookie)]
        return {name: length for name, length in sent if name not in own}

    vary, private = {"vary": len("Cookie")}, {"cache-control": len("private")}
    signed = len("sid=") + 43 + len(".") + 43 + len("; Path=/; HttpOnly; SameSite=Lax")
    cookie = await session_of(visit)
    assert await added("/read", "") == vary
    assert await added("/write", "") == {**vary, **private, "set-cookie": signed}
    assert await added("/read", cookie) == vary
    assert await added("/write", cookie) == vary


OURS: Final = """
asgi codec cookie cookie_form direct errors exchange expiry headers joined lifecycle lock memory
merge outcome resolvers run session settings sid signing store swap sweeper writing
"""


def test_what_an_import_brings_along() -> None:
    """No framework, no database driver, no SQLAlchemy, and of this package what a request needs."""
    program = "import sys, websessions, websessions.asgi; print(*sys.modules)"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    modules = set(done.stdout.split())
    ours = {name.partition(".")[2] for name in modules if name.partition(".")[0] == "websessions"}
    assert ours == {"", *OURS.split()}
    foreign = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    before = subprocess.run(
        [sys.executable, "-c", "import sys; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    by_itself = {name.partition(".")[0] for name in before.stdout.split()}
    assert foreign - by_itself <= {"websessions", "msgspec"}
