"""The docs name everything that is public, and what they take from the code is current."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tomllib
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT, shown
from tests.docs.tables import TABLES, refreshed
from websessions import CookieSettings, MemoryStore, SessionSettings
from websessions.direct import StoreOptions
from websessions.settings import OptionalSessionOptions, SessionOptions
from websessions.sql.stores import SQLOptions

OPTIONS = ROOT / "docs" / "options.md"
README = ROOT / "README.md"

PUBLIC = (
    "websessions",
    "websessions.asgi",
    "websessions.flask",
    "websessions.moving",
    "websessions.resolvers",
    "websessions.sql",
    "websessions.starlette",
    "websessions.testing",
)

STORE_OPTIONS = sorted(StoreOptions.__annotations__)
SQL_OPTIONS = sorted({*SQLOptions.__annotations__, "db"} - set(STORE_OPTIONS))


def option_rows(section: str) -> dict[str, str]:
    """A section of options.md: each option and its default, as they are written."""
    text = shown(OPTIONS).split(f"\n## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", text, re.MULTILINE))


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_table_is_what_the_code_makes(name: str) -> None:
    page, _ = TABLES[name]
    assert page.read_text("utf-8") == refreshed(name), "scripts/tables writes it anew"


@pytest.mark.parametrize(
    ("section", "settings"),
    [("Middleware options", SessionSettings), ("Cookie options", CookieSettings)],
)
def test_every_setting_is_documented_with_its_default(section: str, settings: type) -> None:
    rows = option_rows(section)
    fields = dataclasses.fields(settings)
    assert list(rows) == [field.name for field in fields]
    for field in fields:
        if field.default is not dataclasses.MISSING:
            expected = f'"{field.default}"' if isinstance(field.default, str) else field.default
            assert rows[field.name] == f"`{expected}`"


def test_the_middleware_takes_the_settings_and_nothing_else() -> None:
    fields = {field.name for field in dataclasses.fields(SessionSettings)}
    assert {*OptionalSessionOptions.__annotations__, *SessionOptions.__annotations__} == fields


def test_every_store_option_is_documented() -> None:
    assert sorted(option_rows("Store options")) == STORE_OPTIONS
    assert sorted(option_rows("SQL store options")) == SQL_OPTIONS


def test_the_defaults_of_the_stores_are_the_documented_ones() -> None:
    rows, store = option_rows("Store options"), MemoryStore()
    assert rows["expiration"] == f"{store.expiration.total_seconds() / 3600:g} hours"
    assert rows["touch_after"] == f"{store.touch_after.total_seconds() / 60:g} minute"
    minutes = store.check_expiration_interval.total_seconds() / 60
    assert rows["check_expiration_interval"] == f"{minutes:g} minutes"
    assert rows["max_size"] == f"`{store.max_size}` (1 MiB)"
    assert rows["disable_touch"] == f"`{store.disable_touch}`"


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_documented(module: str) -> None:
    pages = "\n".join(shown(page) for page in PAGES)
    names = importlib.import_module(module).__all__
    missing = [name for name in names if not re.search(rf"\b{name}\b", pages)]
    assert not missing


def test_every_public_method_is_documented() -> None:
    pages = "\n".join(shown(page) for page in PAGES)
    for kind in ("Session", "SessionCookie", "SessionStore", "AsyncSessionStore"):
        for name in vars(getattr(importlib.import_module("websessions"), kind)):
            if not name.startswith("_"):
                assert re.search(rf"\b{name}\b", pages), f"{kind}.{name}"


def test_the_readme_begins_with_the_two_commands() -> None:
    code = re.findall(r"^```sh\n(.*?)^```", shown(README), re.MULTILINE | re.DOTALL)
    assert code[:2] == ["scripts/demo\n", "scripts/test\n"]
    for command in code[:2]:
        assert ROOT.joinpath(command.strip()).exists()
    text = shown(README)
    assert text.index("scripts/demo") < text.index("scripts/test") < text.index("pip install")


def test_the_readme_names_every_extra() -> None:
    project = tomllib.loads(ROOT.joinpath("pyproject.toml").read_text("utf-8"))["project"]
    table = shown(README).split("## Install")[1].split("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(rows) == sorted(project["optional-dependencies"])


def anchors(page: Path) -> set[str]:
    """The targets that GitHub gives a page's headings."""
    headings = re.findall(
        r"^#+ (.+)$", re.sub(r"```.*?```", "", shown(page), flags=re.DOTALL), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, *sorted(ROOT.glob("[CS]*.md"))], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", shown(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def test_the_readme_links_every_page() -> None:
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in README.read_text("utf-8")
