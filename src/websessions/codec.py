"""A session's dict becomes the bytes of its row, and back.

`JSONCodec` writes JSON that other programs can read, and keeps its word in both directions: what
it writes, it reads back equal and of the same types, and what it could not read back like that it
refuses with `SessionEncodingError`, which names the place. Nothing is pickled: reading a row
never runs code that the row chose.

Plain data (str, int, bool, None, finite floats, lists, dicts with string keys) is plain JSON.
Everything else that Python's own types offer a session is a tag, an object whose only key is "$":

    {"$": ["datetime", "2026-07-01T09:30:00+02:00"]}      date, time, timedelta, uuid, decimal,
    {"$": ["tuple", [1, 2]]}                              bytes, set, frozenset,
    {"$": ["float", "nan"]}                               inf, -inf
    {"$": ["dict", [[7, "seven"]]]}                       keys that are not strings
    {"$": ["dict", [["$", 1]]]}                           a dict that would look like a tag
    {"$": ["str", ["\\ud83d", "\\ude00"]]}                  two surrogates that JSON would join

The same dict gives the same bytes, in every process, with and without msgspec: a session counts
as changed when its bytes did. Keys keep their order; a set, which has none, is sorted.

Three differences remain after a round trip, all between values that compare equal:

- A time zone comes back as its offset: `ZoneInfo("Europe/Berlin")` as `+02:00`. (In the hour that
  a clock change repeats, Python calls no two zones' datetimes equal, but the moment is the same.)
- asyncpg's UUID comes back as `uuid.UUID`, freezegun's dates as `datetime`'s.
- An object that was in two places comes back as two.
"""

from __future__ import annotations

import base64
import collections.abc
import dataclasses
import enum
import heapq
import json
import keyword
import math
import re
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Context, Decimal, InvalidOperation
from types import NoneType
from typing import Any, Final, NoReturn, Protocol
from uuid import UUID

from websessions.errors import SessionEncodingError, SessionTooLarge

__all__ = [
    "MAX_DEPTH",
    "Codec",
    "JSONCodec",
    "encode_within",
    "finite",
    "json_dumps",
    "json_reader",
    "may_be_deep",
]

MAX_DEPTH: Final = 200
"""How many JSON lists and objects may enclose one another, in either direction.

A tuple or a set takes three levels, a dict with keys other than strings four. The limit is far
from Python's own, which depends on how deep in its calls the app already is.
"""


class Codec(Protocol):
    """How a session's dict becomes the bytes of its row, and back.

    `encode` is deterministic: equal sessions in equal order give equal bytes. `decode` raises
    `ValueError` on whatever `encode` can not have written, and nothing else.
    """

    @property
    def is_text(self) -> bool:
        """True: the bytes are UTF-8, for a text column. False: for a binary one."""

    def encode(self, values: Mapping[str, object]) -> bytes: ...

    def decode(self, data: bytes) -> dict[str, Any]: ...


def encode_within(codec: Codec, values: Mapping[str, object], limit: int) -> bytes:
    """The encoded session, or `SessionTooLarge` with the keys to look at, if over `limit` bytes."""
    data = codec.encode(values)
    if len(data) > limit:
        sizes = ((key, len(codec.encode({key: value}))) for key, value in values.items())
        largest = heapq.nlargest(3, sizes, key=lambda pair: pair[1])
        raise SessionTooLarge(len(data), limit, tuple(largest))
    return data


