"""Whatever overlaps, in whatever order: no key is lost, and nothing that has ended comes back.

In memory every schedule of every story is tried. On a database a turn is a statement, and for an
async store a round trip, with the batches that form on the way; where that makes too many
schedules, those with few preemptions are tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import pytest

from tests.fixtures.services import Services
from tests.schedules.stories import STORIES, Story
from tests.stores.databases import Maker, Making
from websessions import AsyncMemoryStore, MemoryStore
from websessions.testing.explorer import explore, explore_async
from websessions.testing.requests import Script, logout, request, write
from websessions.testing.turns import RoundTrip, by_round_trip, by_statement, round_trips

SYNC: Final = [
    Maker("sqlite", "url", "generated", asynchronous=False),
    Maker("psycopg", "url", "generated", asynchronous=False),
    Maker("sqlite", "url", "own", asynchronous=False),
    Maker("pymysql", "url", "generated", asynchronous=False),
]
ASYNC: Final = [
    Maker("sqlite", "url", "generated", asynchronous=True),
    Maker("asyncpg", "url", "generated", asynchronous=True),
    Maker("psycopg", "url", "own", asynchronous=True),
    Maker("asyncmy", "url", "generated", asynchronous=True),
]

stories = pytest.mark.parametrize("story", STORIES.values(), ids=STORIES)


def told_to(makers: Sequence[Maker]) -> pytest.MarkDecorator:
    """Every story to the first; to the others those that are short."""
    return pytest.mark.parametrize(
        ("maker", "story"),
        [
            pytest.param(maker, story, id=f"{maker}-{name}")
            for number, maker in enumerate(makers)
            for name, story in STORIES.items()
            if number < 1 or not story.is_long
            if maker.table == "generated" or not story.locks
        ],
    )


@stories
def test_in_memory(story: Story) -> None:
    """Every schedule."""
    explored = explore(
        lambda clock, **options: MemoryStore(clock=clock, **options),
        story.parties,
        **story.options,
    )
    assert len(set(explored.schedules)) == len(explored)


@stories
async def test_in_memory_under_asyncio(story: Story) -> None:
    explored = await explore_async(
        lambda clock, **options: AsyncMemoryStore(clock=clock, **options),
        story.parties,
        **story.options,
    )
    assert len(set(explored.schedules)) == len(explored)


@told_to(SYNC)
def test_in_a_database(maker: Maker, story: Story, services: Services) -> None:
    """Each party on a connection of its own, statement by statement."""
    explore(
        Making(maker, services),
        story.parties,
        turns=by_statement(),
        preemptions=2,
        graces=maker.table == "generated",
        **story.options,
    )


@told_to(ASYNC)
def test_in_a_database_under_asyncio(maker: Maker, story: Story, services: Services) -> None:
    """With batching: which calls go together is part of the schedule."""
    with asyncio.Runner() as runner:
        runner.run(
            explore_async(
                Making(maker, services),
                story.parties,
                turns=by_round_trip(),
                preemptions=0 if story.is_long else 1,
                graces=maker.table == "generated",
                **story.options,
            )
        )


VISITORS: Final = ("ada", "bob", "cem", "dot")

TOGETHER: Final[dict[str, dict[str, Script]]] = {
    "insert": {name: request(write("k"), visitor=None) for name in VISITORS},
    "delete": {name: request(logout, visitor=name) for name in VISITORS},
}


@pytest.mark.parametrize("maker", ASYNC, ids=str)
@pytest.mark.parametrize("kind", TOGETHER)
def test_several_visitors_share_a_batch(maker: Maker, kind: str, services: Services) -> None:
    """So what is explored here is batches, and not one call after the other."""
    sent: list[str] = []

    def watched(store: Any, point: RoundTrip) -> None:
        def watched_point(does: str) -> AbstractAsyncContextManager[None]:
            sent.append(does)
            return point(does)

        round_trips(store, watched_point)

    with asyncio.Runner() as runner:
        runner.run(
            explore_async(
                Making(maker, services),
                TOGETHER[kind],
                turns=by_round_trip(watched),
                sessions={name: {"user_id": name} for name in VISITORS},
                schedule=" ".join(VISITORS),
            )
        )
    assert f"sends {kind}, {kind}" in " ".join(sent)
