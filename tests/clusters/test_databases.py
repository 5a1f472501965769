"""Many processes, one session on a database server: every write that was acknowledged counts."""

from __future__ import annotations

from tests.clusters.counting import PROCESSES, WORKERS, counted
from tests.fixtures.services import Services
from tests.sql.drivers import ALL, Way, a_name, on_servers, ways

ROUNDS = 10


@ways(*on_servers(ALL))
async def test_a_counter_of_many_processes_is_exact(services: Services, way: Way) -> None:
    """Each of them loads the one session and replaces it, again where another one was faster."""
    url, table = way.url(services), a_name()
    async with way.open(url, table_name=table) as face:
        total = await counted(face, way.id, url, table, rounds=ROUNDS, mixed=False, sessions=1)
        assert total == PROCESSES * WORKERS * ROUNDS
