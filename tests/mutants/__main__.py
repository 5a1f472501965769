"""Mutants of the modules that decide: `scripts/mutants [MODULE ...]`, such as `merge lifecycle`.

Each is shown that no test notices. Those that docs/mutation-testing.md explains are let pass; any
other makes the run fail, and so does an explanation of one that is gone or killed.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.mutants.making import Mutant, mutants
from tests.mutants.trying import Rounds, measured, prepare, tried

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "mutation-testing.md"

_IN_ORDER: Final = "tests/schedules/test_stores.py::test_in_memory"


IN_SQLITE: Final = ["tests/sql/test_within.py", "tests/stores/test_moving.py", "-k", "sqlite"]
"""What is about two stores, or about a store and the app's transaction."""


def _rules(*names: str) -> list[str]:
    return [f"tests/rules/test_{name}.py" for name in names]


MODULES: Final[dict[str, list[str]]] = {
    "merge": _rules("merge", "resolvers", "lifecycle"),
    "lifecycle": [
        *_rules("lifecycle", "lock", "settled", "signing", "express", "moving"),
        *_rules("former", "joined"),
    ],
    "writing": _rules("lifecycle", "express"),
    "lock": _rules("lock"),
    "joined": _rules("joined"),
    "outcome": _rules("outcome"),
    "swap": _rules("swap"),
    "resolvers": _rules("resolvers"),
    "expiry": _rules("expiry"),
}
"""The modules, and the tests that are about them."""

ALL: Final = [
    *_rules("merge", "resolvers", "lifecycle", "outcome", "expiry", "swap", "update", "settled"),
    *_rules("lock", "moving", "signing", "express", "cookie", "errors", "headers", "settings"),
    *_rules("sid", "budget", "former", "joined"),
    *(_IN_ORDER, f"{_IN_ORDER}_under_asyncio"),
]
"""What is run where those see nothing: all else that needs no server and takes little time."""


def main(wanted: list[str]) -> None:
    if unknown := set(wanted) - set(MODULES):
        raise SystemExit(f"there is no {', '.join(unknown)}, but {', '.join(MODULES)}")
    prepare()
    seconds = measured([ALL, IN_SQLITE])
    explained = _explained()
    as_explained = True
    rows = ["| module | mutants | killed | explained |", "| --- | --- | --- | --- |"]
    for name in wanted or MODULES:
        began = time.monotonic()
        survived: list[str] = []
        killed = 0
        for mutant, failed in tried(_mutants(name), seconds):
            if failed:
                killed += 1
                continue
            survived.append(str(mutant))
            if survived[-1] not in explained:
                as_explained = False
                _say(f"{mutant}\n")
        for gone in sorted(explained - set(survived)):
            if re.match(rf"@@ {name}\b", gone):
                as_explained = False
                _say(f"explained, but killed or gone:\n{gone}\n")
        _say(f"{name}: {killed} killed; {time.monotonic() - began:.0f} s\n")
        left = len(survived)
        rows.append(f"| `{name}.py` | {killed + left} | {killed} | {left} |")
    _say("\n".join(rows))
    if not as_explained:
        raise SystemExit(f"not all is as {PAGE.relative_to(ROOT)} explains it")


def _mutants(name: str) -> Iterator[tuple[Mutant, Rounds]]:
    """The module's mutants, each with its tests."""
    first = MODULES[name]
    rounds = [first, IN_SQLITE, [test for test in ALL if test not in first]]
    for mutant in mutants(f"websessions.{name}", ROOT / "src" / "websessions" / f"{name}.py"):
        yield mutant, rounds


def _explained() -> set[str]:
    """The mutants in the page's diffs, each as it is printed."""
    diffs = re.finditer(r"^@@ .*(?:\n[-+ ] .*)+", PAGE.read_text("utf-8"), re.MULTILINE)
    return {diff[0] for diff in diffs}


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
