"""The session id hides itself; the key that finds its row gives nothing away."""

from __future__ import annotations

import hashlib
import re

import pytest

from websessions.errors import ConfigurationError
from websessions.sid import Sid, generated_sid

SECRET = "correct-horse-battery-staple"


def test_no_way_of_printing_it_shows_it() -> None:
    sid = Sid(SECRET)
    shown = [repr(sid), str(sid), f"{sid}", f"{sid!r:>20}", f"{sid!s}", "%s" % sid, "%r" % sid]  # noqa: UP031
    shown += [repr([sid]), repr({"sid": sid}), ascii(sid), "{}".format(sid)]  # noqa: UP032
    for text in shown:
        assert SECRET not in text
        assert "****" in text


def test_a_new_one_has_256_bits() -> None:
    made = {Sid.new().value for _ in range(100)}
    assert len(made) == 100
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{43}", value) for value in made)


def test_it_is_stored_under_its_sha256() -> None:
    assert Sid(SECRET).digest() == hashlib.sha256(SECRET.encode()).digest()


def test_ids_are_equal_by_value_and_to_nothing_else() -> None:
    assert Sid(SECRET) == Sid(SECRET)
    assert hash(Sid(SECRET)) == hash(Sid(SECRET))
    assert Sid(SECRET) != Sid(SECRET + "x")
    other: object = SECRET
    assert Sid(SECRET) != other


def test_the_apps_own_genid_is_used() -> None:
    assert generated_sid(lambda: "a" * 22).value == "a" * 22
    assert generated_sid(lambda: "b" * 128).value == "b" * 128


@pytest.mark.parametrize(
    "made",
    ["", "a" * 21, "a" * 129, "ü" * 30, "a" * 30 + "\n", "a.b" * 10, "a " * 15, b"a" * 30, None, 7],
)
def test_a_genid_that_makes_no_ids_is_told_so(made: object) -> None:
    """The message says what is wrong without the value."""
    with pytest.raises(ConfigurationError, match="genid has to return a str") as caught:
        generated_sid(lambda: made)  # type: ignore[arg-type, return-value]
    assert type(made).__name__ in str(caught.value)
    if made and not isinstance(made, int):
        assert str(made) not in str(caught.value)


def test_an_error_in_genid_is_the_apps_own() -> None:
    def broken() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        generated_sid(broken)
