"""What files and connections a process has, by /proc."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

has_proc = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="missing: /proc")


def _targets(pid: int) -> set[str]:
    targets = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            targets.add(os.readlink(link))
    return targets


def database_sockets(pid: int, url: str) -> set[str]:
    """The process's connections to the database, by what the kernel calls them."""
    port = make_url(url).port
    assert port
    there = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == port:
                there.add(f"socket:[{fields[9]}]")
    return there & _targets(pid)
