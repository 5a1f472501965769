"""Resolvers: what becomes of one key that two or more requests changed at once."""

from __future__ import annotations

import decimal
import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from websessions import Conflict, JSONCodec, resolvers
from websessions.merge import merge, overwrite
from websessions.resolvers import MISSING, Resolver

codec = JSONCodec()


def same(one: Any, other: Any) -> bool:
    return codec.encode({"": one}) == codec.encode({"": other})


def contend(
    start: dict[str, Any],
    changes: list[Callable[[dict[str, Any]], None]],
    rules: Mapping[str, Resolver],
    seed: int,
) -> dict[str, Any]:
    """All read the same session and make their changes; then they save one after another, each
    merging into what the others left, as the lifecycle does.
    """
    stored = codec.encode(start)
    writers = []
    for change in changes:
        mine = codec.decode(stored)
        change(mine)
        writers.append(mine)
    random.Random(seed).shuffle(writers)
    base = codec.decode(stored)
    for mine in writers:
        stored = codec.encode(merge(base, mine, codec.decode(stored), same, rules))
    return codec.decode(stored)


def adding(amount: Any) -> Callable[[dict[str, Any]], None]:
    def change(session: dict[str, Any]) -> None:
        session["n"] = session.get("n", 0) + amount

    return change


seeds = st.integers(0, 2**32)
numbers = st.integers(-(2**70), 2**70)
items = st.integers(0, 5)
lists = st.lists(items, max_size=6)


class TestAdd:
    @given(start=st.none() | numbers, amounts=st.lists(numbers, max_size=6), seed=seeds)
    def test_any_order_of_writers_gives_the_exact_sum(
        self, start: int | None, amounts: list[int], seed: int
    ) -> None:
        before = {} if start is None else {"n": start}
        after = contend(before, [adding(n) for n in amounts], {"n": resolvers.add}, seed)
        assert after.get("n", 0) == (start or 0) + sum(amounts)

    @given(
        amounts=st.lists(st.decimals(allow_nan=False, allow_infinity=False, places=4), max_size=5),
        seed=seeds,
    )
    def test_decimals_are_exact_too(self, amounts: list[Decimal], seed: int) -> None:
        whole = [int(amount.scaleb(4)) for amount in amounts if abs(amount) < 10**20]
        changes = [adding(Decimal(n).scaleb(-4)) for n in whole]
        after = contend({"n": Decimal(0)}, changes, {"n": resolvers.add}, seed)
        assert after["n"] == Decimal(sum(whole)).scaleb(-4)

    def test_more_digits_than_pythons_decimals_usually_keep(self) -> None:
        tiny = Decimal("1E-40")
        assert resolvers.add(Decimal(1), 1 + Decimal(10), Decimal(1) + 1) == 12
        assert str(resolvers.add(Decimal(0), tiny, Decimal(10))) == "10." + "0" * 39 + "1"
        assert resolvers.add(Decimal(0), Decimal("1E-998"), Decimal(10)) > 10, "1000 digits"

    def test_what_would_have_to_be_rounded_is_refused(self) -> None:
        with pytest.raises(decimal.Inexact):
            resolvers.add(Decimal(0), Decimal("1E-999"), Decimal(10))

    @pytest.mark.parametrize("amount", ["1E+2000000", "1E-2000000"])
    def test_decimals_may_be_as_large_and_as_small_as_they_can(self, amount: str) -> None:
        assert resolvers.add(Decimal(0), Decimal(amount), Decimal(0)) == Decimal(amount)

    def test_infinities_that_cancel_each_other_are_refused(self) -> None:
        with pytest.raises(decimal.InvalidOperation):
            resolvers.add(Decimal("Infinity"), Decimal("Infinity"), Decimal(1))

    def test_a_float_is_rounded_once(self) -> None:
        assert resolvers.add(0.1, 0.4, 0.3) == 0.6 != 0.3 + (0.4 - 0.1)
        assert resolvers.add(0.1, 0.3, 1e16) == 1e16
        assert resolvers.add(1e16, 1e16 + 2, 1.0) == 3.0
        assert resolvers.add(1, 1.5, 2) == 2.5

    def test_who_removes_a_counter_takes_away_what_it_saw(self) -> None:
        assert resolvers.add(3, MISSING, 4) == 1
        assert resolvers.add(3, 4, MISSING) == 1
        assert resolvers.add(3, MISSING, MISSING) is MISSING

    @pytest.mark.parametrize("value", ["1", True, None, [1], Fraction(1, 2)], ids=repr)
    def test_only_numbers_add_up(self, value: Any) -> None:
        for values in ((value, 1, 2), (1, value, 2), (1, 2, value)):
            with pytest.raises(TypeError, match=f"takes numbers, not {type(value).__name__}"):
                resolvers.add(*values)

    def test_a_decimal_and_floats_do_not(self) -> None:
        one = Decimal(1)
        for values in ((one, 2.0, 3.0), (2.0, one, 3.0), (2.0, 3.0, one), (one, 2.0, one)):
            with pytest.raises(TypeError):
                resolvers.add(*values)


