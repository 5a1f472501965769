"""The client: wrk where it is installed, else `client.py`, on cores of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import client
from .machine import CORES, answer_of, pinned

_HERE = Path(__file__).parent
WRK = shutil.which("wrk")


@dataclass(frozen=True)
class Load:
    """What one run of the client saw."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def name() -> str:
    """Which client it is, for the report."""
    if WRK is None:
        return "benchmarks/harness/client.py (wrk is not installed)"
    return " ".join((answer_of(WRK, "--version") or "wrk").split()[:2])


def load(url: str, cookies: Path, *, connections: int, seconds: float) -> Load:
    """Keep `connections` requests under way for that long, each with the next cookie.

    Raises:
        RuntimeError: the client failed, or requests did.
    """
    if WRK is not None:
        command = [WRK, "--threads", "1", "--connections", str(connections)]
        # wrk takes whole seconds.
        command += ["--duration", f"{max(1, round(seconds))}s", "--timeout", "30s"]
        command += ["--script", str(_HERE / "cookies.lua"), url, "--", str(cookies)]
    else:
        command = [sys.executable, client.__file__, url, str(cookies)]
        command += [str(connections), str(seconds)]
    done = subprocess.run(
        pinned(CORES.client, *command), capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if done.returncode or not lines:
        raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
    seen = Load(**json.loads(lines[-1].removeprefix("RESULT ")))
    if seen.errors or not seen.requests:
        raise RuntimeError(f"{url}: {seen.errors} errors, {seen.requests} answers")
    return seen


def write_cookies(path: Path, cookies: Sequence[str]) -> None:
    path.write_text("".join(f"{cookie}\n" for cookie in cookies))
