"""The table of docs/concurrency.md: it has every pair, and each row has tests that are there."""

from __future__ import annotations

import re
from itertools import combinations_with_replacement, product

from tests.docs.pages import ROOT, shown

OPERATIONS = (
    *("create", "write", "update", "regenerate", "login", "logout", "touch", "sweep", "expiry"),
    "lock",
)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in shown(ROOT / "docs" / "concurrency.md").split("## Any two at once")[1].splitlines()
    if line.startswith("| ") and "---" not in line
][1:]


def test_every_pair_of_operations_has_its_row() -> None:
    described = [
        frozenset(pair)
        for one, other, *_ in ROWS
        for pair in product(one.split(", "), other.split(", "))
    ]
    pairs = {frozenset(pair) for pair in combinations_with_replacement(OPERATIONS, 2)}
    assert len(described) == len(set(described))
    assert pairs - set(described) == {frozenset({"expiry"})}
    assert set(described) <= pairs


def test_every_row_names_tests_that_are_there() -> None:
    folders = (ROOT / "tests", ROOT / "src" / "websessions" / "testing")
    sources = (path.read_text("utf-8") for folder in folders for path in folder.rglob("*.py"))
    there = set(re.findall(r"def (test_\w+)\(", "\n".join(sources)))
    for one, other, _, tests in ROWS:
        named = re.findall(r"`(test_\w+)`", tests)
        assert named, (one, other)
        assert set(named) <= there, (one, other)
