"""What a session may hold, what its bytes look like, and what happens to everything else."""

# ruff: noqa: DTZ001, DTZ005, DTZ011 - naive datetimes are values here

from __future__ import annotations

import array
import collections
import dataclasses
import decimal
import enum
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import websessions.codec
from websessions.codec import MAX_DEPTH, Codec, JSONCodec, encode_within
from websessions.errors import SessionEncodingError, SessionTooLarge

try:
    import msgspec.json  # noqa: F401
except ImportError:
    HAS_MSGSPEC = False
else:
    HAS_MSGSPEC = True

CODECS = {"stdlib": JSONCodec(stdlib=True)}
if HAS_MSGSPEC:
    CODECS["msgspec"] = JSONCodec()

patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(params=list(CODECS.values()), ids=list(CODECS), scope="module")
def codec(request: pytest.FixtureRequest) -> JSONCodec:
    chosen: JSONCodec = request.param
    return chosen


def stored(value: object, codec: JSONCodec) -> str:
    """How `value` stands in the row."""
    text = codec.encode({"v": value}).decode()
    assert text.startswith('{"v":')
    return text[5:-1]


def round_trip(value: object, codec: JSONCodec) -> Any:
    return codec.decode(codec.encode({"v": value}))["v"]


def exact(value: Any) -> object:
    """A form in which values are equal only if they are of the same types all the way down."""
    kind = type(value)
    if kind is dict:
        return kind, [(exact(key), exact(item)) for key, item in value.items()]
    if kind in (list, tuple):
        return kind, [exact(item) for item in value]
    if kind in (set, frozenset):
        return kind, sorted(repr(exact(item)) for item in value)
    if kind in (datetime, time):
        return kind, value.isoformat(), value.fold
    return kind, repr(value)


def refusal(values: Mapping[Any, Any], codec: Codec) -> SessionEncodingError:
    with pytest.raises(SessionEncodingError) as caught:
        codec.encode(values)
    return caught.value


# -- Generated values ----------------------------------------------------------------------------

any_text = st.text(st.characters(exclude_categories=()))  # lone surrogates, NUL and all
zones = st.integers(-86399, 86399).map(lambda s: timezone(timedelta(seconds=s))) | st.none()
hashable_atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats()
    | any_text
    | st.binary()
    | st.uuids()
    | st.decimals().filter(lambda number: not number.is_snan())
    | st.datetimes(timezones=zones, allow_imaginary=True)
    | st.builds(datetime.replace, st.datetimes(timezones=zones), fold=st.just(1))
    | st.dates()
    | st.builds(time.replace, st.times(), tzinfo=zones, fold=st.integers(0, 1))
    | st.timedeltas()
)
hashables = st.recursive(
    hashable_atoms,
    lambda inner: st.lists(inner, max_size=3).map(tuple) | st.frozensets(inner, max_size=3),
    max_leaves=5,
)
atoms = hashable_atoms | st.just(Decimal("sNaN"))
keys = any_text | st.just("$")


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(hashables, inner, max_size=3)
        | st.sets(hashables, max_size=4)
        | st.frozensets(hashables, max_size=4)
    )


anything = st.recursive(atoms, containers, max_leaves=15)
sessions = st.dictionaries(keys, anything, max_size=5)
plain_sessions = st.dictionaries(
    keys,
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | any_text,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=5,
)


# -- Round trips ---------------------------------------------------------------------------------


@patient
@given(values=sessions)
def test_what_was_stored_comes_back(codec: JSONCodec, values: dict[str, Any]) -> None:
    """Every supported value comes back equal and of the same type, at every level."""
    assert exact(codec.decode(codec.encode(values))) == exact(values)


@patient
@given(values=sessions)
def test_same_session_same_bytes(codec: JSONCodec, values: dict[str, Any]) -> None:
    """A session that was read and not changed encodes to the bytes that were read."""
    data = codec.encode(values)
    assert codec.encode(values) == data
    assert codec.encode(codec.decode(data)) == data


@pytest.mark.skipif(not HAS_MSGSPEC, reason="compares with msgspec")
@patient
@given(values=plain_sessions | sessions)
@example({"big": 1e16, "small": 1e-5, "t": (1e22,)})
@example({"over 64 bits": 2**64, "under": -(2**63) - 1})
def test_msgspec_changes_no_byte(values: dict[str, Any]) -> None:
    """With and without msgspec, a session has the same bytes, and each reads the other's."""
    data = CODECS["msgspec"].encode(values)
    assert data == CODECS["stdlib"].encode(values)
    assert exact(CODECS["msgspec"].decode(data)) == exact(CODECS["stdlib"].decode(data))


