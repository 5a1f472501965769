"""The suite is worth something: each planted bug fails it, and a store without one passes."""

from __future__ import annotations

import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.stores import planted
from websessions.testing import AsyncStoreSuite, StoreSuite

HERE = Path(planted.__file__).parent
ROOT = HERE.parent.parent

SUITES: dict[str, Any] = {
    name: suite
    for name, suite in vars(planted).items()
    if name.startswith("Test") and issubclass(suite, (StoreSuite, AsyncStoreSuite))
}


HEALTHY = [name for name in SUITES if name.startswith("TestHealthy")]
PLANTED = [name for name in SUITES if name not in HEALTHY]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bool]]:
    """Whether each test passed, by the name of its class: all that ran in one run of pytest."""
    report = tmp_path_factory.mktemp("planted") / "report.xml"
    module = str(HERE / "planted.py")
    wanted = [f"{module}::{name}" for name in HEALTHY]
    wanted += [f"{module}::{name}::{test}" for name in PLANTED for test in SUITES[name].found_by]
    subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider"),
            *(f"--junitxml={report}", *wanted),
        ],
        cwd=ROOT,
        check=False,
        timeout=120,
        capture_output=True,
    )
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314  our own
        suite = case.attrib["classname"].rpartition(".")[2]
        passed = case.find("failure") is None and case.find("error") is None
        found[suite][case.attrib["name"]] = passed
    return found


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_store_passes(results: dict[str, dict[str, bool]], name: str) -> None:
    """Otherwise the failures below would mean nothing."""
    assert len(results[name]) > 100
    assert all(results[name].values())


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_bug_is_found(results: dict[str, dict[str, bool]], name: str) -> None:
    """By each of the tests whose rule it breaks."""
    assert SUITES[name].found_by
    assert results[name] == dict.fromkeys(SUITES[name].found_by, False)
