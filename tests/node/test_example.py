"""examples/node-and-python as its visitors meet it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.server import ROOT, Server, serve
from tests.node.apps import packages


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Server]:
    start = str(ROOT / "examples" / "node-and-python" / "start.py")
    command = [sys.executable, start, "--port", "{port}", "--data", str(tmp_path)]
    with serve(command, env={"NODE_PATH": str(packages())}) as server:
        yield server


def test_both_sides_know_who_is_there(example: Server) -> None:
    sides = ("", "python/")
    with httpx.Client(base_url=example.url, follow_redirects=True, trust_env=False) as browser:

        def look(side: str) -> tuple[str, int]:
            text = browser.get(f"/{side}").raise_for_status().text
            who, visits = re.search(r"hello (.+)</h1>\n<p>(\d+) visits", text).groups()  # type: ignore[union-attr]
            return who, int(visits)

        for here, there in (sides, sides[::-1]):
            assert look(here) == look(there) == ("stranger", 0)
            browser.post(f"/{here}login", data={"name": "Ann & Bob"}).raise_for_status()
            seen = [look(side)[1] for side in (here, there, there, here)]
            assert seen == [2, 3, 4, 5]
            assert look(there)[0] in ("Ann &amp; Bob", "Ann &#38; Bob")
            browser.post(f"/{there}logout").raise_for_status()
