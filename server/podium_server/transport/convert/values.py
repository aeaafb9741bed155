"""Structures, values and durations of protobuf as Python has them, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import ListValue, Struct, Value

_NANOS = 1_000_000_000


def struct(message: Struct) -> dict[str, Any]:
    """Return a structure as Python has it. Numbers without a fraction come as whole ones: JSON knows no others."""
    return {key: value(entry) for key, entry in message.fields.items()}


def value(message: Value) -> Any:
    """Return one value of a structure; see `struct`."""
    match message.WhichOneof("kind"):
        case "number_value":
            number = message.number_value
            return int(number) if number.is_integer() else number
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "struct_value":
            return struct(message.struct_value)
        case "list_value":
            return [value(entry) for entry in message.list_value.values]
        case _:
            return None


def to_value(given: Any) -> Value:
    """Return a value of JSON's kinds as a message; whatever else there is, as its text."""
    match given:
        case None:
            return Value(null_value=0)  # type: ignore[arg-type]  # NULL_VALUE, the only one
        case bool():
            return Value(bool_value=given)
        case int() | float():
            return Value(number_value=given)
        case str():
            return Value(string_value=given)
        case Mapping():
            return Value(struct_value=to_struct(given))
        case Sequence() | set() | frozenset():
            return Value(list_value=ListValue(values=[to_value(entry) for entry in given]))
        case _:
            return Value(string_value=str(given))


def to_struct(given: Mapping[str, Any]) -> Struct:
    """Return a mapping as a message."""
    return Struct(fields={str(key): to_value(entry) for key, entry in given.items()})


def seconds(message: Duration) -> float:
    """Return a duration in seconds."""
    return message.seconds + message.nanos / _NANOS


def duration(time_s: float) -> Duration:
    """Return seconds as a duration."""
    whole, nanos = divmod(round(time_s * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)
