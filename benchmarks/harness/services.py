"""The database servers: private ones of this run, pinned, with the settings they are shipped with.

PostgreSQL flushes every commit to the disk, as anybody's does; only `max_connections` is raised.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import psycopg

from tests.fixtures.private import PrivatePostgres, PrivateRedis

from .machine import CORES, cpu_seconds, pinned

_numbers = count(1)


class Postgres(PrivatePostgres):
    options = ("max_connections=200", "unix_socket_directories=", "timezone=UTC")

    def _prepare(self) -> list[str]:
        return pinned(CORES.database, *super()._prepare())

    def cpu_seconds(self) -> float:
        """CPU time of the whole server, with the connections that came and went."""
        return cpu_seconds(self._daemon.pid)

    def database(self) -> str:
        """A new, empty database: its plain `postgresql://` URL, which every driver takes."""
        name = f"benchmark_{next(_numbers)}"
        self.execute(f"CREATE DATABASE {name}", "CHECKPOINT")
        return self.url.set(database=name).render_as_string()

    def execute(self, *statements: str, url: str | None = None) -> list[Any]:
        """The rows of the last statement."""
        with psycopg.connect(url or self.url.render_as_string(), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def describe(self) -> dict[str, str]:
        names = ("server_version", "fsync", "synchronous_commit", "shared_buffers")
        return {name: self.execute(f"SHOW {name}")[0][0] for name in names}


class Redis(PrivateRedis):
    def _prepare(self) -> list[str]:
        return pinned(CORES.database, *super()._prepare())

    def cpu_seconds(self) -> float:
        return cpu_seconds(self._daemon.pid)

    def database(self) -> str:
        return self.url.render_as_string()


@contextmanager
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def redis() -> Iterator[Redis]:
    server = Redis()
    try:
        yield server
    finally:
        server.close()


def with_driver(url: str, driver: str) -> str:
    """The URL as SQLAlchemy takes it: `postgresql+driver://`."""
    return url.replace("postgresql://", f"postgresql+{driver}://", 1)