class JSONCodec:
    """JSON, by msgspec where it is installed, by the standard library otherwise.

    Args:
        stdlib: True leaves msgspec aside. The bytes are the same, only later.
    """

    is_text: Final = True

    def __init__(self, *, stdlib: bool = False) -> None:
        fast = None if stdlib else _msgspec()
        self._dump, self._load = fast or (_dump_strictly, _load)

    def encode(self, values: Mapping[str, object]) -> bytes:
        """Raises `SessionEncodingError` for what `decode` could not give back unchanged."""
        if type(values) is not dict:
            values = dict(values)
        if _is_plain(values, MAX_DEPTH):
            try:
                return self._dump(values)
            except (ValueError, OverflowError):
                pass  # lone surrogates or a huge int: the long way finds out
        tree = _fit_session(values)
        try:
            return self._dump(tree)
        except (ValueError, OverflowError, TypeError):
            # A surrogate is all that UTF-8 refuses, and backslashreplace writes it as JSON does.
            return json_dumps(tree).encode("utf-8", "backslashreplace")

    def decode(self, data: bytes) -> dict[str, Any]:
        """Raises `ValueError` for anything but a session that `encode` wrote, or plain JSON."""
        # A level takes two bytes, and most sessions are small.
        deep = len(data) > 2 * MAX_DEPTH and may_be_deep(data)
        value: Any = None
        problem = ""
        try:
            try:
                value = self._load(data)
            except ValueError:
                value = _load(data)  # the judge: msgspec refuses lone surrogates and long numbers
        except ValueError as error:
            problem = f"not JSON: {error}"
        except RecursionError:
            if not deep:
                raise  # the app's own calls have filled the stack
            problem = _TOO_DEEP
        # Raised out here, so that no parser's error, which holds the data, is its context.
        if problem or (deep and not _is_within(value, MAX_DEPTH)):
            raise ValueError(problem or _TOO_DEEP)
        if type(value) is dict:
            if b"$" not in data or b'"$"' not in data:  # one byte is found faster than three
                return value
            value = _untag(value)
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise ValueError("the top level is not an object with string keys")
        return value


# -- Plain data: the short way -------------------------------------------------------------------

_ATOMS: Final = frozenset({str, int, bool, NoneType})


def _is_plain(value: Any, room: int) -> bool:
    """Whether `value`, a dict or a list, is plain data that both encoders write alike.

    They differ in floats that need an exponent, so those are not plain here. Strings and ints
    are not looked into: an encoder that can not write one says so.
    """
    within = [(value, room)]
    while within:
        value, room = within.pop()
        if room < 1:
            return False
        items = value
        if type(value) is dict:
            for key in value:
                if type(key) is not str:
                    return False
            if len(value) == 1 and "$" in value:
                return False
            items = value.values()
        for item in items:
            kind = type(item)
            if kind in _ATOMS:
                continue
            if kind is dict or kind is list:
                within.append((item, room - 1))
            elif kind is not float or not (1e-4 <= abs(item) < 1e16 or item == 0.0):
                return False
    return True


def _is_within(value: Any, room: int) -> bool:
    """Whether lists and dicts nest at most `room` deep in `value`."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return True
    if room < 1:
        return False
    for item in value.values() if kind is dict else value:
        if (type(item) is dict or type(item) is list) and not _is_within(item, room - 1):
            return False
    return True


def may_be_deep(data: bytes) -> bool:
    """Whether lists and objects may be nested more than `MAX_DEPTH` levels deep in this JSON."""
    return data.count(b"[") + data.count(b"{") > MAX_DEPTH


# -- The two parsers -----------------------------------------------------------------------------


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"the constant {name}")


def finite(text: str) -> float:
    """Raises `ValueError` for what is beyond the range of a float."""
    number = float(text)
    if math.isinf(number):
        raise ValueError("a number out of range")
    return number


json_dumps: Final = json.JSONEncoder(
    ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":")
).encode
"""JSON without spaces, and with nothing that only Python knows."""


def json_reader(integer: Callable[[str], Any] = int) -> Callable[[str], Any]:
    """The same back; NaN and infinities are a `ValueError`.

    Args:
        integer: makes a value of an integer's digits.
    """
    return json.JSONDecoder(
        parse_constant=_refuse_constant, parse_float=finite, parse_int=integer
    ).decode


_json_loads: Final = json_reader()


def _dump_strictly(values: object) -> bytes:
    return json_dumps(values).encode()


def _load(data: bytes) -> Any:
    return _json_loads(data.decode())


def _msgspec() -> tuple[Callable[[object], bytes], Callable[[bytes], Any]] | None:
    try:
        from msgspec.json import Decoder, Encoder
    except ImportError:
        return None
    return Encoder().encode, Decoder().decode


# -- Values to tags ------------------------------------------------------------------------------

_TOO_DEEP: Final = f"lists and dicts are nested more than {MAX_DEPTH} levels deep"


class _Misfit(Exception):
    """Raised at a value that can not be stored; each container it passes adds its step."""

    def __init__(self, reason: str, *, too_deep: object = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.too_deep = too_deep
        self.steps: list[tuple[object, object]] = []  # (container, key), innermost first

    def hide_within(self, part: str) -> None:
        """Ends the path here: none leads to a set's members and a dict's keys."""
        self.reason = f"{part}: {self.reason}"
        self.steps.clear()

    def error(self) -> SessionEncodingError:
        steps = self.steps[::-1]
        if self.too_deep is None:
            return SessionEncodingError(_path(key for _, key in steps), self.reason)
        seen: dict[int, int] = {}
        containers = [container for container, _ in steps] + [self.too_deep]
        keys = [key for _, key in steps]
        for index, container in enumerate(containers):
            first = seen.setdefault(id(container), index)
            if first != index:
                outer = _path(keys[:first]) or "the session itself"
                return SessionEncodingError(
                    _path(keys[:index]),
                    f"this {type(container).__name__} is also {outer}, so it contains itself;"
                    " store an id in one of the two places",
                )
        return SessionEncodingError(
            _path(keys[:1]),
            f"{self.reason}; flatten it, or keep it in a table of your own",
        )


def _path(keys: collections.abc.Iterable[object]) -> str:
    path = ""
    for key in keys:
        if type(key) is str and len(key) > 80:
            path += f"[{key[:80]!r}...]"
        elif type(key) is str and key.isidentifier() and not keyword.iskeyword(key):
            path += f".{key}" if path else key
        else:
            path += f"[{key!r}]"
    return path


def _fit_session(values: dict[Any, Any]) -> Any:
    """`values` as JSON's types alone; `SessionEncodingError` if it does not fit."""
    for key in values:
        if type(key) is not str:
            raise SessionEncodingError(
                "",
                f"its keys are strings, and one is of type {_name(type(key))}; use str(key)",
            )
    try:
        return _fit_dict(values, MAX_DEPTH)
    except _Misfit as misfit:
        error = misfit.error()
    raise error