@patient
@given(values=plain_sessions)
def test_plain_data_is_plain_json(codec: JSONCodec, values: dict[str, Any]) -> None:
    """Any program can read plain data: the bytes are UTF-8 and hold what JSON shows."""
    text = codec.encode(values).decode("utf-8")
    if '"$"' not in text and '["str",' not in text:
        assert json.loads(text) == values


def test_works_without_msgspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where msgspec can not be imported, the standard library does the work."""
    monkeypatch.setitem(sys.modules, "msgspec.json", None)
    values = {"name": "Zoë", "when": date(2026, 7, 1)}
    assert JSONCodec().decode(JSONCodec().encode(values)) == values


# -- What the bytes look like --------------------------------------------------------------------


def test_output_is_compact_and_readable(codec: JSONCodec) -> None:
    """No spaces, keys in the dict's order, letters as they are."""
    values = {"z": 1, "name": "Zoë 🎈", "a": [None, True, 1.5, {"k": "v"}]}
    assert codec.encode(values).decode() == (
        '{"z":1,"name":"Zoë 🎈","a":[null,true,1.5,{"k":"v"}]}'
    )


def test_it_is_text(codec: JSONCodec) -> None:
    """The store may keep the bytes in a text column."""
    assert codec.is_text is True


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2026, 7, 1, 9, 30), '["datetime","2026-07-01T09:30:00"]'),
        (
            datetime(2026, 7, 1, 9, 30, 0, 5, timezone(timedelta(hours=-3, minutes=-30))),
            '["datetime","2026-07-01T09:30:00.000005-03:30"]',
        ),
        (datetime(2026, 10, 25, 2, 30, fold=1), '["datetime/fold","2026-10-25T02:30:00"]'),
        (date(2026, 7, 1), '["date","2026-07-01"]'),
        (time(9, 30), '["time","09:30:00"]'),
        (time(9, 30, tzinfo=UTC), '["time","09:30:00+00:00"]'),
        (time(9, 30, fold=1), '["time/fold","09:30:00"]'),
        (timedelta(days=-1, microseconds=7), '["timedelta",[-1,0,7]]'),
        (UUID(int=1), '["uuid","00000000-0000-0000-0000-000000000001"]'),
        (Decimal("-0.00"), '["decimal","-0.00"]'),
        (Decimal("1E+30"), '["decimal","1E+30"]'),
        (b"\x00\xff", '["bytes","AP8="]'),
        ((1, "a"), '["tuple",[1,"a"]]'),
        ({"b", "a"}, '["set",["a","b"]]'),
        (frozenset({2, 1}), '["frozenset",[1,2]]'),
        ({7: "seven", None: 0}, '["dict",[[7,"seven"],[null,0]]]'),
        (math.nan, '["float","nan"]'),
        (-math.inf, '["float","-inf"]'),
        ({"$": 1}, '["dict",[["$",1]]]'),
        ("\ud83d\ude00", '["str",["\\ud83d","\\ude00"]]'),
    ],
)
def test_tags(codec: JSONCodec, value: object, expected: str) -> None:
    """These forms are in people's databases: a release may add to them, but must read them."""
    assert stored(value, codec) == f'{{"$":{expected}}}'
    assert exact(round_trip(value, codec)) == exact(value)


def test_dict_with_dollar_among_other_keys_is_plain(codec: JSONCodec) -> None:
    """Only a dict with the one key "$" could be mistaken for a tag."""
    assert stored({"$": 1, "€": 2}, codec) == '{"$":1,"€":2}'
    assert round_trip({"$": ["uuid", "x"], "€": 2}, codec) == {"$": ["uuid", "x"], "€": 2}


@pytest.mark.parametrize(
    "values", [{"$": 1}, {"$": ["uuid", "x"]}, {"$": {"$": {"$": ()}}}, {"\ud83d\ude00": 1}, {}]
)
def test_top_level_that_looks_like_a_tag(codec: JSONCodec, values: dict[str, Any]) -> None:
    """The session itself may have any string keys."""
    assert exact(codec.decode(codec.encode(values))) == exact(values)


