"""Sessions that Express has made move into a table of our own under traffic: nobody is logged out.

WEBSESSIONS_TEST_SESSIONS says how many there are; ten thousand take a few minutes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
import pytest

from tests.fixtures.server import ROOT
from tests.fixtures.services import Services
from tests.node.apps import MOVING, NODE, SETUPS, Setup, started
from websessions.sql import SQLSessionStore

SESSIONS = int(os.environ.get("WEBSESSIONS_TEST_SESSIONS", "300"))
CLIENTS = 8
KINDS = [
    setup
    for setup in SETUPS
    if setup.driver == "psycopg" or str(setup) == "express-mysql-session-pymysql"
]


_NO_COOKIES = DefaultCookiePolicy(allowed_domains=[])  # each client has its own


class Client:
    """One of many visitors: a cookie, and what has been counted for it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.cookie = ""
        self.count = 0

    def send(self, http: httpx.Client, url: str, body: Any = None) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if self.cookie:
            headers["cookie"] = self.cookie
        response = http.post(url, content=json.dumps(body), headers=headers)
        assert response.status_code == 200, response.text
        if given := response.headers.get("set-cookie"):
            self.cookie = given.partition(";")[0]
        values: dict[str, Any] = response.json()["values"]
        return values

    def log_in(self, http: httpx.Client, express: str) -> None:
        assert self.send(http, f"{express}/login", self.number) == {"user": self.number}

    def visit(self, http: httpx.Client, python: str) -> None:
        self.count += 1
        values = self.send(http, f"{python}/count")
        assert values == {"user": self.number, "count": self.count}


@pytest.mark.parametrize("setup", KINDS, ids=str)
def test_nobody_is_logged_out(setup: Setup, services: Services) -> None:
    """A client a session: half of them come while it is imported, and all of them after."""
    clients = [Client(number) for number in range(SESSIONS)]
    with (
        started(setup, services, (NODE, MOVING)) as apps,
        SQLSessionStore(apps.url, table_name="own_sessions", check_expiration_interval=0) as own,
        httpx.Client(timeout=60, trust_env=False, cookies=CookieJar(_NO_COOKIES)) as http,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        own.sync()
        urls = {name: server.url for name, server in apps.servers.items()}
        list(threads.map(lambda client: client.log_in(http, urls[NODE]), clients))
        assert len(apps.table.sids()) == SESSIONS
        apps.servers[NODE].stop()

        command = [sys.executable, "-m", "websessions", "import", "--layout", setup.package]
        command += ["--target-table", "own_sessions", apps.url, apps.url]
        importing = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2):
            list(threads.map(lambda client: client.visit(http, urls[MOVING]), clients[::2]))
        out, err = importing.communicate(timeout=600)
        assert importing.returncode == 0, err
        assert "live sessions moved" in out
        list(threads.map(lambda client: client.visit(http, urls[MOVING]), clients))
        list(threads.map(lambda client: client.visit(http, urls[MOVING]), clients))

        assert {client.cookie.partition("=")[0] for client in clients} == {"sid"}
        assert apps.table.sids() == set()
        assert own.length() == SESSIONS