def _fit(value: Any, room: int) -> Any:
    return _FITS.get(type(value), _fit_other)(value, room)


def _need(levels: int, room: int, value: object) -> None:
    if room < levels:
        raise _Misfit(_TOO_DEEP, too_deep=value)


class _Exponent(float):
    """A float that msgspec would write another way than Python does, and as this class does not."""


def _fit_same(value: Any, room: int) -> Any:
    return value


def _fit_str(value: str, room: int) -> Any:
    if value.isascii() or not _PAIR.search(value):
        return value
    _need(3, room, value)
    return {"$": ["str", _PAIR.split(value)]}


def _fit_int(value: int, room: int) -> Any:
    if value.bit_length() > 2000:  # Python's limit on digits is never set below 640
        try:
            int.__repr__(value)
        except ValueError:
            raise _Misfit(
                "an int with more digits than Python converts (sys.get_int_max_str_digits());"
                " store its bytes, hex(value)"
            ) from None
    return value


def _fit_float(value: float, room: int) -> Any:
    if 1e-4 <= abs(value) < 1e16 or value == 0.0:
        return value
    if math.isfinite(value):
        return _Exponent(value)
    _need(2, room, value)
    return {"$": ["float", repr(value)]}


def _fit_list(value: list[Any], room: int) -> Any:
    _need(1, room, value)
    return _fit_items(value, room - 1)


def _fit_tuple(value: tuple[Any, ...], room: int) -> Any:
    _need(3, room, value)
    return {"$": ["tuple", _fit_items(value, room - 3)]}


def _fit_items(value: list[Any] | tuple[Any, ...], room: int) -> list[Any]:
    items = []
    try:
        for item in value:
            kind = type(item)
            if kind is str and item.isascii():
                items.append(item)
            else:
                items.append(_FITS.get(kind, _fit_other)(item, room))
    except _Misfit as misfit:
        misfit.steps.append((value, len(items)))
        raise
    return items


def _fit_dict(value: dict[Any, Any], room: int) -> Any:
    _need(1, room, value)
    if not _has_plain_keys(value):
        return _fit_pairs(value, room)
    fits: dict[str, Any] = {}
    key = None
    try:
        for key, item in value.items():
            kind = type(item)
            if kind is str and item.isascii():
                fits[key] = item
            else:
                fits[key] = _FITS.get(kind, _fit_other)(item, room - 1)
    except _Misfit as misfit:
        misfit.steps.append((value, key))
        raise
    return fits


