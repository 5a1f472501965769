"""The documentation as programs: which code a page holds, and how that is run.

A page's ```python blocks run in order, in one namespace, in an empty folder. Beside them a page may
hold, in HTML comments that no reader sees:

    <!-- check                              code that runs at this place: requests to the app that
    assert await browser(app)...            the page has just built, and what they must answer
    -->

    <!-- skip: the reason -->               right before a block that can not run here

Both kinds of code may `await`. A block that begins with a comment like `# test_store.py` is also
written to a file of that name. See `tests.docs.visitors` for the helpers that checks have.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

__all__ = ["PAGES", "ROOT", "Block", "blocks", "run", "shown"]

ROOT = Path(__file__).resolve().parents[2]

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


_FILE_NAME = re.compile(r"# (\w+\.py)\n")


@dataclass(frozen=True)
class Block:
    """A piece of code on a page, from `line` on."""

    page: Path
    line: int
    source: str
    skipped: str | None = None

    def compiled(self) -> CodeType:
        """The code, with the page's own name and line numbers, so that tracebacks show the page."""
        tree = ast.parse("\n" * (self.line - 1) + self.source, str(self.page))
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code: CodeType = compile(tree, str(self.page), "exec", flags=flags, dont_inherit=True)
        return code


def blocks(page: Path) -> Iterator[Block]:
    """The code of a page, shown and hidden, in order."""
    lines = iter(enumerate(page.read_text("utf-8").splitlines(), 1))
    skip: str | None = None
    for number, line in lines:
        text = line.strip()
        if text == "```python":
            yield Block(page, number + 1, _until(lines, "```"), skip)
            skip = None
        elif text == "<!-- check":
            yield Block(page, number + 1, _until(lines, "-->"))
        elif text.startswith("<!-- skip:"):
            skip = text.removeprefix("<!-- skip:").removesuffix("-->").strip()
            if not skip:
                raise ValueError(f"{page.name}, line {number}: a skip has a reason")
        elif text.startswith("```") and text != "```":
            for _, inner in lines:
                if inner.strip() == "```":
                    break
        elif skip and text:
            raise ValueError(f"{page.name}, line {number}: a skip stands right before a block")


def _until(lines: Iterator[tuple[int, str]], end: str) -> str:
    collected: list[str] = []
    for _, line in lines:
        if line.strip() == end:
            return textwrap.dedent("\n".join(collected)) + "\n"
        collected.append(line)
    raise ValueError(f"a block does not end with {end}")


def shown(page: Path) -> str:
    """What a reader sees of a page: without its comments."""
    lines, hidden = [], False
    for line in page.read_text("utf-8").splitlines():
        hidden = hidden or line.strip().startswith("<!--")
        if not hidden:
            lines.append(line)
        if line.strip().endswith("-->"):
            hidden = False
    return "\n".join(lines)


def run(page: Path, module: ModuleType, helpers: Mapping[str, Any], runner: asyncio.Runner) -> int:
    """Run what a page holds; how many blocks that were."""
    names = module.__dict__
    names.update(helpers)
    count = 0
    for block in blocks(page):
        if block.skipped is None:
            code, count = block.compiled(), count + 1
            if (named := _FILE_NAME.match(block.source)) is not None:
                Path(named[1]).write_text(block.source, "utf-8")
            if code.co_flags & inspect.CO_COROUTINE:
                runner.run(eval(code, names))  # noqa: S307 # our own pages
            else:
                exec(code, names)  # noqa: S102
    return count
