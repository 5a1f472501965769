"""Who may import whom: the rooms of docs/architecture.md.

A new module has to be put into a room. If it fits none, or needs an import that its room may not
have, the shape is wrong, or this plan is: change one of them on purpose.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import websessions
from tests.docs.pages import ROOT

PACKAGE: Final = Path(str(websessions.__file__)).parent

ROOMS: Final[dict[str, set[str]]] = {
    "store": {"store", "run", "swap", "codec", "sid", "errors"},
    "session": {
        *("session", "settings", "signing", "expiry", "outcome", "resolvers"),
        *("cookie_form", "express"),
    },
    "lifecycle": {"lifecycle", "writing", "merge", "lock", "joined", "cookie"},
    "adapters": {"asgi", "wsgi", "flask", "starlette", "exchange", "headers"},
    "stores": {"direct", "memory", "moving", "sweeper", "batching"},
    "sql": {
        *("sql", "sql.database", "sql.dialects", "sql.formats", "sql.joined"),
        "sql.operations",
        *("sql.statements", "sql.stores", "sql.table", "sql.threads"),
    },
    "testing": {"testing"},
    "tools": {"cli", "__main__"},
    "front": {""},
}
"""Each room's modules."""

MAY_IMPORT: Final[dict[str, set[str]]] = {
    "store": set(),
    "session": {"store"},
    "lifecycle": {"store", "session"},
    "adapters": {"store", "session", "lifecycle"},
    "stores": {"store", "session"},
    "sql": {"store", "session", "stores"},
    "testing": {"store", "session", "lifecycle", "stores"},
    "tools": {"store", "session", "stores", "sql"},
    "front": {"store", "session", "stores"},
}
"""Besides itself."""

NEVER: Final = {
    ("sql", "sid.Sid"): "the SQL stores see keys, never session ids",
    ("sql", "settings.CookieSettings"): "the SQL stores know no cookie",
    ("sql", "session"): "the SQL stores know no session object",
    ("sql", "outcome"): "the SQL stores take no decisions",
    ("sql", "expiry"): "the SQL stores take no decisions",
}

FRAMEWORKS: Final = {
    "flask": "flask",
    "starlette": "starlette",
    "werkzeug": "flask",
    "click": "cli",
    "rich": "cli",
}
"""A framework, and the one module that may import it."""


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES: Final = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    if module.startswith("testing"):
        return "testing"
    for room, modules in ROOMS.items():
        if module in modules:
            return room
    raise AssertionError(f"{module}.py is in no room: see docs/architecture.md and ROOMS")


def imports(module: str) -> Iterator[tuple[str, str | None]]:
    """What a module imports, anywhere: ours as `module, name`, others as `package, None`."""
    path = MODULES[module]
    package = ["websessions", *module.split(".")] if module else ["websessions"]
    if path.name != "__init__.py":
        package.pop()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            names = [(source, alias.name) for alias in node.names]  # type: ignore[misc]
        else:
            continue
        for source, name in names:
            if source == "websessions" or source.startswith("websessions."):
                inside = source.removeprefix("websessions").removeprefix(".")
                deeper = f"{inside}.{name}".strip(".")
                yield (deeper, "") if deeper in MODULES else (inside, name or "")
            else:
                yield source.partition(".")[0], None


def test_imports_are_found() -> None:
    """Or else every other test here would pass on nothing."""
    assert ("store", "Load") in set(imports("lifecycle"))
    assert ("errors", "StoreTimeout") in set(imports("sql.stores"))
    assert ("flask", None) in set(imports("flask"))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    for source, name in imports(module):
        if name is None:
            owner = FRAMEWORKS.get(source)
            assert owner in (None, module), f"{module} imports {source}; only {owner} may"
            continue
        target = room_of(source)
        assert target == room or target in MAY_IMPORT[room], (
            f"{module} ({room}) imports {source} ({target})"
        )
        for forbidden in (source, f"{source}.{name}"):
            assert (room, forbidden) not in NEVER, NEVER.get((room, forbidden))


def test_the_plan_is_the_documented_one() -> None:
    page = ROOT.joinpath("docs", "architecture.md").read_text("utf-8")
    for room, modules in ROOMS.items():
        if room not in ("sql", "front"):
            row = re.search(rf"^\| {room} \| (.*?) \|", page, re.MULTILINE)
            assert row is not None, room
            documented = set(re.findall(r"`([\w]+)/?`", row[1])) - {"sql"}
            assert documented == modules, room
