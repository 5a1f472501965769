"""`store.update()` against other writers, step by step."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from websessions import Conflict, MemoryStore, swap
from websessions.run import Pause
from websessions.sid import Sid
from websessions.store import Call, Load, Replace, Steps

SID = Sid("a" * 43)
Values = dict[str, Any]


def rival(store: MemoryStore, **values: Any) -> None:
    """Somebody else's write."""
    [seen] = store.perform((Load(store.key(SID)),))
    data = store.codec.encode({**store.codec.decode(seen.data), **values})
    store.perform((Replace(seen, data, seen.expires, {}),))


def play(
    steps: Steps[Values | None], store: MemoryStore, before: Callable[[Call[Any]], None]
) -> Values | None:
    """Run the steps on the store, and do something before each call."""
    answer: Any = None
    try:
        while True:
            call = steps.send(answer)
            if isinstance(call, Pause):
                assert 0 <= call.seconds <= swap.LONGEST_PAUSE
                answer = None
                continue
            before(call)
            [answer] = store.perform((call,))
    except StopIteration as stop:
        result: Values | None = stop.value
        return result


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore(check_expiration_interval=None)
    store.set(SID, {"n": 1})
    return store


def test_the_function_is_called_again_with_what_they_wrote(store: MemoryStore) -> None:
    seen: list[int] = []
    rivals = [10, 20]

    def count(session: Values) -> None:
        seen.append(session["n"])
        session["n"] += 1

    def before(call: Call[Any]) -> None:
        if isinstance(call, Replace) and rivals:
            rival(store, n=rivals.pop(0), theirs=True)

    assert play(store._update_steps(SID, count), store, before) == {"n": 21, "theirs": True}
    assert seen == [1, 10, 20]
    assert store.get(SID) == {"n": 21, "theirs": True}


def test_what_ends_meanwhile_stays_ended(store: MemoryStore) -> None:
    def before(call: Call[Any]) -> None:
        if isinstance(call, Replace):
            store.destroy(SID)

    steps = store._update_steps(SID, lambda session: session.update(n=2))
    assert play(steps, store, before) is None
    assert store.length() == 0


@pytest.mark.parametrize("privilege", [False, True])
def test_an_update_by_an_old_id_is_made_in_its_grace(store: MemoryStore, privilege: bool) -> None:
    """And not at all after a login."""
    new = Sid("b" * 43)

    def before(call: Call[Any]) -> None:
        if isinstance(call, Replace) and call.seen.key == SID.digest():
            until = None if privilege else store.clock() + timedelta(minutes=1)
            store.perform(
                (Replace(call.seen, call.seen.data, call.seen.expires, {}, new.digest(), until),)
            )

    steps = store._update_steps(SID, lambda session: session.update(n=2))
    assert play(steps, store, before) == (None if privilege else {"n": 2})
    assert store.get(new) == {"n": 1 if privilege else 2}


def test_what_they_did_need_not_be_done_again(store: MemoryStore) -> None:
    writes: list[Call[Any]] = []

    def before(call: Call[Any]) -> None:
        if isinstance(call, Replace):
            writes.append(call)
            rival(store, done=True)

    steps = store._update_steps(SID, lambda session: session.update(done=True))
    assert play(steps, store, before) == {"n": 1, "done": True}
    assert len(writes) == 1


def test_it_gives_up_in_the_end(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "CONFLICT_DEADLINE", -1.0)

    def before(call: Call[Any]) -> None:
        if isinstance(call, Replace):
            rival(store, n=10)

    with pytest.raises(Conflict, match="not saved"):
        play(store._update_steps(SID, lambda session: session.update(n=2)), store, before)
    assert store.get(SID) == {"n": 10}
