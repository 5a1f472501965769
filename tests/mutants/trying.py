"""Whether tests notice a mutant: they run in a process of their own, on the module as changed.

The process is forked from one that has imported what the tests need, but nothing of websessions. So
it imports the mutant as if that were the module, and what runs at import is tried as well.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Final, TypeAlias

import hypothesis
import pytest

from tests.mutants.making import Mutant

__all__ = ["AT_ONCE", "Rounds", "measured", "prepare", "tried"]

Rounds: TypeAlias = Sequence[Sequence[str]]
"""Tests in the order in which they are run, the quickest to fail first."""

AT_ONCE: Final = os.cpu_count() or 1

LONGEST: Final = 600
"""Seconds after which a run is ended that does nothing."""

SLOWER: Final = 3
"""Times the processor time of the tests after which a run is ended: its mutant comes to no end."""

MEMORY: Final = 4 << 30
"""Bytes that a run may take."""

PRELOADED: Final = (
    *("anyio.pytest_plugin", "fastapi", "flask", "httpx", "hypothesis.stateful", "msgspec"),
    *("sqlalchemy.ext.asyncio", "starlette.testclient", "werkzeug.test"),
)

PYTEST: Final = (
    *("-x", "-q", "--tb=short", "--no-header", "-p", "no:cacheprovider"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # of what is preloaded
)


def prepare() -> None:
    """Import what is the same for all mutants."""
    for name in PRELOADED:
        importlib.import_module(name)
    # The same examples each time, and the first that fails is enough.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutants", derandomize=True, phases=phases)
    hypothesis.settings.load_profile("mutants")
    assert "websessions" not in sys.modules, "a mutant would come too late"


def measured(rounds: Rounds) -> int:
    """Seconds of processor time that the tests take where nothing is changed.

    Raises:
        RuntimeError: one fails; what pytest says of it is shown.
    """
    began = _processor_time()
    if _ended([_begun(rounds)])[1]:
        raise RuntimeError("the tests fail already without a mutant")
    return math.ceil(_processor_time() - began)


def tried(mutants: Iterable[tuple[Mutant, Rounds]], seconds: int) -> Iterator[tuple[Mutant, bool]]:
    """Each mutant, in the order in which they are done, and whether a test failed."""
    running: dict[int, Mutant] = {}
    for mutant, rounds in mutants:
        running[_begun(rounds, mutant, SLOWER * seconds)] = mutant
        if len(running) == AT_ONCE:
            pid, failed = _ended(running)
            yield running.pop(pid), failed
    while running:
        pid, failed = _ended(running)
        yield running.pop(pid), failed


def _begun(rounds: Rounds, mutant: Mutant | None = None, seconds: int = LONGEST) -> int:
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        signal.alarm(LONGEST)
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        if mutant is not None:
            sys.meta_path.insert(0, _Finder(mutant))
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        status = _status(rounds)
    finally:
        os._exit(status)


def _ended(running: Iterable[int]) -> tuple[int, bool]:
    """Wait for the next."""
    while True:
        pid, status = os.wait()
        if pid in running:
            return pid, status != 0


def _processor_time() -> float:
    """Of the runs that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def _status(rounds: Rounds) -> int:
    for tests in rounds:
        with tempfile.TemporaryDirectory() as folder:
            status = int(pytest.main([*PYTEST, f"--basetemp={folder}/tests", *tests]))
        if status:
            return status
    return 0


class _Finder(MetaPathFinder, Loader):
    """Finds the mutant where its module is asked for."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        return importlib.util.spec_from_loader(fullname, self)

    def exec_module(self, module: ModuleType) -> None:
        exec(compile(self.mutant.source, self.mutant.module, "exec"), module.__dict__)  # noqa: S102
