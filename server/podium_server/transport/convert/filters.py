"""Filters of the contract as recall knows them. What they may be, recall judges."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Value

from podium.v1 import filter_pb2
from podium_server.errors import InvalidRequest
from podium_server.recall import filters
from podium_server.recall.limits import RecallLimits


def read(message: filter_pb2.Filter, where: str = "filter") -> filters.Filter:
    """Return a filter.

    Raises:
        InvalidRequest: a condition is missing, or a value is of a kind that cannot be compared; or there are too many.

    """
    return _read(message, where, [RecallLimits().filter_nodes])


def _read(message: filter_pb2.Filter, where: str, left: list[int]) -> filters.Filter:
    left[0] -= 1
    if left[0] < 0:
        raise InvalidRequest("filter", f"has more than {RecallLimits().filter_nodes} nodes; ask for less at once")
    kind = message.WhichOneof("condition")
    path = f"{where}.{kind}"
    match kind:
        case "equality":
            return filters.Equals(message.equality.key, _scalar(message.equality.value, f"{path}.value"))
        case "range":
            bounds = {
                end: _bound(getattr(message.range, end), f"{path}.{end}")
                for end in ("gt", "gte", "lt", "lte")
                if message.range.HasField(end)
            }
            return filters.Range(message.range.key, **bounds)
        case "membership":
            values = message.membership.values
            return filters.In(
                message.membership.key,
                tuple(_scalar(value, f"{path}.values[{place}]") for place, value in enumerate(values)),
            )
        case "existence":
            return filters.Exists(message.existence.key)
        case "all_of":
            return filters.And(_list(message.all_of, path, left))
        case "any_of":
            return filters.Or(_list(message.any_of, path, left))
        case "negation":
            return filters.Not(_read(message.negation, path, left))
    raise InvalidRequest(where, "has no condition; set one")


def _list(message: filter_pb2.FilterList, where: str, left: list[int]) -> tuple[filters.Filter, ...]:
    return tuple(_read(each, f"{where}.filters[{place}]", left) for place, each in enumerate(message.filters))


def _scalar(message: Value, where: str) -> filters.Scalar:
    match message.WhichOneof("kind"):
        case "null_value":
            return None
        case "number_value":
            return message.number_value
        case "string_value":
            return message.string_value
        case "bool_value":
            return message.bool_value
        case "struct_value" | "list_value":
            raise InvalidRequest(where, "is a structure or a list; a string, a number, a bool or null can be compared")
    raise InvalidRequest(where, "is missing; a string, a number, a bool or null is needed")


def _bound(message: Value, where: str) -> str | float:
    value = _scalar(message, where)
    if value is None or isinstance(value, bool):
        raise InvalidRequest(where, f"is {value}; numbers and strings are in an order")
    return value
