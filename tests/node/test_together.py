"""One login for Node and Python: Express and Python apps share sessions, request by request."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import permutations, product
from typing import Any

import pytest

from tests.fixtures.services import Services
from tests.node.apps import ASGI, EVERY, NODE, SECRETS, SETUPS, WSGI, Apps, Browser, Setup, started
from websessions import Sid
from websessions.signing import ExpressValue

PAIRS = list(permutations(EVERY, 2))
PYTHON = (ASGI, WSGI)


@pytest.fixture(scope="module", params=SETUPS, ids=str)
def apps(request: pytest.FixtureRequest, services: Services) -> Iterator[Apps]:
    setup: Setup = request.param
    with started(setup, services) as apps:
        yield apps
        for server in apps.servers.values():
            for sign in ("Traceback", "ERROR", "CRITICAL", "Error:", "locked"):
                assert sign not in server.log(), server.log()


@pytest.fixture
def browser(apps: Apps) -> Iterator[Browser]:
    with apps.browser() as browser:
        yield browser


def lasts_an_hour(cookie: dict[str, Any]) -> bool:
    """Express computes it anew at each touch, and may lose a millisecond each time."""
    age: int = cookie["originalMaxAge"]
    return 3_599_900 < age <= 3_600_000


@pytest.mark.parametrize(("first", "then"), PAIRS)
def test_who_logs_in_here_is_known_there(browser: Browser, first: str, then: str) -> None:
    browser.post(first, "login", "ann")
    assert browser.values(then) == {"user": "ann"}
    assert browser.get(then)["id"] == browser.get(first)["id"]


@pytest.mark.parametrize(("first", "then"), PAIRS)
def test_who_logs_out_here_is_logged_out_there(
    browser: Browser, apps: Apps, first: str, then: str
) -> None:
    browser.post(then, "login", "ann")
    cookie = browser.cookie()
    browser.post(first, "logout")
    browser.give(cookie)  # Express leaves it in the browser; a thief may have kept it
    for app in EVERY:
        assert browser.values(app) == {}
    assert cookie is not None


@pytest.mark.parametrize(("first", "then"), PAIRS)
def test_a_login_ends_the_id_before_it(browser: Browser, first: str, then: str) -> None:
    """Whichever side had given that out."""
    browser.post(first, "set", {"cart": 1})
    before = browser.cookie()
    browser.post(then, "login", "ann")
    assert browser.cookie() != before
    assert browser.values(first) == {"user": "ann"}
    browser.give(before)
    for app in EVERY:
        assert browser.values(app) == {}


def test_they_count_in_turns_and_lose_nothing(browser: Browser, apps: Apps) -> None:
    """A thousand requests, one after the other, by Express, ASGI and WSGI in turns."""
    requests = 1000 if apps.setup.package == "connect-session-sequelize" else 100
    for n in range(requests):
        assert browser.post(EVERY[n % 3], "count")["values"] == {"count": n + 1}
    for app in EVERY:
        assert browser.values(app) == {"count": requests}


@pytest.mark.parametrize("app", PYTHON)
def test_what_node_made_survives_a_write(browser: Browser, apps: Apps, app: str) -> None:
    """Byte for byte, in its order, with what only Node knows of the cookie; and Node reads it."""
    browser.post(NODE, "made")
    sid = browser.sid()
    made = apps.table.text(sid)
    for character in (
        '"7":"an index"',
        "👩‍🚀🛒",
        r"\ud83d and \ude00",
        "1152921504606847000",
        "1e-7",
    ):
        assert character in made
    seen = browser.get(NODE)
    browser.get(app)
    assert apps.table.text(sid) == made
    browser.post(app, "set", {"from python": {"a": "👩‍🚀"}})
    assert apps.table.text(sid) == made[:-1] + ',"from python":{"a":"👩‍🚀"}}'
    assert browser.get(NODE) == {
        "id": seen["id"],
        "values": {**seen["values"], "from python": {"a": "👩‍🚀"}},
    }
    browser.post(app, "delete", "from python")
    assert apps.table.text(sid) == made


@pytest.mark.parametrize("app", PYTHON)
def test_node_writes_what_python_wrote_the_same(browser: Browser, apps: Apps, app: str) -> None:
    """So that an Express app which changes nothing sees no change."""
    values = {"list": [1, 1.5, None, True, "x"], "text": "\ud83d 👩‍🚀 \x00\x1f\u2028", "n": 10**20}
    browser.post(app, "set", values)
    sid = browser.sid()
    written = apps.table.text(sid)
    assert browser.values(NODE) == values
    browser.post(NODE, "set", {"z": 1})
    assert apps.table.text(sid) == written[:-1] + ',"z":1}'


@pytest.mark.parametrize("app", PYTHON)
def test_a_new_session_of_python_is_as_one_of_node(browser: Browser, apps: Apps, app: str) -> None:
    """The same columns with values of the same types and the same cookie."""
    rows = []
    for one in (NODE, app):
        browser.give(None)
        browser.post(one, "set", {"user": "ann"})
        assert len(browser.sid()) == 32
        rows.append(apps.table.row(browser.sid()))
        document = json.loads(apps.table.text(browser.sid()))
        assert list(document) == ["cookie", "user"]
        assert list(document["cookie"]) == ["originalMaxAge", "expires", "httpOnly", "path"]
    node, python = rows
    assert list(node) == list(python)
    assert [type(value) for value in node.values()] == [type(value) for value in python.values()]
    if apps.setup.driver == "sqlite":
        for column in ("expires", "createdAt", "updatedAt"):
            assert len(node[column]) == len(python[column]) == len("2026-11-24 08:22:22.222 +00:00")


@pytest.mark.parametrize(("first", "then"), PAIRS)
def test_a_max_age_set_here_counts_there(
    browser: Browser, apps: Apps, first: str, then: str
) -> None:
    """The cookie lasts as long, and it slides on both sides."""
    browser.post(then, "set", {"user": "ann"})
    assert browser.expires() is None
    browser.post(first, "max-age", 3600)
    # Express sets no cookie again that ended with the browser, and neither knew an expiry before.
    browser.post(then, "count")
    expires = browser.expires()
    assert expires is not None
    assert abs(expires - time.time() - 3600) < 30
    document = json.loads(apps.table.text(browser.sid()))
    assert lasts_an_hour(document["cookie"])
    assert document["remembered"] == 3600
    browser.post(then, "max-age", None)
    assert json.loads(apps.table.text(browser.sid()))["cookie"]["originalMaxAge"] is None
    assert browser.values(first) == {"user": "ann", "remembered": None, "count": 1}


@pytest.mark.parametrize("app", PYTHON)
def test_a_session_that_has_expired_is_over(browser: Browser, apps: Apps, app: str) -> None:
    """Of the two, Sequelize's store alone would serve it until it is swept."""
    browser.post(NODE, "login", "ann")
    apps.table.end(browser.sid())
    assert browser.values(app) == {}


