"""A request whose session was saved within a transaction of the app's that goes on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from tests.rules.test_lifecycle import NOW, ByHand, Rules, ended, loaded, play
from websessions import SessionError
from websessions.joined import Checkpoint, Joined
from websessions.store import Touch


class OpenTransaction:
    undone: Callable[[], None] | None = None
    connection = object()
    is_open = True


def joined(exchange: ByHand) -> ByHand:
    before = Checkpoint(exchange)
    exchange.joined = Joined(exchange, exchange.session, OpenTransaction(), before, None)
    return exchange


def test_it_is_looked_at_before_the_response_begins() -> None:
    """Even where nothing was changed since: that it was committed is not known yet."""
    assert joined(loaded({"n": 1})).finish_now() is None


def test_a_touch_waits_for_its_end() -> None:
    """It has the row."""
    rules = Rules(now=NOW + timedelta(seconds=1))
    exchange = joined(loaded({"n": 1}, rules=rules))
    exchange.session.touch()
    play(exchange.settle_steps())
    exchange.joined = None
    play(exchange.settle_steps(), (Touch, True))


def test_a_stream_can_not_end_the_session_before_that() -> None:
    exchange = loaded({"n": 1})
    ended(exchange)
    joined(exchange).session.destroy()
    with pytest.raises(SessionError, match="end the transaction first"):
        play(exchange.close_steps())
