"""The servers, as commands, and how to start one on a database."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.fixtures.server import Server, serve

PYTHON = sys.executable


def gunicorn(app: str, *options: str) -> list[str]:
    """Serve `module:name` of this folder."""
    return [
        *(PYTHON, "-m", "gunicorn", f"tests.servers.{app}"),
        *("--bind", "{host}:{port}", "--timeout", "60"),
        *("--no-control-socket", *options),
    ]


def uvicorn(app: str, *options: str) -> list[str]:
    """Serve `module:name` of this folder."""
    return [
        *(PYTHON, "-m", "uvicorn", f"tests.servers.{app}"),
        *("--host", "{host}", "--port", "{port}", *options),
    ]


@contextmanager
def served(
    database: str, command: list[str], *, table: str | None = None, sweep_every: float = 900
) -> Iterator[Server]:
    """An application that runs on this database, in a table of its own."""
    env = {
        "SERVERS_DATABASE": database,
        "SERVERS_TABLE": table or a_table(),
        "SERVERS_SWEEP_EVERY": str(sweep_every),
    }
    with serve(command, env=env) as server:
        yield server


def a_table() -> str:
    """The name of a table that no other test uses."""
    return f"served_{secrets.token_hex(6)}"