@pytest.mark.parametrize("app", EVERY)
def test_a_cookie_of_the_retired_secret_is_known(browser: Browser, apps: Apps, app: str) -> None:
    """And one of an unknown secret is not."""
    browser.post(NODE, "login", "ann")
    sid = Sid(browser.sid())
    for secret, values in ((SECRETS[1], {"user": "ann"}), ("nobody's at all", {})):
        browser.give(ExpressValue("connect.sid", [secret.encode()]).sign(sid))
        assert browser.values(app) == values


@pytest.mark.parametrize("app", PYTHON)
def test_python_revives_nothing_that_node_ended(browser: Browser, apps: Apps, app: str) -> None:
    """A request that writes with the cookie of a session that is over begins another one."""
    browser.post(NODE, "login", "ann")
    ended, cookie = browser.sid(), browser.cookie()
    browser.post(NODE, "logout")
    browser.give(cookie)
    assert browser.post(app, "count")["values"] == {"count": 1}
    assert browser.sid() != ended
    assert ended not in apps.table.sids()


def test_python_apps_lose_nothing_of_each_other(browser: Browser, apps: Apps) -> None:
    """At the same time, on a row that has no version: the data guards it."""
    browser.post(NODE, "login", "ann")
    cookie = browser.cookie()

    def write(number: int) -> None:
        with apps.browser(cookie) as one:
            for turn in range(5):
                one.post(PYTHON[number % 2], "set", {f"{number}-{turn}": number})

    with ThreadPoolExecutor(6) as threads:
        for _ in threads.map(write, range(6)):
            pass
    written = {f"{number}-{turn}": number for number, turn in product(range(6), range(5))}
    values: dict[str, Any] = browser.values(NODE)
    assert values == {"user": "ann", **written}


