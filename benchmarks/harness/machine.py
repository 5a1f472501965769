"""The machine: which cores belong to whom, CPU time of processes, what the report says of it."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.fixtures.daemon import children

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Who runs where: the app has a core to itself; of two, client and database share the other."""

    app: frozenset[int]
    database: frozenset[int]
    client: frozenset[int]

    @classmethod
    def of_this_machine(cls) -> Cores:
        first, *rest = sorted(os.sched_getaffinity(0))
        rest = rest or [first]
        return cls(
            app=frozenset({first}),
            database=frozenset(rest[:-1] or rest),
            client=frozenset(rest[-1:]),
        )

    def pin_here(self, cores: frozenset[int]) -> None:
        """Run this process, and what it starts from now on, on these cores."""
        if self.app == self.client:
            print(
                "one core: server and client share it, so latencies mean nothing", file=sys.stderr
            )
        os.sched_setaffinity(0, cores)


CORES = Cores.of_this_machine()


def pinned(cores: frozenset[int], *command: str) -> list[str]:
    """The command, to run on these cores only, with all that it starts."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command]


def cpu_seconds(root: int) -> float:
    """User and system time of a process and of all that it started, those that ended included."""
    ticks = 0
    for pid in (root, *children(root)):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime: proc(5)
    return ticks / _TICKS


def describe() -> dict[str, Any]:
    """What the report says about the machine."""
    cpu = platform.processor()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if "model name" in line), cpu)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cpu": cpu,
        "cores": len(CORES.app | CORES.database | CORES.client),
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "pinning": {
            "app": sorted(CORES.app),
            "database": sorted(CORES.database),
            "client": sorted(CORES.client),
        },
    }


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def answer_of(*command: str) -> str | None:
    """The first line that a program prints, or None where it is not installed."""
    if shutil.which(command[0]) is None:
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else ""
