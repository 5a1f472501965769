"""Several server processes, many clients, real HTTP: what was acknowledged is there in the end.

`scripts/histories` makes longer ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures.server import Server
from tests.fixtures.services import Services
from tests.histories.history import (
    History,
    Wrong,
    log_out_under_writers,
    regenerate_under_writers,
)
from tests.histories.site import Kind, served
from tests.servers.visitor import assert_no_errors

SITES: list[tuple[Kind, str]] = [
    ("wsgi", "sqlite"),
    ("wsgi", "psycopg"),
    ("wsgi", "pymysql"),
    ("asgi", "sqlite"),
    ("asgi", "asyncpg"),
    ("asgi", "asyncmy"),
]


@pytest.fixture(scope="module", params=SITES, ids="-".join)
def site(services: Services, request: pytest.FixtureRequest) -> Iterator[Server]:
    kind, driver = request.param
    with served(kind, services.url(driver)) as server:
        yield server
        assert_no_errors(server)


async def test_every_acknowledged_change_is_there(site: Server) -> None:
    """32 clients, on one session and on others."""
    await History(site.port, clients=32, requests=15, others=4).make()


async def test_a_logout_stands_against_slow_writers(site: Server) -> None:
    await log_out_under_writers(site.port, writers=64, at_once=16)


async def test_a_visitor_with_a_new_id_has_one_session(site: Server) -> None:
    await regenerate_under_writers(site.port, visitors=4, rounds=5)


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
async def test_a_build_where_the_last_write_wins_is_found_out(
    services: Services, kind: Kind
) -> None:
    """Otherwise what passes above would mean nothing."""
    with served(kind, services.url("sqlite"), last_write_wins=True) as server:
        with pytest.raises(Wrong, match="it should be"):
            await History(server.port, clients=32, requests=15, others=4).make()
        with pytest.raises(Wrong, match="is back"):
            await log_out_under_writers(server.port, writers=160, at_once=16)
