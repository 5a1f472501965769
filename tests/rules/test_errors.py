"""One tree of errors, and no secret in any of them."""

from __future__ import annotations

import pickle

import pytest

import websessions
from websessions import errors

ALL = [getattr(errors, name) for name in errors.__all__]


def test_the_tree() -> None:
    """What an app may catch for what; a changed base is a breaking change."""
    bases = {cls.__name__: cls.__bases__[0].__name__ for cls in ALL}
    assert bases == {
        "WebSessionsError": "Exception",
        "ConfigurationError": "WebSessionsError",
        "StoreError": "WebSessionsError",
        "StoreUnavailable": "StoreError",
        "StoreTimeout": "StoreUnavailable",
        "ValueRefused": "StoreError",
        "SessionError": "WebSessionsError",
        "SessionEncodingError": "SessionError",
        "SessionTooLarge": "SessionError",
        "CorruptRecord": "SessionError",
        "Conflict": "SessionError",
        "SessionLocked": "SessionError",
        "SessionNotLoaded": "SessionError",
    }


def test_every_error_is_public_and_explained() -> None:
    for cls in ALL:
        assert getattr(websessions, cls.__name__) is cls
        assert cls.__doc__


@pytest.mark.parametrize(
    "error",
    [
        errors.ConfigurationError("a message"),
        errors.StoreUnavailable("a message"),
        errors.StoreTimeout("a message"),
        errors.ValueRefused("a message"),
        errors.Conflict("a message"),
        errors.SessionLocked("a message"),
        errors.SessionNotLoaded("a message"),
        errors.SessionEncodingError("cart.items[3].price", "no"),
        errors.SessionTooLarge(2000, 1000, (("cart", 1900), ("name", 50))),
        errors.CorruptRecord("00ff", "no"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: Exception) -> None:
    """They cross process borders in task queues and parallel test runs."""
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_messages_name_the_place_and_the_remedy() -> None:
    assert "cart.items[3].price" in str(errors.SessionEncodingError("cart.items[3].price", "no"))
    assert "the top level" in str(errors.SessionEncodingError("", "no"))
    large = str(errors.SessionTooLarge(2000, 1000, (("cart", 1900),)))
    assert "2000" in large
    assert "1000" in large
    assert "'cart' (1900 bytes)" in large
    assert "max_size" in large
    assert "00ff" in str(errors.CorruptRecord("00ff", "no"))