def _has_plain_keys(value: dict[Any, Any]) -> bool:
    for key in value:
        if type(key) is not str or not (key.isascii() or not _PAIR.search(key)):
            return False
    return not (len(value) == 1 and "$" in value)


def _fit_pairs(value: dict[Any, Any], room: int) -> Any:
    _need(4, room, value)
    pairs = []
    for key, item in value.items():
        try:
            fit_key = _fit(key, room - 4)
        except _Misfit as misfit:
            misfit.hide_within("one of its keys")
            raise
        try:
            pairs.append([fit_key, _fit(item, room - 4)])
        except _Misfit as misfit:
            misfit.steps.append((value, key))
            raise
    return {"$": ["dict", pairs]}


def _fit_set(value: set[Any] | frozenset[Any], room: int) -> Any:
    _need(3, room, value)
    try:
        members = [_fit(member, room - 3) for member in value]
    except _Misfit as misfit:
        misfit.hide_within("one of its members")
        raise
    # Any order will do that depends on the members alone: not on their hashes, nor on history.
    members.sort(key=ascii)
    return {"$": [type(value).__name__, members]}


def _need_offset(value: datetime | time) -> None:
    """ISO format drops a zone without an offset; Python misreads fractions of a second in one."""
    if value.tzinfo is not None:
        offset = value.utcoffset()
        if offset is None:
            raise _Misfit(
                f"its time zone gives this {type(value).__name__} no offset from UTC;"
                " store it without a zone, and the zone's name beside it"
            )
        if offset.microseconds:
            raise _Misfit("its offset from UTC is not in whole seconds; store it in UTC")


def _fit_datetime(value: datetime, room: int) -> Any:
    _need(2, room, value)
    _need_offset(value)
    return {"$": ["datetime/fold" if value.fold else "datetime", value.isoformat()]}


def _fit_time(value: time, room: int) -> Any:
    _need(2, room, value)
    _need_offset(value)
    return {"$": ["time/fold" if value.fold else "time", value.isoformat()]}


def _fit_date(value: date, room: int) -> Any:
    _need(2, room, value)
    return {"$": ["date", value.isoformat()]}


def _fit_timedelta(value: timedelta, room: int) -> Any:
    _need(3, room, value)
    return {"$": ["timedelta", [value.days, value.seconds, value.microseconds]]}


def _fit_uuid(value: UUID, room: int) -> Any:
    _need(2, room, value)
    return {"$": ["uuid", str(value)]}


def _fit_decimal(value: Decimal, room: int) -> Any:
    _need(2, room, value)
    return {"$": ["decimal", _DECIMALS.to_sci_string(value)]}


def _fit_bytes(value: bytes, room: int) -> Any:
    _need(2, room, value)
    return {"$": ["bytes", base64.b64encode(value).decode()]}


def _fit_other(value: Any, room: int) -> Any:
    kind = type(value)
    stands_for = _STAND_INS.get((kind.__module__, kind.__qualname__))
    if stands_for is None:
        raise _Misfit(_refusal(kind))
    return _FITS[stands_for](value, room)


_PAIR: Final = re.compile("(?<=[\ud800-\udbff])(?=[\udc00-\udfff])")
_DECIMALS: Final = Context(
    capitals=1, traps=[InvalidOperation]
)  # the app's own context changes nothing here

_FITS: Final[dict[type, Callable[[Any, int], Any]]] = {
    NoneType: _fit_same,
    bool: _fit_same,
    int: _fit_int,
    float: _fit_float,
    str: _fit_str,
    list: _fit_list,
    dict: _fit_dict,
    tuple: _fit_tuple,
    set: _fit_set,
    frozenset: _fit_set,
    datetime: _fit_datetime,
    date: _fit_date,
    time: _fit_time,
    timedelta: _fit_timedelta,
    UUID: _fit_uuid,
    Decimal: _fit_decimal,
    bytes: _fit_bytes,
}

# Subclasses that nobody chose: what SQLAlchemy on asyncpg returns from a UUID column, and what
# `datetime.now()` returns in a test that froze it. They equal what they come back as.
_STAND_INS: Final[dict[tuple[str, str], type]] = {
    ("asyncpg.pgproto.pgproto", "UUID"): UUID,
    ("freezegun.api", "FakeDatetime"): datetime,
    ("freezegun.api", "FakeDate"): date,
}


