"""The apps that share a login: one of Express, one ASGI and one WSGI app of Python."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from tests.fixtures.server import ROOT, Server, serve
from tests.fixtures.services import Services

SECRETS = ["the secret that signs, new", "the one before it, retired"]
NODE, ASGI, WSGI = "express", "asgi", "wsgi"
EVERY = (NODE, ASGI, WSGI)
MOVING = "moving"


@dataclass(frozen=True)
class Setup:
    """A package of Express's, on a database, with a driver for each kind of Python app."""

    package: str
    table: str
    driver: str
    asynchronous: str

    def __str__(self) -> str:
        return f"{self.package}-{self.driver}"


SETUPS = (
    Setup("connect-session-sequelize", "Sessions", "sqlite", "sqlite"),
    Setup("connect-session-sequelize", "Sessions", "psycopg", "asyncpg"),
    Setup("connect-session-sequelize", "Sessions", "pymysql", "asyncmy"),
    Setup("connect-session-sequelize-8", "Sessions", "sqlite", "aiosqlite"),
    Setup("connect-pg-simple", "session", "psycopg", "psycopg"),
    Setup("express-mysql-session", "sessions", "pymysql", "asyncmy"),
)


def packages() -> Path:
    """Where npm has put the packages; skips the test where there are none."""
    if shutil.which("node") is None:
        pytest.skip("missing: Node (the program node)")
    folder = Path(
        os.environ.get("WEBSESSIONS_TEST_NODE_PATH", ROOT / ".venvs" / "test-node" / "node_modules")
    )
    if not folder.joinpath("express-session").exists():
        missing = f"the npm packages of tests/node (scripts/test installs them), in {folder}"
        if os.environ.get("WEBSESSIONS_REQUIRE_SERVICES") == "1":
            pytest.fail(f"missing: {missing}")
        pytest.skip(f"missing: {missing}")
    return folder


class Table:
    """The table of the package, as it is."""

    def __init__(self, setup: Setup, url: str) -> None:
        self._setup = setup
        self._engine = create_engine(url)
        self._name = self._engine.dialect.identifier_preparer.quote(setup.table)
        self.sid = "session_id" if setup.package == "express-mysql-session" else "sid"
        self.data = "sess" if setup.package == "connect-pg-simple" else "data"
        self.expires = "expire" if setup.package == "connect-pg-simple" else "expires"

    def text(self, sid: str) -> str:
        """The JSON of a session, as it is stored."""
        column = f"CAST({self.data} AS TEXT)" if self.data == "sess" else self.data
        (found,) = self._ask(f"SELECT {column} FROM {self._name} WHERE {self.sid} = :sid", sid=sid)
        return str(found[0])

    def row(self, sid: str) -> dict[str, Any]:
        (found,) = self._ask(f"SELECT * FROM {self._name} WHERE {self.sid} = :sid", sid=sid)
        return dict(found._mapping)

    def sids(self) -> set[str]:
        return {row[0] for row in self._ask(f"SELECT {self.sid} FROM {self._name}")}

    def end(self, sid: str) -> None:
        """Let a session's time be over."""
        past = {
            "connect-pg-simple": "'2020-01-01'",
            "express-mysql-session": "1577836800",
        }.get(self._setup.package)
        if past is None:
            sqlite = self._engine.dialect.name == "sqlite"
            past = "'2020-01-01 00:00:00.000 +00:00'" if sqlite else "'2020-01-01'"
        self._do(
            f"UPDATE {self._name} SET {self.expires} = {past} WHERE {self.sid} = :sid", sid=sid
        )

    def put(self, sid: str, data: str) -> None:
        """Overwrite the JSON."""
        value = "CAST(:data AS JSON)" if self.data == "sess" else ":data"
        self._do(
            f"UPDATE {self._name} SET {self.data} = {value} WHERE {self.sid} = :sid",
            sid=sid,
            data=data,
        )

    def _ask(self, sql: str, **values: Any) -> Any:
        with self._engine.connect() as connection:
            return connection.execute(text(sql), values).fetchall()

    def _do(self, sql: str, **values: Any) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(sql), values)

    def close(self) -> None:
        self._engine.dispose()