def test_any_mapping_is_encoded_as_a_dict(codec: JSONCodec) -> None:
    """The session is a mapping of its own; only what it holds must be plain."""
    assert codec.encode(MappingProxyType({"a": 1})) == codec.encode({"a": 1})


# -- Sets ----------------------------------------------------------------------------------------


@patient
@given(members=st.lists(hashables, max_size=8, unique_by=lambda m: repr(exact(m))), data=st.data())
def test_set_order_does_not_depend_on_history(
    codec: JSONCodec, members: list[Any], data: st.DataObject
) -> None:
    """Two equal sets have the same bytes, in whatever order they were filled."""
    one = dict.fromkeys(members)  # drops the equal ones: 1, 1.0 and True
    other = data.draw(st.permutations(list(one)))
    assert stored(set(one), codec) == stored(set(other), codec)


def test_set_order_does_not_depend_on_the_process() -> None:
    """Hash randomisation does not make an unchanged set look changed."""
    program = (
        "from websessions.codec import JSONCodec; import sys\n"
        "v = {'s': {'b', 'a', 'ü', 1, 2.5, None, (1, 'x'), frozenset({'q', 'r', 's'}), b'z'}}\n"
        "sys.stdout.buffer.write(JSONCodec().encode(v))"
    )
    source = Path(websessions.codec.__file__).parents[1]
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(source)},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3", "4")
    }
    assert len(outputs) == 1


# -- Text and numbers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["\ud800", "a\udfffb", "\ude00\ud83d", "\ud83d\ud83d\ude00\ude00", "\ud83d😀"],
)
def test_surrogates(codec: JSONCodec, text: str) -> None:
    """Lone surrogates are kept, as keys and as values, and the bytes are still UTF-8."""
    values = {"v": text, text: [{text: {text}}]}
    data = codec.encode(values)
    data.decode("utf-8")
    assert exact(codec.decode(data)) == exact(values)


def test_control_characters(codec: JSONCodec) -> None:
    """NUL and its like are escaped: the bytes suit a text column that refuses NUL."""
    text = "".join(map(chr, range(32))) + "\x7f\u2028"
    assert b"\x00" not in codec.encode({text: text})
    assert codec.decode(codec.encode({text: text})) == {text: text}


@pytest.mark.parametrize("number", [2**63, 2**64, -(2**63) - 1, 10**4299, -(10**4299)])
def test_ints_of_any_size(codec: JSONCodec, number: int) -> None:
    """An int is an int, with as many digits as Python converts."""
    assert stored(number, codec) == str(number)
    assert round_trip(number, codec) == number


def test_int_with_too_many_digits(codec: JSONCodec) -> None:
    """An int that Python would not read back is refused, by its path."""
    error = refusal({"a": [1, 10**4300]}, codec)
    assert error.path == "a[1]"
    assert "digits" in error.reason


@pytest.mark.parametrize(
    "number", [0.0, -0.0, 1e16, 1e-5, 9999999999999998.0, 1e-4, 5e-324, 1.7e308, 0.1 + 0.2]
)
def test_floats(codec: JSONCodec, number: float) -> None:
    """A float stands in the row as Python writes it, and is read as the same float."""
    assert stored(number, codec) == repr(number)
    assert exact(round_trip(number, codec)) == exact(number)


def test_decimal_ignores_the_apps_context(codec: JSONCodec) -> None:
    """Neither precision nor capitals nor traps of the current context change what is stored."""
    number = Decimal("1.234567890123456789012345678901234567890E+50")
    with decimal.localcontext() as context:
        context.prec = 3
        context.capitals = 0
        context.clear_traps()
        assert exact(round_trip(number, codec)) == exact(number)
        assert "E+50" in stored(number, codec)
        with pytest.raises(ValueError, match="decimal"):
            codec.decode(b'{"v":{"$":["decimal","x"]}}')


# -- Time zones ----------------------------------------------------------------------------------


def berlin() -> Any:
    zoneinfo = pytest.importorskip("zoneinfo")
    try:
        return zoneinfo.ZoneInfo("Europe/Berlin")
    except zoneinfo.ZoneInfoNotFoundError:
        pytest.skip("no time zone database")


