"""Every example in the README and the docs runs, and does what the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

import websessions
from tests.docs.pages import PAGES, blocks, run
from tests.docs.visitors import Visitors
from websessions import AsyncSessionStore, SessionStore

SECRET = "a-secret-for-the-tests-of-the-documentation"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Where a page's names live: a module, since classes want one."""
    module = ModuleType("documentation_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(
    page: Path, module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("SESSION_SECRET", SECRET)
    monkeypatch.setenv("OLD_SESSION_SECRET", f"old-{SECRET}")
    visitors = Visitors()
    helpers: dict[str, Any] = {
        "browser": visitors.browser,
        "wsgi_browser": visitors.wsgi_browser,
        "start": visitors.start,
        "stop": visitors.stop,
        "socket": visitors.socket,
        "raises": pytest.raises,
        "run_pytest": run_pytest,
    }
    with asyncio.Runner() as runner:
        try:
            run(page, module, helpers, runner)
        finally:
            runner.run(_tidy_up(module, visitors))


def run_pytest(path: str, *, at_least: int) -> None:
    """Run a page's own tests: none may fail, and so many have to pass."""
    imported_from = str(Path(str(websessions.__file__)).parents[1])
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pytest", "-q", "-p", "no:cacheprovider", path],
        env={**os.environ, "PYTHONPATH": imported_from},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    passed = re.search(r"(\d+) passed", result.stdout)
    assert result.returncode == 0, result.stdout + result.stderr
    assert passed is not None, result.stdout
    assert int(passed[1]) >= at_least, result.stdout


async def _tidy_up(module: ModuleType, visitors: Visitors) -> None:
    await visitors.leave()
    for value in list(vars(module).values()):
        if isinstance(value, AsyncSessionStore):
            await value.close()
        elif isinstance(value, SessionStore):
            value.close()
        elif isinstance(value, AsyncEngine):
            await value.dispose()
        elif isinstance(value, Engine):
            value.dispose()


def test_little_is_skipped() -> None:
    """A skipped example is one that nobody notices when it stops working."""
    skipped = [block for page in PAGES for block in blocks(page) if block.skipped is not None]
    assert len(skipped) <= 3, [(block.page.name, block.line, block.skipped) for block in skipped]


def test_no_example_leaves_out_code() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert "…" not in block.source, f"{page.name}, line {block.line}"
            assert "\n    ...\n" not in block.source, f"{page.name}, line {block.line}"