# -- What to do about a type that does not fit ---------------------------------------------------


def _name(kind: type) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _refusal(kind: type) -> str:
    """Looks at the type alone: touching a lazy object could make it load."""
    name = _name(kind)
    if issubclass(kind, enum.Enum):
        return f"{name} is an enum; store its .value"
    for base in (dict, list, tuple, set, frozenset, str, int, float, bytes, *_FITS):
        if base is not NoneType and issubclass(kind, base):
            plain = _name(base)
            return f"{name} would come back as a plain {plain}; store {_remedy(kind, base)}"
    if hasattr(kind, "__mapper__"):
        return f"{name} is a mapped object and belongs to its orm.Session; store its primary key"
    if dataclasses.is_dataclass(kind):
        return f"{name} is a dataclass; store dataclasses.asdict(...) of it"
    if issubclass(kind, (bytearray, memoryview)):
        return f"{name} is not stored; store bytes(...) of it"
    if str(kind.__module__).partition(".")[0] in ("numpy", "pandas"):
        return f"{name} is not stored; store Python's own value, by .item() or .tolist()"
    if issubclass(kind, (collections.abc.Iterator, collections.abc.MappingView, range)):
        return f"{name} is not stored; store list(...) of it"
    return f"{name} is not stored; store its id, or a dict, list or str that describes it"


def _remedy(kind: type, base: type) -> str:
    if base is tuple and hasattr(kind, "_asdict"):
        return "tuple(...) of it, or its ._asdict()"
    if base in (datetime, date, time, timedelta):
        return f"Python's own {base.__name__}"
    if base is UUID:
        return "uuid.UUID(str(...)) of it"
    return f"{_name(base)}(...) of it"


# -- Tags to values ------------------------------------------------------------------------------


def _untag(value: Any) -> Any:
    """`value`, a dict or a list that nobody else holds, with its tags read, in place."""
    if type(value) is list:
        for index, item in enumerate(value):
            if type(item) is dict or type(item) is list:
                value[index] = _untag(item)
        return value
    if len(value) == 1 and "$" in value:
        return _read_tag(value["$"])
    for key, item in value.items():
        if type(item) is dict or type(item) is list:
            value[key] = _untag(item)
    return value


def _read_tag(tag: Any) -> Any:
    name, payload = tag if type(tag) is list and len(tag) == 2 else (None, None)
    known = _READERS.get(name) if type(name) is str else None
    if known is None:
        raise ValueError('an object with the only key "$" is not a tag')
    payload_type, read = known
    if type(payload) is payload_type:
        if payload_type is list:
            payload = _untag(payload)
        try:
            return read(payload)
        except (ValueError, TypeError, LookupError, ArithmeticError):
            pass  # their messages quote the value
    raise ValueError(f"a tag of type {name} is malformed")


def _read_pairs(pairs: list[Any]) -> dict[Any, Any]:
    result = {}
    for pair in pairs:
        if type(pair) is not list:
            raise TypeError("not a pair")
        key, value = pair
        result[key] = value
    return result


def _read_timedelta(parts: list[Any]) -> timedelta:
    days, seconds, microseconds = parts
    return timedelta(days, seconds, microseconds)


_READERS: Final[dict[str, tuple[type, Callable[[Any], Any]]]] = {
    "float": (str, {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}.__getitem__),
    "str": (list, "".join),
    "dict": (list, _read_pairs),
    "tuple": (list, tuple),
    "set": (list, set),
    "frozenset": (list, frozenset),
    "datetime": (str, datetime.fromisoformat),
    "datetime/fold": (str, lambda text: datetime.fromisoformat(text).replace(fold=1)),
    "date": (str, date.fromisoformat),
    "time": (str, time.fromisoformat),
    "time/fold": (str, lambda text: time.fromisoformat(text).replace(fold=1)),
    "timedelta": (list, _read_timedelta),
    "uuid": (str, UUID),
    "decimal": (str, lambda text: Decimal(text, _DECIMALS)),
    "bytes": (str, lambda text: base64.b64decode(text, validate=True)),
}