@pytest.mark.parametrize("fold", [0, 1])
def test_named_zone_comes_back_as_its_offset(codec: JSONCodec, fold: int) -> None:
    """A zone's name is lost, the moment is not, not even in the hour that happens twice."""
    moment = datetime(2026, 10, 25, 2, 30, tzinfo=berlin(), fold=fold)
    found = round_trip(moment, codec)
    assert found.timestamp() == moment.timestamp()
    assert found.tzinfo == timezone(timedelta(hours=2 - fold))
    summer = datetime(2026, 7, 1, tzinfo=berlin())
    assert round_trip(summer, codec) == summer


def test_time_in_a_named_zone_is_refused(codec: JSONCodec) -> None:
    """Without a date such a time has no offset, and ISO format would drop its zone silently."""
    error = refusal({"alarm": time(7, tzinfo=berlin())}, codec)
    assert error.path == "alarm"
    assert "zone" in error.reason


def test_offset_with_fractions_of_a_second_is_refused(codec: JSONCodec) -> None:
    """CPython 3.11 reads some of these back as UTC; no real zone has one."""
    zone = timezone(timedelta(microseconds=1))
    assert refusal({"a": datetime(2026, 7, 1, tzinfo=zone)}, codec).path == "a"
    assert refusal({"a": [time(7, tzinfo=zone)]}, codec).path == "a[0]"


# -- Refusals ------------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "SECRET"


class Level(enum.IntEnum):
    HIGH = 424242


class Label(enum.StrEnum):
    NEW = "SECRET"


class Point(NamedTuple):
    x: str


@dataclasses.dataclass
class Cart:
    owner: str


class Thing:
    def __repr__(self) -> str:
        return "SECRET"


class Mapped(Thing):
    __mapper__ = None


class Text(str):
    __slots__ = ()


class Float(float):
    pass


class Money(Decimal):
    pass


class Moment(datetime):
    pass


class Id(UUID):
    pass


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (Colour.RED, ["Colour", "enum", ".value"]),
        (Level.HIGH, ["Level", "enum", ".value"]),
        (Label.NEW, ["Label", "enum", ".value"]),
        (Point("SECRET"), ["Point", "plain tuple", "_asdict"]),
        (collections.OrderedDict(a="SECRET"), ["OrderedDict", "plain dict", "dict(...)"]),
        (collections.defaultdict(int, a=424242), ["defaultdict", "plain dict", "dict(...)"]),
        (collections.Counter("SECRET"), ["Counter", "plain dict", "dict(...)"]),
        (Text("SECRET"), ["Text", "plain str", "str(...)"]),
        (Float(424242), ["Float", "plain float", "float(...)"]),
        (Money(424242), ["Money", "plain decimal.Decimal", "decimal.Decimal(...)"]),
        (Moment(2026, 1, 1), ["Moment", "plain datetime.datetime", "Python's own"]),
        (Id(int=424242), ["Id", "plain uuid.UUID", "uuid.UUID(str(...))"]),
        (Cart("SECRET"), ["Cart", "dataclass", "asdict"]),
        (Mapped(), ["Mapped", "orm.Session", "primary key"]),
        (bytearray(b"SECRET"), ["bytearray", "bytes(...)"]),
        (memoryview(b"SECRET"), ["memoryview", "bytes(...)"]),
        ({"SECRET": 1}.keys(), ["dict_keys", "list(...)"]),
        (range(424242), ["range", "list(...)"]),
        (iter(["SECRET"]), ["list_iterator", "list(...)"]),
        (424242j, ["complex", "store"]),
        (array.array("i", [424242]), ["array", "store"]),
        (Thing(), ["Thing", "store"]),
        (Thing, ["type", "store"]),
        (print, ["builtin_function_or_method", "store"]),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize(
    "place", [lambda v: v, lambda v: [v], lambda v: (0, v)], ids=["plain", "list", "tuple"]
)
def test_refusal_says_type_and_remedy(
    codec: JSONCodec, value: object, words: list[str], place: Callable[[object], object]
) -> None:
    """What would change on the way is refused, by type, with what to do, and without the value."""
    error = refusal({"v": place(value)}, codec)
    assert all(word in error.reason for word in words), error.reason
    assert "SECRET" not in str(error)
    assert "424242" not in str(error)


