"""Which documents a search may find, by their metadata.

>>> recent = between("year", gte=2020) & one_of("language", ["en", "de"])
>>> client.search("docs", "…", filter=recent & ~equal("author.name", "Anon"))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf import struct_pb2

from podium.v1 import filter_pb2

Scalar = str | float | bool | None


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition. `&`, `|` and `~` make new ones."""

    message: filter_pb2.Filter

    def __and__(self, other: Filter) -> Filter:
        return Filter(filter_pb2.Filter(all_of=filter_pb2.FilterList(filters=[self.message, other.message])))

    def __or__(self, other: Filter) -> Filter:
        return Filter(filter_pb2.Filter(any_of=filter_pb2.FilterList(filters=[self.message, other.message])))

    def __invert__(self) -> Filter:
        return Filter(filter_pb2.Filter(negation=self.message))


def equal(key: str, value: Scalar) -> Filter:
    """The entry has this value."""
    return Filter(filter_pb2.Filter(equality=filter_pb2.Equality(key=key, value=_value(value))))


def between(
    key: str,
    *,
    gt: float | str | None = None,
    gte: float | str | None = None,
    lt: float | str | None = None,
    lte: float | str | None = None,
) -> Filter:
    """The entry lies in this range, of numbers or of strings."""
    ends = {"gt": gt, "gte": gte, "lt": lt, "lte": lte}
    given = {name: _value(end) for name, end in ends.items() if end is not None}
    return Filter(filter_pb2.Filter(range=filter_pb2.Range(key=key, **given)))


def one_of(key: str, values: Iterable[Scalar]) -> Filter:
    """The entry has one of these values."""
    return Filter(
        filter_pb2.Filter(membership=filter_pb2.Membership(key=key, values=[_value(value) for value in values]))
    )


def exists(key: str) -> Filter:
    """There is such an entry."""
    return Filter(filter_pb2.Filter(existence=filter_pb2.Existence(key=key)))


def _value(value: Scalar) -> struct_pb2.Value:
    match value:
        case None:
            return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
        case bool():
            return struct_pb2.Value(bool_value=value)
        case int() | float():
            return struct_pb2.Value(number_value=value)
        case str():
            return struct_pb2.Value(string_value=value)
    raise TypeError(f"{value!r} is no string, number, bool or None")
