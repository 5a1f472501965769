"""Fixtures for every test. What they are made of is in tests/fixtures/."""

from __future__ import annotations

import importlib.metadata
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

import websessions
from tests.fixtures.private import PrivateMariaDB, PrivatePgBouncer, PrivatePostgres
from tests.fixtures.services import Services


def pytest_configure(config: pytest.Config) -> None:
    """scripts/test promises that the installed wheel is what is tested."""
    if os.environ.get("WEBSESSIONS_TEST_INSTALLED") != "1":
        return
    installed = Path(sysconfig.get_path("purelib"), "websessions").resolve()
    tested = Path(str(websessions.__file__)).resolve().parent
    if tested != installed:
        raise pytest.UsageError(f"websessions is imported from {tested}, not from {installed}")


def pytest_report_header(config: pytest.Config) -> str:
    sqlalchemy = importlib.metadata.version("sqlalchemy")
    return f"websessions: {Path(str(websessions.__file__)).parent}, SQLAlchemy {sqlalchemy}"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """URLs of databases: `services.url("asyncpg")`."""
    services = Services(tmp_path_factory.mktemp("services"))
    yield services
    services.close()


@pytest.fixture
def private_postgres(services: Services) -> Iterator[PrivatePostgres]:
    """A PostgreSQL server for this test alone, to be killed and started at will."""
    server = services.private_postgres()
    yield server
    server.close()


@pytest.fixture
def private_mariadb(services: Services) -> Iterator[PrivateMariaDB]:
    """A MariaDB server for this test alone, to be killed and started at will."""
    server = services.private_mariadb()
    yield server
    server.close()


@pytest.fixture
def private_pgbouncer(services: Services) -> Iterator[PrivatePgBouncer]:
    """A PgBouncer in transaction mode for this test alone, to be stopped and started at will."""
    pooler = services.private_pgbouncer()
    yield pooler
    pooler.close()