def test_refusal_does_not_touch_the_object(codec: JSONCodec) -> None:
    """A lazy object, such as Django's `request.user`, is refused without making it load."""

    class Lazy:
        @property  # type: ignore[misc]
        def __class__(self) -> type:
            raise AssertionError("loaded")

        def __getattr__(self, name: str) -> Any:
            raise AssertionError("loaded")

    assert "Lazy" in refusal({"user": Lazy()}, codec).reason


def test_refusal_holds_no_traceback_into_the_walk(codec: JSONCodec) -> None:
    """The error stands alone: its story is the path, not two hundred frames."""
    error = refusal({"a": [[[object()]]]}, codec)
    assert error.__context__ is None


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"cart": {"items": [1, 2, 3, {"price": object()}]}}, "cart.items[3].price"),
        ({"prefs": {"a b": object()}}, "prefs['a b']"),
        ({"a b": object()}, "['a b']"),
        ({"a": {"class": object()}}, "a['class']"),
        ({"a": {3: object()}}, "a[3]"),
        ({"a": {(1, "x"): object()}}, "a[(1, 'x')]"),
        ({"a": {"$": object()}}, "a['$']"),
        ({"a": ({}, [object()])}, "a[1][0]"),
        ({"a": {"x" * 500: object()}}, "a['" + "x" * 80 + "'...]"),
        ({"a": {object()}}, "a"),
        ({"a": [{(1, frozenset({object()})): 2}]}, "a[0]"),
        ({"a": {Label.NEW: 2}}, "a"),
    ],
)
def test_path(codec: JSONCodec, values: dict[str, Any], path: str) -> None:
    """The error names the place as Python would; for a set's member and a key, the container."""
    assert refusal(values, codec).path == path


def test_path_of_a_member_or_key_is_explained(codec: JSONCodec) -> None:
    """Where no path leads, the reason says which part is meant."""
    assert "one of its members" in refusal({"a": {object()}}, codec).reason
    assert "one of its keys" in refusal({"a": {Thing: 1}}, codec).reason


@pytest.mark.parametrize("key", [1, None, Label.NEW, b"a"])
def test_top_level_keys_are_strings(codec: JSONCodec, key: object) -> None:
    """The session's own keys are strings."""
    error = refusal({"a": 1, key: 2}, codec)
    assert error.path == ""
    assert "strings" in error.reason


class Walk:
    """Makes `.name` mean `["name"]`, so that Python itself evaluates a path."""

    def __init__(self, value: Any) -> None:
        self.value_ = value

    def __getattr__(self, name: str) -> Walk:
        return Walk(self.value_[name])

    def __getitem__(self, key: Any) -> Walk:
        return Walk(self.value_[key])


path_keys = st.text("abZ9_ .[]'\"\\\nüß$\ud800", max_size=6) | st.sampled_from(["if", "class"])


@patient
@given(
    data=st.data(),
    kinds=st.lists(st.sampled_from(["list", "tuple", "dict", "pairs"]), max_size=8),
)
def test_path_leads_to_the_offender(
    codec: JSONCodec, data: st.DataObject, kinds: list[str]
) -> None:
    """Wherever the offender is, evaluating the path finds it."""
    offender = object()
    value: Any = offender
    for kind in [*kinds, "dict"]:
        if kind in ("list", "tuple"):
            before = data.draw(st.lists(atoms, max_size=2))
            after = data.draw(st.lists(atoms, max_size=2))
            value = [*before, value, *after]
            if kind == "tuple":
                value = tuple(value)
        else:
            some_keys = path_keys if kind == "dict" else path_keys | st.integers() | st.uuids()
            names = data.draw(st.lists(some_keys, min_size=1, max_size=3, unique=True))
            mapping: dict[Any, Any] = {name: data.draw(atoms) for name in names}
            mapping[data.draw(st.sampled_from(names))] = value
            value = mapping
    path = refusal(value, codec).path
    expression = "root" + ("" if path.startswith("[") else ".") + path
    found = eval(expression, {"root": Walk(value), "UUID": UUID})  # noqa: S307 - our own path
    assert found.value_ is offender


# -- Cycles and depth ----------------------------------------------------------------------------


