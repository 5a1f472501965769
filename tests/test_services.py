"""The fixtures themselves: tests that rest on them are worth no more than they are."""

from __future__ import annotations

import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from tests.fixtures import services as services_module
from tests.fixtures.clients import redis
from tests.fixtures.daemon import Daemon, DaemonError, alive, answers, children, free_port
from tests.fixtures.private import Missing, PrivateMariaDB, PrivatePostgres, PrivateServer
from tests.fixtures.server import serve
from tests.fixtures.services import Services


@pytest.mark.parametrize("driver", ["sqlite", "psycopg", "pymysql"])
def test_a_database_answers_a_sync_driver(services: Services, driver: str) -> None:
    engine = create_engine(services.url(driver))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1
    engine.dispose()


@pytest.mark.parametrize("driver", ["aiosqlite", "psycopg", "asyncpg", "asyncmy"])
async def test_a_database_answers_an_async_driver(services: Services, driver: str) -> None:
    engine = create_async_engine(services.url(driver))
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT 1")) == 1
    await engine.dispose()


def test_mysql_takes_any_character(services: Services) -> None:
    engine = create_engine(services.mysql_url())
    with engine.connect() as connection:
        connection.execute(text("CREATE TEMPORARY TABLE words (word varchar(20))"))
        connection.execute(text("INSERT INTO words VALUES ('🛒')"))
        assert connection.scalar(text("SELECT word FROM words")) == "🛒"
    engine.dispose()


@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_one_database_a_run_and_more_on_demand(services: Services, driver: str) -> None:
    usual, again = services.url(driver), services.url(driver)
    fresh = services.url(driver, fresh=True)
    assert usual == again
    assert make_url(fresh).database != make_url(usual).database


def test_sqlite_files_are_all_different(services: Services) -> None:
    assert services.sqlite_url() != services.sqlite_url()


def test_databases_are_dropped_at_the_end_even_if_in_use(tmp_path: Path) -> None:
    services = Services(tmp_path)
    names = {}
    held = []
    for driver in ("psycopg", "pymysql"):
        url = services.url(driver)
        names[driver] = make_url(url).database
        connection = create_engine(url).connect()
        connection.execute(text("CREATE TABLE held (x int)"))
        connection.execute(text("INSERT INTO held VALUES (1)"))
        held.append(connection)  # with its transaction, and the locks of that

    services.close()

    for connection in held:
        connection.invalidate()
        connection.engine.dispose()
    again = Services(tmp_path)
    for driver, query in (
        ("psycopg", "SELECT datname FROM pg_database"),
        ("pymysql", "SHOW DATABASES"),
    ):
        engine = create_engine(again.url(driver))
        with engine.connect() as connection:
            assert names[driver] not in connection.scalars(text(query)).all()
        engine.dispose()
    again.close()


def test_redis_gives_an_empty_database_and_empties_it(tmp_path: Path) -> None:
    services = Services(tmp_path)
    url = make_url(services.redis_url())
    select = f"SELECT {url.database}"
    assert redis(url, select, "SET here 1", "DBSIZE")[-1] == ":1"
    services.close()
    assert redis(url, select, "DBSIZE")[-1] == ":0"


def test_a_server_that_was_named_is_not_replaced_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "WEBSESSIONS_TEST_POSTGRES_URL", f"postgresql://nobody@127.0.0.1:{free_port()}"
    )
    with pytest.raises(RuntimeError, match="WEBSESSIONS_TEST_POSTGRES_URL"):
        Services(tmp_path).postgres_url()


@pytest.mark.parametrize(
    ("required", "outcome"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)]
)
def test_what_is_missing_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    required: str,
    outcome: type[BaseException],
) -> None:
    def absent() -> PrivateServer:
        raise Missing("the program teapotd")

    def refuse(url: object) -> None:
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setenv("WEBSESSIONS_REQUIRE_SERVICES", required)
    monkeypatch.delenv("WEBSESSIONS_TEST_POSTGRES_URL", raising=False)
    monkeypatch.setitem(services_module._KINDS, "POSTGRES", (refuse, absent))
    with pytest.raises(outcome, match="the program teapotd; at the standard port: nobody there"):
        Services(tmp_path).postgres_url()


def _survives_a_kill(server: PrivateServer, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE kept (x int)"))
        connection.execute(text("INSERT INTO kept VALUES (7)"))

    server.kill()
    assert not server.running
    assert not answers(server.port)
    with pytest.raises(DBAPIError), engine.connect() as connection:
        connection.execute(text("SELECT x FROM kept"))

    server.start()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT x FROM kept")) == 7
    engine.dispose()
    server.stop()
    assert not answers(server.port)


def test_a_private_postgres_can_be_killed(private_postgres: PrivatePostgres) -> None:
    _survives_a_kill(private_postgres, create_engine(private_postgres.url_for("psycopg")))


def test_a_private_mariadb_can_be_killed(private_mariadb: PrivateMariaDB) -> None:
    url = make_url(private_mariadb.url_for("pymysql")).set(database="mysql")
    _survives_a_kill(private_mariadb, create_engine(url))


HTTP = [sys.executable, "-m", "http.server", "--bind", "{host}", "{port}"]


def test_a_server_is_there_in_the_block_and_gone_after_it(tmp_path: Path) -> None:
    Path(tmp_path, "hello").write_text("hello")
    with serve(HTTP, cwd=tmp_path) as server:
        assert httpx.get(f"{server.url}/hello").text == "hello"
        server.restart()
        assert httpx.get(f"{server.url}/hello").text == "hello"
        assert server.log().count("GET /hello") == 2
    assert not answers(server.port)


def test_a_server_that_ends_at_once_shows_its_log() -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such app')"]
    with pytest.raises(DaemonError, match=r"(?s)status 1.*no such app"), serve(command):
        pass


STUBBORN = """
import signal, socket, subprocess, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
signal.pause()
"""


def test_a_server_that_will_not_stop_is_killed_with_its_children(tmp_path: Path) -> None:
    port = free_port()
    daemon = Daemon(
        [sys.executable, "-c", STUBBORN, str(port)], port=port, log_path=tmp_path / "log"
    )
    daemon.start()
    born = children(daemon.pid)
    assert len(born) == 1
    with pytest.raises(DaemonError, match="had to be killed"):
        daemon.stop(deadline=0.1)
    assert not daemon.running
    assert not alive(born[0])