def test_a_missing_value_says_so() -> None:
    assert repr(MISSING) == "MISSING"


class TestUnion:
    @given(base=lists, changes=st.lists(lists, min_size=1, max_size=4), seed=seeds)
    def test_what_anybody_added_is_there_and_what_anybody_removed_is_not(
        self, base: list[int], changes: list[list[int]], seed: int
    ) -> None:
        def to(items: list[int]) -> Callable[[dict[str, Any]], None]:
            return lambda session: session.update(n=items)

        after = contend({"n": base}, [to(c) for c in changes], {"n": resolvers.union}, seed)["n"]
        added = {item for change in changes for item in change if item not in base}
        kept = {item for item in base if all(item in change for change in changes)}
        assert set(after) == added | kept

    def test_the_order_is_theirs_and_then_mine(self) -> None:
        assert resolvers.union([1, 2], [0, 1, 2, 9], [2, 1, 5]) == [2, 1, 5, 0, 9]
        assert resolvers.union(MISSING, ["x", "y"], ["y", "z"]) == ["y", "z", "x"]

    def test_items_that_can_not_be_hashed(self) -> None:
        assert resolvers.union([{"a": 1}], [{"a": 1}, ([],)], [{"b": 1}]) == [{"b": 1}, ([],)]

    def test_a_removed_list(self) -> None:
        assert resolvers.union([1], MISSING, [1, 2]) == [2]
        assert resolvers.union([1], [1, 2], MISSING) == [2]
        assert resolvers.union([1], MISSING, MISSING) is MISSING
        assert resolvers.union([1, 2], MISSING, [1]) is MISSING

    def test_sets_stay_sets_and_tuples_tuples(self) -> None:
        assert resolvers.union({1}, {1, 2}, {3}) == {2, 3}
        assert resolvers.union(frozenset({1}), frozenset(), frozenset({1, 2})) == frozenset({2})
        assert resolvers.union((1,), (1, 2), (1, 3)) == (1, 3, 2)

    def test_a_string_is_no_set_of_letters(self) -> None:
        with pytest.raises(TypeError):
            resolvers.union("a", "ab", "ac")


class TestAppend:
    @given(base=lists, added=st.lists(lists, min_size=1, max_size=4), seed=seeds)
    def test_no_item_is_lost_and_everybodys_stay_in_order(
        self, base: list[int], added: list[list[int]], seed: int
    ) -> None:
        marked = [[(writer, item) for item in items] for writer, items in enumerate(added)]

        def append(items: list[Any]) -> Callable[[dict[str, Any]], None]:
            return lambda session: session["n"].extend(items)

        rules = {"n": resolvers.append}
        after = contend({"n": base}, [append(items) for items in marked], rules, seed)["n"]
        assert after[: len(base)] == base
        for writer, items in enumerate(marked):
            assert [item for item in after[len(base) :] if item[0] == writer] == items

    @given(
        base=st.lists(items, unique=True, max_size=6),
        cut=st.tuples(st.integers(0, 6), st.integers(0, 6)),
        mine=st.lists(st.integers(10, 15), max_size=3),
        theirs=st.lists(st.integers(20, 25), max_size=3),
    )
    def test_what_either_cut_off_in_front_is_cut_off(
        self, base: list[int], cut: tuple[int, int], mine: list[int], theirs: list[int]
    ) -> None:
        result = resolvers.append(base, base[cut[0] :] + mine, base[cut[1] :] + theirs)
        assert result == base[max(cut) :] + theirs + mine

    def test_items_that_are_alike(self) -> None:
        assert resolvers.append(["a"], ["a", "a"], ["a", "b"]) == ["a", "b", "a"]
        assert resolvers.append(list("abab"), list("ababx"), list("aby")) == list("abyx")

    def test_a_missing_log_is_empty(self) -> None:
        assert resolvers.append(MISSING, [1], [2]) == [2, 1]
        assert resolvers.append([1], MISSING, [1, 2]) == [2]
        assert resolvers.append([1], [1, 2], MISSING) == [2]
        assert resolvers.append([1], MISSING, MISSING) is MISSING

    def test_long_lists_of_the_same_take_no_time(self) -> None:
        """Whoever fills a session must not be able to keep the server busy with it."""
        base = ["x"] * 100_000
        assert resolvers.append(base, [*base, "y"], [*base[1:], "z"]) == [*base[1:], "z", "y"]

    @pytest.mark.parametrize("value", ["ab", {1}, 1], ids=repr)
    def test_only_lists_are_appended_to(self, value: Any) -> None:
        with pytest.raises(TypeError):
            resolvers.append([], value, [1])