def test_cycles(codec: JSONCodec) -> None:
    """Something that contains itself is refused where it does so, not after a deep dive."""
    node: dict[str, Any] = {"name": "x"}
    node["children"] = [1, {"parent": node}]
    error = refusal({"tree": (node,)}, codec)
    assert error.path == "tree[0].children[1].parent"
    assert "also tree[0]" in error.reason
    values: dict[str, Any] = {"a": []}
    values["a"].append(values)
    error = refusal(values, codec)
    assert error.path == "a[0]"
    assert "the session itself" in error.reason


def test_shared_is_not_cyclic(codec: JSONCodec) -> None:
    """One object in two places is stored twice."""
    shared = [1]
    assert codec.decode(codec.encode({"a": shared, "b": (shared,)})) == {"a": [1], "b": ([1],)}


WRAPPERS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "list": (lambda v: [v], 1),
    "dict": (lambda v: {"k": v}, 1),
    "escaped": (lambda v: {"$": v}, 4),
    "pairs": (lambda v: {1: v}, 4),
    "tuple": (lambda v: (v,), 3),
    "frozenset": (lambda v: frozenset({v}), 3),
}
LEAVES: list[tuple[Any, int]] = [
    (0, 0),
    ("x", 0),
    ([], 1),
    ({}, 1),
    ((), 3),
    (set(), 3),
    (math.nan, 2),
    (date(2026, 1, 1), 2),
    (time(1), 2),
    (datetime(2026, 1, 1), 2),
    (UUID(int=1), 2),
    (Decimal(1), 2),
    (b"x", 2),
    (timedelta(1), 3),
    ("\ud83d\ude00", 3),
]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize(("leaf", "leaf_levels"), LEAVES, ids=ascii)
def test_depth_limit(codec: JSONCodec, wrapper: str, leaf: Any, leaf_levels: int) -> None:
    """Up to the limit everything comes back; one level more is refused when it is stored."""
    wrap, levels = WRAPPERS[wrapper]
    if wrapper == "frozenset" and type(leaf) in (list, dict, set):
        pytest.skip("not hashable")
    fitting = (MAX_DEPTH - 1 - leaf_levels) // levels
    value = leaf
    for _ in range(fitting):
        value = wrap(value)
    padding = MAX_DEPTH - 1 - leaf_levels - fitting * levels
    for _ in range(padding):
        value = [value]
    data = codec.encode({"v": value})
    again = codec.encode(codec.decode(data))
    assert again == data
    error = refusal({"v": [value]}, codec)
    assert error.path == "v"
    assert "nested" in error.reason


def test_depth_of_keys(codec: JSONCodec) -> None:
    """A dict's key counts as its values do."""
    key: tuple[Any, ...] = ()
    for _ in range((MAX_DEPTH - 5) // 3 - 1):
        key = (key,)
    values = {"v": {key: 0}}
    assert codec.decode(codec.encode(values)) == values
    assert "nested" in refusal({"v": [values["v"]]}, codec).reason


def test_far_too_deep(codec: JSONCodec) -> None:
    """Depth far beyond Python's own limit is refused too, and crashes nothing."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    assert "nested" in refusal({"a": {"b": value}}, codec).reason


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"v":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}",
        b'{"$":["tuple",[' * 100_000,
        b'{"$":["tuple",[' * 100 + b"]]}" * 100,
        b'{"a":"\\ud800","b":' + b"[" * 100_000,
    ],
    ids=lambda data: f"{data[:20]!r}-{len(data)}",
)
def test_deep_garbage(codec: JSONCodec, data: bytes) -> None:
    """Deeply nested bytes are malformed, not a crash."""
    with pytest.raises(ValueError, match=r"not JSON|nested"):
        codec.decode(data)


def test_brackets_in_strings_are_not_depth(codec: JSONCodec) -> None:
    """Only real nesting counts."""
    values = {"v": "[{" * 500, "w": [[i] for i in range(500)]}
    assert codec.decode(codec.encode(values)) == values


def test_full_stack_is_not_blamed_on_the_row(codec: JSONCodec) -> None:
    """If the app's own calls have used up the stack, a good row is not called malformed."""
    data = codec.encode({"v": json.loads("[" * 150 + "]" * 150)})

    def descend() -> object:
        try:
            return descend()
        except RecursionError:
            return codec.decode(data)

    assert descend() == codec.decode(data)


# -- Malformed rows ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"null",
        b"[]",
        b'"text"',
        b"1",
        b"{",
        b'{"a":1',
        b'{"a":1}}',
        b'{"a":1,}',
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":' + b"1" * 5000 + b"}",
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\n"}',
        b"\x80\x04}q\x00.",
    ],
)
def test_malformed_json(codec: JSONCodec, data: bytes) -> None:
    """Whatever is not a JSON object in UTF-8 is a ValueError, and NaN is not JSON."""
    with pytest.raises(ValueError, match=r"not JSON|top level"):
        codec.decode(data)


