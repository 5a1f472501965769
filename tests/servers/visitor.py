"""A visitor of the applications, over real HTTP, and the story that all of them have to tell."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx

from tests.fixtures.server import Server
from tests.servers.apps import PARTY

DEADLINE = 20.0
"""Seconds within which what has to happen some time must have happened."""

_NO_TLS = ssl.create_default_context()
# One for all of them: making it takes longer than a request, and nobody here speaks TLS.


class Visitor:
    """A browser: it has a cookie jar. It keeps no connection, so any worker may answer."""

    def __init__(self, url: str, cookie: str | None = None) -> None:
        self._url = url
        self._client = httpx.Client(
            base_url=url,
            timeout=30,
            limits=httpx.Limits(max_keepalive_connections=0),
            trust_env=False,
            verify=_NO_TLS,
        )
        if cookie is not None:
            self._client.cookies.set("sid", cookie, domain="127.0.0.1")

    def cookie(self) -> str | None:
        """The session cookie's value, if there is one."""
        return self._client.cookies.get("sid")

    def look(self) -> dict[str, Any]:
        """The session and who answered; see `apps.shown`."""
        response = self._client.get("/")
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    def session(self) -> Any:
        return self.look()["session"]

    def post(self, path: str) -> httpx.Response:
        return self._client.post(path).raise_for_status()

    def get(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[str]]:
        """The lines of a response, as they come; leaving the block hangs up."""
        with self._client.stream("GET", path) as response:
            yield response.iter_lines()

    def twin(self) -> Visitor:
        """The same browser once more: another connection, the same cookie."""
        return Visitor(self._url, self.cookie())

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until it holds, but not for ever."""
    give_up = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < give_up, f"after {DEADLINE} s still not: {what}"
        time.sleep(0.02)


def in_parallel(visitor: Visitor, visit: Callable[[Visitor, int], None]) -> None:
    """Let several twins of a visitor do something at once, each with its number."""

    def one(number: int) -> None:
        with visitor.twin() as twin:
            visit(twin, number)

    with ThreadPoolExecutor(PARTY) as threads:
        for _ in threads.map(one, range(PARTY)):
            pass


def every_worker(visitor: Visitor, number: int) -> dict[int, dict[str, Any]]:
    """What each of the server's workers shows the visitor, by its process id."""
    answers: dict[int, dict[str, Any]] = {}

    def look(twin: Visitor, _: int) -> None:
        answer = twin.look()
        answers[answer["pid"]] = answer

    def asked() -> bool:
        in_parallel(visitor, look)
        return len(answers) >= number

    eventually(asked, f"{number} workers have answered")
    assert len(answers) == number
    return answers


def stop_quickly(server: Server) -> None:
    """A server that nobody uses any more ends at once: no sweeper, no pool keeps it."""
    begin = time.monotonic()
    server.stop()
    assert time.monotonic() - begin < 5


def tell_the_story(server: Server, *, workers: int) -> None:
    """Shop, log in, meet every worker, come back after a restart, log out."""
    with Visitor(server.url) as visitor:
        assert visitor.look()["new"]
        assert visitor.cookie() is None

        visitor.post("/cart/tea")
        first = visitor.cookie()
        assert first is not None
        visitor.post("/login/ada")
        assert visitor.cookie() != first
        visitor.post("/cart/tea")
        expected = {"cart": {"items": {"tea": 2}}, "user_id": "ada"}
        for answer in every_worker(visitor, workers).values():
            assert answer["session"] == expected
            assert not answer["new"]
            assert answer["sweepers"] <= 1
        with Visitor(server.url, first) as thief:
            assert thief.session() == {}
        with Visitor(server.url) as stranger:
            assert stranger.session() == {}

        write_in_parallel(visitor)
        before = visitor.session()
        stop_quickly(server)
        server.start()
        # All of them: who is told to stop while it still starts workers forgets the last one.
        for answer in every_worker(visitor, workers).values():
            assert answer["session"] == before

        last = visitor.cookie()
        visitor.post("/logout")
        assert visitor.cookie() is None
        assert visitor.session() == {}
        with Visitor(server.url, last) as thief:
            assert thief.session() == {}
    stop_quickly(server)
    assert_no_errors(server)


def write_in_parallel(visitor: Visitor, rounds: int = 5) -> None:
    """Requests that write different keys of one session at once lose none of them."""

    def write(twin: Visitor, number: int) -> None:
        for turn in range(rounds):
            twin.post(f"/key/{number}-{turn}")

    in_parallel(visitor, write)
    wanted = {f"{number}-{turn}" for number in range(PARTY) for turn in range(rounds)}
    assert wanted <= visitor.session().keys()


def write_at_the_same_moment(visitor: Visitor) -> None:
    """The same where all of them have read the session before the first one writes."""

    def meet(twin: Visitor, number: int) -> None:
        twin.post(f"/meet/met-{number}")

    in_parallel(visitor, meet)
    assert {f"met-{number}" for number in range(PARTY)} <= visitor.session().keys()


def assert_no_errors(server: Server) -> None:
    log = server.log()
    for sign in ("Traceback", "ERROR", "CRITICAL", "locked"):
        assert sign not in log, log
