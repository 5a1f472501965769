"""The three-way merge: what becomes of two requests that both wrote."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from websessions.codec import JSONCodec
from websessions.merge import merge

codec = JSONCodec()

keys = st.sampled_from("abcdef")
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(0, 2),
    st.sampled_from([0.0, 1.0, 2.0]),
    st.lists(st.integers(0, 1), max_size=2),
    st.dictionaries(keys, st.integers(0, 1), max_size=2),
)
documents = st.dictionaries(keys, values, max_size=6)


def same(one: Any, other: Any) -> bool:
    """As the lifecycle compares: by the stored bytes."""
    return codec.encode({"": one}) == codec.encode({"": other})


def merged(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    before = codec.encode(base), codec.encode(mine), codec.encode(theirs)
    result = merge(base, mine, theirs, same)
    assert (codec.encode(base), codec.encode(mine), codec.encode(theirs)) == before
    return result


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Equal as sessions are: 1 is not True, and the order of keys does not count."""
    return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)


def changes(base: dict[str, Any], to: dict[str, Any]) -> set[str]:
    """The keys that were set, changed or removed."""
    return {
        key
        for key in base.keys() | to.keys()
        if (key in base) is not (key in to) or not same(base.get(key), to.get(key))
    }


@given(base=documents, mine=documents)
def test_where_nobody_else_wrote_mine_is_the_result(
    base: dict[str, Any], mine: dict[str, Any]
) -> None:
    assert equal(merged(base, mine, base), mine)


@given(base=documents, theirs=documents)
def test_where_i_changed_nothing_theirs_is_the_result(
    base: dict[str, Any], theirs: dict[str, Any]
) -> None:
    assert equal(merged(base, base, theirs), theirs)


@given(base=documents, mine=documents, theirs=documents)
def test_every_key_is_decided_on_its_own(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """What I changed is as I left it, removed keys included; everything else is as they left it."""
    result = merged(base, mine, theirs)
    my_changes = changes(base, mine)
    for key in base.keys() | mine.keys() | theirs.keys():
        source = mine if key in my_changes else theirs
        assert (key in result) is (key in source)
        if key in source:
            assert same(result[key], source[key])


@given(base=documents, mine=documents, theirs=documents)
def test_merging_again_changes_nothing(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    """A write whose answer was lost may be merged with itself."""
    once = merged(base, mine, theirs)
    assert equal(merged(base, mine, once), once)


@given(base=documents, mine=documents, theirs=documents)
def test_changes_of_different_keys_both_win_in_either_order(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    if not changes(base, mine) & changes(base, theirs):
        assert equal(merged(base, mine, theirs), merged(base, theirs, mine))


def test_of_two_writes_of_one_key_the_later_save_wins() -> None:
    assert merged({"n": 0}, {"n": 1}, {"n": 2}) == {"n": 1}


def test_removing_is_a_change_like_any_other() -> None:
    assert merged({"n": 0, "m": 0}, {"m": 0}, {"n": 1, "m": 1}) == {"m": 1}
    assert merged({"n": 0}, {"n": 1}, {}) == {"n": 1}
    assert merged({"n": 0}, {}, {}) == {}


def test_true_one_and_one_point_zero_are_three_values() -> None:
    """Equal in Python, different in a session: each change counts."""
    for before in (True, 1, 1.0):
        for after in (True, 1, 1.0):
            result = merged({"v": before}, {"v": after}, {"v": before, "other": 1})
            assert type(result["v"]) is type(after)


def test_a_nested_value_is_one_value() -> None:
    """Merging inside of lists and dicts would invent data that neither request wrote."""
    base = {"cart": {"a": 1}}
    assert merged(base, {"cart": {"a": 2}}, {"cart": {"a": 1, "b": 1}}) == {"cart": {"a": 2}}
