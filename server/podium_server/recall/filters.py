"""Which documents may be found: conditions on metadata, evaluated in SQL over its JSON.

Two readings of one meaning: `matches` in Python says what a filter means, `condition` says it in SQL, and a test holds
them against each other. A key reaches into structures by dots (`author.name`). Where an entry is a list, a condition
holds when it holds for one member. A missing entry fulfils no condition but a negation. Values of different types are
never equal and are in no order; whole and broken numbers are of one type, truth values are not numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from podium_server.errors import InvalidRequest
from podium_server.recall.document import Json
from podium_server.recall.limits import RecallLimits

Scalar: TypeAlias = str | int | float | bool | None

KEY_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class Equals:
    """The entry has this value."""

    key: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class In:
    """The entry has one of these values."""

    key: str
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Range:
    """The entry lies between two values: numbers, or strings, which are compared by code points."""

    key: str
    gt: str | float | None = None
    gte: str | float | None = None
    lt: str | float | None = None
    lte: str | float | None = None

    @property
    def bounds(self) -> list[tuple[str, str | float]]:
        """The bounds that are set, as SQL operator and value."""
        given = ((">", self.gt), (">=", self.gte), ("<", self.lt), ("<=", self.lte))
        return [(operator, value) for operator, value in given if value is not None]


@dataclass(frozen=True, slots=True)
class Exists:
    """There is such an entry, whatever its value, null included."""

    key: str


@dataclass(frozen=True, slots=True)
class And:
    """Each of these holds. Holds where there is none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """At least one of these holds. Does not hold where there is none."""

    filters: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The opposite of it holds."""

    filter: Filter


Filter: TypeAlias = Equals | In | Range | Exists | And | Or | Not


def check(filter: Filter, limits: RecallLimits, *, field: str = "filter") -> None:  # noqa: A002
    """Refuse a filter that is out of bounds.

    Raises:
        InvalidRequest: with the path of what is wrong.

    """
    nodes = _check(filter, limits, field=field, depth=1)
    if nodes > limits.filter_nodes:
        raise InvalidRequest(field, f"has {nodes} nodes; the limit is {limits.filter_nodes}")


def _check(filter: Filter, limits: RecallLimits, *, field: str, depth: int) -> int:  # noqa: A002
    if depth > limits.filter_depth:
        raise InvalidRequest(field, f"is deeper than {limits.filter_depth} levels; write it flatter")
    match filter:
        case And(filters) | Or(filters):
            return 1 + sum(
                _check(each, limits, field=f"{field}.filters[{place}]", depth=depth + 1)
                for place, each in enumerate(filters)
            )
        case Not(negated):
            return 1 + _check(negated, limits, field=f"{field}.negation", depth=depth + 1)
        case Equals(key, value):
            _check_key(key, field=field)
            _check_value(value, field=f"{field}.value")
        case In(key, values):
            _check_key(key, field=field)
            if not 1 <= len(values) <= limits.membership_values:
                raise InvalidRequest(f"{field}.values", f"are {len(values)}; 1 to {limits.membership_values} can be")
            for place, value in enumerate(values):
                _check_value(value, field=f"{field}.values[{place}]")
        case Range(key):
            _check_key(key, field=field)
            _check_range(filter, field=field)
        case Exists(key):
            _check_key(key, field=field)
    return 1


def _check_key(key: str, *, field: str) -> None:
    if not key or not all(key.split(".")):
        raise InvalidRequest(f"{field}.key", f"{key!r} has an empty name; write names, joined by dots")
    # SQLite's paths have no way to write these.
    if any(character in '"\\' or character < " " or "\ud800" <= character <= "\udfff" for character in key):
        raise InvalidRequest(f"{field}.key", f"{key!r} has a quote, a backslash or a control character in it")
    if len(key.encode()) > KEY_BYTES_MAX:
        raise InvalidRequest(f"{field}.key", f"has {len(key.encode())} bytes; the limit is {KEY_BYTES_MAX}")


def _check_value(value: Scalar, *, field: str) -> None:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidRequest(field, "has a NUL character or a lone surrogate, which no metadata has")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidRequest(field, f"is {value}; a finite number is needed")
    elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise InvalidRequest(field, f"is {value}, beyond 64 bits")


def _check_range(range_: Range, *, field: str) -> None:
    bounds = range_.bounds
    if not bounds:
        raise InvalidRequest(field, "has no end; set gt or gte, lt or lte, or both")
    for one, other in (("gt", "gte"), ("lt", "lte")):
        if getattr(range_, one) is not None and getattr(range_, other) is not None:
            raise InvalidRequest(field, f"has both {one} and {other}; set one of them")
    if any(isinstance(value, bool) for _, value in bounds):
        raise InvalidRequest(field, "has a truth value as its end; numbers or strings are in order")
    if len({isinstance(value, str) for _, value in bounds}) > 1:
        raise InvalidRequest(field, "has a string at one end and a number at the other; both must be of one type")
    for _, value in bounds:
        _check_value(value, field=field)


# --- the meaning, in Python -------------------------------------------------------------------------------------


def matches(filter: Filter, metadata: Mapping[str, Json]) -> bool:  # noqa: A002
    """Return whether metadata fulfils a filter that passed `check`."""
    match filter:
        case And(filters):
            return all(matches(each, metadata) for each in filters)
        case Or(filters):
            return any(matches(each, metadata) for each in filters)
        case Not(negated):
            return not matches(negated, metadata)
        case Equals(key, value):
            return any(_same(entry, value) for entry in _entries(metadata, key))
        case In(key, values):
            return any(_same(entry, value) for entry in _entries(metadata, key) for value in values)
        case Range(key):
            return any(_within(entry, filter) for entry in _entries(metadata, key))
        case Exists(key):
            return _reach(metadata, key) is not _MISSING


_MISSING = object()


def _reach(metadata: Mapping[str, Json], key: str) -> Json:
    entry: Json = metadata
    for name in key.split("."):
        if not isinstance(entry, Mapping) or name not in entry:
            return _MISSING
        entry = entry[name]
    return entry


def _entries(metadata: Mapping[str, Json], key: str) -> Iterable[Json]:
    entry = _reach(metadata, key)
    if entry is _MISSING:
        return ()
    return entry if isinstance(entry, list | tuple) else (entry,)


def _kind(value: Json) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "text"
    return "other"


def _same(entry: Json, value: Scalar) -> bool:
    return _kind(entry) == _kind(value) and bool(entry == value)


def _within(entry: Json, range_: Range) -> bool:
    if _kind(entry) != _kind(range_.bounds[0][1]):
        return False
    tests = {">": entry.__gt__, ">=": entry.__ge__, "<": entry.__lt__, "<=": entry.__le__}
    if isinstance(entry, int):
        # int.__gt__(float) is NotImplemented; as two floats they compare as SQLite compares them, up to 2^53.
        tests = {
            ">": lambda v: entry > v,
            ">=": lambda v: entry >= v,
            "<": lambda v: entry < v,
            "<=": lambda v: entry <= v,
        }
    return all(tests[operator](value) for operator, value in range_.bounds)


# --- the same, in SQL -------------------------------------------------------------------------------------------

_TYPES = {"null": "'null'", "bool": "'true','false'", "number": "'integer','real'", "text": "'text'"}


def condition(filter: Filter, column: str) -> tuple[str, list[str | int | float | None]]:  # noqa: A002
    """Return an SQL condition on a column of JSON, and its parameters. Keys and values are only ever parameters.

    Args:
        filter: one that passed `check`.
        column: a name of ours, never of a caller.

    """
    match filter:
        case And(filters) | Or(filters):
            parts = [condition(each, column) for each in filters]
            if not parts:
                return ("1" if isinstance(filter, And) else "0"), []
            joint = " AND " if isinstance(filter, And) else " OR "
            return f"({joint.join(sql for sql, _ in parts)})", [value for _, values in parts for value in values]
        case Not(negated):
            sql, values = condition(negated, column)
            return f"(NOT {sql})", values
        case Equals(key, value):
            return _any_entry(column, key, _value_is(_kind(value)), _parameters(value))
        case In(key, values):
            by_kind: dict[str, list[Scalar]] = {}
            for value in values:
                by_kind.setdefault(_kind(value), []).append(value)
            tests = [
                f"e.type IN ({_TYPES[kind]})"
                + ("" if kind == "null" else f" AND e.atom IN (SELECT atom FROM json_each(?) WHERE {_not_null()})")
                for kind in by_kind
            ]
            lists: list[str | int | float | None] = [
                json.dumps(some, ensure_ascii=False) for kind, some in by_kind.items() if kind != "null"
            ]
            return _any_entry(column, key, " OR ".join(f"({test})" for test in tests), lists)
        case Range(key):
            bounds = filter.bounds
            test = f"e.type IN ({_TYPES[_kind(bounds[0][1])]})" + "".join(
                f" AND e.atom {op} {_ATOM}" for op, _ in bounds
            )
            return _any_entry(column, key, test, [p for _, value in bounds for p in _parameters(value)])
        case Exists(key):
            return f"(json_type({column}, ?) IS NOT NULL)", [_path(key)]


# A value goes through the same reader of numbers as the stored one, so that equal ones are equal to the last bit.
_ATOM = "json_extract(?, '$')"


def _not_null() -> str:
    return "type <> 'null'"


def _value_is(kind: str) -> str:
    return f"e.type IN ({_TYPES[kind]})" + ("" if kind == "null" else f" AND e.atom = {_ATOM}")


def _parameters(value: Scalar) -> list[str | int | float | None]:
    return [] if value is None else [json.dumps(value, ensure_ascii=False)]


def _any_entry(
    column: str, key: str, test: str, parameters: list[str | int | float | None]
) -> tuple[str, list[str | int | float | None]]:
    # json_each has one row for a scalar, one for each member of a list, and would have one for each entry of a
    # structure, which is not an entry of this key.
    path = _path(key)
    sql = (
        f"(json_type({column}, ?) IS NOT 'object' AND EXISTS (SELECT 1 FROM json_each({column}, ?) AS e WHERE {test}))"
    )
    return sql, [path, path, *parameters]


def _path(key: str) -> str:
    return "$" + "".join(f'."{name}"' for name in key.split("."))
