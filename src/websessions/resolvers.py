"""What becomes of one key of a session that two requests changed at once: ready-made rules.

A resolver is a function of three values of that key: `base`, which both requests read, `mine`,
which the later save brings, and `theirs`, which the earlier one left. What it returns is stored.
Any of the three may be `MISSING`, since to add or to remove a key is a change; to return it removes
the key. It is called only where both changed the key, in the middle of a save: it should be quick,
change none of its arguments and do no I/O, and it may be called again if the save meets a third
request. What it raises makes the save fail with `Conflict`, and the stored session stays as it is.

>>> SessionSettings(                                              # doctest: +SKIP
...     secret=..., on_conflict={"views": resolvers.add, "cart": my_function}
... )
"""

from __future__ import annotations

import builtins
import decimal
import math
from collections.abc import Callable, Collection
from decimal import Decimal
from enum import Enum
from typing import Any, Final, Literal, TypeAlias

__all__ = ["MISSING", "Missing", "Resolver", "add", "append", "latest", "max", "union"]


class Missing(Enum):
    """The type of `MISSING`."""

    MISSING = "no such key"

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final[Literal[Missing.MISSING]] = Missing.MISSING
"""The value of a key that the session does not have."""

Resolver: TypeAlias = Callable[[Any, Any, Any], Any]
"""`(base, mine, theirs)`, each a value or `MISSING`, to the value that is stored, or `MISSING`."""

_EXACTLY: Final = decimal.Context(
    prec=1000,
    Emax=decimal.MAX_EMAX,
    Emin=decimal.MIN_EMIN,
    traps=[decimal.Inexact, decimal.InvalidOperation],
)


def latest(base: Any, mine: Any, theirs: Any) -> Any:
    """The later save wins. It is what becomes of a key that has no resolver."""
    return mine


def add(base: Any, mine: Any, theirs: Any) -> Any:
    """A counter: what both added to it, and took from it, counts.

    For `int`, `float` and `Decimal`, and a missing one is 0. Ints and Decimals are added exactly,
    floats with one rounding.

    >>> add(10, 11, 15)
    16
    >>> add(MISSING, 1, 1)
    2

    Raises:
        TypeError: a value is no number, or a Decimal is to be added to a float.
        ArithmeticError: of Decimals, the result has more than 1000 digits, or is no number.
    """
    if mine is MISSING and theirs is MISSING:
        return MISSING
    before, ours, other = (0 if value is MISSING else value for value in (base, mine, theirs))
    for value in (before, ours, other):
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise TypeError(f"add takes numbers, not {type(value).__name__}")
    kinds = {type(before), type(ours), type(other)}
    if Decimal in kinds:
        with decimal.localcontext(_EXACTLY):
            return other + (ours - before)
    return math.fsum((other, ours, -before)) if kinds == {float} else other + (ours - before)


def max(base: Any, mine: Any, theirs: Any) -> Any:
    """The greater one, such as the last page that was read. A missing one is less than any.

    >>> max(1, 5, 3)
    5

    Raises:
        TypeError: the two can not be compared.
    """
    if mine is MISSING or theirs is MISSING:
        return theirs if mine is MISSING else mine
    return builtins.max(theirs, mine)


def union(base: Any, mine: Any, theirs: Any) -> Any:
    """A set, kept as a list in the order of adding: both requests' additions and removals count.

    Theirs come first. For lists, tuples and sets, whose items are equal as Python has it; a
    missing one is empty.

    >>> union(["a", "b"], ["a", "b", "mine"], ["b", "theirs"])
    ['b', 'theirs', 'mine']

    Raises:
        TypeError: a value is no list, tuple or set.
    """
    before, ours, other = _items(base), _items(mine), _items(theirs)
    known, kept_by_me, kept_by_them = _lookup(before), _lookup(ours), _lookup(other)
    merged = [item for item in other if item in kept_by_me or item not in known]
    merged += [item for item in ours if item not in kept_by_them and item not in known]
    return _in_the_kind_of(mine, theirs, merged)


def append(base: Any, mine: Any, theirs: Any) -> Any:
    """A log: what both appended is there, theirs first. What either cut off in front is cut off.

    For lists and tuples; a missing one is empty. A list that neither continues the base nor a rest
    of it counts as appended whole.

    >>> append([1], [1, 2], [1, 3])
    [1, 3, 2]
    >>> append([1, 2, 3], [2, 3, 4], [1, 2, 3, 5])   # mine keeps the last three
    [2, 3, 5, 4]

    Raises:
        TypeError: a value is no list or tuple.
    """
    if isinstance(mine, set | frozenset) or isinstance(theirs, set | frozenset):
        raise TypeError("append takes lists and tuples, whose items have an order")
    before, ours, other = _items(base), _items(mine), _items(theirs)
    rest_of_mine, rest_of_theirs = _continued(before, ours), _continued(before, other)
    kept = builtins.min(rest_of_mine, rest_of_theirs)
    merged = [*before[len(before) - kept :], *other[rest_of_theirs:], *ours[rest_of_mine:]]
    return _in_the_kind_of(mine, theirs, merged)


def _items(value: Any) -> list[Any]:
    if value is MISSING:
        return []
    if not isinstance(value, list | tuple | set | frozenset):
        raise TypeError(f"a resolver of lists got a value of type {type(value).__name__}")
    return [*value]


def _in_the_kind_of(mine: Any, theirs: Any, merged: list[Any]) -> Any:
    """The items as the list, tuple or set that they come from; none are none of a removed key."""
    if MISSING in (mine, theirs) and not merged:
        return MISSING
    return type(mine if theirs is MISSING else theirs)(merged)


def _lookup(items: list[Any]) -> Collection[Any]:
    """The items, to look for some in them; of those that can be hashed a set."""
    try:
        return frozenset(items)
    except TypeError:
        return items


def _continued(base: list[Any], items: list[Any]) -> int:
    """How many items of the end of `base` the list begins with: the most that there are.

    The failure function of Knuth, Morris and Pratt, in linear time: the lists may be long.
    """
    falls_back = [0] * (len(items) + 1)
    length = 0
    for number in range(1, len(items)):
        while length and items[number] != items[length]:
            length = falls_back[length]
        length += items[number] == items[length]
        falls_back[number + 1] = length
    length = 0
    for item in base:
        if length == len(items):
            length = falls_back[length]
        while length and item != items[length]:
            length = falls_back[length]
        if items:
            length += item == items[length]
    return length
