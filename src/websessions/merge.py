"""How a conflict ends: the three-way merge of two versions of one session.

Two requests read the same session (base); one saved first (theirs); the other (mine) merges its
own changes into that and tries again. Decided for each top-level key on its own, so requests that
write different keys both win; where both wrote the same key, the later save wins, or the app's
resolver decides (promise 2). Who the session belongs to is never mixed: see `merge`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from .errors import Conflict
from .resolvers import MISSING, Resolver
from .settings import USER_KEY

__all__ = ["merge", "overwrite"]

Same: TypeAlias = Callable[[Any, Any], bool]

_NONE: Final[Mapping[str, Resolver]] = {}


def merge(
    base: Mapping[str, Any],
    mine: Mapping[str, Any],
    theirs: Mapping[str, Any],
    same: Same,
    resolvers: Mapping[str, Resolver] = _NONE,
) -> dict[str, Any]:
    """What `theirs` is once my changes since `base` are made to it.

    Removing a key is a change like any other. `same` compares two values; the caller passes one
    that compares their encodings, since `True == 1` in Python but not in a session. `resolvers`
    decide about keys that both changed.

    Raises:
        Conflict: both changed `user_id`, each to somebody else: one's data would end up in the
            other's session. Or a resolver failed.

    >>> merge({"a": 1, "b": 1}, {"a": 2}, {"a": 1, "b": 1, "c": 3}, lambda x, y: x == y)
    {'a': 2, 'c': 3}
    """
    merged = dict(theirs)
    for key in [*base, *(key for key in mine if key not in base)]:
        before, after, other = (of.get(key, MISSING) for of in (base, mine, theirs))
        if _is_same(before, after, same):
            continue
        if key in resolvers and not _is_same(before, other, same):
            after = _resolved(resolvers[key], key, before, after, other)
        elif key == USER_KEY and not any(_is_same(other, one, same) for one in (before, after)):
            raise Conflict(
                "two requests made this session somebody else's at the same time;"
                " the changes of the later one are not saved"
            )
        if after is MISSING:
            merged.pop(key, None)
        else:
            merged[key] = after
    return merged


def overwrite(
    base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any], same: Same
) -> dict[str, Any]:
    """My version whole, whatever they changed.

    But who the session belongs to is what the last request said that said something about it:
    another one's old copy logs nobody out, and nobody in again.
    """
    document = dict(mine)
    if _is_same(base.get(USER_KEY, MISSING), mine.get(USER_KEY, MISSING), same):
        document.pop(USER_KEY, None)
        if USER_KEY in theirs:
            document[USER_KEY] = theirs[USER_KEY]
    return document


def _is_same(one: Any, other: Any, same: Same) -> bool:
    if one is MISSING or other is MISSING:
        return one is other
    return same(one, other)


def _resolved(resolver: Resolver, key: str, base: Any, mine: Any, theirs: Any) -> Any:
    try:
        return resolver(base, mine, theirs)
    except Exception as error:
        raise Conflict(
            f"the resolver of the session key {key!r} failed with {type(error).__name__};"
            " this request's changes are not saved"
        ) from error
