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
from websessions.store import Load, Record, Replace

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


def test_who_keeps_losing_waits_longer_each_time_up_to_a_quarter_of_a_second(
    now: list[float],
) -> None:
    """The first loss is no sign of a crowd: it is tried again at once."""
    calls = losing()
    assert [type(call) for call in islice(calls, 5)] == [Replace, Load, Replace, Pause, Load]
    pauses: list[Any] = [call.seconds for call in islice(calls, 30) if isinstance(call, Pause)]
    assert pauses == [(0, 0.002 * 2**n) for n in range(7)] + [(0, 0.25)] * 3


def test_it_is_given_up_after_five_seconds(now: list[float]) -> None:
    calls = losing()
    assert [type(call) for call in islice(calls, 2)] == [Replace, Load]
    now[0] += 5
    assert [type(call) for call in islice(calls, 3)] == [Replace, Pause, Load]
    now[0] += 0.001
    with pytest.raises(Conflict, match="for 5 s"):
        next(calls)