@pytest.mark.parametrize(
    "tag",
    [
        "1",
        "null",
        "{}",
        "[]",
        '["uuid"]',
        '["uuid","00000000-0000-0000-0000-000000000001",1]',
        '["unknown",1]',
        '[["uuid"],1]',
        '[1,"x"]',
        '["uuid","x"]',
        '["uuid",1]',
        '["datetime","yesterday"]',
        '["datetime",1]',
        '["datetime/fold","x"]',
        '["date","2026-13-01"]',
        '["time","25:00"]',
        '["time/fold",[]]',
        '["timedelta",[1]]',
        '["timedelta",[1e308,0,0]]',
        '["timedelta",["1",0,0]]',
        '["timedelta","123"]',
        '["decimal","1,5"]',
        '["decimal","1e99999999999999999999"]',
        '["decimal",1]',
        '["bytes","?"]',
        '["bytes","ü"]',
        '["bytes","A"]',
        '["float","1.0"]',
        '["float",[]]',
        '["str",[1]]',
        '["str","ab"]',
        '["tuple","ab"]',
        '["set",[[]]]',
        '["set",[{"$":["set",[]]}]]',
        '["frozenset",{}]',
        '["dict",{}]',
        '["dict",[1]]',
        '["dict",["ab"]]',
        '["dict",[["a"]]]',
        '["dict",[["a",1,2]]]',
        '["dict",[[[],1]]]',
        '["dict",[{"$":["tuple",["a",1]]}]]',
        '["tuple",[{"$":["uuid","x"]}]]',
    ],
)
@pytest.mark.parametrize("place", ['{"v":%s}', '{"v":[0,{"w":%s}]}', "%s"])
def test_malformed_tags(codec: JSONCodec, tag: str, place: str) -> None:
    """A tag that no encoder wrote is a ValueError, at any depth."""
    with pytest.raises(ValueError, match="tag"):
        codec.decode((place % f'{{"$":{tag}}}').encode())


@pytest.mark.parametrize("tag", ['["tuple",[1]]', '["dict",[[1,2]]]', '["float","nan"]'])
def test_top_level_tag_must_be_a_dict(codec: JSONCodec, tag: str) -> None:
    """A session is a dict with string keys, whatever its row says."""
    with pytest.raises(ValueError, match="top level"):
        codec.decode(f'{{"$":{tag}}}'.encode())


def test_last_of_equal_keys_wins(codec: JSONCodec) -> None:
    """As in every other JSON parser of Python's."""
    assert codec.decode(b'{"a":1,"a":{"$":["tuple",[]]}}') == {"a": ()}


def test_spaces_do_not_hide_a_tag(codec: JSONCodec) -> None:
    """A database that reformats its JSON columns changes nothing."""
    assert codec.decode(b'{ "a" : {"$" : [ "tuple", [ 1 ] ] } }') == {"a": (1,)}


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":"SECRET',
        b'{"a":"SECRET\xff"}',
        b'{"v":{"$":["uuid","SECRET"]}}',
        b'{"$":["SECRET",1]}',
    ],
)
def test_malformed_rows_are_not_quoted(codec: JSONCodec, data: bytes) -> None:
    """Neither the message nor an error behind it holds what was in the row."""
    with pytest.raises(ValueError, match=r"not JSON|tag") as caught:
        codec.decode(data)
    error: BaseException | None = caught.value
    while error is not None:
        assert b"SECRET" not in str((error, vars(error))).encode()
        assert not hasattr(error, "doc")
        assert not hasattr(error, "object")
        error = error.__context__


def decodes_or_refuses(data: bytes) -> None:
    """Every codec gives the same dict, which it can write and read again, or a ValueError."""
    found = set()
    for codec in CODECS.values():
        try:
            values = codec.decode(data)
        except ValueError:
            found.add("refused")
        else:
            found.add(repr(exact(values)))
            assert exact(codec.decode(codec.encode(values))) == exact(values)
    assert len(found) == 1


