"""The tables in the docs that are made from the code: `scripts/tables` writes them anew."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import websessions.errors
from websessions.errors import WebSessionsError
from websessions.outcome import OUTCOMES, CookieAction, Intent, Row, StoreAction

__all__ = ["TABLES", "refreshed"]

ROOT: Final = Path(__file__).resolve().parents[2]

_INTENTS: Final = {
    Intent.KEEP: "nothing special",
    Intent.REGENERATE: "`regenerate()`",
    Intent.PRIVILEGE: "`regenerate(privilege=True)`",
    Intent.DESTROY: "`destroy()`",
    Intent.ABANDON: "save nothing (it failed, or took the session out)",
}


def outcomes() -> str:
    """The decision table: what is done at the end of a request."""
    lines = [
        "| row | the handler asked for | something to write | the store is asked to | the cookie |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in Row:
        for intent in Intent:
            without, with_ = OUTCOMES[row, intent, False], OUTCOMES[row, intent, True]
            if without == with_:
                lines.append(_outcome(row, intent, "yes or no", with_))
            else:
                lines.append(_outcome(row, intent, "no", without))
                lines.append(_outcome(row, intent, "yes", with_))
    return "\n".join(lines)


def _outcome(
    row: Row, intent: Intent, saving: str, outcome: tuple[StoreAction, CookieAction]
) -> str:
    store, cookie = outcome
    action = "-" if store is StoreAction.NOTHING else store.value
    header = "-" if cookie is CookieAction.NONE else cookie.value
    return f"| {row.value} | {_INTENTS[intent]} | {saving} | {action} | {header} |"


def errors() -> str:
    """The tree of errors, with what each says of itself."""
    return "\n".join(_errors(WebSessionsError, ""))


def _errors(kind: type[WebSessionsError], indent: str) -> Iterator[str]:
    first, _, _ = (kind.__doc__ or "").partition("\n")
    yield f"{indent}- `{kind.__name__}`: {first}"
    ours = [sub for sub in kind.__subclasses__() if sub.__module__ == websessions.errors.__name__]
    for sub in ours:
        yield from _errors(sub, indent + "  ")


TABLES: Final[dict[str, tuple[Path, Callable[[], str]]]] = {
    "outcomes": (ROOT / "docs" / "lifecycle.md", outcomes),
    "errors": (ROOT / "docs" / "errors.md", errors),
}
"""What stands between `<!-- table: name -->` and `<!-- end of table -->`, and on which page."""


def refreshed(name: str) -> str:
    """The text of the page with the table as it has to be."""
    page, make = TABLES[name]
    marks = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end of table -->)", re.DOTALL)
    text, count = marks.subn(
        lambda found: f"{found[1]}\n{make()}\n\n{found[2]}", page.read_text("utf-8")
    )
    if count != 1:
        raise ValueError(f"{page.name} has {count} places for the table {name!r}, not one")
    return text


def main() -> None:
    for name, (page, _) in TABLES.items():
        page.write_text(refreshed(name), "utf-8")


if __name__ == "__main__":
    main()