class TestMaxAndLatest:
    @given(st.lists(st.integers() | st.just(MISSING), min_size=3, max_size=3))
    def test_the_greater_one(self, values: list[Any]) -> None:
        result = resolvers.max(*values)
        there = [value for value in values[1:] if value is not MISSING]
        assert result == (max(there) if there else MISSING)

    @given(st.lists(st.integers() | st.just(MISSING), min_size=3, max_size=3))
    def test_latest_is_the_rule_of_keys_without_one(self, values: list[Any]) -> None:
        base, mine, theirs = (
            {} if value is MISSING else {"n": value} for value in (values[0], *values[1:])
        )
        assert merge(base, mine, theirs, same, {"n": resolvers.latest}) == merge(
            base, mine, theirs, same
        )


class TestWhenOneIsAsked:
    """Only for a key that both changed; `MISSING` stands for one that is not there."""

    def seen(
        self, base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        asked: list[Any] = []

        def resolver(*values: Any) -> Any:
            asked.append(values)
            return "resolved"

        return asked, merge(base, mine, theirs, same, {"n": resolver})

    def test_not_where_one_alone_changed_it(self) -> None:
        assert self.seen({"n": 1}, {"n": 2}, {"n": 1}) == ([], {"n": 2})
        assert self.seen({"n": 1}, {"n": 1}, {"n": 2}) == ([], {"n": 2})
        assert self.seen({"n": 1}, {}, {"n": 1}) == ([], {})
        assert self.seen({}, {}, {"n": 1}) == ([], {"n": 1})

    def test_where_both_did_to_the_same_even(self) -> None:
        assert self.seen({"n": 1}, {"n": 2}, {"n": 2}) == ([(1, 2, 2)], {"n": "resolved"})

    def test_with_what_was_added_or_removed(self) -> None:
        assert self.seen({}, {"n": 1}, {"n": 2})[0] == [(MISSING, 1, 2)]
        assert self.seen({"n": 1}, {}, {"n": 2})[0] == [(1, MISSING, 2)]
        assert self.seen({"n": 1}, {"n": 2}, {})[0] == [(1, 2, MISSING)]

    def test_to_return_missing_removes_the_key(self) -> None:
        assert merge({"n": 1}, {"n": 2}, {"n": 3}, same, {"n": lambda *_: MISSING}) == {}

    def test_one_that_fails_is_a_conflict_that_names_the_key_and_no_value(self) -> None:
        def broken(base: Any, mine: Any, theirs: Any) -> Any:
            raise ValueError(f"a secret: {mine}")

        with pytest.raises(Conflict, match=r"'n' failed with ValueError") as caught:
            merge({"n": 1}, {"n": 2}, {"n": 3}, same, {"n": broken})
        assert "secret" not in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)


class TestWhoIsLoggedIn:
    """`user_id` is nobody's to merge."""

    def test_two_logins_at_once_do_not_mix(self) -> None:
        with pytest.raises(Conflict):
            merge({}, {"user_id": 1, "mail": "ann"}, {"user_id": 2, "name": "bob"}, same)
        with pytest.raises(Conflict):
            merge({"user_id": 1}, {"user_id": 2}, {}, same)

    def test_the_same_one_twice_is_none(self) -> None:
        assert merge({}, {"user_id": 1, "a": 1}, {"user_id": 1}, same) == {"user_id": 1, "a": 1}

    def test_one_alone_counts(self) -> None:
        assert merge({"user_id": 1}, {}, {"user_id": 1, "a": 1}, same) == {"a": 1}
        assert merge({}, {"a": 1}, {"user_id": 1}, same) == {"user_id": 1, "a": 1}

    def test_an_old_copy_overwrites_no_login_and_no_logout(self) -> None:
        assert overwrite({}, {"a": 1}, {"user_id": 1, "b": 1}, same) == {"user_id": 1, "a": 1}
        assert overwrite({"user_id": 1}, {"user_id": 1, "a": 1}, {}, same) == {"a": 1}
        assert overwrite({}, {"user_id": 2}, {"user_id": 1}, same) == {"user_id": 2}
        assert overwrite({"user_id": 1}, {}, {"user_id": 1, "b": 1}, same) == {}


@pytest.mark.parametrize("resolver", [resolvers.union, resolvers.append])
def test_of_a_list_that_one_emptied_and_the_other_removed_none_is_left(resolver: Resolver) -> None:
    assert resolver(["a"], [], MISSING) is MISSING
    assert resolver(["a"], MISSING, []) is MISSING
    assert resolver(["a"], [], []) == []


@pytest.mark.parametrize("resolver", [resolvers.union, resolvers.append])
def test_what_is_no_list_is_named(resolver: Resolver) -> None:
    for place in range(3):
        values: list[Any] = [[], [], []]
        values[place] = 1
        with pytest.raises(TypeError, match="a value of type int"):
            resolver(*values)


def test_sets_have_no_end_to_append_to() -> None:
    for mine, theirs in (({1}, []), ([], {1}), (frozenset(), [])):
        with pytest.raises(TypeError, match="items have an order"):
            resolvers.append([], mine, theirs)
