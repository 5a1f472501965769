"""Mutants of the modules that decide: `scripts/mutants [MODULE ...]`, such as `merge lifecycle`.

Each is shown that no test notices. Those that docs/mutation-testing.md explains are let pass; any
other makes the run fail, and so does an explanation of one that is gone or killed.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.mutants.making import Mutant, mutants
from tests.mutants.trying import Rounds, fails, prepare, tried

ROOT: Final = Path(__file__).resolve().parents[2]
PAGE: Final = ROOT / "docs" / "mutation-testing.md"

MODULES: Final[dict[str, tuple[str, ...]]] = {
    "merge": ("merge", "resolvers", "lifecycle"),
    "lifecycle": ("lifecycle",),
    "outcome": ("outcome",),
    "swap": ("swap",),
    "resolvers": ("resolvers",),
    "expiry": ("expiry",),
}
"""The modules, and the tests in tests/rules that are about them."""

OTHERS: Final = (
    *("merge", "resolvers", "lifecycle", "settled", "outcome", "expiry"),
    *("cookie", "errors", "headers", "settings", "sid", "swap", "update"),
)
"""What is run where those see nothing: what else needs no server and takes no time."""


def main(wanted: list[str]) -> None:
    if unknown := set(wanted) - set(MODULES):
        raise SystemExit(
            f"no module is called {', '.join(unknown)}; there are {', '.join(MODULES)}"
        )
    prepare()
    if fails([_tests(OTHERS)]):
        raise SystemExit("the tests have to pass before they can fail")
    explained = _explained()
    unexplained = False
    lines = ["", "| module | mutants | killed | explained |", "| --- | --- | --- | --- |"]
    for name in wanted or MODULES:
        began = time.monotonic()
        survived: Counter[str] = Counter()
        killed = 0
        for mutant, failed in tried((mutant, _rounds(name)) for mutant in _mutants(name)):
            if failed:
                killed += 1
                continue
            survived[str(mutant)] += 1
            if str(mutant) not in explained:
                unexplained = True
                _say(f"{mutant}\n")
        for text in explained - survived.keys():
            if text.startswith((f"@@ {name} ", f"@@ {name}\n")):
                unexplained = True
                _say(f"explained, but killed or gone:\n{text}\n")
        left = survived.total()
        lines.append(f"| `{name}.py` | {killed + left} | {killed} | {left} |")
        _say(f"{name}: {left} of {killed + left} survive; {time.monotonic() - began:.0f} s\n")
    _say("\n".join(lines))
    if unexplained:
        raise SystemExit(f"\nnot as {PAGE.relative_to(ROOT)} says")


def _mutants(name: str) -> Iterator[Mutant]:
    return mutants(f"websessions.{name}", ROOT / "src" / "websessions" / f"{name}.py")


def _tests(rules: Sequence[str], *others: str) -> list[str]:
    return [*(f"tests/rules/test_{name}.py" for name in rules), *others]


def _rounds(name: str) -> Rounds:
    in_order = "tests/schedules/test_stores.py::test_in_memory"
    return [_tests(MODULES[name]), _tests(OTHERS, in_order, f"{in_order}_under_asyncio")]


def _explained() -> set[str]:
    """The survivors in the page's diffs."""
    text = PAGE.read_text("utf-8")
    blocks = re.findall(r"^```diff\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    diffs = re.findall(r"^@@ .*(?:\n[-+ ] .*)+", "\n".join(blocks), re.MULTILINE)
    return set(diffs)


def _say(words: str) -> None:
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