class TestOverlap:
    """A request of one side that overlaps one of the other, as the guide's table says it ends."""

    def test_express_overwrites_what_python_wrote(self, browser: Browser, apps: Apps) -> None:
        """It saves the whole session as it had read it. Nobody outside can mend that."""
        browser.post(NODE, "login", "ann")
        with apps.held(browser.cookie(), NODE, {"node": 1}):
            assert browser.post(ASGI, "set", {"python": 1})["values"]["python"] == 1
        assert browser.values(ASGI) == {"user": "ann", "node": 1}

    def test_express_undoes_a_logout(self, browser: Browser, apps: Apps) -> None:
        browser.post(NODE, "login", "ann")
        cookie, sid = browser.cookie(), browser.sid()
        with apps.held(cookie, NODE, {"node": 1}):
            browser.post(ASGI, "logout")
            assert sid not in apps.table.sids()
        assert sid in apps.table.sids()

    def test_express_brings_an_old_id_back(self, browser: Browser, apps: Apps) -> None:
        """And the session under the new one is as Python left it."""
        browser.post(NODE, "set", {"cart": 1})
        cookie = browser.cookie()
        with apps.held(cookie, NODE, {"node": 1}):
            browser.post(ASGI, "login", "ann")
        assert browser.values(ASGI) == {"user": "ann"}
        with apps.browser(cookie) as other:
            assert other.values(ASGI) == {"cart": 1, "node": 1}

    def test_express_undoes_nothing_if_it_only_reads(self, browser: Browser, apps: Apps) -> None:
        """With `resave: false`."""
        browser.post(NODE, "login", "ann")
        sid = browser.sid()
        with apps.held(browser.cookie(), NODE, {}):
            browser.post(ASGI, "logout")
        assert sid not in apps.table.sids()

    def test_python_keeps_what_express_wrote(self, browser: Browser, apps: Apps) -> None:
        browser.post(NODE, "login", "ann")
        with apps.held(browser.cookie(), ASGI, {"python": 1}):
            browser.post(NODE, "set", {"node": 1})
        assert browser.values(NODE) == {"user": "ann", "node": 1, "python": 1}

    def test_python_keeps_a_logout_of_express(self, browser: Browser, apps: Apps) -> None:
        browser.post(NODE, "login", "ann")
        sid = browser.sid()
        with apps.held(browser.cookie(), ASGI, {"python": 1}):
            browser.post(NODE, "logout")
        assert sid not in apps.table.sids()

    def test_python_keeps_a_max_age_of_express(self, browser: Browser, apps: Apps) -> None:
        """Its own write says when the session expires, which is no change of that."""
        browser.post(NODE, "max-age", 60)
        with apps.held(browser.cookie(), ASGI, {"python": 1}):
            browser.post(NODE, "max-age", 3600)
        document = json.loads(apps.table.text(browser.sid()))
        assert lasts_an_hour(document["cookie"])
        assert (document["remembered"], document["python"]) == (3600, 1)
