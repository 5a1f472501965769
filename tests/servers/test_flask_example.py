"""The Flask example, as its docstring says to start it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.fixtures.server import Server, serve
from tests.fixtures.services import Services
from tests.servers.setups import PYTHON

SECRET = "the secret of the example in these tests"


@pytest.fixture(params=["command", "gunicorn"])
def server(services: Services, request: pytest.FixtureRequest) -> Iterator[Server]:
    database = services.sqlite_url()
    if request.param == "command":
        command = [PYTHON, "examples/flask-app", "--port", "{port}"]
    else:
        command = [PYTHON, "-m", "gunicorn", "--chdir", "examples/flask-app", "app:create_app()"]
        command += ["--bind", "{host}:{port}", "--no-control-socket"]
    env = {"SECRET_KEY": SECRET, "DATABASE_URL": database}
    with serve(command, env=env) as server:
        yield server


def test_the_example_remembers_its_visitor_until_the_logout(server: Server) -> None:
    """Across a restart, too."""
    with httpx.Client(base_url=server.url, follow_redirects=True, trust_env=False) as browser:
        assert "Hello stranger" in browser.get("/").text
        assert not browser.cookies
        page = browser.post("/login", data={"name": "Ada"}).text
        assert "Hello Ada" in page
        assert "been here 1 times" in page

        browser.get("/")
        server.restart()
        assert "been here 3 times" in browser.get("/").text

        page = browser.post("/logout").text
        assert "You have logged out." in page
        assert "Hello stranger" in page
        assert "You have logged out." not in browser.get("/").text
