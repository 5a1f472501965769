"""The choices that lead to one run, and from it to the next: the path is the state of the search.

Nothing is kept of a run but the choices it made. To search on, the last choice that had another
option left takes it, and everything is run again from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["Nondeterministic", "Option", "Path"]


class Nondeterministic(Exception):
    """The same choices led to something else than they did before, so no search means anything.

    Look for what is not repeatable: random ids, the machine's clock, threads or timers of the
    store's own, records that an earlier run has left.
    """


class Option(NamedTuple):
    """Somebody who could go on, and what it would do."""

    name: str
    does: str


@dataclass
class _Point:
    options: tuple[Option, ...]
    taken: int = 0
    outcome: str | None = None


class Path:
    """All paths, depth first. At each point of a run the first option is taken first.

    >>> path, paths = Path(), []
    >>> while True:
    ...     run = [path.choose([Option(name, "") for name in "AB"]) for _ in range(2)]
    ...     paths.append("".join(run))
    ...     if not path.advance():
    ...         break
    >>> paths
    ['AA', 'AB', 'BA', 'BB']
    """

    def __init__(self) -> None:
        self._points: list[_Point] = []
        self._at = 0

    def choose(self, options: Sequence[Option]) -> str:
        """The name of the option that this run takes.

        Raises:
            Nondeterministic: there were others when a run came here before.
        """
        if self._at == len(self._points):
            self._points.append(_Point(tuple(options)))
        point = self._points[self._at]
        if point.options != tuple(options):
            raise Nondeterministic(
                f"at step {self._at + 1} there was a choice between {_listed(point.options)}, and"
                f" now it is between {_listed(options)}"
            )
        return point.options[point.taken].name

    def happened(self, outcome: str) -> None:
        """What came of the last choice.

        Raises:
            Nondeterministic: it was something else before.
        """
        point = self._points[self._at]
        self._at += 1
        if point.outcome is None:
            point.outcome = outcome
        elif point.outcome != outcome:
            raise Nondeterministic(
                f"at step {self._at} {_listed([point.options[point.taken]])} led to"
                f" {point.outcome!r}, and now to {outcome!r}"
            )

    def again(self) -> None:
        """Begin the same run once more."""
        self._at = 0

    def advance(self) -> bool:
        """Begin the next run; False if there is none left.

        Raises:
            Nondeterministic: the run ended earlier than one with the same choices did.
        """
        if self._at < len(self._points):
            raise Nondeterministic(
                f"the run was over after {self._at} steps; with the same choices there were"
                f" {len(self._points)} before"
            )
        while self._points and self._points[-1].taken + 1 == len(self._points[-1].options):
            self._points.pop()
        self._at = 0
        if not self._points:
            return False
        last = self._points[-1]
        last.taken, last.outcome = last.taken + 1, None
        return True


def _listed(options: Sequence[Option]) -> str:
    return ", ".join(f"{option.name} ({option.does})" for option in options) or "nobody"
