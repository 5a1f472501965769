"""Contestants that are web servers: started, checked, filled, loaded and counted."""

from __future__ import annotations

import http.client
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.fixtures.daemon import HOST
from tests.fixtures.server import serve

from . import load, services
from .machine import CORES, answer_of, cpu_seconds, pinned
from .results import Contender, Kind, Ratio, Results, alternating, chosen

SESSIONS = 512
"""More than are ever in flight, by far."""

CASES = {"read": "/read", "read and write": "/write"}

Database = Literal["postgres", "redis", "sqlite", "none"]


@dataclass(frozen=True)
class App:
    """A contestant: a command that serves the paths of `benchmarks/apps`.

    `{port}` in the command and `{database}` in the environment are filled in.
    """

    name: str
    kind: Kind
    command: Sequence[str]
    database: Database = "none"
    env: Mapping[str, str] = field(default_factory=dict)
    in_cookie: bool = False
    """Whether the whole session is in the cookie: nothing is kept that could be counted."""
    what: str = ""
    peer: str = ""


def uvicorn(
    module: str, name: str, kind: Kind, database: Database = "none", **more: str | bool
) -> App:
    """An ASGI app under uvicorn[standard] with its defaults: one worker, uvloop, httptools."""
    command = [sys.executable, "-m", "uvicorn", f"benchmarks.apps.{module}:app", "--port", "{port}"]
    command += ["--host", HOST, "--log-level", "warning", "--no-access-log"]
    return App(name, kind, command, database, **more)  # type: ignore[arg-type]


def gunicorn(
    module: str, name: str, kind: Kind, database: Database = "none", **more: str | bool
) -> App:
    """A WSGI app under gunicorn's sync worker, one of them."""
    command = [sys.executable, "-m", "gunicorn", f"benchmarks.apps.{module}:app"]
    command += ["--bind", f"{HOST}:{{port}}", "--workers", "1", "--worker-class", "sync"]
    command += ["--log-level", "warning", "--worker-tmp-dir", "/dev/shm"]  # noqa: S108
    return App(name, kind, command, database, **more)  # type: ignore[arg-type]


class Visitor:
    """A browser that keeps its one cookie."""

    def __init__(self, port: int, cookie: str | None = None) -> None:
        self._connection = http.client.HTTPConnection(HOST, port, timeout=30)
        self.cookie = cookie

    def get(self, path: str) -> str:
        headers = {} if self.cookie is None else {"Cookie": self.cookie}
        self._connection.request("GET", path, headers=headers)
        answer = self._connection.getresponse()
        body = answer.read().decode()
        if answer.status != 200:
            raise RuntimeError(f"{path} was answered {answer.status}: {body[:500]}")
        for name, value in answer.getheaders():
            if name.lower() == "set-cookie":
                self.cookie = value.partition(";")[0]
        return body

    def close(self) -> None:
        self._connection.close()


def check(port: int) -> None:
    """A contestant that keeps no session, or mixes visitors up, is not worth a measurement."""
    visitor, other = Visitor(port), Visitor(port)
    seen = [visitor.get("/write") for _ in range(3)] + [other.get("/write"), visitor.get("/read")]
    if seen != ["1", "2", "3", "1", "3"]:
        raise RuntimeError(f"it does not count: {seen}")
    back = Visitor(port, visitor.cookie)
    if (again := back.get("/write")) != "4":
        raise RuntimeError(f"a session does not outlive its connection: {again}")
    for one in (visitor, other, back):
        one.close()


def fill(port: int, sessions: int) -> list[str]:
    """The cookies of that many visitors with sessions of 500 bytes."""
    cookies = []
    for _ in range(sessions):
        visitor = Visitor(port)
        visitor.get("/fill")
        assert visitor.cookie is not None
        cookies.append(visitor.cookie)
        visitor.close()
    return cookies


def counted(port: int, cookies: Sequence[str]) -> int:
    total = 0
    for cookie in cookies:
        visitor = Visitor(port, cookie)
        total += int(visitor.get("/read"))
        visitor.close()
    return total


