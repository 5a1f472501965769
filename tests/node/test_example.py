"""examples/node-and-python as its visitors meet it."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.fixtures.daemon import free_port
from tests.fixtures.server import ROOT, Server, serve
from tests.node.apps import packages

START = str(ROOT / "examples" / "node-and-python" / "start.py")


@pytest.fixture
def example(tmp_path: Path) -> Iterator[Server]:
    command = [sys.executable, START, "--port", "{port}", "--data", str(tmp_path)]
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


def start(tmp_path: Path, node_path: Path, port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, START, "--port", str(port), "--data", str(tmp_path)]
    environment = {**os.environ, "NODE_PATH": str(node_path)}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_an_app_that_does_not_start_is_no_shared_login(tmp_path: Path) -> None:
    """It ends with the name of the one, and that one's own error is before it."""
    packages()
    done = start(tmp_path, tmp_path / "nothing is installed here", free_port())
    assert done.returncode == 1
    assert "share a login" not in done.stdout
    assert "Cannot find module" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("Express has ended with exit code 1;")


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    """Whoever has it would answer in place of Express."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = start(tmp_path, packages(), taken.getsockname()[1])
    assert done.returncode == 1
    assert "is taken: name another one with --port" in done.stderr
