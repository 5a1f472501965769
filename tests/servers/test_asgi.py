"""FastAPI under uvicorn, told by clients with cookie jars: pages, sockets, streams."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosedOK
from websockets.sync.client import connect

from tests.fixtures.server import Server
from tests.fixtures.services import Services
from tests.servers.setups import served, uvicorn
from tests.servers.visitor import (
    Visitor,
    assert_no_errors,
    eventually,
    stop_quickly,
    tell_the_story,
    write_at_the_same_moment,
)

PURE = ["--loop", "asyncio", "--http", "h11"]
FAST = ["--loop", "uvloop", "--http", "httptools"]

needs_fast = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("uvloop", "httptools"))),
    reason="missing: uvloop, httptools",
)


@pytest.mark.parametrize(
    ("driver", "options", "workers"),
    [
        pytest.param("sqlite", PURE, 1, id="sqlite-pure"),
        pytest.param("asyncpg", PURE, 1, id="asyncpg-pure"),
        pytest.param("psycopg", PURE, 1, id="psycopg-pure"),
        pytest.param("asyncmy", PURE, 1, id="asyncmy-pure"),
        pytest.param("sqlite", FAST, 1, id="sqlite-fast", marks=needs_fast),
        pytest.param("asyncpg", FAST, 1, id="asyncpg-fast", marks=needs_fast),
        pytest.param("sqlite", [*PURE, "--workers", "2"], 2, id="sqlite-two-workers"),
        pytest.param("asyncpg", [*PURE, "--workers", "2"], 2, id="asyncpg-two-workers"),
    ],
)
def test_fastapi_under_uvicorn(
    services: Services, driver: str, options: list[str], workers: int
) -> None:
    """A visitor logs in, meets every worker, outlasts a restart and logs out."""
    with served(services.url(driver), uvicorn("fastapi_app:app", *options)) as server:
        tell_the_story(server, workers=workers)


# One server each for what a single worker can show.


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("sqlite", PURE), id="sqlite-pure"),
        pytest.param(("asyncpg", FAST), id="asyncpg-fast", marks=needs_fast),
        pytest.param(("psycopg", PURE), id="psycopg-pure"),
    ],
)
def server(services: Services, request: pytest.FixtureRequest) -> Iterator[Server]:
    driver, options = request.param
    with served(services.url(driver), uvicorn("fastapi_app:app", *options)) as server:
        yield server
        stop_quickly(server)
        assert_no_errors(server)


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    with Visitor(server.url) as visitor:
        visitor.post("/login/ada")
        yield visitor


def test_eight_tasks_that_have_all_read_one_session_lose_no_key_of_it(visitor: Visitor) -> None:
    """Each request waits, its session read, until the others have read theirs; then all write."""
    write_at_the_same_moment(visitor)
    assert visitor.session()["user_id"] == "ada"


def test_what_a_stream_changes_is_saved_when_it_says_so_or_ends(visitor: Visitor) -> None:
    """Another request sees what was saved by then, while the stream goes on."""
    with visitor.stream("/events") as lines:
        assert next(lines) == "data: saved"
        with visitor.twin() as twin:
            assert twin.session().items() >= {"before": True, "saved": True}.items()
            assert "last" not in twin.session()
            twin.post("/go")
        assert list(filter(None, lines)) == ["data: late", "data: last"]
    eventually(lambda: "last" in visitor.session(), "the end of the stream is saved")
    assert visitor.session() == {
        "user_id": "ada",
        **dict.fromkeys(("before", "saved", "late", "last"), True),
    }


def test_a_visitor_that_leaves_a_stream_loses_nothing(visitor: Visitor) -> None:
    """What the handler has changed by then is saved, and the server takes it calmly."""
    left = visitor.get("/left")
    with visitor.stream("/events") as lines:
        assert next(lines) == "data: saved"
    eventually(lambda: visitor.get("/left") > left, "the server has noticed")
    eventually(lambda: "late" in visitor.session(), "what the stream changed is saved")
    assert visitor.session() == {
        "user_id": "ada",
        **dict.fromkeys(("before", "saved", "late"), True),
    }


def test_a_stream_outlasts_a_logout_without_undoing_it(visitor: Visitor) -> None:
    """The session has ended: what the stream changes afterwards is dropped."""
    with visitor.stream("/events") as lines:
        assert next(lines) == "data: saved"
        with visitor.twin() as twin:
            twin.post("/logout")
            twin.post("/go")
        list(lines)
    assert visitor.session() == {}


def test_a_socket_saves_when_it_says_so_or_closes(server: Server, visitor: Visitor) -> None:
    """The session is the one that the page has, by the same cookie."""
    url = server.url.replace("http://", "ws://") + "/socket"
    with connect(url, additional_headers={"Cookie": f"sid={visitor.cookie()}"}) as socket:
        for text in ("hello", "save"):
            socket.send(text)
            assert socket.recv() == text
        assert visitor.session()["said"] == ["hello", "save"]
        socket.send("bye")
        assert socket.recv() == "bye"
        with pytest.raises(ConnectionClosedOK):  # the application closes, and has saved before
            socket.recv()
        assert visitor.session()["said"] == ["hello", "save", "bye"]


def test_a_visitor_that_leaves_a_socket_loses_nothing(server: Server, visitor: Visitor) -> None:
    """By a close frame, or by hanging up."""
    url = server.url.replace("http://", "ws://") + "/socket"
    for number in (1, 2):
        with connect(url, additional_headers={"Cookie": f"sid={visitor.cookie()}"}) as socket:
            socket.send("hello")
            assert socket.recv() == "hello"
            if number == 2:
                socket.close_socket()
        expected = {"user_id": "ada", "said": ["hello"] * number}
        eventually(partial(same, visitor, expected), "it has been saved")


def same(visitor: Visitor, expected: dict[str, Any]) -> bool:
    return bool(visitor.session() == expected)


def test_a_socket_and_a_page_change_different_keys(server: Server, visitor: Visitor) -> None:
    """A socket that was open all the while undoes nothing that pages did meanwhile."""
    url = server.url.replace("http://", "ws://") + "/socket"
    with connect(url, additional_headers={"Cookie": f"sid={visitor.cookie()}"}) as socket:
        socket.send("hello")
        socket.recv()
        visitor.post("/cart/tea")
        socket.send("save")
        socket.recv()
        visitor.post("/cart/tea")
        socket.send("save")
        socket.recv()
    assert visitor.session() == {
        "user_id": "ada",
        "said": ["hello", "save", "save"],
        "cart": {"items": {"tea": 2}},
    }


def test_a_strangers_socket_has_a_session_of_its_own(server: Server, visitor: Visitor) -> None:
    """Without a cookie there is nothing to be saved into, and nothing of anyone else's."""
    with connect(server.url.replace("http://", "ws://") + "/socket") as socket:
        socket.send("hello")
        assert socket.recv() == "hello"
    assert visitor.session() == {"user_id": "ada"}
