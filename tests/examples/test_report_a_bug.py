"""examples/report-a-bug works for whoever copies it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fixtures.server import ROOT
from tests.fixtures.services import Services

EXAMPLE = ROOT / "examples" / "report-a-bug"


@pytest.mark.parametrize("driver", ["sqlite", "psycopg"])
def test_its_test_passes(services: Services, tmp_path: Path, driver: str) -> None:
    copy = shutil.copytree(EXAMPLE, tmp_path / "copy")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=copy,
        env={**os.environ, "DATABASE_URL": services.url(driver, fresh=True)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout
