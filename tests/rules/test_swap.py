"""Compare and swap: how long a write that keeps losing is fought for, and how it waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from types import SimpleNamespace
from typing import Any, Final

import pytest

from websessions import Conflict, swap
from websessions.run import Pause
from websessions.sid import Sid
from websessions.store import Load, Overtaken, Record, Replace

KEY: Final = Sid("a" * 43).digest()
THEIRS: Final = Record(KEY, b"{}", datetime(2037, 1, 1, tzinfo=UTC), 1)
WRITE: Final = Replace(THEIRS, b"{}", THEIRS.expires, {})


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock; a pause is the two ends of what it is drawn from."""
    now = [1000.0]
    monkeypatch.setattr(swap, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(swap, "random", SimpleNamespace(uniform=lambda *ends: ends))
    return now


def losing() -> Iterator[Any]:
    """The calls of a write that is always lost to another one."""
    steps = swap.swap_steps(KEY, WRITE, lambda theirs: replace(WRITE, seen=theirs))
    answer = None
    while True:
        call = steps.send(answer)
        yield call
        answer = THEIRS if isinstance(call, Load) else None


def test_who_keeps_losing_waits_longer_each_time_up_to_a_fiftieth_of_a_second(
    now: list[float],
) -> None:
    """The first loss is no sign of a crowd: it is tried again at once."""
    calls = losing()
    assert [type(call) for call in islice(calls, 5)] == [Replace, Load, Replace, Pause, Load]
    pauses: list[Any] = [call.seconds for call in islice(calls, 30) if isinstance(call, Pause)]
    assert pauses == [(0, 0.002), (0, 0.004), (0, 0.008), (0, 0.016)] + [(0, 0.02)] * 6


def test_what_is_known_of_a_quicker_write_is_not_read_again(now: list[float]) -> None:
    """Nor is there a pause: nobody else is known to want it."""
    seen = []

    def again(theirs: Record) -> Replace:
        seen.append(theirs)
        return replace(WRITE, seen=theirs)

    steps = swap.swap_steps(KEY, WRITE, again)
    assert next(steps) == WRITE
    for version in range(2, 6):
        by = replace(THEIRS, version=version)
        assert steps.send(Overtaken(by)) == replace(WRITE, seen=by)
        assert seen[-1] == by
    assert steps.send(None) == Load(KEY), "others could be quicker, too"
    now[0] += 5.001
    with pytest.raises(Conflict, match="for 5 s"):
        steps.send(THEIRS)


def test_who_is_overtaken_for_five_seconds_gives_up(now: list[float]) -> None:
    steps = swap.swap_steps(KEY, WRITE, lambda theirs: replace(WRITE, seen=theirs))
    next(steps)
    now[0] += 5.001
    with pytest.raises(Conflict, match="for 5 s"):
        steps.send(Overtaken(THEIRS))


def test_it_is_given_up_after_five_seconds(now: list[float]) -> None:
    calls = losing()
    assert [type(call) for call in islice(calls, 2)] == [Replace, Load]
    now[0] += 5
    assert [type(call) for call in islice(calls, 3)] == [Replace, Pause, Load]
    now[0] += 0.001
    with pytest.raises(Conflict, match="for 5 s"):
        next(calls)
