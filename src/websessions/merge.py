"""How a conflict ends: the three-way merge of two versions of one session.

Two requests read the same session (base); one saved first (theirs); the other (mine) merges its
own changes into that and tries again. Decided for each top-level key on its own, so requests that
write different keys both win; where both wrote the same key, the later save wins (promise 2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["merge"]

_ABSENT = object()


def merge(
    base: Mapping[str, Any],
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    same: Callable[[Any, Any], bool],
) -> dict[str, Any]:
    """What `theirs` is once my changes since `base` are made to it.

    Removing a key is a change like any other. `same` compares two values; the caller passes one
    that compares their encodings, since `True == 1` in Python but not in a session.

    >>> merge({"a": 1, "b": 1}, {"a": 2}, {"a": 1, "b": 1, "c": 3}, lambda x, y: x == y)
    {'a': 2, 'c': 3}
    """
    merged = dict(theirs)
    for key in [*base, *(key for key in mine if key not in base)]:
        before, after = base.get(key, _ABSENT), mine.get(key, _ABSENT)
        if before is not _ABSENT and after is not _ABSENT and same(before, after):
            continue
        if after is _ABSENT:
            merged.pop(key, None)
        else:
            merged[key] = after
    return merged
