"""WSGI applications under real servers, told by clients with cookie jars."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Connection, create_engine, func, select

from tests.fixtures.server import ROOT
from tests.fixtures.services import Services
from tests.servers.forked import CHILDREN
from tests.servers.processes import database_sockets, has_proc
from tests.servers.setups import PYTHON, a_table, gunicorn, served
from tests.servers.visitor import (
    Visitor,
    assert_no_errors,
    eventually,
    every_worker,
    in_parallel,
    stop_quickly,
    tell_the_story,
    write_at_the_same_moment,
)
from websessions.sql import SQLSessionStore

DATABASES = ["sqlite", "psycopg", "pymysql"]
SYNC = ["-k", "sync", "-w", "2"]
THREADS = ["-k", "gthread", "--threads", "8"]
PRELOAD = [*SYNC, "--preload"]


@pytest.mark.parametrize(
    ("driver", "options", "workers"),
    [
        pytest.param("sqlite", SYNC, 2, id="sync-sqlite"),
        pytest.param("psycopg", SYNC, 2, id="sync-psycopg"),
        pytest.param("sqlite", THREADS, 1, id="gthread-sqlite"),
        pytest.param("pymysql", THREADS, 1, id="gthread-pymysql"),
        pytest.param("sqlite", PRELOAD, 2, id="preload-sqlite"),
        pytest.param("psycopg", PRELOAD, 2, id="preload-psycopg"),
        pytest.param("pymysql", PRELOAD, 2, id="preload-pymysql"),
    ],
)
def test_flask_under_gunicorn(
    services: Services, driver: str, options: list[str], workers: int
) -> None:
    """A visitor logs in, meets every worker, outlasts a restart and logs out."""
    with served(services.url(driver), gunicorn("flask_app:app", *options)) as server:
        tell_the_story(server, workers=workers)


@pytest.mark.parametrize("driver", ["sqlite", "psycopg"])
def test_a_bare_application_under_gunicorn(services: Services, driver: str) -> None:
    with served(services.url(driver), gunicorn("wsgi_app:app", *SYNC)) as server:
        tell_the_story(server, workers=2)


def test_a_bare_application_under_wsgiref(services: Services) -> None:
    command = [PYTHON, "-m", "tests.servers.wsgi_app", "{port}"]
    with served(services.sqlite_url(), command) as server:
        tell_the_story(server, workers=1)


@pytest.mark.parametrize(
    ("app", "driver"),
    [
        ("flask_app:app", "sqlite"),
        ("flask_app:app", "psycopg"),
        ("flask_app:app", "pymysql"),
        ("wsgi_app:app", "sqlite"),
    ],
)
def test_eight_threads_that_have_all_read_one_session_lose_no_key_of_it(
    services: Services, app: str, driver: str
) -> None:
    """Each request waits, its session read, until the others have read theirs; then all write."""
    with served(services.url(driver), gunicorn(app, *THREADS)) as server:
        with Visitor(server.url) as visitor:
            visitor.post("/login/ada")
            write_at_the_same_moment(visitor)
            assert visitor.session()["user_id"] == "ada"
        assert_no_errors(server)


def test_four_processes_share_one_sqlite_file(services: Services) -> None:
    """They create it at the same time, then write as fast as they can; it is never locked."""
    with served(
        services.sqlite_url(), gunicorn("flask_app:app", "-k", "sync", "-w", "4")
    ) as server:

        def shop(_: Visitor, number: int) -> None:
            with Visitor(server.url) as visitor:
                for turn in range(25):
                    visitor.post(f"/key/{number}-{turn}")
                    visitor.post("/cart/tea")
                session = visitor.session()
            assert session.pop("cart") == {"items": {"tea": 25}}
            assert len(session) == 25

        with Visitor(server.url) as visitor:
            visitor.post("/login/ada")
            every_worker(visitor, 4)
            in_parallel(visitor, shop)
        assert_no_errors(server)


# --preload: the store is made, and used, in the process that then forks the workers.


@has_proc
@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_workers_do_not_use_their_parents_connections(services: Services, driver: str) -> None:
    """Two processes on one connection would read each other's answers.

    A worker inherits the parent's connection and would use it, since it is free; instead each has
    opened one of its own.
    """
    database = services.url(driver)
    with served(database, gunicorn("flask_app:app", *PRELOAD)) as server:
        with Visitor(server.url) as visitor:
            visitor.post("/login/ada")
            workers = every_worker(visitor, 2)
        inherited = database_sockets(server.pid, database)
        assert inherited
        own = [database_sockets(pid, database) - inherited for pid in workers]
        assert [len(sockets) for sockets in own] == [1, 1]
        assert own[0] != own[1]
        stop_quickly(server)


@pytest.mark.parametrize(
    "driver",
    [
        "sqlite",
        "psycopg",
        "pymysql",
    ],
)
def test_children_outlive_the_parents_store(services: Services, driver: str) -> None:
    """A parent that closes takes nothing from its children, such as SQLite's files or locks."""
    command = [PYTHON, "-m", "tests.servers.forked", services.url(driver, fresh=True)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT)
    assert (run.stdout.strip(), run.stderr) == (str(1 + 2 * CHILDREN), "")


@pytest.mark.parametrize("driver", DATABASES)
def test_the_sweeper_lives_on_in_the_workers(services: Services, driver: str) -> None:
    """A thread does not survive a fork, so each worker that uses sessions starts its own."""
    database, table = services.url(driver), a_table()
    command = gunicorn("flask_app:app", *PRELOAD)
    with served(database, command, table=table, sweep_every=0.1) as server:
        with Visitor(server.url) as visitor:
            visitor.post("/login/ada")
            for answer in every_worker(visitor, 2).values():
                assert answer["sweepers"] == 1
        with paused(server.pid), rows_of(database) as rows:  # the parent sweeps as well
            store = SQLSessionStore(rows.engine, table_name=table, check_expiration_interval=None)
            expired = datetime.now(UTC) - timedelta(hours=1)
            store.set("an-expired-session", {}, expires=expired)
            count = select(func.count()).select_from(store.table)
            eventually(lambda: rows.scalar(count) == 1, "the expired row is deleted")
        stop_quickly(server)
        assert_no_errors(server)


@contextmanager
def paused(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def rows_of(database: str) -> Iterator[Connection]:
    engine = create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()
