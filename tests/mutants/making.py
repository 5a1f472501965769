"""Mutants: a module with one thing changed, as a slip of its author might have changed it.

The operators are mutmut's, and some that it has not: a statement or one side of an `and` left out,
a condition turned round, an item of a set dropped. They are applied to the whole of a module. So
what runs at import is changed too, such as the table of outcomes, which mutmut's own runner, where
a mutant takes a function's place after the import, does not reach.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from difflib import unified_diff
from itertools import islice
from pathlib import Path
from typing import Final

import libcst as cst
from libcst import matchers as m
from mutmut.mutation import mutators

__all__ = ["Mutant", "mutants"]


@dataclass(frozen=True)
class Mutant:
    """A change of one place.

    Attributes:
        module: as it is imported.
        where: the class and function, or "" for what is in none.
        diff: the lines that change and the one above, each with its sign and without its
            indentation: the same wherever the function stands.
        source: the whole module, changed.
    """

    module: str
    where: str
    diff: tuple[str, ...]
    source: str = field(repr=False, compare=False)

    def __str__(self) -> str:
        return "\n".join((f"@@ {self.module.rpartition('.')[2]} {self.where}".rstrip(), *self.diff))


def mutants(module: str, path: Path) -> Iterator[Mutant]:
    """All mutants of a module that compile, no two of which do the same."""
    original = path.read_text("utf-8")
    tree = cst.parse_module(original)
    assert tree.code == original
    changes = _Changes()
    tree.visit(changes)
    seen = {ast.dump(ast.parse(original))}
    for where, node, changed in changes.found:
        mutated = tree.deep_replace(node, changed)
        assert isinstance(mutated, cst.Module)
        try:
            compile(mutated.code, path.name, "exec")
        except SyntaxError:
            continue
        dump = ast.dump(ast.parse(mutated.code))
        if dump not in seen:
            seen.add(dump)
            yield Mutant(module, where, _diff(original, mutated.code), mutated.code)


def _diff(before: str, after: str) -> tuple[str, ...]:
    lines = unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    code = [(line[0], _without_comment(line[1:].strip())) for line in islice(lines, 3, None)]
    while code[-1][0] == " ":
        code.pop()
    return tuple(f"{sign} {line}" for sign, line in code if line)


def _without_comment(line: str) -> str:
    return "" if line.startswith('"""') else re.sub(r"(^|  )# .*", "", line)


_SKIPPED: Final = (
    *(cst.Annotation, cst.Import, cst.ImportFrom, cst.Decorator),
    cst.Assert,  # it states what is so, for the type checker
)

_FALSE: Final = m.Name("False")
_CAPITALS: Final = m.Name(value=m.MatchRegex("[A-Z_]+"))

_OPERATORS: Final = [
    (kind, operator)
    for kind, operator in mutators.mutation_operators
    if operator is not mutators.operator_string
]


class _Changes(cst.CSTVisitor):
    """Collects what can be changed, with its place."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, cst.CSTNode, cst.CSTNode]] = []
        self._names: list[str] = []

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, _SKIPPED) or _declares(node):
            return False
        if isinstance(node, cst.ClassDef | cst.FunctionDef):
            self._names.append(node.name.value)
        for changed in _changed(node):
            self.found.append((".".join(self._names), node, changed))
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.ClassDef | cst.FunctionDef):
            self._names.pop()


def _declares(node: cst.CSTNode) -> bool:
    """`__all__`, aliases and type variables, which do nothing, and the words of an enum."""
    return m.matches(
        node,
        m.Assign(targets=[m.AssignTarget(m.Name("__all__"))])
        | m.Assign(targets=[m.AssignTarget(_CAPITALS)], value=m.SimpleString())
        | m.Assign(value=m.Call(func=m.Name("TypeVar")))
        | m.AnnAssign(annotation=m.Annotation(m.Name("TypeAlias"))),
    )


def _changed(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if not _is_immaterial(node):
        for kind, operator in _OPERATORS:
            if isinstance(node, kind):
                yield from operator(node)
    if isinstance(node, cst.SimpleString) and not _is_sentence(node):
        yield from islice(mutators.operator_string(node), 1)
    match node:
        case cst.SimpleStatementLine(body=[only]) if _has_an_effect(only):
            yield node.with_changes(body=[cst.Pass()])
        case cst.BooleanOperation(left=left, right=right):
            yield left
            yield right
        case cst.If(test=test) | cst.While(test=test) | cst.IfExp(test=test):
            if isinstance(test, cst.Name | cst.Attribute | cst.Call):
                yield node.with_changes(test=cst.UnaryOperation(cst.Not(), test))
        case cst.Set(elements=elements) | cst.List(elements=elements):
            yield from (node.with_changes(elements=fewer) for fewer in _without_one(elements))
        case cst.ComparisonTarget(comparator=cst.Tuple(elements=elements) as items):
            for fewer in _without_one(elements):
                yield node.with_changes(comparator=items.with_changes(elements=fewer))
        case cst.StarredElement(value=cst.Tuple(elements=elements) as items):
            for fewer in _without_one(elements):
                yield node.with_changes(value=items.with_changes(elements=fewer))


def _is_immaterial(node: cst.CSTNode) -> bool:
    """Whether mutmut's operators change nothing that matters.

    None for False is the same to every condition, and True for it is tried. The words of log
    entries and errors are for people. And as mutmut has it, what `len` takes is no rule of ours.
    """
    match node:
        case (
            cst.Assign(value=cst.Name(value="False")) | cst.AnnAssign(value=cst.Name(value="False"))
        ):
            return True
        case cst.Call(func=cst.Name(value="len" | "isinstance")):
            return True
        case cst.Call(args=arguments):
            return any(_is_sentence(argument.value) for argument in arguments)
    return False


def _is_sentence(node: cst.CSTNode) -> bool:
    if isinstance(node, cst.SimpleString | cst.ConcatenatedString | cst.FormattedString):
        return " " in cst.Module([]).code_for_node(node)
    return False


def _has_an_effect(statement: cst.BaseSmallStatement) -> bool:
    """Whether it is code, and the rest still is without it: no name depends on it."""
    match statement:
        case cst.Expr(value=cst.BaseString() | cst.Ellipsis()):
            return False
        case cst.Assign(targets=targets):
            return all(
                isinstance(target.target, cst.Attribute | cst.Subscript) for target in targets
            )
    return isinstance(statement, cst.Expr | cst.AugAssign | cst.Raise | cst.Return)


def _without_one(
    elements: Sequence[cst.BaseElement],
) -> Iterator[Sequence[cst.BaseElement]]:
    if len(elements) > 1:
        for number in range(len(elements)):
            fewer = [*elements[:number], *elements[number + 1 :]]
            fewer[-1] = fewer[-1].with_changes(comma=cst.Comma())
            yield fewer