@patient
@given(data=st.binary())
def test_garbage(data: bytes) -> None:
    """Random bytes raise nothing but ValueError."""
    decodes_or_refuses(data)


@patient
@given(values=sessions, data=st.data())
def test_damaged_rows(values: dict[str, Any], data: st.DataObject) -> None:
    """So do rows with a few bytes lost, changed or put in."""
    row = bytearray(CODECS["stdlib"].encode(values))
    pieces = st.binary(max_size=2) | st.sampled_from(
        [b'"', b"[", b"]", b"{", b"}", b",", b":", b'{"$":', b"\\u", b"\\ud83d", b"9e999", b"-"]
    )
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(row)))
        stop = data.draw(st.integers(start, min(start + 3, len(row))))
        row[start:stop] = data.draw(pieces)
    decodes_or_refuses(bytes(row))


tag_names = st.sampled_from([*websessions.codec._READERS, "unknown"])
tag_like = st.recursive(
    st.none()
    | st.integers(-3, 3)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "nan", "2026-01-01", "12:00", "AP8=", "1E5", "sNaN"])
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["$", "a"]), inner, max_size=2)
        | st.builds(lambda name, payload: {"$": [name, payload]}, tag_names, inner)
        | st.lists(st.lists(inner, min_size=2, max_size=2), max_size=2)
    ),
    max_leaves=12,
)


@patient
@given(value=tag_like)
def test_strange_tags(value: object) -> None:
    """So do tags around anything."""
    decodes_or_refuses(json.dumps({"v": value}).encode())
    decodes_or_refuses(json.dumps(value).encode())


# -- Size ----------------------------------------------------------------------------------------


def test_within_the_limit(codec: JSONCodec) -> None:
    """A session that takes exactly the limit is stored as it is."""
    values = {"a": "ü"}
    data = codec.encode(values)
    assert encode_within(codec, values, len(data)) == data


def test_over_the_limit_names_the_largest_keys(codec: JSONCodec) -> None:
    """One byte more is refused; the error counts in encoded bytes, the largest key first."""
    values = {"small": 1, "big": "x" * 100, "bigger": "ü" * 100, "set": set(range(10)), "s": 0}
    data = codec.encode(values)
    with pytest.raises(SessionTooLarge) as caught:
        encode_within(codec, values, len(data) - 1)
    error = caught.value
    assert (error.size, error.limit) == (len(data), len(data) - 1)
    assert [key for key, _ in error.largest] == ["bigger", "big", "set"]
    assert dict(error.largest) == {
        key: len(codec.encode({key: values[key]})) for key in ("bigger", "big", "set")
    }


def test_over_the_limit_with_few_keys(codec: JSONCodec) -> None:
    """Fewer than three keys are all named; an empty session names none."""
    with pytest.raises(SessionTooLarge) as caught:
        encode_within(codec, {"a": 1}, 3)
    assert caught.value.largest == (("a", 7),)
    with pytest.raises(SessionTooLarge) as caught:
        encode_within(codec, {}, 1)
    assert caught.value.largest == ()


def test_refusal_comes_before_size(codec: JSONCodec) -> None:
    """What can not be stored at all is not called too large."""
    with pytest.raises(SessionEncodingError):
        encode_within(codec, {"a": object(), "b": "x" * 100}, 10)


# -- Types that other libraries hand out ---------------------------------------------------------


def test_asyncpg_uuid(codec: JSONCodec) -> None:
    """The UUID that asyncpg reads from a column is stored as the UUID that it equals."""
    pgproto = pytest.importorskip("asyncpg.pgproto.pgproto")
    value = pgproto.UUID("00000000-0000-0000-0000-000000000001")
    assert exact(round_trip({"ids": [value]}, codec)) == exact({"ids": [UUID(int=1)]})


def test_frozen_time(codec: JSONCodec) -> None:
    """An app's tests may freeze the clock with freezegun."""
    freezegun = pytest.importorskip("freezegun")
    with freezegun.freeze_time("2026-07-01 09:30"):
        import datetime as module

        now, today = module.datetime.now(), module.date.today()
        data = codec.encode({"now": now, "today": today})
    found = codec.decode(data)
    assert exact(found) == exact({"now": datetime(2026, 7, 1, 9, 30), "today": date(2026, 7, 1)})