class Apps:
    """The three, and what they share."""

    def __init__(self, setup: Setup, servers: dict[str, Server], table: Table, url: str) -> None:
        self.setup = setup
        self.servers = servers
        self.table = table
        self.url = url

    def browser(self, cookie: str | None = None) -> Browser:
        browser = Browser({name: server.url for name, server in self.servers.items()})
        browser.give(cookie)
        return browser

    @contextmanager
    def held(self, cookie: str | None, app: str, changes: dict[str, Any]) -> Iterator[Browser]:
        """A request that has read its session, and changes it when the block has ended."""
        with (
            self.browser(cookie) as held,
            self.browser() as other,
            ThreadPoolExecutor(1) as thread,
        ):
            request = thread.submit(held.post, app, "held", changes)
            other.post(app, "arrived")
            try:
                yield held
            finally:
                other.post(app, "open")
            request.result()


class Browser:
    """One cookie jar for all of them, as behind one origin."""

    def __init__(self, urls: dict[str, str]) -> None:
        self._urls = urls
        self._client = httpx.Client(timeout=30, trust_env=False)

    def get(self, app: str) -> Any:
        return self._answer(self._client.get(self._urls[app]))

    def post(self, app: str, path: str, body: Any = None) -> Any:
        return self._answer(
            self._client.post(
                f"{self._urls[app]}/{path}",
                content=json.dumps(body),  # in ASCII, for lone surrogates
                headers={"content-type": "application/json"},
            )
        )

    def values(self, app: str) -> dict[str, Any]:
        values: dict[str, Any] = self.get(app)["values"]
        return values

    def sid(self) -> str:
        """The session id, read out of the cookie."""
        value = unquote(self.cookie() or "")
        return value.removeprefix("s:").rpartition(".")[0]

    def cookie(self) -> str | None:
        return self._client.cookies.get("connect.sid")

    def expires(self) -> int | None:
        """When the browser drops the cookie; None for when it is closed."""
        (cookie,) = [one for one in self._client.cookies.jar if one.name == "connect.sid"]
        return cookie.expires

    def give(self, cookie: str | None) -> None:
        """Have this cookie, whatever it was before."""
        self._client.cookies.clear()
        if cookie is not None:
            self._client.cookies.set("connect.sid", cookie, domain="127.0.0.1", path="/")

    @staticmethod
    def _answer(response: httpx.Response) -> Any:
        assert response.status_code == 200, response.text
        return response.json()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


@contextmanager
def started(setup: Setup, services: Services, names: tuple[str, ...] = EVERY) -> Iterator[Apps]:
    """These apps on one database; Express makes the table."""
    environment = {"NODE_PATH": str(packages())}
    url = services.url(setup.driver, fresh=True)
    environment |= {
        "PACKAGE": setup.package,
        "SECRETS": json.dumps(SECRETS),
        "DATABASE": _for_node(url),
        "SYNC_URL": url,
        "ASYNC_URL": _with_driver(url, setup.asynchronous),
        "NODE_ENV": "test",
    }
    python = (sys.executable, "-m")
    uvicorn = ("--factory", "--lifespan", "off", "--host", "{host}", "--port", "{port}")
    commands = {
        NODE: ["node", str(ROOT / "tests" / "node" / "app.js"), "{port}"],
        ASGI: [*python, "uvicorn", "tests.node.python_app:asgi", "--no-access-log", *uvicorn],
        MOVING: [*python, "uvicorn", "tests.node.python_app:moving", "--no-access-log", *uvicorn],
        WSGI: [
            *(*python, "gunicorn", "tests.node.python_app:wsgi()", "--bind", "{host}:{port}"),
            *("--no-control-socket", "--worker-class", "gthread", "--threads", "4"),
        ],
    }
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(serve(commands[name], env=environment)) for name in names
        }
        table = Table(setup, url)
        stack.callback(table.close)
        yield Apps(setup, servers, table, url)


def _for_node(url: str) -> str:
    made = make_url(url)
    if made.drivername.startswith("sqlite"):
        assert made.database is not None
        return made.database
    scheme = "postgres" if made.drivername.startswith("postgresql") else "mysql"
    plain = made.set(drivername=scheme).set(query={})
    return plain.render_as_string(hide_password=False)


def _with_driver(url: str, driver: str) -> str:
    made = make_url(url)
    name = driver if driver == "sqlite" else f"{made.get_backend_name()}+{driver}"
    return made.set(drivername=name).render_as_string(hide_password=False)
