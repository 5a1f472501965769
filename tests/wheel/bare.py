"""Run by scripts/bare, where the wheel is installed with its core dependencies and nothing else.

Every module imports, each in an interpreter of its own; those named below may ask for the package
that they adapt. The SQLite stores work, the async one without greenlet.
"""

from __future__ import annotations

import asyncio
import importlib.util
import pkgutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import websessions
from websessions.sql import AsyncSQLSessionStore, SQLSessionStore

# Module (with what is below it): the packages without which it need not import.
NEEDS = {
    "websessions.cli": ("click", "rich"),
    "websessions.flask": ("flask",),
    "websessions.starlette": ("starlette",),
    "websessions.testing": ("hypothesis", "pytest"),
}

SID = "bare-wheel-smoke-test-session-id-0123456789"


def check_absent() -> None:
    """The environment is as bare as it claims to be."""
    for name in ("greenlet", "pytest", "hypothesis", "flask", "starlette", "msgspec"):
        if importlib.util.find_spec(name) is not None:
            # SQLAlchemy 2.1, that is: 2.0 brings greenlet along on most platforms.
            raise SystemExit(f"{name} is installed: this environment is not bare")


def check_import(module: str) -> str | None:
    done = subprocess.run(
        [sys.executable, "-I", "-W", "error", "-c", f"import {module}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return None
    last = done.stderr.strip().rpartition("\n")[2]
    for prefix, packages in NEEDS.items():
        if f"{module}.".startswith(f"{prefix}."):
            missing = tuple(f"ModuleNotFoundError: No module named '{name}" for name in packages)
            if last.startswith(missing):
                return None
    return f"import {module}: {done.stderr}"


def check_imports() -> int:
    found = pkgutil.walk_packages(websessions.__path__, "websessions.", onerror=lambda name: None)
    modules = [info.name for info in found if not info.name.endswith(".__main__")]
    with ThreadPoolExecutor() as threads:
        complaints = [line for line in threads.map(check_import, modules) if line]
    if complaints:
        raise SystemExit("\n".join(complaints))
    return len(modules)


def check_sync_store(path: Path) -> None:
    with SQLSessionStore(f"sqlite:///{path}") as store:
        store.sync()
        store.set(SID, {"cart": [1, 2]})
        store.touch(SID)
        assert store.get(SID) == {"cart": [1, 2]}
        assert store.length() == 1
        store.destroy(SID)
        assert store.get(SID) is None


async def check_async_store(path: Path) -> None:
    async with AsyncSQLSessionStore(f"sqlite:///{path}") as store:
        await store.sync()
        await store.set(SID, {"cart": [1, 2]})
        await store.touch(SID)
        assert await store.get(SID) == {"cart": [1, 2]}
        assert await store.length() == 1
        await store.destroy(SID)
        assert await store.get(SID) is None


def main() -> None:
    check_absent()
    count = check_imports()
    with tempfile.TemporaryDirectory() as folder:
        check_sync_store(Path(folder, "sync.db"))
        asyncio.run(check_async_store(Path(folder, "async.db")))
    print(f"bare wheel: {count} modules imported, both SQLite stores work")


if __name__ == "__main__":
    main()