class Servers:
    """The database servers that the contestants need, started when first asked for."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self._stack = stack
        self._folder = folder
        self.running: dict[str, services.Postgres | services.Redis] = {}

    def database(self, kind: Database) -> str:
        """A fresh database's URL."""
        if kind == "none":
            return ""
        if kind == "sqlite":
            folder = tempfile.mkdtemp(dir=self._folder)
            return f"sqlite:///{folder}/sessions.db"
        if kind not in self.running:
            start = services.postgres if kind == "postgres" else services.redis
            self.running[kind] = self._stack.enter_context(start())
        return self.running[kind].database()

    def cpu_seconds(self, kind: Database) -> float:
        return self.running[kind].cpu_seconds() if kind in self.running else 0.0

    def describe(self) -> dict[str, object]:
        said: dict[str, object] = {"client": load.name()}
        for server in self.running.values():
            if isinstance(server, services.Postgres):
                said["PostgreSQL"] = server.describe()
            else:
                said["Redis"] = answer_of("redis-server", "--version")
        return said


def measure(app: App, repeat: int, servers: Servers, options: Namespace, results: Results) -> None:
    """Start a contestant on an empty database, check it, fill it and load it in every way."""
    url = servers.database(app.database)
    env = {"PYTHONPATH": os.getcwd(), "DATABASE_URL": url, **app.env}
    with (
        tempfile.NamedTemporaryFile("w", suffix=".cookies") as file,
        serve(pinned(CORES.app, *app.command), env=env) as server,
    ):
        cookies = ["none=none"]
        if app.kind != "bare":
            check(server.port)
            cookies = fill(server.port, 128 if options.smoke else SESSIONS)
        path = Path(file.name)
        load.write_cookies(path, cookies)
        written = 0
        for case, at in CASES.items():
            for connections in options.loads:
                if not options.smoke:
                    warm = load.load(server.url + at, path, connections=connections, seconds=1)
                    written += warm.requests if at == "/write" else 0
                    time.sleep(0.2)  # the server may still be busy with the warm-up's last requests
                before = cpu_seconds(server.pid), servers.cpu_seconds(app.database)
                seen = load.load(
                    server.url + at, path, connections=connections, seconds=options.seconds
                )
                after = cpu_seconds(server.pid), servers.cpu_seconds(app.database)
                written += seen.requests if at == "/write" else 0
                values = {"app_us": (after[0] - before[0]) / seen.requests * 1e6}
                if app.database in servers.running:
                    values["database_us"] = (after[1] - before[1]) / seen.requests * 1e6
                values |= {"per_second": seen.per_second}
                values |= {"p50_ms": seen.p50_ms, "p99_ms": seen.p99_ms}
                results.add(app.name, case, repeat, connections, **values)
        if app.kind != "bare" and not app.in_cookie:
            lost = max(0, written - counted(server.port, cookies))
            if lost:
                results.notes.append(
                    f"{app.name}, repeat {repeat}: {lost} of {written} writes were lost, though no"
                    f" two connections shared a session on purpose"
                )
                print(f"  ! {results.notes[-1]}")


def run(
    question: str,
    title: str,
    what: str,
    apps: Sequence[App],
    ratios: Sequence[Ratio],
    options: Namespace,
) -> None:
    """The whole benchmark, from the first server to the file of results."""
    apps = chosen(apps, options)
    print(title, flush=True)
    CORES.pin_here(CORES.client)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = Servers(stack, folder)
        results = Results(
            question,
            title,
            what,
            [Contender(app.name, app.kind, app.what, app.peer) for app in apps],
            ratios,
            {name: value for name, value in vars(options).items() if name != "only"},
        )
        for repeat, app in alternating(apps, options.repeats):
            try:
                measure(app, repeat, servers, options, results)
            except Exception as error:
                if not options.smoke:
                    raise
                print(f"  ! {app.name}: {error}", file=sys.stderr, flush=True)
                results.notes.append(f"{app.name}: {error}")
        results.services = servers.describe()
        results.save()
        if options.smoke and results.notes:
            raise SystemExit(1)
